//! Finding a recorded proof again, by its place in its chain.

use depin_domain::{
    ids::{Digest, KeyId},
    time::Timestamp,
};

use crate::{
    api::Outcome,
    chains::{Links, Step},
    core::{Core, from_log},
    error::LedgerError,
    record::Entry,
    state::ParsedProof,
};

/// A recorded proof, as far as repeating its outcome and walking its chain needs.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) sequence: u64,
    pub(crate) digest: Digest,
    pub(crate) links: Links,
    pub(crate) outcome: Outcome,
}

impl Core {
    /// The recorded proof of a chain's newest incarnation with this sequence; `None` where there is none or retention removed it.
    pub(crate) fn find(&self, key: &KeyId, sequence: u64) -> Result<Option<Found>, LedgerError> {
        let Some(chain) = self.state.chains.get(key) else { return Ok(None) };
        let Some(mut step) = chain.steps.iter().find(|step| step.sequence >= sequence).copied() else {
            return Ok(None);
        };
        loop {
            let Some(found) = self.found_at(step.position)? else { return Ok(None) };
            if found.sequence <= sequence {
                return Ok((found.sequence == sequence).then_some(found));
            }
            let Links { previous, skip } = found.links;
            step = if skip.position > 0 && skip.sequence >= sequence { skip } else { previous };
            if step.position == 0 {
                return Ok(None);
            }
        }
    }

    fn found_at(&self, position: u64) -> Result<Option<Found>, LedgerError> {
        if let Some(found) = self.fresh.get(&position) {
            return Ok(Some(found.clone()));
        }
        if position < self.log.front() {
            return Ok(None);
        }
        let Some(record) = self.log.reader().read(position).map_err(from_log)? else { return Ok(None) };
        let Entry::Proof(record) = Entry::decode(record.kind, record.payload.into(), position)? else {
            return Ok(None);
        };
        let parsed = ParsedProof::of(&record, position)?;
        let links = Links {
            previous: Step { sequence: record.previous_sequence, position: record.previous_position },
            skip: Step { sequence: record.skip_sequence, position: record.skip_position },
        };
        let outcome = Outcome::Judged {
            ledger_incarnation: record.ledger_incarnation,
            position,
            received_at: Timestamp(record.received_at),
            verdict: parsed.verdict,
            rejected: record.rejected,
            repeated: false,
            archived: false,
        };
        Ok(Some(Found { sequence: parsed.header.sequence, digest: parsed.digest, links, outcome }))
    }
}
