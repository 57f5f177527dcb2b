//! A full scan of the record: does everything still say what it said when it was written?
//!
//! Checked: every checksum, every body root and chain link, every verdict against the rules, statistics and frozen files against a replay
//! from nothing, digests of all files, and what the ledger keeps beside its records against the replay's end. Signatures where the caller can verify them.

use std::{collections::BTreeMap, sync::Arc};

use depin_domain::{
    ids::{AgentId, Digest, PublicKey},
    proofs::{
        self, Context,
        chain::{self, Declared, Known},
    },
    time::{Timestamp, Window},
};
use depin_log::Storage;
use depin_proto::{envelope, v1};
use prost::Message as _;

use crate::{
    epochs,
    error::LedgerError,
    files::{self, Kind},
    lateness,
    record::{BoundaryRecord, ClosedRecord, Entry, EvidenceRecord, FileRecord, FleetBoundary, ProofRecord, Records},
    state::{ParsedProof, State},
};

/// What a scan found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verification {
    /// Where the log begins.
    pub front: u64,
    /// Where it ends.
    pub end: u64,
    /// Records read.
    pub records: u64,
    /// Proofs read.
    pub proofs: u64,
    /// Readings that count.
    pub accepted: u64,
    /// Readings that do not.
    pub rejected: u64,
    /// Closed epochs.
    pub epochs: u64,
    /// Immutable files whose digests were compared.
    pub files: u64,
    /// Signatures verified.
    pub signatures: u64,
    /// What shows that a key signed two histories: a clone of its disk, or worse. Evidence for a person, no finding.
    pub equivocations: Vec<Equivocation>,
    /// Everything that is not as it should be; empty: all is well.
    pub findings: Vec<String>,
}

/// Two proofs of one key that cannot both be. Both are signed, so whoever is shown both need not trust the ledger.
#[derive(Clone, Debug, PartialEq)]
pub struct Equivocation {
    /// When the second one came.
    pub at: Timestamp,
    /// The second one, which was refused, without its sections.
    pub refused: v1::SignedProof,
    /// Digest of the header that stands in the chain in its place, or before it.
    pub judged: Digest,
}

/// At most so many findings are kept.
const MAX_FINDINGS: usize = 1_000;

/// Verifies a proof's signature by its signer's key.
pub type CheckSignature<'a> = dyn FnMut(&v1::SignedProof, &PublicKey) -> bool + 'a;

/// Replays the records on `base`, what came before them. Damage of the records themselves ends the scan with an error.
pub(crate) fn scan(
    records: &dyn Records,
    files: Arc<dyn Storage>,
    base: State,
    mut check_signature: Option<&mut CheckSignature<'_>>,
) -> Result<Scan, LedgerError> {
    let from = base.applied.max(records.front());
    let mut scan =
        Scan { state: base, files, found: Verification { front: records.front(), ..Verification::default() } };
    records.read(from, &mut |position, _, entry| {
        scan.found.records += 1;
        match &entry {
            Entry::Proof(proof) => scan.proof(position, proof, &mut check_signature)?,
            Entry::Closed(closed) => scan.closed(position, closed)?,
            Entry::Result(result) => {
                if let Some(file) = &result.file {
                    scan.file(file, Kind::Result);
                }
            }
            Entry::Boundary(record) => scan.boundary(position, record),
            Entry::Evidence(evidence) => scan.evidence(position, evidence, &mut check_signature)?,
            _ => {}
        }
        scan.state.apply(position, entry)?;
        Ok(true)
    })?;
    Ok(scan)
}

/// What records were made of, and what was found.
pub(crate) struct Scan {
    /// What they come to.
    pub(crate) state: State,
    files: Arc<dyn Storage>,
    pub(crate) found: Verification,
}

impl Scan {
    pub(crate) fn finding(&mut self, what: String) {
        if self.found.findings.len() < MAX_FINDINGS {
            self.found.findings.push(what);
        }
    }

