//! Repeats an epoch from its audit export: signatures and paths are verified, what the verdicts let count becomes statistics again, and from these
//! and the registry follow features, limits, weights, amounts, state and root, by the very rules by which the operator computed them.

use std::collections::{BTreeMap, HashMap};

use depin_domain::{
    ids::{DeviceId, Digest, KeyId},
    proofs::{self, Header, Reading, Section, Verdict},
    registry::{Record, Registry},
    rewards::{
        EpochInput, EpochResult, EpochSummary, Line, MaturedInput, ProgramSpec, ProgramState, assemble::Assembly,
        close_epoch, public::Difference,
    },
    statistics::{AssignmentStatistics, DeviceStatistics, MetricStatistics},
    time::Timestamp,
};
use depin_identity::VerifyingKey;
use depin_proto::envelope::{PROOF_DOMAIN, Path, decode_header, decode_section, decode_verdict};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    bundle::{Bundle, Cells},
    recompute::told,
};
use crate::{fault::Fault, output::Report};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    summary: EpochSummary,
    state: ProgramState,
    spec: ProgramSpec,
    previous_state: Option<ProgramState>,
    matured: Vec<u64>,
    chains: Vec<Chain>,
}

/// Where a chain begins in the export.
#[derive(Debug, Deserialize)]
struct Chain {
    key: KeyId,
    incarnation: u64,
    sequence: u64,
    previous: Digest,
}

type Accounts = HashMap<DeviceId, DeviceStatistics>;

pub(super) fn run(bundle: &Bundle) -> Result<Report, Fault> {
    let manifest: Manifest = bundle.manifest()?;
    let registry = registry(bundle)?;
    let mut marks = marks(bundle)?;
    let mut scan = Scan::new(&registry, &manifest);
    let number = manifest.summary.number;
    for part in std::iter::once(number).chain(manifest.matured.iter().copied()) {
        scan.parts.push((part, marks.remove(&part).unwrap_or_default()));
    }
    for name in bundle.names("sections-") {
        bundle.rows(&name, |row| scan.section(row))?;
    }
    let Scan { parts, proofs, sections, mut differences, .. } = scan;
    let input = input(bundle, &registry, &manifest, &parts)?;
    let again = close_epoch(&input).map_err(|error| bundle.fault(error))?;
    compare(bundle, &manifest, &again, &mut differences)?;
    let root = again.summary.root.as_deref().unwrap_or("none");
    let text = format!(
        "{}, epoch {number}: {proofs} signatures, {sections} sections, {} devices\nroot {root}\n{}",
        again.summary.program,
        again.lines.len(),
        told(&differences, "From signatures to root, everything is as published.")
    );
    let value = json!({
        "program": again.summary.program, "epoch": number, "devices": again.lines.len(), "proofs": proofs, "sections": sections,
        "weightSum": again.summary.weight_sum.to_string(), "root": again.summary.root, "differences": differences,
    });
    Ok(Report { right: differences.is_empty(), ..Report::new(value, text) })
}

/// The registry of the program's namespace as it was at the close. Other namespaces' versions are left out, so they are counted anew.
fn registry(bundle: &Bundle) -> Result<Registry, Fault> {
    let mut registry = Registry::default();
    bundle.rows("registry.parquet", |row| {
        let (at, change) = (Timestamp(row.number("at")?), row.json("change")?);
        let record = Record { version: registry.version().saturating_add(1), at, change };
        registry.apply(record).map_err(|error| error.to_string())
    })?;
    Ok(registry)
}

