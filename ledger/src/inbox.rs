//! Requests that wait for the operator: capped in all and by sender, gone after a day, answered once. The very same request gets the very same
//! answer, a denial for a minute only: what it was denied for may have been mended.

use std::collections::BTreeMap;

use depin_domain::{ids::Digest, time::Timestamp};
use depin_proto::v1::{self, enroll_response, inbox_entry};

use crate::{
    api::Posted,
    error::LedgerError,
    record::{AnsweredRecord, PostedRecord},
};

/// How long an entry and its answer are kept.
pub(crate) const TTL_MS: i64 = 24 * 3_600_000;
/// How long a denial is repeated. Then the same request takes its place and is looked at anew.
pub(crate) const DENIAL_MS: i64 = 60_000;
/// Most entries in all.
pub(crate) const MAX_ENTRIES: usize = 10_000;
/// Most entries of one agent, or under one join token.
pub(crate) const MAX_PER_SENDER: usize = 100;
/// Most entries of strangers who show a ServiceAccount's token, which nobody but the operator can judge, while they wait or are denied.
pub(crate) const MAX_PASSES: usize = 2_000;
/// Most sightings in one entry.
pub(crate) const MAX_SIGHTINGS: usize = 1_000;

/// One entry.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Waiting {
    pub(crate) posted: PostedRecord,
    pub(crate) answer: Option<AnsweredRecord>,
}

/// All entries by id.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Inbox {
    pub(crate) entries: BTreeMap<u64, Waiting>,
    by_request: BTreeMap<Vec<u8>, u64>,
    pub(crate) last_id: u64,
}

impl Waiting {
    fn received_at(&self) -> i64 {
        self.posted.entry.as_ref().map_or(0, |entry| entry.received_at)
    }

    /// When it was denied.
    fn denied_at(&self) -> Option<i64> {
        let answer = self.answer.as_ref()?;
        let result = answer.response.as_ref().and_then(|response| response.result.as_ref());
        matches!(result, Some(enroll_response::Result::Denied(_))).then_some(answer.at)
    }

    /// Whether it was denied, and that is a while ago.
    fn may_be_asked_again(&self, now: Timestamp) -> bool {
        self.denied_at().is_some_and(|at| at + DENIAL_MS <= now.0)
    }

    /// A stranger with a ServiceAccount's token who was not let in.
    fn is_unproven_pass(&self) -> bool {
        let issued = self.answer.is_some() && self.denied_at().is_none();
        !issued && self.posted.entry.as_ref().is_some_and(is_pass)
    }

    /// Whether it may be forgotten: after a day; a stranger's who was turned away after a minute, so that strangers fill nothing.
    fn is_over(&self, now: i64) -> bool {
        let turned_away = self.is_unproven_pass() && self.may_be_asked_again(Timestamp(now));
        turned_away || self.received_at() + TTL_MS <= now
    }

    fn posted(&self) -> Posted {
        Posted {
            id: self.posted.entry.as_ref().map_or(0, |entry| entry.id),
            response: self.answer.as_ref().and_then(|answer| answer.response.clone()),
            recorded: 0,
        }
    }
}

fn is_pass(entry: &v1::InboxEntry) -> bool {
    matches!(&entry.entry, Some(inbox_entry::Entry::Enroll(request)) if request.service_account.is_some())
}

fn sender(entry: &v1::InboxEntry) -> Vec<u8> {
    match &entry.entry {
        Some(inbox_entry::Entry::Enroll(request)) => request.token.to_vec(),
        Some(inbox_entry::Entry::Renew(renewal)) => renewal.agent_id.to_vec(),
        Some(inbox_entry::Entry::Sightings(sightings)) => sightings.agent_id.to_vec(),
        None => Vec::new(),
    }
}

impl Inbox {
    /// What stands under this request: it waits, or its answer is repeated. None where it is to be posted, also anew.
    pub(crate) fn known(&self, request: &Digest, now: Timestamp) -> Option<Posted> {
        let waiting = self.entries.get(self.by_request.get(request.as_ref())?)?;
        (waiting.received_at() + TTL_MS > now.0 && !waiting.may_be_asked_again(now)).then(|| waiting.posted())
    }

