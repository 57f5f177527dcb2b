//! What everybody may see of an epoch: enough to repeat every weight, amount and the root, and nothing of who or where a device is.
//!
//! Devices have pseudonyms that change every epoch; readings are folded to the program's features, places to limit factors.
//! Owners' accounts are shown, because an amount that nobody can follow to its account proves nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    amount::{Account, Amount},
    close::close_resolved,
    error::EpochError,
    input::EpochInput,
    resolve::{ResolvedDevice, ResolvedEpoch, ResolvedLate, ResolvedMatured, resolve},
    result::{AccountState, EpochResult, EpochSummary, Held, LateLine, Line, OpenEpoch, Payout, ProgramState, Zero},
    spec::ProgramSpec,
};
use crate::ids::DeviceId;

/// The format that this code writes and reads.
pub const FORMAT: &str = "depin.public.v1";

/// The head of a public export, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: String,
    /// The program in force.
    pub spec: ProgramSpec,
    /// The recorded totals and root; its payouts are in the accounts' table.
    pub summary: EpochSummary,
    /// The programs of the epochs that matured.
    pub matured: Vec<MaturedProgram>,
    /// The epoch that left the state before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
    /// The carry before.
    pub carry: Amount,
    /// The late buckets that were open before.
    pub open: Vec<OpenEpoch>,
    /// The other files of the export.
    #[serde(default)]
    pub files: Vec<ExportedFile>,
}

/// A program that was in force in an epoch that matured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MaturedProgram {
    /// Which epoch.
    pub number: u64,
    /// Its program.
    pub spec: ProgramSpec,
}

/// One file of an export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExportedFile {
    /// Its name.
    pub name: String,
    /// Rows in it.
    pub rows: u64,
    /// SHA-256 of its bytes.
    pub sha256: crate::ids::Digest,
}

/// A public export in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicEpoch {
    /// Its head.
    pub manifest: Manifest,
    /// Every device of the epoch, ascending by pseudonym.
    pub devices: Vec<DeviceRow>,
    /// Every device of a matured epoch that had or has a weight in it.
    pub late: Vec<LateRow>,
    /// What was held before, by pseudonym.
    pub held: Vec<Held>,
    /// Every account before and after, ascending.
    pub accounts: Vec<AccountRow>,
}

/// A device: what it was judged by, and what it got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRow {
    /// Its pseudonym, features, limit factor and owners.
    pub device: ResolvedDevice,
    /// w.
    pub weight: u64,
    /// Its share.
    pub share: Amount,
    /// Why it got nothing, or nothing yet.
    pub reasons: Vec<Zero>,
}

/// A device of an epoch that matured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LateRow {
    /// Which epoch.
    pub number: u64,
    /// Its pseudonym, features, frozen weight and share, part of the room.
    pub late: ResolvedLate,
    /// Its due as paid.
    pub paid: Amount,
    /// What it had been paid too much.
    pub correction: Amount,
}

/// An account before and after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccountRow {
    /// Which.
    pub account: Account,
    /// Cumulative amount before.
    pub before: Amount,
    /// Debt before.
    pub debt: Amount,
    /// What it got.
    pub amount: Amount,
    /// Cumulative amount after: what its leaf says.
    pub cumulative: Amount,
}

/// A device's name in one epoch's public export: nobody without the salt can tell which device it is, nor follow it.
#[must_use]
pub fn pseudonym(salt: &[u8; 32], program: &str, number: u64, device: &DeviceId) -> DeviceId {
    let hash = Sha256::new()
        .chain_update("depin.v1.Pseudonym")
        .chain_update([0])
        .chain_update(salt)
        .chain_update(program)
        .chain_update([0])
        .chain_update(number.to_be_bytes())
        .chain_update(device.0)
        .finalize();
    let mut name = [0; 16];
    name.copy_from_slice(&hash[..16]);
    DeviceId(name)
}