/// Accounts of each part that know nothing but where increases begin.
fn marks(bundle: &Bundle) -> Result<BTreeMap<u64, Accounts>, Fault> {
    let mut parts: BTreeMap<u64, Accounts> = BTreeMap::new();
    bundle.rows("marks.parquet", |row| {
        let whole = |column| u64::try_from(row.number(column)?).map_err(|_| format!("{column} is negative"));
        let number = u32::try_from(whole("assignment")?).map_err(|_| "assignment is too large")?;
        let mark = Reading { at: Timestamp(row.number("at")?), value: row.number("value")? };
        let metric = MetricStatistics { metric: row.text("metric")?.into(), mark, grains: Vec::new() };
        let device = parts.entry(whole("number")?).or_default().entry(row.parse("device")?).or_default();
        let assignments = &mut device.assignments;
        let place = match assignments.binary_search_by_key(&number, |known| known.number) {
            Ok(place) => place,
            Err(place) => {
                assignments.insert(place, AssignmentStatistics { number, metrics: Vec::new() });
                place
            }
        };
        if let Some(assignment) = assignments.get_mut(place) {
            assignment.metrics.push(metric);
            assignment.metrics.sort_by(|one, other| one.metric.cmp(&other.metric));
        }
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
    differences: Vec<Difference>,
}

impl<'a> Scan<'a> {
    fn new(registry: &'a Registry, manifest: &Manifest) -> Self {
        let begins =
            manifest.chains.iter().map(|chain| ((chain.key, chain.incarnation), (chain.sequence, chain.previous)));
        Self {
            registry,
            parts: Vec::new(),
            heads: BTreeMap::new(),
            begins: begins.collect(),
            last: None,
            proofs: 0,
            sections: 0,
            differences: Vec::new(),
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
        let sections = std::slice::from_ref(&section);
        for (_, accounts) in &mut self.parts {
            proofs::apply(self.registry, sections, &verdict, accounts).map_err(|error| error.to_string())?;
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
            self.differs(format!("signer of the proof at {position}"), &header.key.to_string(), "not in the registry");
            return Ok(None);
        };
        if !key.verify(PROOF_DOMAIN, bytes, row.bytes("signature")?) {
            self.differs(format!("signature of the proof at {position}"), "right", "wrong");
            return Ok(None);
        }
        let chain = (header.key, header.incarnation);
        let expected = match self.heads.insert(chain, (header.sequence, digest)) {
            // Proofs without the epoch's devices are not in the export.
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

/// What a proof's verdict says of one section, as the verdict of that section alone.
fn of_section(verdict: Verdict, section: &Section, index: u32) -> Verdict {
    let own = verdict.rejections.into_iter().filter(|rejection| rejection.section == index);
    let rejections: Vec<_> = own.map(|rejection| proofs::Rejection { section: 0, ..rejection }).collect();
    let rejected = |series: u32, reading: u32| {
        rejections.iter().any(|rejection| {
            rejection.series.is_none_or(|rejected| rejected == series)
                && (rejection.readings.is_empty() || rejection.readings.contains(&reading))
        })
    };
    let mut accepted = 0;
    for (series, place) in section.series.iter().zip(0_u32..) {
        accepted += (0_u32..).zip(&series.readings).filter(|(number, _)| !rejected(place, *number)).count() as u64;
    }
    Verdict { accepted, rejections }
}

fn input(
    bundle: &Bundle,
    registry: &Registry,
    manifest: &Manifest,
    parts: &[(u64, Accounts)],
) -> Result<EpochInput, Fault> {
    let program = &manifest.summary.program;
    let number = manifest.summary.number;
    let mut devices = None;
    let mut matured = Vec::new();
    for (of, accounts) in parts {
        let ruling = registry.program(program).and_then(|known| known.ruling(*of));
        let ruling =
            ruling.ok_or_else(|| bundle.fault(format!("the registry has no spec of {program} for epoch {of}")))?;
        let spec: ProgramSpec = serde_json::from_str(&ruling.spec).map_err(|error| bundle.fault(error))?;
        let mut assembly = Assembly::new(registry, &spec, *of).map_err(|error| bundle.fault(error))?;
        let window = spec.epoch.window(*of).ok_or_else(|| bundle.fault(format!("epoch {of} has no window")))?;
        for (device, statistics) in accounts {
            for (_, metric, grain) in statistics.within(window) {
                assembly.add(device, metric, grain);
            }
        }
        let gathered = assembly.finish();
        if *of == number {
            devices = Some(gathered);
        } else {
            let lines = lines(bundle, &format!("lines-{of:010}.parquet"))?;
            matured.push(MaturedInput { number: *of, spec, devices: gathered, lines });
        }
    }
    Ok(EpochInput {
        program: program.clone(),
        number,
        spec: manifest.spec.clone(),
        devices: devices.unwrap_or_default(),
        matured,
        state: manifest.previous_state.clone().unwrap_or_default(),
    })
}

fn lines(bundle: &Bundle, name: &str) -> Result<Vec<Line>, Fault> {
    let mut lines = Vec::new();
    bundle.rows(name, |row| {
        lines.push(row.json("line")?);
        Ok(())
    })?;
    Ok(lines)
}

/// Everything that was published beside what came out.
fn compare(
    bundle: &Bundle,
    manifest: &Manifest,
    again: &EpochResult,
    differences: &mut Vec<Difference>,
) -> Result<(), Fault> {
    fields("summary", &manifest.summary, &again.summary, differences);
    fields("state", &manifest.state, &again.state, differences);
    let published: BTreeMap<DeviceId, Line> =
        lines(bundle, "lines.parquet")?.into_iter().map(|line| (line.device, line)).collect();
    let ours: BTreeMap<DeviceId, &Line> = again.lines.iter().map(|line| (line.device, line)).collect();
    for (device, line) in &published {
        match ours.get(device) {
            Some(own) => fields(&format!("device {device}"), line, own, differences),
            None => differences.push(Difference {
                what: format!("device {device}"),
                published: "a line".into(),
                recomputed: "took no part".into(),
            }),
        }
    }
    let missing = ours.keys().filter(|device| !published.contains_key(device));
    differences.extend(missing.map(|device| Difference {
        what: format!("device {device}"),
        published: "no line".into(),
        recomputed: "took part".into(),
    }));
    Ok(())
}

/// The fields in which two values of one type differ.
fn fields<T: Serialize>(what: &str, published: &T, ours: &T, differences: &mut Vec<Difference>) {
    let (published, ours) = (json!(published), json!(ours));
    if published == ours {
        return;
    }
    let names = published.as_object().into_iter().chain(ours.as_object()).flat_map(|fields| fields.keys());
    let names: std::collections::BTreeSet<_> = names.collect();
    for name in names.into_iter().filter(|name| published.get(name) != ours.get(name)) {
        let text = |value: &serde_json::Value| value.get(name).map_or("absent".into(), ToString::to_string);
        differences.push(Difference {
            what: format!("{what} {name}"),
            published: text(&published),
            recomputed: text(&ours),
        });
    }
}
