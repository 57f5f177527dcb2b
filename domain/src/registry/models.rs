//! Models and fleets through time.

use std::sync::Arc;

use super::{FleetEntry, ModelEntry, ProgramEntry};
use crate::{ids::Digest, time::Timestamp};

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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    pub(super) entries: Vec<Arc<ProgramEntry>>,
    pub(super) removed: bool,
}

impl Program {
    /// All specs, oldest record first.
    #[must_use]
    pub fn entries(&self) -> &[Arc<ProgramEntry>] {
        &self.entries
    }

    /// Whether no further epoch follows.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        self.removed
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
}
