//! The operator's writes: token, registry, inbox.

use bytes::Bytes;
use depin_domain::{
    canonical,
    ids::{AgentId, Digest},
    proofs::checks,
    registry::{Change, Record},
};
use depin_proto::v1::{self, inbox_entry};

use crate::{
    api::{InboxRequest, Posted},
    core::{Core, Journal},
    error::LedgerError,
    inbox::MAX_SIGHTINGS,
    record::{AnsweredRecord, Entry, PostedRecord, RegistryRecord, WriterRecord},
};

/// Largest change; larger ones would not fit the messages that carry them.
const MAX_CHANGE: usize = 1 << 20;
/// Most changes of one write.
const MAX_CHANGES: usize = 10_000;
const MAX_CSR: usize = 16 << 10;
/// Of a ServiceAccount's sealed token.
const MAX_PASS: usize = 16 << 10;
/// Fleets that one agent serves.
const MAX_FLEETS: usize = 32;
const MAX_TEXT: usize = 256;

impl<J: Journal> Core<J> {
    pub(crate) fn acquire_writer(&mut self, holder: String) -> Result<v1::WriterToken, LedgerError> {
        let token = self.state.writer_token + 1;
        self.put(Entry::Writer(WriterRecord { token, holder, at: self.now().0 }))?;
        Ok(v1::WriterToken { incarnation: self.state.incarnation, token })
    }

    /// Appends registry changes, all or none: they are tried on a copy first.
    pub(crate) fn write_registry(&mut self, request: v1::WriteRegistryRequest) -> Result<u64, LedgerError> {
        self.check_writer(request.writer.as_ref())?;
        let newest = self.state.registry.version();
        if request.expected_version != newest {
            return Err(LedgerError::VersionConflict { expected: request.expected_version, newest });
        }
        if request.changes.len() > MAX_CHANGES {
            let message = format!("{} are more than {MAX_CHANGES}: write them in parts", request.changes.len());
            return Err(LedgerError::Invalid { field: "changes", message });
        }
        // Not before an epoch that is closed: a program that goes now goes after it, whatever became of the clock.
        let at = self.now().max(self.state.registry.updated_at()).max(self.state.closed_until());
        let mut trial = self.state.registry.clone();
        trial.advance(at);
        let mut accepted: Vec<(Change, Bytes)> = Vec::new();
        for (index, mut bytes) in request.changes.into_iter().enumerate() {
            let invalid = |message: String| LedgerError::InvalidChange { index, message };
            if bytes.len() > MAX_CHANGE {
                return Err(invalid(format!("{} bytes are more than {MAX_CHANGE}", bytes.len())));
            }
            let mut change: Change = serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
            if self.defer_to_open_epoch(&mut change) {
                bytes = canonical::to_vec(&change).map_err(|error| invalid(error.to_string()))?.into();
            }
            trial.check(&change).map_err(|error| invalid(error.to_string()))?;
            if let Change::Model(entry) = &change {
                checks::validate(&entry.model).map_err(|error| invalid(error.to_string()))?;
            }
            if trial.would_change(&change) {
                let version = trial.version() + 1;
                trial
                    .apply(Record { version, at, change: change.clone() })
                    .map_err(|error| invalid(error.to_string()))?;
                accepted.push((change, bytes));
            }
        }
        let programs = |change: &Change| matches!(change, Change::Program(_) | Change::ProgramRemoved { .. });
        let claims_differ = accepted.iter().any(|(change, _)| programs(change));
        for (_, bytes) in accepted {
            let version = self.state.registry.version() + 1;
            self.put(Entry::Registry(RegistryRecord { version, at: at.0, change: bytes }))?;
        }
        if claims_differ {
            self.bound_lateness()?;
        }
        Ok(self.state.registry.version())
    }

    /// Lets a spec that would rule a closed epoch rule from the one after it; true if it had to. An epoch stays with the spec under which it was
    /// closed until it is settled; whoever asks may have a clock that is behind, or the epoch was closed while he asked.
    fn defer_to_open_epoch(&self, change: &mut Change) -> bool {
        let Change::Program(entry) = change else { return false };
        let newest = self.state.epochs.get(&entry.id).and_then(|epochs| epochs.last_key_value());
        let open = newest.map_or(0, |(number, _)| number.saturating_add(1));
        let closed = entry.from_epoch < open;
        entry.from_epoch = entry.from_epoch.max(open);
        closed
    }

    /// Records after a version.
    pub(crate) fn read_registry(&self, after: u64, limit: usize) -> Result<Vec<Record>, LedgerError> {
        let from = usize::try_from(after).unwrap_or(usize::MAX).min(self.state.written.len());
        let wanted = self.state.written[from..].iter().take(limit).zip(after + 1..);
        let record = |(written, version): (&crate::state::Written, u64)| {
            let change = serde_json::from_slice(&written.change)
                .map_err(|error| LedgerError::Damaged(format!("registry record {version}: {error}")))?;
            Ok(Record { version, at: depin_domain::time::Timestamp(written.at), change })
        };
        wanted.map(record).collect()
    }

