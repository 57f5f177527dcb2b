//! What an operator knows of each program's epochs while it leads: where it stands, whether it is blocked, when it is tried again, and
//! whether views of its epochs are missing. Pure; the time is passed in. Nothing here is remembered anywhere else.

use std::{collections::HashMap, time::Instant};

use depin_domain::rewards::ProgramState;
use depin_proto::v1::EpochClose;

use super::{
    blocked::{Block, Standing},
    epochs::EpochError,
};
use crate::backoff::Backoff;

/// Where a program stands: what the ledger has recorded of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Cursor {
    /// The epoch that comes next.
    pub(super) next: u64,
    /// What the one before left.
    pub(super) state: ProgramState,
    /// Root of the newest recorded epoch.
    pub(super) root: Option<String>,
    /// A close of `next` that is not computed yet.
    pub(super) open: Option<EpochClose>,
}

#[derive(Debug, Default)]
struct Known {
    cursor: Option<Cursor>,
    standing: Standing,
    /// Not before this after a failure.
    again: Option<Instant>,
    views: Views,
}

/// Whether every epoch that shall have a view has one.
#[derive(Debug, Default)]
struct Views {
    complete: bool,
    again: Option<Instant>,
}

/// All programs.
#[derive(Debug, Default)]
pub(super) struct Progress {
    programs: HashMap<String, Known>,
    backoff: Backoff,
    /// Apart from that of closing: a cluster that takes no views delays no epoch.
    views_backoff: Backoff,
}

impl Progress {
    /// Forgets all programs but these.
    pub(super) fn retain(&mut self, programs: &[String]) {
        self.programs.retain(|id, _| programs.contains(id));
    }

    fn known(&mut self, id: &str) -> &mut Known {
        self.programs.entry(id.to_owned()).or_default()
    }

    /// Whether the program is looked at now, or still waits after a failure.
    pub(super) fn is_due(&self, id: &str, now: Instant) -> bool {
        self.programs.get(id).and_then(|known| known.again).is_none_or(|again| again <= now)
    }

    /// Where it stands, if that is known.
    pub(super) fn cursor(&self, id: &str) -> Option<&Cursor> {
        self.programs.get(id)?.cursor.as_ref()
    }

    /// It stands here.
    pub(super) fn stand(&mut self, id: &str, cursor: Cursor) {
        self.known(id).cursor = Some(cursor);
    }

    /// Its next epoch is closed; what is left is to compute it.
    pub(super) fn closed(&mut self, id: &str, close: &EpochClose) {
        if let Some(cursor) = &mut self.known(id).cursor {
            cursor.open = Some(close.clone());
        }
    }

    /// What its status shall say.
    pub(super) fn standing(&self, id: &str) -> Standing {
        self.programs.get(id).map(|known| known.standing.clone()).unwrap_or_default()
    }

    /// Nothing is in its way.
    pub(super) fn goes_on(&mut self, id: &str) {
        self.backoff.forget(id);
        let known = self.known(id);
        (known.standing, known.again) = (Standing::GoesOn, None);
    }

    /// Notes a failure: answers the program's standing if it is blocked by it.
    ///
    /// Where time alone mends it, what is known stands: closing and recording again gives what the first time gave, whether that reached
    /// the ledger or not. Where somebody must do something, what the ledger has is looked up anew.
    pub(super) fn failed(&mut self, id: &str, error: &EpochError, now: Instant) -> Option<Standing> {
        let pause = self.backoff.failed(id);
        let known = self.known(id);
        known.again = Some(now + pause);
        let standing = Standing::Blocked(Block::of(known.cursor.as_ref().map(|cursor| cursor.next), error)?);
        known.cursor = None;
        known.standing = standing.clone();
        Some(standing)
    }

    /// Whether views may be missing, and it is time to look for them.
    pub(super) fn views_are_due(&self, id: &str, now: Instant) -> bool {
        let Some(Known { views, .. }) = self.programs.get(id) else { return false };
        !views.complete && views.again.is_none_or(|again| again <= now)
    }

    /// Every epoch that shall have a view has one.
    pub(super) fn views_are_complete(&mut self, id: &str) {
        self.views_backoff.forget(id);
        self.known(id).views = Views { complete: true, again: None };
    }

    /// A view could not be shown: all are looked for again later.
    pub(super) fn views_failed(&mut self, id: &str, now: Instant) {
        let again = Some(now + self.views_backoff.failed(id));
        self.known(id).views = Views { complete: false, again };
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

    use std::time::Duration;

    use depin_domain::rewards::EpochError as ComputeError;

    use super::*;

    fn away() -> EpochError {
        EpochError::ledger("RecordEpoch", tonic::Status::unavailable("away"))
    }

    #[test]
    fn a_ledger_that_is_away_is_asked_ever_more_seldom_and_nothing_is_looked_up_anew() {
        let (mut progress, mut now) = (Progress::default(), Instant::now());
        progress.stand("t/p", Cursor { next: 7, ..Cursor::default() });
        progress.closed("t/p", &EpochClose { position: 3, ..EpochClose::default() });
        let mut pauses = Vec::new();
        for _ in 0..12 {
            assert_eq!(progress.failed("t/p", &away(), now), None);
            assert!(!progress.is_due("t/p", now));
            assert!(progress.is_due("t/other", now), "each program waits for itself");
            let begun = now;
            while !progress.is_due("t/p", now) {
                now += Duration::from_millis(10);
            }
            pauses.push(now - begun);
        }
        assert!(pauses[0] < Duration::from_secs(1) && pauses[6] > 8 * pauses[0], "{pauses:?}");
        assert!(pauses.iter().all(|pause| *pause <= Duration::from_secs(61)), "capped: {pauses:?}");
        let cursor = progress.cursor("t/p").unwrap();
        assert_eq!((cursor.next, cursor.open.as_ref().unwrap().position), (7, 3));
        progress.goes_on("t/p");
        assert!(progress.is_due("t/p", now));
        progress.failed("t/p", &away(), now);
        assert!(progress.is_due("t/p", now + Duration::from_secs(1)), "success begins anew");
    }

    #[test]
    fn what_blocks_a_program_is_told_and_looked_up_anew() {
        let (mut progress, now) = (Progress::default(), Instant::now());
        progress.stand("t/p", Cursor { next: 7, ..Cursor::default() });
        let overflow = ComputeError::Overflow { what: "a device's share" }.into();
        let standing = progress.failed("t/p", &overflow, now).unwrap();
        assert!(matches!(standing, Standing::Blocked(_)));
        assert!(progress.cursor("t/p").is_none() && !progress.is_due("t/p", now));
        assert_eq!(progress.standing("t/p"), standing);
        progress.failed("t/p", &away(), now);
        assert_eq!(progress.standing("t/p"), standing, "one that is away beside it mends nothing");
    }

    #[test]
    fn views_are_looked_for_at_the_start_and_after_a_failure() {
        let (mut progress, now) = (Progress::default(), Instant::now());
        assert!(!progress.views_are_due("t/p", now), "nothing is known of its epochs yet");
        progress.stand("t/p", Cursor::default());
        assert!(progress.views_are_due("t/p", now));
        progress.views_are_complete("t/p");
        assert!(!progress.views_are_due("t/p", now));
        progress.views_failed("t/p", now);
        assert!(!progress.views_are_due("t/p", now));
        assert!(progress.views_are_due("t/p", now + Duration::from_secs(1)));
        assert!(progress.is_due("t/p", now), "views delay no epoch");
    }
}
