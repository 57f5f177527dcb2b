//! The wish that a task ends.

use tokio::sync::watch;

/// Ready once the sender says so, or is gone.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // Both outcomes mean the same, and neither guard nor error may be held by who waits.
    let _ = stop.wait_for(|stop| *stop).await;
}