    pub(crate) fn post_inbox(&mut self, request: InboxRequest) -> Result<Posted, LedgerError> {
        let now = self.now();
        let mut recorded = 0;
        let (repeat, entry) = match request {
            InboxRequest::Enroll(request) => {
                check_csr(&request.csr)?;
                check_text("name", &request.name)?;
                request.service_account.as_ref().map_or(Ok(()), check_pass)?;
                (Some(enrollment(&request)), inbox_entry::Entry::Enroll(request))
            }
            InboxRequest::Renew { request, agent, key } => {
                check_csr(&request.csr)?;
                let repeat = Digest::of(&[b"renew", agent.as_ref(), &request.csr[..]].concat());
                let (agent_id, key_id) = (Bytes::copy_from_slice(agent.as_ref()), Bytes::copy_from_slice(key.as_ref()));
                let request = Some(request);
                (Some(repeat), inbox_entry::Entry::Renew(v1::RenewalEntry { request, agent_id, key_id }))
            }
            InboxRequest::Sightings { agent, sightings } => {
                let sightings = self.news(&agent, sightings)?;
                if sightings.is_empty() {
                    return Ok(Posted::default());
                }
                recorded = u32::try_from(sightings.len()).unwrap_or(u32::MAX);
                let agent_id = Bytes::copy_from_slice(agent.as_ref());
                (None, inbox_entry::Entry::Sightings(v1::SightingsEntry { agent_id, sightings }))
            }
        };
        if let Some(posted) = repeat.as_ref().and_then(|repeat| self.state.inbox.known(repeat, now)) {
            return Ok(posted);
        }
        let id = self.state.inbox.last_id + 1;
        let entry = v1::InboxEntry { id, received_at: now.0, entry: Some(entry) };
        let request = repeat.map_or(Bytes::new(), |repeat| Bytes::copy_from_slice(repeat.as_ref()));
        let posted = PostedRecord { entry: Some(entry), request };
        self.state.inbox.admit(&posted, now)?;
        self.put(Entry::Posted(posted))?;
        self.inbox_touched = true;
        Ok(Posted { id, response: None, recorded })
    }

    /// What of the sightings does not wait for the operator already.
    fn news(&self, agent: &AgentId, sightings: Vec<v1::Sighting>) -> Result<Vec<v1::Sighting>, LedgerError> {
        if sightings.len() > MAX_SIGHTINGS {
            let message = format!("{} are more than {MAX_SIGHTINGS}: report them in parts", sightings.len());
            return Err(LedgerError::Invalid { field: "sightings", message });
        }
        for seen in &sightings {
            check_text("sightings.serial", &seen.serial)?;
            check_text("sightings.model", &seen.model)?;
        }
        let known = self.state.inbox.sighted(agent.as_ref());
        Ok(sightings.into_iter().filter(|seen| !known.contains(&(&seen.model, &seen.serial))).collect())
    }

    pub(crate) fn answer_inbox(&mut self, request: v1::AnswerInboxRequest) -> Result<(), LedgerError> {
        self.check_writer(request.writer.as_ref())?;
        let Some(waiting) = self.state.inbox.get(request.id) else {
            // Expired, or sightings that were taken note of before.
            return Ok(());
        };
        if waiting.answer.as_ref().is_some_and(|answer| answer.response == request.response) {
            return Ok(());
        }
        self.put(Entry::Answered(AnsweredRecord { id: request.id, response: request.response, at: self.now().0 }))?;
        self.inbox_touched = true;
        Ok(())
    }
}

/// What makes an enrollment the same request: its token, the name that it wishes for, and its CSR, which is the same for every request of a key.
fn enrollment(request: &v1::EnrollRequest) -> Digest {
    let (token, name) = (Digest::of(&request.token), Digest::of(request.name.as_bytes()));
    let Some(pass) = &request.service_account else {
        return Digest::of(&[b"enroll", token.as_ref(), name.as_ref(), &request.csr[..]].concat());
    };
    // Not the sealed token, which is other bytes each time it is sealed.
    let fleets = Digest::of(pass.fleets.join("/").as_bytes());
    let namespace = Digest::of(pass.namespace.as_bytes());
    let parts = [b"pass", name.as_ref(), namespace.as_ref(), fleets.as_ref(), &request.csr[..]];
    Digest::of(&parts.concat())
}

fn check_pass(pass: &v1::ServiceAccountPass) -> Result<(), LedgerError> {
    let (sealed, fleets) = (pass.sealed_token.len(), pass.fleets.len());
    if sealed > MAX_PASS || fleets > MAX_FLEETS {
        let message = format!("{sealed} bytes and {fleets} fleets are more than {MAX_PASS} and {MAX_FLEETS}");
        return Err(LedgerError::Invalid { field: "service_account", message });
    }
    pass.fleets.iter().chain([&pass.namespace]).try_for_each(|name| check_text("service_account", name))
}

fn check_csr(csr: &[u8]) -> Result<(), LedgerError> {
    if csr.is_empty() || csr.len() > MAX_CSR {
        let message = format!("{} bytes are not from 1 to {MAX_CSR}", csr.len());
        return Err(LedgerError::Invalid { field: "csr", message });
    }
    Ok(())
}

fn check_text(field: &'static str, text: &str) -> Result<(), LedgerError> {
    if text.len() > MAX_TEXT {
        return Err(LedgerError::Invalid { field, message: format!("{} bytes are more than {MAX_TEXT}", text.len()) });
    }
    Ok(())
}
