//! What was signed, read back from an export: signatures, chains and paths are verified, verdicts are judged again, and what they let count
//! becomes statistics again, by the very rules by which the ledger counted.

use std::collections::{BTreeMap, HashMap};

use depin_domain::{
    ids::{DeviceId, Digest, KeyId},
    proofs::{self, Header, Reading, Section, Verdict},
    registry::Registry,
    rewards::{DeviceInput, ProgramSpec, assemble, public::Difference},
    statistics::DeviceStatistics,
    time::{Timestamp, Window},
};
use depin_identity::VerifyingKey;
use depin_proto::envelope::{PROOF_DOMAIN, Path, decode_header, decode_section, decode_verdict};
use serde::Deserialize;

use super::{
    bundle::{Bundle, Cells},
    judging::{By, Judge, Judged, Told, go_on, set_mark},
};
use crate::fault::Fault;

/// Where a chain begins in the export.
#[derive(Debug, Deserialize)]
pub(super) struct Chain {
    key: KeyId,
    incarnation: u64,
    sequence: u64,
    previous: Digest,
}

/// Statistics by device.
type Accounts = HashMap<DeviceId, DeviceStatistics>;

/// What an export's signed sections give.
pub(super) struct Recount {
    registry: Registry,
    /// The epoch's number and statistics, and those of the epochs that matured with it.
    parts: Vec<(u64, Accounts)>,
    /// Signatures that were verified.
    pub(super) proofs: u64,
    /// Sections that were found in what is signed.
    pub(super) sections: u64,
    /// How far verdicts were judged again; none: the export does not tell what they went by.
    judged: Option<Judged>,
    /// Sections of which nothing counts, by keys that the export does not show.
    foreign: u64,
    /// What does not hold.
    pub(super) differences: Vec<Difference>,
}

/// One epoch of a [`Recount`], ready to be weighed.
pub(super) struct Counted {
    pub(super) number: u64,
    pub(super) spec: ProgramSpec,
    pub(super) devices: Vec<DeviceInput>,
}

/// Verifies, judges and counts again what `bundle` holds of the epochs `numbers` of `program`.
pub(super) fn recount(bundle: &Bundle, chains: &[Chain], program: &str, numbers: &[u64]) -> Result<Recount, Fault> {
    let told = told(bundle)?;
    let registry = registry(&told).map_err(|error| bundle.fault(error))?;
    let mut marks = marks(bundle)?;
    let mut epochs = Vec::new();
    for number in numbers {
        let (spec, window) = ruling(bundle, &registry, program, *number)?;
        epochs.push((window, spec.fleets));
    }
    // What verdicts went by came into the exports later than these.
    let judge = (!bundle.names("boundaries.").is_empty()).then(|| Judge::new(&registry, epochs, told));
    let mut scan = Scan::new(&registry, chains, judge);
    for number in numbers {
        scan.parts.push((*number, marks.remove(number).unwrap_or_default()));
    }
    for name in bundle.names("sections-") {
        bundle.rows(&name, |row| scan.section(row))?;
    }
    let Scan { parts, proofs, sections, foreign, differences, judge, .. } = scan;
    let judged = judge.map(|judge| judge.judged);
    Ok(Recount { registry, parts, proofs, sections, judged, foreign, differences })
}

/// The program's spec that ruled an epoch, and the epoch's window.
fn ruling(bundle: &Bundle, registry: &Registry, program: &str, number: u64) -> Result<(ProgramSpec, Window), Fault> {
    let ruling = registry.program(program).and_then(|known| known.ruling(number));
    let missing = || bundle.fault(format!("the registry has no spec of {program} for epoch {number}"));
    let spec: ProgramSpec =
        serde_json::from_str(&ruling.ok_or_else(missing)?.spec).map_err(|error| bundle.fault(error))?;
    let window = spec.epoch.window(number);
    let window = window.ok_or_else(|| bundle.fault(format!("epoch {number} has no window")))?;
    Ok((spec, window))
}

impl Recount {
    /// The devices of each epoch with what was counted, by the spec of `program` that ruled it.
    pub(super) fn epochs(&self, bundle: &Bundle, program: &str) -> Result<Vec<Counted>, Fault> {
        let epoch = |(number, accounts): &(u64, Accounts)| {
            let (spec, window) = ruling(bundle, &self.registry, program, *number)?;
            let statistics = accounts.iter().flat_map(|(device, statistics)| {
                statistics.within(window).map(move |(_, metric, grain)| (device, metric, grain))
            });
            let devices = assemble(&self.registry, &spec, *number, statistics).map_err(|error| bundle.fault(error))?;
            Ok(Counted { number: *number, spec, devices })
        };
        self.parts.iter().map(epoch).collect()
    }

