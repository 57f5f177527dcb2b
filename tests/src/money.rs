//! What every computed epoch must satisfy, whoever computed it.

use serde_json::Value;

/// The conservation equation, and the root by another implementation, of an epoch's summary.
///
/// # Panics
/// When one does not hold.
#[allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]
pub fn check(epoch: &Value) {
    if !xtask::money::check(epoch).unwrap() {
        println!("skipped: python3 is missing (install it): roots are not recomputed");
    }
}
