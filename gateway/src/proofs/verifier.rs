//! Signatures of all streams verified together: a thread of its own takes whatever waits, up to a batch.

use std::sync::Arc;

use bytes::Bytes;
use depin_identity::{Claim, VerifyingKey, verify_batch};
use depin_proto::envelope::PROOF_DOMAIN;
use tokio::sync::{mpsc, oneshot};

use crate::metrics::Metrics;

/// Most signatures of one equation; beyond about a thousand it gets no cheaper.
const BATCH: usize = 1_024;
/// Submissions that may wait; a stream waits for its own, so this is about the number of streams.
const WAITING: usize = 1_024;

/// A signature to verify.
pub(super) struct Signed {
    pub(super) key: Arc<VerifyingKey>,
    pub(super) header: Bytes,
    pub(super) signature: Bytes,
}

struct Job {
    signed: Vec<Signed>,
    answer: oneshot::Sender<Vec<bool>>,
}

/// A handle to the verifying thread, which ends with the last handle.
#[derive(Clone, Debug)]
pub(crate) struct Verifier {
    jobs: mpsc::Sender<Job>,
}

/// The verifying thread is gone.
#[derive(Debug, thiserror::Error)]
#[error("signatures cannot be verified now")]
pub(super) struct VerifierGone;

impl Verifier {
    pub(crate) fn start(metrics: Arc<Metrics>) -> std::io::Result<Self> {
        let (jobs, waiting) = mpsc::channel(WAITING);
        std::thread::Builder::new().name("signatures".to_owned()).spawn(move || run(waiting, &metrics))?;
        Ok(Self { jobs })
    }

    /// Which signatures are good, in order.
    pub(super) async fn verify(&self, signed: Vec<Signed>) -> Result<Vec<bool>, VerifierGone> {
        if signed.is_empty() {
            return Ok(Vec::new());
        }
        let (answer, answered) = oneshot::channel();
        self.jobs.send(Job { signed, answer }).await.map_err(|_| VerifierGone)?;
        answered.await.map_err(|_| VerifierGone)
    }
}

fn run(mut waiting: mpsc::Receiver<Job>, metrics: &Metrics) {
    while let Some(first) = waiting.blocking_recv() {
        let mut count = first.signed.len();
        let mut jobs = vec![first];
        while count < BATCH {
            let Ok(job) = waiting.try_recv() else { break };
            count += job.signed.len();
            jobs.push(job);
        }
        metrics.batch(count);
        let mut results = verify(&jobs).into_iter();
        for Job { signed, answer } in jobs {
            let share = results.by_ref().take(signed.len()).collect();
            // A stream that ended meanwhile needs no answer.
            let _unheard = answer.send(share);
        }
    }
}

fn verify(jobs: &[Job]) -> Vec<bool> {
    let claim = |signed: &'_ Signed| -> bool { signed.key.verify(PROOF_DOMAIN, &signed.header, &signed.signature) };
    let all = || jobs.iter().flat_map(|job| &job.signed);
    let mut seed = [0; 32];
    if let Err(error) = getrandom::fill(&mut seed) {
        // Predictable coefficients could be cheated; one by one nothing needs to be random.
        tracing::warn!(%error, "no random numbers; signatures are verified one by one");
        return all().map(claim).collect();
    }
    let claims: Vec<Claim<'_>> = all()
        .map(|signed| Claim {
            key: &signed.key,
            domain: PROOF_DOMAIN,
            message: &signed.header,
            signature: &signed.signature,
        })
        .collect();
    verify_batch(&claims, seed)
}
