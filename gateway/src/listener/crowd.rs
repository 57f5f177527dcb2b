//! At most so many at a time, of which the oldest makes room for the newest.
//!
//! For whoever has shown nothing yet. A flood then shortens everybody's stay instead of shutting the door: an honest caller needs a moment
//! only, and a silent one has had its moment.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus_client::metrics::gauge::Gauge;
use tokio_util::sync::CancellationToken;

/// The places.
#[derive(Clone, Debug)]
pub(crate) struct Crowd {
    most: usize,
    members: Arc<Mutex<Members>>,
    count: Gauge,
}

#[derive(Debug, Default)]
struct Members {
    next: u64,
    /// By order of arrival.
    present: BTreeMap<u64, CancellationToken>,
}

/// A place; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Member {
    crowd: Crowd,
    number: u64,
    /// Cancelled when somebody newer needs the place.
    pub(crate) displaced: CancellationToken,
}

impl Crowd {
    /// Room for `most`, at least one; `count` follows how many there are.
    pub(crate) fn new(most: usize, count: Gauge) -> Self {
        Self { most: most.max(1), members: Arc::default(), count }
    }

    /// A place, if need be that of the one who has been there longest.
    pub(crate) fn enter(&self) -> Member {
        let displaced = CancellationToken::new();
        // A panicking thread leaves at worst a member that is displaced in its turn.
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        while members.present.len() >= self.most
            && let Some((_, oldest)) = members.present.pop_first()
        {
            oldest.cancel();
        }
        let number = members.next;
        members.next += 1;
        members.present.insert(number, displaced.clone());
        self.tell(&members);
        Member { crowd: self.clone(), number, displaced }
    }

    /// Whether nobody is there.
    pub(crate) fn is_empty(&self) -> bool {
        self.members.lock().unwrap_or_else(PoisonError::into_inner).present.is_empty()
    }

    fn tell(&self, members: &Members) {
        self.count.set(i64::try_from(members.present.len()).unwrap_or(i64::MAX));
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut members = self.crowd.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.present.remove(&self.number);
        self.crowd.tell(&members);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_makes_room_and_who_left_is_nobody_s_trouble() {
        let count = Gauge::default();
        let crowd = Crowd::new(2, count.clone());
        let (one, two) = (crowd.enter(), crowd.enter());
        assert_eq!((one.displaced.is_cancelled(), count.get()), (false, 2));
        let three = crowd.enter();
        assert_eq!([&one, &two, &three].map(|member| member.displaced.is_cancelled()), [true, false, false]);
        drop(two);
        let four = crowd.enter();
        assert_eq!([&three, &four].map(|member| member.displaced.is_cancelled()), [false, false]);
        drop(one);
        assert_eq!(count.get(), 2, "it had no place any more");
        drop((three, four));
        assert_eq!(count.get(), 0);
    }
}
