//! Finding a recorded proof again, by its place in its chain.

use depin_domain::{ids::KeyId, time::Timestamp};

use super::disk::{Disk, from_log};
use crate::{
    api::Outcome,
    chains::{Chains, Links, Step},
    core::Found,
    error::LedgerError,
    record::Entry,
    state::ParsedProof,
};

impl Disk {
    /// The recorded proof of a chain's newest incarnation with this sequence; `None` where there is none or retention removed it.
    pub(super) fn recall(&self, chains: &Chains, key: &KeyId, sequence: u64) -> Result<Option<Found>, LedgerError> {
        let Some(chain) = chains.get(key) else { return Ok(None) };
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
