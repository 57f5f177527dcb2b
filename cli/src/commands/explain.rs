//! `explain`: every factor of a device's reward, from accepted readings to the last digit.

use depin_domain::{
    ids::DeviceId,
    registry::{DeviceEntry, Registry},
    rewards::{
        Amount, EpochSummary, Line, ProgramSpec, Zero,
        result::{LateLine, OwnerAmount},
        spec::{Aggregate, Feature, Limit},
    },
    time::Window,
};
use serde_json::json;

use super::proofs::{self, Counted};
use crate::{
    fault::Fault,
    ledger::{Computed, Ledger, find_device, find_programs},
    output::{Report, Table, scaled, tokens, when},
};

/// What is to be explained.
pub(super) struct Wanted<'a> {
    pub(super) device: &'a str,
    pub(super) epoch: Option<u64>,
    pub(super) program: Option<&'a str>,
}

pub(super) async fn run(ledger: &Ledger, namespace: &str, wanted: &Wanted<'_>) -> Result<Report, Fault> {
    let registry = ledger.registry().await?;
    let (id, _, entry) = find_device(&registry, namespace, wanted.device)?;
    let pays = |program: &str| {
        let specs = registry.program(program).into_iter().flat_map(|program| program.entries());
        specs
            .filter_map(|entry| serde_json::from_str::<ProgramSpec>(&entry.spec).ok())
            .any(|spec| spec.fleets.contains(&entry.fleet))
    };
    let mut text = header(&id, entry);
    let mut values = Vec::new();
    for program in find_programs(&registry, namespace, wanted.program, pays)? {
        let computed = ledger.epochs(&program).await?;
        let chosen = match wanted.epoch {
            Some(number) => computed.into_iter().find(|computed| computed.summary.number == number),
            None => computed.into_iter().next_back(),
        };
        let Some(computed) = chosen else {
            text.push_str(&format!("\n{program}: {}\n", missing(wanted.epoch)));
            continue;
        };
        let story = tell(ledger, &registry, &program, &computed, &id, entry).await?;
        text.push_str(&story.text());
        values.push(story.json(&program));
    }
    if values.is_empty() && wanted.epoch.is_some() {
        return Err(Fault::not_found(text.trim_end().to_owned(), "list the computed epochs: kubectl depin epochs"));
    }
    let value =
        json!({"device": id, "namespace": entry.namespace, "name": entry.name, "fleet": entry.fleet, "epochs": values});
    Ok(Report::new(value, text))
}

fn missing(epoch: Option<u64>) -> String {
    epoch.map_or_else(|| "no epoch was computed yet".into(), |number| format!("epoch {number} was not computed (yet)"))
}

fn header(id: &DeviceId, entry: &DeviceEntry) -> String {
    let owners: Vec<String> =
        entry.shares.iter().map(|share| format!("{} {} bp", share.account, share.basis_points)).collect();
    let owners = if owners.is_empty() { "none: amounts are held".into() } else { owners.join(", ") };
    format!(
        "Device      {}/{} ({})\nFleet       {}, serial {}, since {}\nOwners now  {owners}\n",
        entry.namespace,
        entry.name,
        id.did(),
        entry.fleet,
        entry.serial,
        when(entry.since)
    )
}

/// Everything about one device in one epoch.
struct Story {
    spec: ProgramSpec,
    summary: EpochSummary,
    line: Option<Line>,
    counted: Counted,
    proofs: u64,
    /// Unit and scale of each feature.
    units: Vec<(String, u8)>,
}

async fn tell(
    ledger: &Ledger,
    registry: &Registry,
    program: &str,
    computed: &Computed,
    id: &DeviceId,
    entry: &DeviceEntry,
) -> Result<Story, Fault> {
    let summary = computed.summary.clone();
    let recorded = registry.program(program).into_iter().flat_map(|program| program.entries());
    let spec = recorded
        .filter(|entry| entry.digest == summary.program_digest)
        .find_map(|entry| serde_json::from_str(&entry.spec).ok());
    let spec: ProgramSpec = spec.ok_or_else(|| {
        Fault::failed(
            format!("the registry lacks the program {} of epoch {}", summary.program_digest, summary.number),
            "report it: the record is incomplete",
        )
    })?;
    let line = ledger.line(program, summary.number, id).await?;
    let window = Window { start: summary.start, end: summary.end };
    let mut counted = Counted::default();
    let proofs = proofs::each(ledger, id, window, u64::MAX, |record| {
        counted.add(proofs::counted(&record, id, window)?);
        Ok(())
    })
    .await?;
    let units = spec.features.iter().map(|feature| unit(registry, entry, window, feature)).collect();
    Ok(Story { spec, summary, line, counted, proofs, units })
}