    /// The serials that wait for the operator already, of one agent.
    pub(crate) fn sighted(&self, agent: &[u8]) -> Vec<(&str, &str)> {
        let unanswered = self.entries.values().filter(|waiting| waiting.answer.is_none());
        let mine = unanswered.filter_map(|waiting| match waiting.posted.entry.as_ref()?.entry.as_ref()? {
            inbox_entry::Entry::Sightings(entry) if *entry.agent_id == *agent => Some(entry),
            _ => None,
        });
        mine.flat_map(|entry| &entry.sightings).map(|seen| (seen.model.as_str(), seen.serial.as_str())).collect()
    }

    /// Whether there is room for it; one whose place it takes does not count.
    pub(crate) fn admit(&self, posted: &PostedRecord, now: Timestamp) -> Result<(), LedgerError> {
        let replaced = |waiting: &Waiting| !posted.request.is_empty() && waiting.posted.request == posted.request;
        let alive = || {
            let entries = self.entries.values().filter(|waiting| !waiting.is_over(now.0));
            entries.filter(|waiting| !replaced(waiting))
        };
        if alive().count() >= MAX_ENTRIES {
            return Err(LedgerError::InboxFull("in all"));
        }
        // Whoever comes without a join token is nobody in particular: all of them together have room, until they are let in.
        if posted.entry.as_ref().is_some_and(is_pass) {
            let unproven = alive().filter(|waiting| waiting.is_unproven_pass());
            return if unproven.count() >= MAX_PASSES {
                Err(LedgerError::InboxFull("of ServiceAccounts' tokens"))
            } else {
                Ok(())
            };
        }
        let sender_of_new = posted.entry.as_ref().map(sender).unwrap_or_default();
        let mine = alive().filter_map(|waiting| waiting.posted.entry.as_ref());
        if mine.filter(|other| sender(other) == sender_of_new).count() >= MAX_PER_SENDER {
            return Err(LedgerError::InboxFull("of this sender"));
        }
        Ok(())
    }

    /// Unanswered entries after an id.
    pub(crate) fn unanswered(&self, after: u64, now: Timestamp) -> Vec<v1::InboxEntry> {
        let entries = self.entries.range(after.saturating_add(1)..).map(|(_, waiting)| waiting);
        let alive = entries.filter(|waiting| waiting.answer.is_none() && waiting.received_at() + TTL_MS > now.0);
        alive.filter_map(|waiting| waiting.posted.entry.clone()).collect()
    }

    pub(crate) fn get(&self, id: u64) -> Option<&Waiting> {
        self.entries.get(&id)
    }

    /// Puts an entry back as a checkpoint has it.
    pub(crate) fn restore(&mut self, waiting: Waiting) -> Option<()> {
        let id = waiting.posted.entry.as_ref()?.id;
        if !waiting.posted.request.is_empty() {
            self.by_request.insert(waiting.posted.request.to_vec(), id);
        }
        self.entries.insert(id, waiting);
        Some(())
    }

    /// The fold's step: an entry was posted; what is over is forgotten, and what the same request got before.
    pub(crate) fn post(&mut self, posted: PostedRecord) {
        let Some(entry) = &posted.entry else { return };
        let (id, now) = (entry.id, entry.received_at);
        let expired: Vec<u64> =
            self.entries.iter().filter(|(_, waiting)| waiting.is_over(now)).map(|(id, _)| *id).collect();
        for id in expired {
            if let Some(waiting) = self.entries.remove(&id)
                && self.by_request.get(&waiting.posted.request[..]) == Some(&id)
            {
                self.by_request.remove(&waiting.posted.request[..]);
            }
        }
        if !posted.request.is_empty()
            && let Some(before) = self.by_request.insert(posted.request.to_vec(), id)
        {
            self.entries.remove(&before);
        }
        self.last_id = self.last_id.max(id);
        self.entries.insert(id, Waiting { posted, answer: None });
    }

    /// The fold's step: an entry was answered. Sightings that were taken note of are gone.
    pub(crate) fn answer(&mut self, answer: AnsweredRecord) {
        if let Some(waiting) = self.entries.get_mut(&answer.id) {
            if waiting.posted.request.is_empty() {
                self.entries.remove(&answer.id);
            } else {
                if let Some(v1::InboxEntry { entry: Some(inbox_entry::Entry::Enroll(request)), .. }) =
                    &mut waiting.posted.entry
                    && let Some(pass) = &mut request.service_account
                {
                    // Nobody opens it any more.
                    pass.sealed_token = bytes::Bytes::new();
                }
                waiting.answer = Some(answer);
            }
        }
    }
}