    fn proof(
        &mut self,
        position: u64,
        record: &ProofRecord,
        check_signature: &mut Option<&mut CheckSignature<'_>>,
    ) -> Result<(), LedgerError> {
        let parsed = ParsedProof::of(record, position)?;
        let header = &parsed.header;
        self.found.proofs += 1;
        self.found.accepted += parsed.verdict.accepted;
        self.found.rejected += record.rejected;
        let mut wrong = Vec::new();
        if let Some(proof) = &record.proof {
            if let Err(error) = envelope::open_proof(&proof.header, &proof.sections) {
                wrong.push(error.to_string());
            }
            if let (Some(check), Some(signer)) = (check_signature.as_mut(), self.state.registry.signer(&header.key)) {
                self.found.signatures += 1;
                if !check(proof, &signer.key) {
                    wrong.push("the signature does not verify".into());
                }
            }
        }
        let declared = (record.missing > 0)
            .then_some(Declared { incarnation: header.incarnation, next_sequence: header.sequence });
        let known = Known { head: self.state.chains.head(&header.key), declared, judged: None };
        let place = chain::place(&known, header, &parsed.digest);
        if !place.is_judged() {
            wrong.push(format!("it does not follow its chain: {place:?}"));
        }
        let agent = AgentId::from_slice(&record.agent).unwrap_or_default();
        let nothing = BTreeMap::new();
        let context = Context {
            received_at: Timestamp(record.received_at),
            registry: &self.state.registry,
            models: &self.state.models,
            agent,
            confirmed: self.state.confirmed.get(&agent).unwrap_or(&nothing),
            late_boundaries: &self.state.late_boundaries,
            max_skew_ms: record.max_skew_ms,
        };
        if proofs::judge(&context, header, &parsed.sections, &self.state.accounts) != parsed.verdict {
            wrong.push("the rules give another verdict than the recorded one".into());
        }
        for what in wrong {
            self.finding(format!("proof at position {position}: {what}"));
        }
        Ok(())
    }

    /// Nothing is settled that a program still needs.
    fn boundary(&mut self, position: u64, record: &BoundaryRecord) {
        let claims = lateness::claims(&self.state);
        for FleetBoundary { fleet, before } in &record.fleets {
            let limit = claims.get(fleet).map_or(Some(record.at), |settled| settled.map(|settled| settled.0));
            if limit.is_none_or(|limit| *before > limit) {
                self.finding(format!("boundary at position {position}: {fleet} is not settled before {before}"));
            }
        }
    }

    fn evidence(
        &mut self,
        position: u64,
        record: &EvidenceRecord,
        check_signature: &mut Option<&mut CheckSignature<'_>>,
    ) -> Result<(), LedgerError> {
        let damaged = |what: &str| LedgerError::Damaged(format!("evidence at position {position}: {what}"));
        let refused = record.proof.clone().ok_or_else(|| damaged("no proof in it"))?;
        let header = envelope::decode_header(&refused.header).map_err(|error| damaged(&error.to_string()))?;
        if let (Some(check), Some(signer)) = (check_signature.as_mut(), self.state.registry.signer(&header.key)) {
            self.found.signatures += 1;
            if !check(&refused, &signer.key) {
                self.finding(format!("evidence at position {position}: the signature does not verify"));
            }
        }
        let judged = Digest::from_slice(&record.judged).unwrap_or_default();
        self.found.equivocations.push(Equivocation { at: Timestamp(record.at), refused, judged });
        Ok(())
    }

    /// The frozen files are what the replayed statistics give.
    fn closed(&mut self, position: u64, closed: &ClosedRecord) -> Result<(), LedgerError> {
        self.found.epochs += 1;
        let Some(close) = &closed.close else { return Ok(()) };
        let own = close.window.iter();
        let windows: Vec<_> = own.chain(&close.matured).cloned().collect();
        for window in windows {
            let Some(file) = closed.frozen.iter().find(|file| file.number == window.number) else {
                self.finding(format!("close at position {position}: no statistics of epoch {}", window.number));
                continue;
            };
            self.file(file, Kind::Statistics);
            let fleets = epochs::fleets(&self.state.registry, &close.program, window.number)?;
            let span = Window { start: Timestamp(window.start), end: Timestamp(window.end) };
            let mut dry = files::Writer::dry(self.files.clone(), file.name.clone(), Kind::Statistics);
            epochs::statistics_pages(&self.state, &fleets, span, |page| dry.frame(&page.encode_to_vec()))?;
            if dry.finish(window.number)?.digest != file.digest {
                let found = format!("{}: the log gives other statistics than were frozen", file.name);
                self.finding(found);
            }
        }
        Ok(())
    }

    fn file(&mut self, file: &FileRecord, kind: Kind) {
        self.found.files += 1;
        let checked = files::Reader::open(&*self.files, file, kind).and_then(|reader| reader.verify(file));
        if let Err(error) = checked {
            self.finding(format!("{error} (recorded digest {})", Digest::from_slice(&file.digest).unwrap_or_default()));
        }
    }
}