    /// How many readings were judged again.
    pub(super) fn judged(&self) -> u64 {
        self.judged.map_or(0, |judged| judged.readings)
    }

    /// What is taken as told.
    pub(super) fn not_checked(&self) -> Vec<String> {
        let mut told = Vec::new();
        match self.judged {
            None => told.push(
                "whether each verdict is right: the export does not tell what they went by; fetch it again from a newer gateway"
                    .to_owned(),
            ),
            Some(Judged { beside, unsure, .. }) => {
                told.push(
                    "the ledger's word for when each proof came, who brought it, and what was confirmed and settled by then"
                        .to_owned(),
                );
                if beside > 0 {
                    told.push(format!(
                        "{beside} sections go by an accepted reading of another time, which that time's export shows"
                    ));
                }
                if unsure > 0 {
                    told.push(format!(
                        "{unsure} sections were checked as a whole together with late readings of other epochs"
                    ));
                }
            }
        }
        if self.foreign > 0 {
            told.push(format!("{} sections of which nothing counts, by keys that are not shown here", self.foreign));
        }
        told.push("that no section was left out: its agent holds the receipt for each".to_owned());
        told
    }
}

/// The registry of the program's namespace until the close, and what verdicts went by beside it, in the log's order.
fn told(bundle: &Bundle) -> Result<Told, Fault> {
    let mut told = Told::default();
    bundle.rows("registry.parquet", |row| {
        told.changes.push_back((row.number("version")?, Timestamp(row.number("at")?), row.json("change")?));
        Ok(())
    })?;
    for name in bundle.names("confirmations.") {
        bundle.rows(&name, |row| {
            let at = Timestamp(row.number("at")?);
            told.confirmations.push_back((row.number("position")?, row.parse("agent")?, row.parse("model")?, at));
            Ok(())
        })?;
    }
    for name in bundle.names("boundaries.") {
        bundle.rows(&name, |row| {
            let before = Timestamp(row.number("before")?);
            told.boundaries.push_back((row.number("position")?, row.text("fleet")?.to_owned(), before));
            Ok(())
        })?;
    }
    Ok(told)
}

/// The registry as it was at the close.
fn registry(told: &Told) -> Result<Registry, String> {
    let mut registry = Registry::default();
    for (_, at, change) in &told.changes {
        go_on(&mut registry, *at, change.clone())?;
    }
    Ok(registry)
}

/// Accounts of each part that know nothing but where increases begin.
fn marks(bundle: &Bundle) -> Result<BTreeMap<u64, Accounts>, Fault> {
    let mut parts: BTreeMap<u64, Accounts> = BTreeMap::new();
    bundle.rows("marks.parquet", |row| {
        let whole = |column| u64::try_from(row.number(column)?).map_err(|_| format!("{column} is negative"));
        let number = u32::try_from(whole("assignment")?).map_err(|_| "assignment is too large")?;
        let mark = Reading { at: Timestamp(row.number("at")?), value: row.number("value")? };
        let device = parts.entry(whole("number")?).or_default().entry(row.parse("device")?).or_default();
        set_mark(device, number, row.text("metric")?, mark);
        Ok(())
    })?;
    Ok(parts)
}

/// Reads sections in log order.
struct Scan<'a> {
    registry: &'a Registry,
    /// Each part's number and statistics.
    parts: Vec<(u64, Accounts)>,
    /// The newest header of each chain: its sequence and digest.
    heads: BTreeMap<(KeyId, u64), (u64, Digest)>,
    /// Where each chain begins.
    begins: BTreeMap<(KeyId, u64), (u64, Digest)>,
    /// The header that was verified last, which the next row repeats if it is of the same proof.
    last: Option<(Digest, Header)>,
    proofs: u64,
    sections: u64,
    foreign: u64,
    differences: Vec<Difference>,
    /// Absent: the export does not tell what verdicts went by.
    judge: Option<Judge<'a>>,
}

impl<'a> Scan<'a> {
    fn new(registry: &'a Registry, chains: &[Chain], judge: Option<Judge<'a>>) -> Self {
        let begins = chains.iter().map(|chain| ((chain.key, chain.incarnation), (chain.sequence, chain.previous)));
        Self {
            registry,
            parts: Vec::new(),
            heads: BTreeMap::new(),
            begins: begins.collect(),
            last: None,
            proofs: 0,
            sections: 0,
            foreign: 0,
            differences: Vec::new(),
            judge,
        }
    }