fn unit(registry: &Registry, entry: &DeviceEntry, window: Window, feature: &Feature) -> (String, u8) {
    match feature.aggregate {
        Aggregate::Count => ("readings".into(), 0),
        Aggregate::Uptime => ("%".into(), 2),
        _ => {
            let chain = registry.model_name_at(entry, window.start).and_then(|name| registry.model_chain(name));
            let mut models = chain.into_iter().flat_map(|chain| chain.entries());
            let metric = models.find_map(|entry| entry.model.metric(&feature.metric));
            metric.map_or((String::new(), 0), |metric| (metric.unit.clone(), metric.scale))
        }
    }
}

impl Story {
    fn json(&self, program: &str) -> serde_json::Value {
        let line = self.line.as_ref();
        let features: serde_json::Map<_, _> = self
            .spec
            .features
            .iter()
            .enumerate()
            .map(|(at, feature)| {
                (
                    feature.name.clone(),
                    json!(line.and_then(|line| *line.features.get(at)?).map(|value| value.to_string())),
                )
            })
            .collect();
        json!({
            "program": program, "epoch": self.summary.number, "start": self.summary.start, "end": self.summary.end,
            "programDigest": self.summary.program_digest, "proofs": self.proofs, "readingsAccepted": self.counted.accepted,
            "readingsRejected": self.counted.by_reason, "features": features, "weightExpression": self.spec.weight,
            "pool": self.summary.pool, "weightSum": self.summary.weight_sum.to_string(), "root": self.summary.root, "line": line,
        })
    }

    fn amount(&self, amount: Amount) -> String {
        format!("{} {}", tokens(amount, self.spec.token.decimals), self.spec.token.symbol)
    }

    fn text(&self) -> String {
        let summary = &self.summary;
        let mut text = format!(
            "\nProgram     {}, epoch {}: {} to {}\n            spec {}\nReadings    {} accepted in {} proofs",
            summary.program,
            summary.number,
            when(summary.start),
            when(summary.end),
            summary.program_digest,
            self.counted.accepted,
            self.proofs
        );
        if self.counted.rejected() > 0 {
            text.push_str(&format!("; {} rejected: {}", self.counted.rejected(), self.counted.reasons()));
        }
        text.push('\n');
        let Some(line) = &self.line else {
            text.push_str("            the device was not in this program's fleets in this epoch\n");
            return text;
        };
        text.push_str(&self.features(line));
        text.push_str(&self.gates(line));
        text.push_str(&self.weight(line));
        text.push_str(&self.share(line));
        for late in &line.late {
            text.push_str(&self.late(late));
        }
        for zero in &line.reasons {
            text.push_str(&format!("Reason      {}\n", reason(zero)));
        }
        let root = summary.root.as_deref().unwrap_or("none: nobody has anything to claim yet");
        text.push_str(&format!("Root        {root}\n"));
        text
    }

    fn features(&self, line: &Line) -> String {
        let mut table = Table::new(["", "FEATURE", "VALUE", "", "OF"]);
        for ((feature, (unit, scale)), value) in self.spec.features.iter().zip(&self.units).zip(&line.features) {
            let (value, shown) = match value {
                Some(value) => (value.to_string(), format!("= {} {unit}", scaled(*value, *scale))),
                None => ("absent".into(), String::new()),
            };
            table.row([
                "         ".into(),
                feature.name.clone(),
                value,
                shown,
                format!("{:?} of {}", feature.aggregate, feature.metric),
            ]);
        }
        table.text()
    }

