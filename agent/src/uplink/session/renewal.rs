//! A new certificate in time, beside everything else: whether and when the operator answers holds up no proof.

use std::{sync::Arc, time::Duration};

use tokio::time;
use tonic::transport::Channel;

use crate::{
    clock::Clock,
    intake::jitter,
    uplink::{Asked, Certified, Credentials},
};

/// How often it is looked whether the certificate is due.
const LOOK: Duration = Duration::from_secs(5);
/// Between two questions, at first and at most.
const SOON: Duration = Duration::from_secs(2);
const SELDOM: Duration = Duration::from_secs(60);

/// Returns once the disk holds the certificate after this one; the next connection shows it. Nothing else ends it: while the operator is away, or
/// says no to what may be mended, the certificate that there is goes on until its own end.
pub(super) async fn renewed(
    credentials: Arc<Credentials>,
    clock: Arc<dyn Clock>,
    certified: Certified,
    channel: Channel,
) {
    while clock.now().wall < certified.info.renewal() {
        time::sleep(LOOK).await;
    }
    let mut wait = SOON;
    loop {
        let asked = credentials.ask_renewal(channel.clone(), &certified, clock.now().wall).await;
        let least = match asked {
            Ok(Asked::Certified(_)) => return,
            Ok(Asked::Pending(least)) => least,
            Err(error) => {
                let until = certified.info.validity.end.0;
                tracing::warn!(%error, until, "the certificate is not renewed yet; it is tried again");
                Duration::ZERO
            }
        };
        let spread = u64::try_from(wait.as_millis() / 2).unwrap_or(0) + 1;
        time::sleep(wait.max(least) + Duration::from_millis(jitter(spread))).await;
        wait = (wait * 2).min(SELDOM);
    }
}
