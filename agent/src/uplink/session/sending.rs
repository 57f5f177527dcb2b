//! What goes up: the opening of the chain, proofs within the window, and new ones when the window is hungry.

use std::sync::{Arc, PoisonError};

use depin_proto::{
    envelope,
    v1::{OpenChain, OpenChains, ProofBatch, SignedProof, SubmitRequest, submit_request},
};
use tokio::{sync::mpsc::error::TrySendError, time::Instant};

use super::{BATCH_BYTES, BATCH_PROOFS, Session, SessionError, on_store};
use crate::{
    trace,
    uplink::{flow::Place, seal::SealError},
};

impl Session<'_> {
    /// Opens the chain, or with `chain` false only confirms the configuration. At most one confirmation is under way.
    pub(super) async fn send_open(&mut self, chain: bool) -> Result<(), SessionError> {
        if !chain && self.openings.contains(&false) {
            self.confirm_again = true;
            return Ok(());
        }
        let configuration = self.context.configuration();
        let chains = if chain {
            let (incarnation, next_sequence, sealed_sequence) = on_store(self.context, |store| {
                let state = store.state();
                (state.incarnation, crate::sealer::chain::declared(state), state.next_sequence.saturating_sub(1))
            })
            .await?;
            vec![OpenChain { key_id: self.key.0.to_vec().into(), incarnation, next_sequence, sealed_sequence }]
        } else {
            Vec::new()
        };
        let now = self.context.clock.now().wall;
        let open = OpenChains {
            chains,
            confirmed_registry_incarnation: configuration.registry_incarnation,
            confirmed_registry_version: configuration.registry_version,
            confirmed_models: configuration.in_force(now).iter().map(|(digest, _)| digest.0.to_vec().into()).collect(),
        };
        self.openings.push_back(chain);
        self.send(submit_request::Message::Open(open))
    }

    /// Never waits, so that answers are read whatever the gateway reads. What is on its way is bounded: proofs by the window, because a chain is
    /// opened anew only after the gateway has read what came before; openings by one of each kind.
    fn send(&mut self, message: submit_request::Message) -> Result<(), SessionError> {
        match self.up.try_send(SubmitRequest { message: Some(message) }) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_)) => Err(SessionError::Flooded),
            Err(TrySendError::Closed(_)) => Err(tonic::Status::unavailable("the stream of proofs is closed").into()),
        }
    }

    /// Sends what the window allows.
    pub(super) async fn pump(&mut self) -> Result<(), SessionError> {
        if !self.open {
            return Ok(());
        }
        loop {
            let mut batch = Vec::new();
            let mut bytes = 0;
            while batch.len() < BATCH_PROOFS && bytes < BATCH_BYTES {
                let Some(place) = self.flow.next_to_send() else { break };
                bytes += place.bytes;
                batch.push(self.load(place).await?);
            }
            if batch.is_empty() {
                return Ok(());
            }
            self.send(submit_request::Message::Proofs(ProofBatch { proofs: batch }))?;
        }
    }

    async fn load(&mut self, place: Place) -> Result<SignedProof, SessionError> {
        if let Some(proof) = self.fresh.remove(&(place.incarnation, place.sequence)) {
            return Ok(proof);
        }
        let found = on_store(self.context, move |store| {
            let held = store
                .state()
                .held
                .iter()
                .find(|held| (held.incarnation, held.sequence) == (place.incarnation, place.sequence));
            held.copied().map(|held| store.proof(&held))
        });
        match found.await? {
            Some(proof) => Ok(proof?),
            None => Err(SessionError::Lost),
        }
    }

    pub(super) async fn seal(&mut self) -> Result<(), SessionError> {
        // In a backlog one seal follows the other as long as the window takes them.
        while self.flow.hungry() {
            let (sealing, now) = (self.sealing(), self.context.clock.now());
            let view = self.context.configuration.read().unwrap_or_else(PoisonError::into_inner).view();
            let intake = Arc::clone(&self.context.intake);
            let made = on_store(self.context, move |store| {
                let mut made = sealing.ripe(store, &view, &now);
                if let Ok(made) = &mut made {
                    intake.followed().lend(made, store, &view, &now, *intake.durable().borrow());
                }
                (made, store.given_up(), store.waiting(), store.spool_bytes(), store.state().unanswered())
            });
            let (made, given_up, waiting, bytes, unanswered) = made.await?;
            let made = made?;
            let metrics = &self.context.metrics;
            metrics.spool_readings.set(i64::try_from(waiting).unwrap_or(i64::MAX));
            metrics.spool_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
            metrics.unanswered.set(i64::try_from(unanswered).unwrap_or(i64::MAX));
            metrics.follow_given_up(&given_up);
            metrics.count_duplicates(made.duplicates);
            self.next_seal = Instant::now() + self.context.options.seal_interval;
            for mut sealed in made.proofs {
                let span = tracing::info_span!("seal", sequence = sealed.sequence, readings = sealed.readings);
                trace::go_on(&mut sealed.proof, &span);
                metrics.sealed.inc_by(sealed.readings);
                let bytes = sealed.proof.sections.iter().map(|section| section.len() as u64).sum::<u64>()
                    + sealed.proof.header.len() as u64
                    + 128;
                let incarnation = envelope::decode_header(&sealed.proof.header).map_err(SealError::from)?.incarnation;
                self.flow.push(Place { incarnation, sequence: sealed.sequence, digest: sealed.digest, bytes });
                self.fresh.insert((incarnation, sealed.sequence), sealed.proof);
            }
            self.pump().await?;
            if !made.more {
                return Ok(());
            }
        }
        Ok(())
    }
}
