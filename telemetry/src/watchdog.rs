//! Liveness by asking: a part that does not answer for long is stuck, and only a restart helps.

use std::{future::Future, pin::pin, time::Duration};

use tokio::time;

use crate::Check;

/// How often a part is asked.
const EVERY: Duration = Duration::from_secs(5);
/// How long it may take: longer than whatever a disk or a large epoch keeps it busy with.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Asks a part again and again for as long as this is polled; while it does not answer within `patience`, `check` fails. Any answer counts,
/// also one that says what is wrong: that is for readiness.
pub async fn watch<F: Future>(check: Check, patience: Duration, mut ask: impl FnMut() -> F) {
    loop {
        let mut answer = pin!(ask());
        if time::timeout(patience, &mut answer).await.is_err() {
            check.fail(format!("has not answered for {} s", patience.as_secs()));
            tracing::error!(check = check.name(), "a part of the program is stuck");
            answer.await;
        }
        check.pass();
        time::sleep(EVERY).await;
    }
}

/// Runs `work`, which is to go on until the program stops: `check` fails where it ends before.
pub async fn guard(check: Check, stopping: impl Fn() -> bool, work: impl Future<Output = ()>) {
    work.await;
    if !stopping() {
        check.fail("has ended by itself");
        tracing::error!(check = check.name(), "a part of the program has ended by itself");
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;
    use crate::Health;

    async fn until(what: &str, holds: impl Fn() -> bool) {
        let deadline = time::Instant::now() + Duration::from_secs(30);
        while !holds() {
            assert!(time::Instant::now() < deadline, "{what}");
            time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_part_that_is_stuck_is_told_until_it_answers() {
        let health = Health::new();
        let (open, opened) = watch::channel(false);
        let ask = move || {
            let mut opened = opened.clone();
            async move { opened.wait_for(|open| *open).await.is_ok() }
        };
        let watching = tokio::spawn(super::watch(health.liveness("part"), Duration::from_millis(20), ask));
        until("it is told that the part is stuck", || !health.live().ok).await;
        open.send_replace(true);
        until("it is told that the part answers", || health.live().ok).await;
        watching.abort();
    }

    #[tokio::test]
    async fn a_part_that_ends_too_early_is_told_and_one_that_was_stopped_is_not() {
        for stopping in [false, true] {
            let health = Health::new();
            guard(health.liveness("part"), || stopping, async {}).await;
            assert_eq!(health.live().ok, stopping);
        }
    }
}