/// The public export of a computed epoch. `salt` is the ledger's secret.
pub fn publish(input: &EpochInput, result: &EpochResult, salt: &[u8; 32]) -> Result<PublicEpoch, EpochError> {
    let name = |device: &DeviceId| pseudonym(salt, &input.program, input.number, device);
    let resolved = resolve(input)?;
    let lines: BTreeMap<DeviceId, &Line> = result.lines.iter().map(|line| (line.device, line)).collect();
    let mut devices: Vec<_> = resolved
        .devices
        .iter()
        .map(|device| {
            let line = lines.get(&device.id);
            DeviceRow {
                device: ResolvedDevice { id: name(&device.id), ..device.clone() },
                weight: line.map_or(0, |line| line.weight),
                share: line.map_or(Amount::ZERO, |line| line.share),
                reasons: line.map_or_else(Vec::new, |line| line.reasons.clone()),
            }
        })
        .collect();
    devices.sort_unstable_by_key(|row| row.device.id);
    let mut held: Vec<_> = input.state.held.iter().map(|held| Held { device: name(&held.device), ..*held }).collect();
    held.sort_unstable();
    let mut summary = result.summary.clone();
    summary.payouts.clear();
    let matured =
        resolved.matured.iter().map(|matured| MaturedProgram { number: matured.number, spec: matured.spec.clone() });
    let manifest = Manifest {
        format: FORMAT.into(),
        spec: input.spec.clone(),
        summary,
        matured: matured.collect(),
        before: input.state.number,
        carry: input.state.carry,
        open: input.state.open.clone(),
        files: Vec::new(),
    };
    Ok(PublicEpoch {
        manifest,
        devices,
        late: late_rows(&resolved.matured, &lines, name),
        held,
        accounts: account_rows(&input.state, &result.payouts),
    })
}

fn late_rows(
    matured: &[ResolvedMatured],
    lines: &BTreeMap<DeviceId, &Line>,
    name: impl Fn(&DeviceId) -> DeviceId,
) -> Vec<LateRow> {
    let mut rows = Vec::new();
    for epoch in matured {
        for late in epoch.devices.iter().filter(|late| late.admitted || late.device.has_data) {
            let id = late.device.id;
            let found: Option<&LateLine> =
                lines.get(&id).and_then(|line| line.late.iter().find(|line| line.number == epoch.number));
            rows.push(LateRow {
                number: epoch.number,
                late: ResolvedLate { device: ResolvedDevice { id: name(&id), ..late.device.clone() }, ..late.clone() },
                paid: found.map_or(Amount::ZERO, |line| line.paid),
                correction: found.map_or(Amount::ZERO, |line| line.correction),
            });
        }
    }
    rows.sort_unstable_by_key(|row| (row.number, row.late.device.id));
    rows
}

fn account_rows(before: &ProgramState, payouts: &[Payout]) -> Vec<AccountRow> {
    let mut rows: BTreeMap<Account, AccountRow> = BTreeMap::new();
    for state in &before.accounts {
        let row =
            AccountRow { account: state.account, before: state.cumulative, debt: state.debt, ..AccountRow::default() };
        rows.insert(state.account, row);
    }
    for payout in payouts {
        let row = rows.entry(payout.account).or_default();
        (row.account, row.amount, row.cumulative) = (payout.account, payout.amount, payout.cumulative);
    }
    rows.into_values().collect()
}

/// What repeating an epoch from its public export gave.
#[derive(Clone, Debug)]
pub struct Recomputed {
    /// The repeated result; its devices are pseudonyms.
    pub result: EpochResult,
    /// Everything in which it differs from what was published; empty: all weights, amounts and the root are right.
    pub differences: Vec<Difference>,
}

/// Something that was published and is not what the export's own figures give.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// What it is: `root`, `pool`, `device 0a… weight`, `account 0x… cumulative`.
    pub what: String,
    /// As published.
    pub published: String,
    /// As recomputed.
    pub recomputed: String,
}

/// Repeats an epoch from nothing but its public export, and compares.
pub fn recompute(public: &PublicEpoch) -> Result<Recomputed, EpochError> {
    let result = close_resolved(&epoch_of(public))?;
    let mut differences = Differences(Vec::new());
    differences.totals(&public.manifest.summary, &result.summary);
    differences.devices(public, &result);
    differences.late(public, &result);
    differences.accounts(public, &result);
    Ok(Recomputed { result, differences: differences.0 })
}

fn epoch_of(public: &PublicEpoch) -> ResolvedEpoch {
    let manifest = &public.manifest;
    let matured = |program: &MaturedProgram| ResolvedMatured {
        number: program.number,
        spec: program.spec.clone(),
        devices: public.late.iter().filter(|row| row.number == program.number).map(|row| row.late.clone()).collect(),
    };
    let account = |row: &AccountRow| AccountState { account: row.account, cumulative: row.before, debt: row.debt };
    ResolvedEpoch {
        program: manifest.summary.program.clone(),
        number: manifest.summary.number,
        spec: manifest.spec.clone(),
        devices: public.devices.iter().map(|row| row.device.clone()).collect(),
        matured: manifest.matured.iter().map(matured).collect(),
        state: ProgramState {
            number: manifest.before,
            carry: manifest.carry,
            open: manifest.open.clone(),
            held: public.held.clone(),
            accounts: public.accounts.iter().map(account).collect(),
        },
    }
}

