//! Beside the stream of proofs: strangers that were heard, and how the agent is.

use std::{collections::HashSet, time::Duration};

use depin_proto::v1::{self, AgentStatus, DropCount, SightingsRequest, configuration_client::ConfigurationClient};
use tokio::{
    sync::mpsc,
    time::{self, Instant, MissedTickBehavior},
};
use tonic::transport::Channel;

use super::Context;
use crate::committer::with_store;

/// Reports sightings and status beside the stream of proofs, so that a slow answer holds up nothing.
pub(super) struct Reporter {
    pub(super) context: Context,
    pub(super) channel: Channel,
    /// The gateway's address as the settings name it.
    pub(super) gateway: String,
}

impl Reporter {
    pub(super) async fn run(self, clocks: mpsc::Sender<i64>) {
        let mut client = ConfigurationClient::new(self.channel.clone());
        let mut status_due = Instant::now();
        let mut tick = time::interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if !self.sightings(&mut client).await {
                return;
            }
            if Instant::now() >= status_due {
                status_due = Instant::now() + self.context.options.status_interval;
                let Some(status) = self.status().await else { return };
                match client.report_status(status).await {
                    // The session ended: so does the reporter.
                    Ok(answer) => {
                        if clocks.send(answer.into_inner().now).await.is_err() {
                            return;
                        }
                    }
                    Err(status) => tracing::warn!(%status, "the status could not be reported"),
                }
            }
        }
    }

    /// Tells of strangers as far as it is known when they were heard. `false`: the store is gone.
    async fn sightings(&self, client: &mut ConfigurationClient<Channel>) -> bool {
        let intake = &self.context.intake;
        let sighted = intake.take_sightings();
        if sighted.is_empty() {
            return true;
        }
        let Some(agreed) = with_store(&self.context.store, |store| store.state().clocks.clone()).await else {
            return false;
        };
        let now = self.context.clock.now();
        let (mut told, mut undated) = (Vec::new(), Vec::new());
        for sighted in sighted {
            match sighted.heard.first_seen(&agreed, &now) {
                Some(first_seen) => told.push((first_seen, sighted)),
                None => undated.push(sighted),
            }
        }
        intake.return_sightings(undated);
        for told in told.chunks(256) {
            let reported = told.iter().map(|(first_seen, sighted)| v1::Sighting {
                model: sighted.model.clone(),
                serial: sighted.serial.clone(),
                first_seen: first_seen.0,
                topic: sighted.topic.clone(),
            });
            let request = SightingsRequest { sightings: reported.collect() };
            if let Err(status) = client.report_sightings(request).await {
                tracing::warn!(%status, "sightings of unknown devices could not be reported; they are tried again");
                intake.return_sightings(told.iter().map(|(_, sighted)| sighted.clone()));
            }
        }
        true
    }

    async fn status(&self) -> Option<AgentStatus> {
        let (bytes, waiting, oldest, given_up) = with_store(&self.context.store, |store| {
            (store.spool_bytes(), store.waiting(), store.oldest(), store.given_up())
        })
        .await?;
        let drops = given_up.by_reason().filter(|(_, count)| *count > 0);
        let active: HashSet<String> = self.context.intake.take_active().into_iter().collect();
        let configuration = self.context.configuration();
        let ids =
            configuration.devices.values().filter(|device| device.until.is_none() && active.contains(&device.serial));
        let now = self.context.clock.now();
        Some(AgentStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            spool_bytes: bytes,
            spool_readings: waiting,
            oldest_reading: oldest.map_or(0, |oldest| oldest.0),
            drops: drops.map(|(reason, count)| DropCount { reason: reason as u32, count }).collect(),
            active_devices: ids.map(|device| device.id.0.to_vec().into()).collect(),
            rejected: self
                .context
                .intake
                .rejections()
                .into_iter()
                .map(|(reason, count)| DropCount { reason: reason.code().into(), count })
                .collect(),
            clock: now.wall.0,
            clock_set: now.is_set(),
            gateway: self.gateway.clone(),
        })
    }
}