    fn section(&mut self, row: &Cells) -> Result<(), String> {
        let position = row.number("position")?;
        let Some(header) = self.header(row, position)? else { return Ok(()) };
        self.sections += 1;
        let bytes = row.bytes("section")?;
        let index = u32::try_from(row.number("index")?).map_err(|_| "index is out of range")?;
        let count = u32::try_from(row.number("count")?).map_err(|_| "count is out of range")?;
        let siblings = row.bytes("path")?.chunks(32).map(|hash| Digest::from_slice(hash).ok_or("path is cut off"));
        let path = Path { index, count, siblings: siblings.collect::<Result<_, _>>()? };
        if count != header.sections || !path.verify(bytes, &header.body) {
            self.differs(format!("section {index} of the proof at {position}"), "in the signed body", "not in it");
            return Ok(());
        }
        let section = decode_section(bytes).map_err(|error| error.to_string())?;
        let verdict = decode_verdict(row.bytes("verdict")?).map_err(|error| error.to_string())?;
        let verdict = of_section(verdict, &section, index);
        if let Some(judge) = &mut self.judge {
            self.differences.extend(judge.section(&By::of(row)?, &header, &section, index, &verdict)?);
        }
        let registry = self.judge.as_ref().map_or(self.registry, Judge::registry);
        let sections = std::slice::from_ref(&section);
        for (_, accounts) in &mut self.parts {
            proofs::apply(registry, sections, &verdict, accounts).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// The row's header, if its signature and its place in the chain are right.
    fn header(&mut self, row: &Cells, position: i64) -> Result<Option<Header>, String> {
        let bytes = row.bytes("header")?;
        let digest = Digest::of(bytes);
        if let Some((_, header)) = self.last.as_ref().filter(|(known, _)| *known == digest) {
            return Ok(Some(header.clone()));
        }
        self.proofs += 1;
        let header = decode_header(bytes).map_err(|error| error.to_string())?;
        let signer = self.registry.signer(&header.key);
        let Some(key) = signer.and_then(|signer| VerifyingKey::new(&signer.key).ok()) else {
            // Anybody's agent may sign anything of any device; what does not count harms nobody.
            if nothing_counts(row)? {
                self.foreign += 1;
            } else {
                let what = format!("signer of the proof at {position}");
                self.differs(what, &header.key.to_string(), "not in the registry");
            }
            return Ok(None);
        };
        if !key.verify(PROOF_DOMAIN, bytes, row.bytes("signature")?) {
            self.differs(format!("signature of the proof at {position}"), "right", "wrong");
            return Ok(None);
        }
        let chain = (header.key, header.incarnation);
        let expected = match self.heads.insert(chain, (header.sequence, digest)) {
            // Proofs without the export's devices are not in it.
            Some((before, head)) => (before.checked_add(1) == Some(header.sequence)).then_some(head),
            None => self.begins.get(&chain).filter(|begin| begin.0 == header.sequence).map(|begin| begin.1),
        };
        if let Some(expected) = expected.filter(|expected| *expected != header.previous) {
            let what = format!("previous of the proof at {position}");
            self.differs(what, &header.previous.to_string(), &expected.to_string());
        }
        self.last = Some((digest, header.clone()));
        Ok(Some(header))
    }

    fn differs(&mut self, what: String, published: &str, recomputed: &str) {
        self.differences.push(Difference { what, published: published.into(), recomputed: recomputed.into() });
    }
}

/// Whether the verdict lets no reading of the row's section count.
fn nothing_counts(row: &Cells) -> Result<bool, String> {
    let section = decode_section(row.bytes("section")?).map_err(|error| error.to_string())?;
    let verdict = decode_verdict(row.bytes("verdict")?).map_err(|error| error.to_string())?;
    let index = u32::try_from(row.number("index")?).map_err(|_| "index is out of range")?;
    Ok(of_section(verdict, &section, index).accepted == 0)
}

/// What a proof's verdict says of one section, as the verdict of that section alone.
fn of_section(verdict: Verdict, section: &Section, index: u32) -> Verdict {
    let mut accepted = 0;
    for (series, place) in section.series.iter().zip(0_u32..) {
        let counts = |number: &u32| verdict.rejection(index, place, *number).is_none();
        accepted += (0_u32..).zip(&series.readings).filter(|(number, _)| counts(number)).count() as u64;
    }
    let own = verdict.rejections.into_iter().filter(|rejection| rejection.section == index);
    let rejections = own.map(|rejection| proofs::Rejection { section: 0, ..rejection }).collect();
    Verdict { accepted, rejections }
}
