//! Models and fleets through time.

use std::sync::Arc;

use serde_json::Value;

use super::{FleetEntry, ModelEntry, ProgramEntry};
use crate::{
    canonical,
    ids::Digest,
    rewards::spec::EpochGrid,
    time::{Timestamp, Window},
};

/// All models that one name ever stood for, in the order of their records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelChain {
    pub(super) entries: Vec<Arc<ModelEntry>>,
    pub(super) retired: bool,
}

impl ModelChain {
    /// All entries, oldest record first. A model that was in force before comes again as another entry.
    #[must_use]
    pub fn entries(&self) -> &[Arc<ModelEntry>] {
        &self.entries
    }

    /// Whether new fleets may no longer use it.
    #[must_use]
    pub fn is_retired(&self) -> bool {
        self.retired
    }

    /// The newest entry, whether in force already or not.
    #[must_use]
    pub fn newest(&self) -> Option<&Arc<ModelEntry>> {
        self.entries.last()
    }

    /// The model in force at `at`: of the newest record whose `effective_from` has come. Before all of them it is the first one,
    /// since no other ever decoded such readings.
    #[must_use]
    pub fn at(&self, at: Timestamp) -> Option<&Arc<ModelEntry>> {
        self.entries.iter().rev().find(|entry| entry.effective_from <= at).or_else(|| self.entries.first())
    }

    /// The models that are in force at any time of `window`; also those that another record displaces before their time comes.
    pub(super) fn within(&self, window: Window) -> impl Iterator<Item = &Arc<ModelEntry>> {
        let begin = move |entry: &&Arc<ModelEntry>| {
            window.start < entry.effective_from && window.contains(entry.effective_from)
        };
        self.at(window.start).into_iter().chain(self.entries.iter().filter(begin))
    }

    /// The model that comes after the newest entry of `digest`, if any.
    #[must_use]
    pub fn successor(&self, digest: &Digest) -> Option<&Arc<ModelEntry>> {
        let place = self.entries.iter().rposition(|entry| entry.digest == *digest)?;
        self.entries.get(place + 1)
    }
}

/// A fleet through time. Its grain never changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fleet {
    pub(super) states: Vec<(Timestamp, Option<Arc<FleetEntry>>)>,
}

impl Fleet {
    /// What it is now; absent: it was removed.
    #[must_use]
    pub fn current(&self) -> Option<&Arc<FleetEntry>> {
        self.states.last().and_then(|(_, entry)| entry.as_ref())
    }

    /// What it was at `at`. Times before its first record see the first (devices are sighted before their fleet is recorded), times
    /// after a removal what it was before (its devices are what must be removed).
    #[must_use]
    pub fn at(&self, at: Timestamp) -> Option<&Arc<FleetEntry>> {
        let after = self.states.partition_point(|(from, _)| *from <= at);
        let known = self.states[..after].iter().rev().find_map(|(_, entry)| entry.as_ref());
        known.or_else(|| self.states.iter().find_map(|(_, entry)| entry.as_ref()))
    }

    /// The names of the models that it has in `window`, each with the part of the window in which [`Fleet::at`] gives it.
    pub(super) fn models_within(&self, window: Window) -> impl Iterator<Item = (&str, Window)> {
        let known: Vec<_> =
            self.states.iter().filter_map(|(from, entry)| Some((*from, entry.as_ref()?.model.as_str()))).collect();
        let ends: Vec<_> = known.iter().skip(1).map(|(from, _)| *from).chain([Timestamp::MAX]).collect();
        let spans = known.into_iter().zip(ends).enumerate().map(move |(place, ((from, model), end))| {
            let from = if place == 0 { Timestamp::MIN } else { from };
            (model, Window { start: from.max(window.start), end: end.min(window.end) })
        });
        spans.filter(|(_, span)| !span.is_empty())
    }

    /// When it changed, ascending.
    pub(crate) fn changes(&self) -> impl Iterator<Item = Timestamp> {
        self.states.iter().map(|(from, _)| *from)
    }

    /// Width of its statistics in milliseconds.
    #[must_use]
    pub fn grain_ms(&self) -> Option<i64> {
        self.states.iter().find_map(|(_, entry)| entry.as_ref()).map(|entry| entry.grain_ms)
    }
}

/// A program through its epochs.
///
/// A removal is a spec of its own: the newest one, suspended, from the epoch that holds the removal on. So whoever asks what ruled an epoch
/// gets the same answer, and epochs in which the program did not exist mint nothing even if it comes back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    entries: Vec<Arc<ProgramEntry>>,
    removed: bool,
    /// The first epoch of the newest removal; none where its spec cannot be read.
    gone_from: Option<u64>,
}

impl Program {
    /// All specs, oldest record first; those of removals included.
    #[must_use]
    pub fn entries(&self) -> &[Arc<ProgramEntry>] {
        &self.entries
    }

    /// Whether it is gone: epochs follow only until what it promised is settled.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        self.removed
    }

    /// The epoch in which it was removed, the first that pays nothing; none while it is there.
    #[must_use]
    pub fn removed_from(&self) -> Option<u64> {
        self.gone_from.filter(|_| self.removed)
    }

    /// The newest spec, whether it rules already or not.
    #[must_use]
    pub fn newest(&self) -> Option<&Arc<ProgramEntry>> {
        self.entries.last()
    }

    /// The spec that rules epoch `number`: of the newest record that starts at or before it.
    #[must_use]
    pub fn ruling(&self, number: u64) -> Option<&Arc<ProgramEntry>> {
        self.entries.iter().rev().find(|entry| entry.from_epoch <= number)
    }

    /// The fold's step: this spec rules from its epoch on.
    pub(super) fn set(&mut self, entry: ProgramEntry) {
        self.removed = false;
        self.entries.push(Arc::new(entry));
    }

    /// The fold's step: it is gone from `at` on. Epochs that ended before are closed and paid as ever.
    pub(super) fn remove(&mut self, at: Timestamp) {
        self.removed = true;
        let gone = self.newest().and_then(|newest| suspended(newest, at));
        self.gone_from = gone.as_ref().map(|gone| gone.from_epoch);
        self.entries.extend(gone.map(Arc::new));
    }
}

/// The spec of `entry`, suspended from the epoch that holds `at` on. Read as plain JSON, so that fields of newer versions stay as they are.
fn suspended(entry: &ProgramEntry, at: Timestamp) -> Option<ProgramEntry> {
    let mut spec: Value = serde_json::from_str(&entry.spec).ok()?;
    let grid: EpochGrid = serde_json::from_value(spec.get("epoch")?.clone()).ok()?;
    spec.as_object_mut()?.insert("suspend".to_owned(), Value::Bool(true));
    let text = String::from_utf8(canonical::to_vec(&spec).ok()?).ok()?;
    let digest = Digest::of(text.as_bytes());
    Some(ProgramEntry { id: entry.id.clone(), digest, spec: text, from_epoch: grid.number_at(at).unwrap_or(0) })
}
