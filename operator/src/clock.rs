//! The one place where the operator asks what time it is.

use depin_domain::time::Timestamp;

/// Tells the time; tests set their own.
#[derive(Clone, Copy, Debug)]
pub struct Clock(fn() -> Timestamp);

impl Clock {
    /// The system's clock.
    #[must_use]
    pub fn system() -> Self {
        Self(|| Timestamp(jiff::Timestamp::now().as_millisecond()))
    }

    /// A clock of the caller's.
    #[must_use]
    pub fn of(tell: fn() -> Timestamp) -> Self {
        Self(tell)
    }

    /// Now.
    #[must_use]
    pub fn now(self) -> Timestamp {
        (self.0)()
    }
}
