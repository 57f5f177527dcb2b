//! How far the passes over the spool have come, in memory: what a pass has looked at in vain, the next one does not look at again.

use std::collections::BTreeMap;

use depin_domain::ids::Digest;

/// For each model the position before which nothing of it is left to take. Nothing of this is durable: it is derived from passes over the
/// spool, and a new process begins with a pass over all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reached {
    /// Everything before was looked at: a model that is not among those that wait has nothing there.
    scanned: u64,
    /// Models with something before that, mostly because it is not ripe: from where on.
    waits: BTreeMap<Digest, u64>,
}

impl Reached {
    /// Before this position nothing of the model is left to take.
    pub(super) fn of(&self, model: &Digest) -> u64 {
        self.waits.get(model).copied().unwrap_or(self.scanned)
    }

    /// Before this position nothing at all is left to take.
    pub(super) fn front(&self) -> u64 {
        self.waits.values().copied().min().unwrap_or(self.scanned)
    }

    /// Nothing before `front` is left to take.
    pub(super) fn raise(&mut self, front: u64) {
        self.scanned = self.scanned.max(front);
        for position in self.waits.values_mut() {
            *position = front.max(*position);
        }
    }

    /// The first position at which something may be found that is not `blocked`: new records, or those of a model that waited and is ripe.
    pub(super) fn next(&self, blocked: &BTreeMap<Digest, u64>) -> u64 {
        let open = self.waits.iter().filter(|(model, _)| !blocked.contains_key(*model));
        open.map(|(_, position)| *position).min().unwrap_or(self.scanned)
    }

    /// After a pass that looked at everything [`Reached::next`] named up to `end`, and took it but for what is `blocked`.
    pub(super) fn advance(&mut self, end: u64, blocked: BTreeMap<Digest, u64>) {
        self.raise(end);
        self.waits.extend(blocked);
        let scanned = self.scanned;
        self.waits.retain(|_, position| *position < scanned);
    }
}
