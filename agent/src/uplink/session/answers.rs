//! What the gateway answers: where the chain stands, what became of a proof, its receipt.

use std::time::Duration;

use depin_domain::proofs::Reason;
use depin_identity::keys::VerifyingKey;
use depin_proto::{
    convert, envelope,
    v1::{self, Outcome, SubmitResponse, outcome, submit_response},
};
use tokio::time::{self, Instant};
use tonic::Streaming;

use super::{FIRST_WINDOW, OWN_WINDOW, Session, SessionError, on_store};
use crate::{
    metrics::ReasonLabel,
    sealer::{Answered, StoreError, journal::Held},
    uplink::{
        flow::{Place, Said, Step, Window},
        seal::Opened,
    },
};

impl Session<'_> {
    pub(super) async fn answer(&mut self, answer: SubmitResponse) -> Result<(), SessionError> {
        match answer.message {
            Some(submit_response::Message::Opened(opened)) => self.opened(opened).await,
            Some(submit_response::Message::Outcomes(batch)) => {
                for outcome in batch.outcomes {
                    self.outcome(outcome).await?;
                }
                self.pump().await
            }
            Some(submit_response::Message::Window(window)) => {
                self.flow.set_window(window_of(&window));
                self.pump().await
            }
            None => Ok(()),
        }
    }

    async fn opened(&mut self, opened: v1::ChainsOpened) -> Result<(), SessionError> {
        self.compare_clocks(opened.now).await?;
        let own = opened.heads.iter().find(|head| head.key_id == self.key.0.as_slice());
        let named = self.openings.pop_front().unwrap_or(true);
        if let Some(window) = &opened.window {
            self.flow.set_window(window_of(window));
        }
        if !named {
            return if std::mem::take(&mut self.confirm_again) { self.send_open(false).await } else { Ok(()) };
        }
        let head =
            own.map(convert::head_from_proto).transpose()?.map(|(_, head)| head).filter(|head| head.incarnation > 0);
        let archived = own.map_or(0, |head| head.archived_sequence);
        let (sealing, now, refused) = (self.sealing(), self.context.clock.now(), self.refusals.refused);
        let result = on_store(self.context, move |store| {
            if let Some(head) = &head {
                store.archived(head.incarnation, archived)?;
            }
            sealing.open(store, head.as_ref(), refused, &now)
        });
        let Opened { held, reopened } = result.await??;
        self.refusals.refused = false;
        self.fresh.clear();
        if reopened {
            // The gateway must know of the new incarnation before its first proof.
            self.flow.close();
            self.open = false;
            return self.send_open(true).await;
        }
        let window = opened.window.as_ref().map_or(FIRST_WINDOW, window_of);
        self.flow.open(Some(window), held.iter().map(place_of));
        self.open = true;
        self.open_at = None;
        self.pump().await
    }

    async fn outcome(&mut self, outcome: Outcome) -> Result<(), SessionError> {
        let digest = convert::digest("outcome.digest", &outcome.digest)?;
        let (incarnation, sequence) = (outcome.incarnation, outcome.sequence);
        let said = match &outcome.result {
            Some(outcome::Result::Judged(_)) => Said::Judged,
            Some(outcome::Result::Deferred(deferred)) => {
                Said::Deferred { reason: deferred.reason, after_ms: deferred.retry_after_ms }
            }
            Some(outcome::Result::Refused(refused)) => Said::Refused { reason: refused.reason },
            None => return Ok(()),
        };
        match self.flow.answer(incarnation, sequence, &digest, said) {
            Step::GoOn => Ok(()),
            Step::Receipt(place) => match outcome.result {
                Some(outcome::Result::Judged(judged)) => self.receipt(place, &judged).await,
                _ => Ok(()),
            },
            Step::OpenAgain { after_ms, reason } => {
                tracing::info!(
                    sequence,
                    reason = reason.map_or("unknown", Reason::name),
                    after_ms,
                    "the gateway defers"
                );
                self.flow.close();
                self.fresh.clear();
                self.open = false;
                self.open_at = Some(Instant::now() + Duration::from_millis(after_ms));
                Ok(())
            }
            Step::NewIncarnation { smaller, reason } => {
                let reason = reason.map_or("unknown", Reason::name);
                tracing::warn!(
                    incarnation,
                    sequence,
                    reason,
                    "the gateway refused a proof; its readings are sealed anew"
                );
                self.refusals.refused = true;
                self.refusals.in_a_row += 1;
                self.refusals.halvings += u32::from(smaller);
                self.flow.close();
                self.fresh.clear();
                self.open = false;
                self.open_at = Some(Instant::now() + self.refusals.patience());
                Ok(())
            }
            Step::Barred(reason) => Err(SessionError::Barred(reason.map_or("unknown", Reason::name))),
        }
    }

    async fn receipt(&mut self, place: Place, judged: &v1::Judged) -> Result<(), SessionError> {
        let wrong =
            |what: String| SessionError::Receipt { incarnation: place.incarnation, sequence: place.sequence, what };
        let receipt = judged.receipt.as_ref().ok_or_else(|| wrong("is missing".to_owned()))?;
        let body = envelope::decode_receipt(&receipt.body).map_err(|error| wrong(error.to_string()))?;
        let ours = body.key == self.key
            && (body.incarnation, body.sequence) == (place.incarnation, place.sequence)
            && body.digest == place.digest;
        if !ours || !body.durable {
            return Err(wrong("is for something else, or not durable".to_owned()));
        }
        let gateway =
            self.server_key.borrow().clone().ok_or_else(|| wrong("the gateway's key is not known".to_owned()))?;
        let signer = VerifyingKey::new(&gateway).map_err(|error| wrong(error.to_string()))?;
        // Several gateways share one certificate's key; another one's receipt is not taken over this connection.
        if signer.id() != body.gateway || !signer.verify(envelope::RECEIPT_DOMAIN, &receipt.body, &receipt.signature) {
            return Err(wrong("is not signed by the gateway's key".to_owned()));
        }
        self.refusals.in_a_row = 0;
        let metrics = &self.context.metrics;
        metrics.receipts.inc();
        if !judged.repeated {
            metrics.accepted.inc_by(body.accepted);
            for rejection in judged.verdict.iter().flat_map(|verdict| &verdict.rejections) {
                let reason =
                    u16::try_from(rejection.reason).ok().and_then(Reason::from_code).map_or("unknown", Reason::name);
                let count = (rejection.readings.len() as u64).max(1);
                metrics.judged.get_or_create(&ReasonLabel { reason }).inc_by(count);
            }
        }
        let Place { incarnation, sequence, .. } = place;
        let answered = Answered { incarnation, sequence, archived: body.archived, receipt: receipt.clone(), gateway };
        let unanswered = on_store(self.context, move |store| {
            store.receipt(answered)?;
            Ok::<_, StoreError>(store.state().unanswered())
        });
        metrics.unanswered.set(i64::try_from(unanswered.await??).unwrap_or(i64::MAX));
        Ok(())
    }

    /// Waits a little for the answers that are under way, then makes the receipts durable.
    pub(super) async fn finish(mut self, answers: &mut Streaming<SubmitResponse>) -> Result<(), SessionError> {
        let deadline = Instant::now() + Duration::from_secs(2);
        while self.flow.unanswered() > 0 {
            match time::timeout_at(deadline, answers.message()).await {
                Ok(Ok(Some(SubmitResponse { message: Some(submit_response::Message::Outcomes(batch)) }))) => {
                    for outcome in batch.outcomes {
                        self.outcome(outcome).await?;
                    }
                }
                Ok(Ok(Some(_))) => {}
                Ok(Ok(None) | Err(_)) | Err(_) => break,
            }
        }
        on_store(self.context, |store| store.sync()).await??;
        Ok(())
    }
}

fn window_of(window: &v1::Window) -> Window {
    Window {
        proofs: usize::try_from(window.proofs).unwrap_or(OWN_WINDOW.proofs).clamp(1, OWN_WINDOW.proofs),
        bytes: window.bytes.clamp(1, OWN_WINDOW.bytes),
    }
}

fn place_of(held: &Held) -> Place {
    Place { incarnation: held.incarnation, sequence: held.sequence, digest: held.digest, bytes: held.bytes }
}
