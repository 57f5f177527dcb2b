//! Which subscriptions stand at the broker, and what is to be asked of it next. Pure.
//!
//! Each subscription is asked for once: a broker answers every new one with the messages that it retains. Requests go out only while
//! connected and a few filters at a time, so that every answer belongs to the request before it. What is no longer wanted is left only
//! after what is wanted instead stands.

use std::{
    collections::{BTreeSet, VecDeque},
    iter,
};

use super::filters::apart;

/// Filters in one request. Some brokers take no more.
const AT_ONCE: usize = 8;

/// The subscriptions of one persistent session.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    wanted: Vec<String>,
    standing: BTreeSet<String>,
    refused: BTreeSet<String>,
    /// Asked for and not answered.
    asked: Vec<String>,
    /// Given up, and not answered yet.
    leaving: VecDeque<String>,
    connected: bool,
}

impl Subscriptions {
    /// Wants these from now on; where some overlap, wider ones in their place, which it answers.
    pub(super) fn want(&mut self, filters: &[String]) -> Vec<String> {
        self.wanted = apart(filters);
        self.wanted.iter().filter(|filter| !filters.contains(filter)).cloned().collect()
    }

    /// A connection stands; `kept`: with the session of the one before.
    pub(super) fn connected(&mut self, kept: bool) {
        self.connected = true;
        self.asked.clear();
        self.refused.clear();
        if kept {
            self.standing.extend(self.leaving.drain(..));
        } else {
            self.standing.clear();
            self.leaving.clear();
        }
    }

    /// The connection is gone, and every request under way with it.
    pub(super) fn disconnected(&mut self) {
        self.connected = false;
    }

    /// What is to be asked for now.
    pub(super) fn ask(&mut self) -> Vec<String> {
        if !self.connected || !self.asked.is_empty() {
            return Vec::new();
        }
        self.asked = self.missing().take(AT_ONCE).cloned().collect();
        self.asked.clone()
    }

    fn missing(&self) -> impl Iterator<Item = &String> {
        let known = |filter: &String| {
            self.standing.contains(filter) || self.refused.contains(filter) || self.leaving.contains(filter)
        };
        self.wanted.iter().filter(move |filter| !known(filter))
    }

    /// The answer to what was asked, filter by filter.
    pub(super) fn answered(&mut self, granted: impl IntoIterator<Item = bool>) {
        for (filter, granted) in self.asked.drain(..).zip(granted.into_iter().chain(iter::repeat(false))) {
            if granted {
                self.standing.insert(filter)
            } else {
                self.refused.insert(filter)
            };
        }
    }

    /// What was refused, and is still wanted.
    pub(super) fn refused(&self) -> Vec<&str> {
        self.wanted.iter().filter(|filter| self.refused.contains(*filter)).map(String::as_str).collect()
    }

    /// Refused ones may be asked for again.
    pub(super) fn try_again(&mut self) {
        self.refused.clear();
    }

    /// What is to be given up now.
    pub(super) fn leave(&mut self) -> Vec<String> {
        if !self.connected || !self.asked.is_empty() || self.missing().next().is_some() {
            return Vec::new();
        }
        let unwanted: Vec<_> = self.standing.extract_if(.., |filter| !self.wanted.contains(filter)).collect();
        self.leaving.extend(unwanted.iter().cloned());
        unwanted
    }

    /// The oldest one that was given up is left.
    pub(super) fn left(&mut self) {
        self.leaving.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(filters: &[&str]) -> Vec<String> {
        filters.iter().map(|filter| (*filter).to_owned()).collect()
    }

    #[test]
    fn only_what_was_refused_is_asked_for_again() {
        let mut subscriptions = Subscriptions::default();
        subscriptions.want(&filters(&["a", "b", "c"]));
        assert_eq!(subscriptions.ask(), Vec::<String>::new(), "not before there is a connection");
        subscriptions.connected(false);
        assert_eq!(subscriptions.ask(), ["a", "b", "c"]);
        assert_eq!(subscriptions.ask(), Vec::<String>::new(), "one request at a time");
        subscriptions.answered([true, false, true]);
        assert_eq!((subscriptions.ask(), subscriptions.refused()), (Vec::new(), vec!["b"]));
        subscriptions.try_again();
        assert_eq!(subscriptions.ask(), ["b"]);
        // An answer that is too short refuses the rest.
        subscriptions.answered([]);
        assert_eq!(subscriptions.refused(), ["b"]);
    }

    #[test]
    fn a_session_that_was_kept_is_not_subscribed_again() {
        let mut subscriptions = Subscriptions::default();
        subscriptions.want(&filters(&["a", "b"]));
        subscriptions.connected(true);
        assert_eq!(subscriptions.ask(), ["a", "b"], "what stands there is not known yet");
        subscriptions.answered([true, true]);
        subscriptions.disconnected();
        subscriptions.connected(true);
        assert_eq!(subscriptions.ask(), Vec::<String>::new());
        subscriptions.disconnected();
        subscriptions.connected(false);
        assert_eq!(subscriptions.ask(), ["a", "b"]);
        // A request that the connection took with it is made again.
        subscriptions.disconnected();
        subscriptions.connected(true);
        assert_eq!(subscriptions.ask(), ["a", "b"]);
    }

    #[test]
    fn what_is_wanted_instead_stands_before_the_old_is_left() {
        let mut subscriptions = Subscriptions::default();
        subscriptions.want(&filters(&["a/+", "b"]));
        subscriptions.connected(false);
        subscriptions.ask();
        subscriptions.answered([true, true]);
        assert_eq!(subscriptions.want(&filters(&["a/+", "+/x"])), ["+/+"]);
        assert_eq!(subscriptions.leave(), Vec::<String>::new());
        assert_eq!(subscriptions.ask(), ["+/+"]);
        assert_eq!(subscriptions.leave(), Vec::<String>::new());
        subscriptions.answered([true]);
        assert_eq!(subscriptions.leave(), ["a/+", "b"]);
        assert_eq!(subscriptions.leave(), Vec::<String>::new());
        subscriptions.left();
        // The answer for `b` got lost: it is left again.
        subscriptions.disconnected();
        subscriptions.connected(true);
        assert_eq!(subscriptions.leave(), ["b"]);
    }

    #[test]
    fn many_filters_go_out_a_few_at_a_time() {
        let mut subscriptions = Subscriptions::default();
        subscriptions.want(&(0..20).map(|index| format!("t/{index:02}")).collect::<Vec<_>>());
        subscriptions.connected(false);
        let mut requests = Vec::new();
        loop {
            let asked = subscriptions.ask();
            if asked.is_empty() {
                break;
            }
            subscriptions.answered(asked.iter().map(|_| true));
            requests.push(asked.len());
        }
        assert_eq!(requests, [8, 8, 4]);
    }
}