    fn gates(&self, line: &Line) -> String {
        let mut text = String::new();
        for gate in &self.spec.gates {
            let at = self.spec.features.iter().position(|feature| feature.name == gate.feature);
            let value = at.and_then(|at| *line.features.get(at)?);
            let shut = line.reasons.iter().any(|zero| zero.detail == gate.reason);
            let bound = match (gate.minimum, gate.maximum) {
                (Some(minimum), Some(maximum)) => format!("{minimum} to {maximum}"),
                (Some(minimum), None) => format!("at least {minimum}"),
                (None, Some(maximum)) => format!("at most {maximum}"),
                (None, None) => "anything".into(),
            };
            let value = value.map_or("absent".into(), |value| value.to_string());
            let outcome = if shut { format!("shut: {}", gate.reason) } else { "passed".into() };
            text.push_str(&format!("Gate        {} {value}, wanted {bound}: {outcome}\n", gate.feature));
        }
        for limit in &self.spec.limits {
            let rule = match limit {
                Limit::HexCapacity { resolution, capacity, .. } => {
                    format!("at most {capacity} devices in an H3 cell of resolution {resolution}")
                }
                Limit::MinimumDistance { metres, .. } => format!("no closer than {metres} m to a device that counts"),
            };
            let outcome = if line.admitted { "passed" } else { "not passed, see the reason" };
            text.push_str(&format!("Limit       {rule}: {outcome}\n"));
        }
        text
    }

    fn weight(&self, line: &Line) -> String {
        let sum = self.summary.weight_sum;
        let part = Amount(1_000_000)
            .part(line.weight.into(), sum)
            .map_or(String::new(), |ppm| format!(" ({} %)", tokens(ppm, 4)));
        let limited =
            if line.weight == line.raw_weight { String::new() } else { format!(", {} after limits", line.weight) };
        format!("Weight      {} = {}{limited}; of Σw {sum}{part}\n", self.spec.weight, line.raw_weight)
    }

    fn share(&self, line: &Line) -> String {
        let summary = &self.summary;
        let mut text = format!(
            "Pool        {} minted for all, {} carried in; {} kept for late readings: pool {}\nShare       floor({} × {} / {}) = {} = {}\n",
            self.amount(summary.minted),
            self.amount(summary.carried_in),
            self.amount(summary.bucket),
            self.amount(summary.pool),
            summary.pool,
            line.weight,
            summary.weight_sum,
            line.share,
            self.amount(line.share)
        );
        text.push_str(&self.owners(&line.owners, line.residual));
        if let Some(released) = &line.released {
            text.push_str(&format!("Released    {} that was held in earlier epochs\n", self.amount(released.amount)));
            text.push_str(&self.owners(&released.owners, released.residual));
        }
        text
    }

    fn owners(&self, owners: &[OwnerAmount], residual: Amount) -> String {
        let mut text = String::new();
        for owner in owners {
            let payout = self.summary.payouts.iter().find(|payout| payout.account == owner.account);
            let all = payout.map_or(String::new(), |payout| {
                format!("; all its devices {}, in all epochs {}", self.amount(payout.amount), payout.cumulative)
            });
            text.push_str(&format!(
                "Paid        {} {} bp = {} = {}{all}\n",
                owner.account,
                owner.basis_points,
                owner.amount,
                self.amount(owner.amount)
            ));
        }
        if !residual.is_zero() {
            text.push_str(&format!("            {residual} left by rounding returns to the carry\n"));
        }
        text
    }

    fn late(&self, late: &LateLine) -> String {
        let mut text = format!(
            "Late        epoch {} settled: weight {} (room {}/{}), due {}, paid {}\n",
            late.number,
            late.weight,
            late.room,
            late.claims,
            late.due,
            self.amount(late.paid)
        );
        if !late.correction.is_zero() {
            text.push_str(&format!(
                "            {} had been paid too much: {} of it was taken back, out of held amounts or as debts that reduce later payouts\n",
                self.amount(late.correction),
                self.amount(late.corrected)
            ));
        }
        text.push_str(&self.owners(&late.owners, late.residual));
        if let Some(zero) = &late.reason {
            text.push_str(&format!("            {}\n", reason(zero)));
        }
        text
    }
}

fn reason(zero: &Zero) -> String {
    format!("{}: {} {}", zero.label(), zero.reason.meaning(), zero.reason.remedy())
}
