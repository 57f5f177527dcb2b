//! Named health checks. A program's parts report through their own [`Check`]; the admin server reads them all.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Whether the process lives and whether it is ready for work, as the sum of named checks. Clones share their state.
#[derive(Clone, Debug, Default)]
pub struct Health {
    checks: Arc<Mutex<Checks>>,
}

#[derive(Debug, Default)]
struct Checks {
    liveness: States,
    readiness: States,
}

/// Check by name: `None` passes, `Some` says what is wrong.
type States = BTreeMap<&'static str, Option<String>>;

/// Which question a check answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    Alive,
    Ready,
}

/// One part's own say in the process's health.
#[derive(Clone, Debug)]
pub struct Check {
    health: Health,
    question: Question,
    name: &'static str,
}

/// The answer to one question: the verdict, and each check with what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Every check passes.
    pub ok: bool,
    /// `None` passes.
    pub checks: Vec<(&'static str, Option<String>)>,
}

impl Health {
    /// Without checks: alive and ready.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A check that must pass before the process is ready for work. It fails with "starting" until its part reports.
    #[must_use]
    pub fn readiness(&self, name: &'static str) -> Check {
        self.check(Question::Ready, name, Some("starting".to_owned()))
    }

    /// A check whose failure means that only a restart helps. It passes until its part reports otherwise.
    #[must_use]
    pub fn liveness(&self, name: &'static str) -> Check {
        self.check(Question::Alive, name, None)
    }

    /// Whether the process lives.
    #[must_use]
    pub fn live(&self) -> Report {
        report(&self.lock().liveness)
    }

    /// Whether the process is ready for work.
    #[must_use]
    pub fn ready(&self) -> Report {
        report(&self.lock().readiness)
    }

    fn check(&self, question: Question, name: &'static str, state: Option<String>) -> Check {
        self.lock().states(question).insert(name, state);
        Check { health: self.clone(), question, name }
    }

    /// A panic elsewhere leaves at worst one check's old text behind, so a poisoned lock is still good to use.
    fn lock(&self) -> MutexGuard<'_, Checks> {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Checks {
    fn states(&mut self, question: Question) -> &mut States {
        match question {
            Question::Alive => &mut self.liveness,
            Question::Ready => &mut self.readiness,
        }
    }
}

impl Check {
    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The part works.
    pub fn pass(&self) {
        self.set(None);
    }

    /// The part does not work, and why; the text is shown to whoever asks, so it holds no secrets.
    pub fn fail(&self, reason: impl Into<String>) {
        self.set(Some(reason.into()));
    }

    fn set(&self, state: Option<String>) {
        self.health.lock().states(self.question).insert(self.name, state);
    }
}

fn report(states: &States) -> Report {
    Report {
        ok: states.values().all(Option::is_none),
        checks: states.iter().map(|(name, state)| (*name, state.clone())).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_only_when_every_part_says_so() {
        let health = Health::new();
        let ledger = health.readiness("ledger");
        let registry = health.readiness("registry");
        assert!(!health.ready().ok);
        ledger.pass();
        assert!(!health.ready().ok);
        registry.pass();
        assert!(health.ready().ok);
        ledger.fail("disk full");
        assert_eq!(
            health.ready(),
            Report { ok: false, checks: vec![("ledger", Some("disk full".to_owned())), ("registry", None)] }
        );
    }

    #[test]
    fn alive_until_a_part_gives_up() {
        let health = Health::new();
        let store = health.liveness("store");
        assert!(health.live().ok);
        store.fail("poisoned");
        assert!(!health.live().ok);
        assert!(health.ready().ok, "liveness and readiness are separate questions");
    }
}
