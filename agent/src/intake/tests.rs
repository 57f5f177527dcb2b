//! The intake with a clock that the test moves.

use std::sync::atomic::{AtomicI64, Ordering};

use depin_domain::{
    model::{Attestation, Codec, DeviceNaming, Field, Metric, MetricKind, Source, TimestampField, TimestampFormat},
    proofs::Reason,
};

use super::*;
use crate::spool::Batch;

mod traces;

/// A morning.
const TEN: i64 = 1_767_261_600_000;
const HOUR: i64 = 3_600_000;

#[derive(Debug, Default)]
struct ManualClock(AtomicI64);

impl ManualClock {
    fn set(&self, since_ten: i64) {
        self.0.store(since_ten, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Stamp {
        let since_ten = self.0.load(Ordering::SeqCst);
        Stamp { boot: 1, uptime: 1_000 + since_ten, wall: Timestamp(TEN + since_ten) }
    }
}

fn model() -> Model {
    let source = |topic: &str, timestamp: Option<TimestampField>| Source {
        topic: topic.to_owned(),
        codec: Codec::Json,
        device: DeviceNaming::TopicSegment(1),
        each: None,
        timestamp,
        fields: vec![Field { path: "power".to_owned(), metric: "power".to_owned(), unit: None }],
    };
    let told = TimestampField { path: "ts".to_owned(), format: TimestampFormat::UnixMillis };
    Model {
        name: "meter".to_owned(),
        sources: vec![source("undated/+", None), source("dated/+", Some(told))],
        metrics: vec![Metric {
            name: "power".to_owned(),
            unit: "W".to_owned(),
            kind: MetricKind::Gauge,
            scale: 0,
            min: None,
            max: None,
            max_rate: None,
            personal: false,
        }],
        cadence_ms: 1_000,
        reorder_horizon_ms: 0,
        checks: Vec::new(),
        minimum_attestation: Attestation::Agent,
        capabilities: Vec::new(),
    }
}

fn intake() -> (Arc<Intake>, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::default());
    let intake =
        Intake::new(Limits::default(), Quota::default(), clock.clone(), Metrics::registered().0, &Found::default());
    let model = model();
    let (problems, _) = intake.configure(&[(model.digest().unwrap(), model)], &View::default());
    assert_eq!(problems, []);
    (intake, clock)
}

fn message<'a>(topic: &'a str, payload: &'a [u8]) -> Envelope<'a> {
    Envelope { topic, payload, packet: None, duplicate: false, retained: false }
}

/// When the readings of the next batch were taken, since ten.
fn times(intake: &Intake) -> Vec<i64> {
    let filled = intake.take().unwrap();
    let batch = Batch::read(&filled.record).unwrap();
    assert_eq!(filled.at, batch.stamp.wall);
    let readings = batch.groups.iter().flat_map(|group| &group.readings);
    readings.map(|reading| reading.at.0 - TEN).collect()
}

#[test]
fn what_is_rejected_does_not_stop_the_clock() {
    let (intake, clock) = intake();
    for (topic, payload) in [("undated/a", &b"{"[..]), ("elsewhere", b"{}"), ("dated/a", br#"{"ts":"?","power":1}"#)] {
        assert_eq!(intake.offer(&message(topic, payload)), Offer::Nothing, "{topic}");
    }
    assert!(intake.take().is_none());
    clock.set(HOUR);
    assert_eq!(intake.offer(&message("undated/a", br#"{"power":1}"#)), Offer::Ticket(1));
    // One that is rejected behind a good one leaves the batch its time.
    clock.set(HOUR + 5);
    assert_eq!(intake.offer(&message("undated/a", b"{")), Offer::Nothing);
    assert_eq!(intake.offer(&message("undated/b", br#"{"power":1}"#)), Offer::Ticket(1));
    assert_eq!(times(&intake), [HOUR, HOUR]);
}

#[test]
fn what_comes_after_a_full_store_has_a_time_of_its_own() {
    let (intake, clock) = intake();
    let offer = |serial: &str| intake.offer(&message(&format!("undated/{serial}"), br#"{"power":1}"#));
    assert_eq!(offer("a"), Offer::Ticket(1));
    let first = intake.take().unwrap();
    // This one comes while the first batch finds the store full.
    assert_eq!(offer("b"), Offer::Ticket(2));
    intake.set_full(true);
    assert_eq!(offer("c"), Offer::Full);
    clock.set(HOUR);
    intake.set_full(false);
    intake.committed(first.number);
    assert_eq!(offer("c"), Offer::Ticket(3));
    assert!(!intake.drained());
    assert_eq!((times(&intake), times(&intake)), (vec![0], vec![HOUR]));
    assert!(intake.take().is_none() && !intake.drained());
    intake.committed(3);
    assert!(intake.drained());
}

#[tokio::test]
async fn the_committer_hears_of_every_batch() {
    let (intake, _) = intake();
    let offer = |serial: &str| intake.offer(&message(&format!("undated/{serial}"), br#"{"power":1}"#));
    offer("a");
    intake.offered().await;
    assert_eq!(intake.take().unwrap().number, 1);
    offer("b");
    intake.set_full(true);
    intake.set_full(false);
    offer("c");
    for number in 2..4 {
        // What is not told would wait for ever.
        tokio::time::timeout(std::time::Duration::from_secs(30), intake.offered()).await.unwrap();
        assert_eq!(intake.take().unwrap().number, number);
    }
}

#[test]
fn a_retained_message_counts_only_if_it_tells_the_time() {
    let (intake, _) = intake();
    let offer = |topic: &str, payload: &[u8], retained| {
        intake.offer(&Envelope { packet: Some((1, 1)), retained, ..message(topic, payload) })
    };
    assert_eq!(offer("undated/a", br#"{"power":1}"#, true), Offer::Nothing);
    assert_eq!(intake.rejections(), [(Reason::RetainedWithoutTime, 1)]);
    assert!(intake.take().is_none());
    let dated = format!(r#"{{"ts":{},"power":1}}"#, TEN - HOUR);
    assert_eq!(offer("dated/a", dated.as_bytes(), true), Offer::Ticket(1));
    assert_eq!(offer("undated/a", br#"{"power":1}"#, false), Offer::Ticket(1));
    assert_eq!(times(&intake), [-HOUR, 0]);
}

#[test]
fn what_is_too_large_needs_no_room_and_is_counted() {
    let (intake, _) = intake();
    intake.set_full(true);
    let large = vec![b' '; Limits::default().payload_bytes + 1];
    assert_eq!(intake.offer(&message("undated/a", &large)), Offer::Nothing);
    intake.oversize("undated/a", 1 << 28);
    assert_eq!(intake.rejections(), [(Reason::OversizePayload, 2)]);
    let rejected = intake.metrics.rejected.get_or_create(&ReasonLabel { reason: "OversizePayload" }).get();
    assert_eq!(rejected, 2);
}