struct Differences(Vec<Difference>);

impl Differences {
    fn compare<T: PartialEq + ToString>(&mut self, what: impl FnOnce() -> String, published: &T, recomputed: &T) {
        if published != recomputed {
            let (published, recomputed) = (published.to_string(), recomputed.to_string());
            self.0.push(Difference { what: what(), published, recomputed });
        }
    }

    fn totals(&mut self, published: &EpochSummary, ours: &EpochSummary) {
        let root = |summary: &EpochSummary| summary.root.clone().unwrap_or_else(|| "none".into());
        self.compare(|| "root".into(), &root(published), &root(ours));
        self.compare(|| "weightSum".into(), &published.weight_sum, &ours.weight_sum);
        self.compare(|| "program digest".into(), &published.program_digest, &ours.program_digest);
        let amounts = |summary: &EpochSummary| {
            [
                ("minted", summary.minted),
                ("carriedIn", summary.carried_in),
                ("carriedOut", summary.carried_out),
                ("unallocated", summary.unallocated),
                ("bucket", summary.bucket),
                ("pool", summary.pool),
                ("carry", summary.carry),
                ("held", summary.held),
                ("offset", summary.offset),
            ]
        };
        for ((name, published), (_, ours)) in amounts(published).iter().zip(amounts(ours)) {
            self.compare(|| (*name).into(), published, &ours);
        }
    }

    fn devices(&mut self, public: &PublicEpoch, result: &EpochResult) {
        let lines: BTreeMap<DeviceId, &Line> = result.lines.iter().map(|line| (line.device, line)).collect();
        for row in &public.devices {
            let id = row.device.id;
            let Some(line) = lines.get(&id) else { continue };
            self.compare(|| format!("device {id} weight"), &row.weight, &line.weight);
            self.compare(|| format!("device {id} share"), &row.share, &line.share);
            self.compare(|| format!("device {id} reasons"), &labels(&row.reasons), &labels(&line.reasons));
        }
    }

    fn late(&mut self, public: &PublicEpoch, result: &EpochResult) {
        let lines: BTreeMap<DeviceId, &Line> = result.lines.iter().map(|line| (line.device, line)).collect();
        for row in &public.late {
            let (id, number) = (row.late.device.id, row.number);
            let line = lines.get(&id).and_then(|line| line.late.iter().find(|line| line.number == number));
            let of = |field: fn(&LateLine) -> Amount| line.map_or(Amount::ZERO, field);
            self.compare(|| format!("device {id} late due of epoch {number}"), &row.paid, &of(|line| line.paid));
            self.compare(
                || format!("device {id} correction of epoch {number}"),
                &row.correction,
                &of(|line| line.correction),
            );
        }
    }

    fn accounts(&mut self, public: &PublicEpoch, result: &EpochResult) {
        let payouts: BTreeMap<Account, &Payout> =
            result.payouts.iter().map(|payout| (payout.account, payout)).collect();
        let published: BTreeMap<Account, &AccountRow> = public.accounts.iter().map(|row| (row.account, row)).collect();
        let mut names: Vec<_> = payouts.keys().chain(published.keys()).copied().collect();
        names.sort_unstable();
        names.dedup();
        for account in names {
            let ours =
                payouts.get(&account).map_or((Amount::ZERO, Amount::ZERO), |payout| (payout.amount, payout.cumulative));
            let theirs =
                published.get(&account).map_or((Amount::ZERO, Amount::ZERO), |row| (row.amount, row.cumulative));
            self.compare(|| format!("account {account} amount"), &theirs.0, &ours.0);
            self.compare(|| format!("account {account} cumulative"), &theirs.1, &ours.1);
        }
    }
}

/// Reasons as one text: `GateFailed:LowUptime NoOwner`.
#[must_use]
pub fn labels(reasons: &[Zero]) -> String {
    let text = |zero: &Zero| match zero.detail.as_str() {
        "" => zero.reason.name().to_owned(),
        detail => format!("{}:{detail}", zero.reason.name()),
    };
    reasons.iter().map(text).collect::<Vec<_>>().join(" ")
}
