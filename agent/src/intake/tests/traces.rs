//! Which proof goes on with the trace of a sampled message: from the intake through a real store to the seal.

use depin_domain::ids::DeviceId;
use depin_identity::keys::SigningKey;
use depin_log::{Storage as _, simulated::SimulatedStorage};
use depin_proto::envelope::decode_section;
use depin_telemetry::trace_context;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tracing_subscriber::layer::SubscriberExt as _;

use super::*;
use crate::{
    sealer::{Relayed, Store, StoreOptions, assemble::ProofLimits},
    uplink::seal::{BUDGET, Sealing},
};

struct World {
    intake: Arc<Intake>,
    clock: Arc<ManualClock>,
    store: Store,
    view: View,
    sealing: Sealing,
    collector: tracing::Dispatch,
}

impl World {
    /// Devices `a` to `c` are approved, and each has a proof of its own.
    fn new(horizon_ms: i64) -> Self {
        trace_context::collect();
        let (intake, clock) = intake();
        let disk = SimulatedStorage::new();
        let [spool, journal] = ["spool", "journal"].map(|name| disk.directory(name).unwrap());
        let mut store = Store::open(spool, journal, StoreOptions::default()).unwrap().0;
        let mut view = View::new(HashMap::from([(model().digest().unwrap(), ("meter".to_owned(), horizon_ms))]));
        for serial in ["a", "b", "c"] {
            let (id, model) = (DeviceId::of("ns", serial), "meter".to_owned());
            view.insert(serial.to_owned(), Relayed { id, model, until: Timestamp::MAX });
        }
        let sealing = Sealing {
            key: SigningKey::from_seed(&[7; 32]),
            registry: (1, 1),
            limits: ProofLimits { sections: 1, ..ProofLimits::default() },
            budget: BUDGET,
            keep_parked_ms: i64::MAX,
        };
        assert!(sealing.open(&mut store, None, false, &clock.now()).unwrap().reopened, "the chain begins");
        let provider = SdkTracerProvider::builder().with_sampler(Sampler::AlwaysOn).build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let collector = tracing::Dispatch::new(tracing_subscriber::registry().with(layer));
        Self { intake, clock, store, view, sealing, collector }
    }

    fn offer(&self, topic: &str, payload: &str) {
        assert!(matches!(self.intake.offer(&message(topic, payload.as_bytes())), Offer::Ticket(_)), "{topic}");
    }

    /// A message of which nobody takes a span.
    fn plain(&self, serial: &str) {
        self.offer(&format!("undated/{serial}"), r#"{"power":1}"#);
    }

    fn sampled_on(&self, topic: &str, payload: &str) {
        tracing::dispatcher::with_default(&self.collector, || self.offer(topic, payload));
    }

    fn sampled(&self, serial: &str) {
        self.sampled_on(&format!("undated/{serial}"), r#"{"power":1}"#);
    }

    /// What was offered is durable.
    fn commit(&mut self) {
        while let Some(filled) = self.intake.take() {
            self.store.append(&filled.record, filled.readings, filled.at).unwrap();
            self.intake.committed(filled.number);
        }
    }

    /// The devices whose proofs this seal made, marked where a proof goes on with a trace.
    fn seal(&mut self) -> Vec<String> {
        let now = self.clock.now();
        let mut made = self.sealing.ripe(&mut self.store, &self.view, &now).unwrap();
        self.intake.followed().lend(&mut made, &self.store, &self.view, &now, *self.intake.durable().borrow());
        let devices = made.proofs.iter().map(|sealed| {
            let section = decode_section(&sealed.proof.sections[0]).unwrap();
            let serial = ["a", "b", "c"].into_iter().find(|serial| DeviceId::of("ns", serial) == section.device);
            let mark = if sealed.proof.traceparent.is_empty() { "" } else { "*" };
            format!("{}{mark}", serial.unwrap())
        });
        devices.collect()
    }
}

#[test]
fn the_proof_that_has_the_sampled_reading_goes_on_with_its_trace_and_no_other() {
    let mut world = World::new(0);
    world.plain("a");
    world.sampled("b");
    world.plain("c");
    world.commit();
    assert_eq!(world.seal(), ["a", "b*", "c"]);
    world.clock.set(1_000);
    world.plain("b");
    world.commit();
    assert_eq!(world.seal(), ["b"], "once");
    world.clock.set(2_000);
    world.sampled("c");
    world.commit();
    assert_eq!(world.seal(), ["c*"], "the next one");
}

#[test]
fn a_trace_waits_until_its_message_is_durable() {
    let mut world = World::new(0);
    world.plain("a");
    world.commit();
    world.sampled("b");
    assert_eq!(world.seal(), ["a"]);
    world.commit();
    assert_eq!(world.seal(), ["b*"]);
}

#[test]
fn a_trace_waits_as_long_as_its_model_waits_for_stragglers() {
    let mut world = World::new(HOUR);
    world.sampled("a");
    world.commit();
    world.clock.set(HOUR - 1);
    // The one that waits stays: with a newer one in its place before each seal, none would ever arrive.
    world.sampled("b");
    world.commit();
    assert_eq!(world.seal(), [""; 0]);
    world.clock.set(HOUR);
    assert_eq!(world.seal(), ["a*"]);
}

#[test]
fn what_enters_no_proof_leaves_its_trace_to_none() {
    let mut world = World::new(0);
    // Parked: nobody let the device in.
    world.sampled("stranger");
    world.plain("a");
    world.commit();
    assert_eq!(world.seal(), ["a"]);
    // Of one time and metric the first one counts.
    let dated = |power: i64| format!(r#"{{"ts":{TEN},"power":{power}}}"#);
    world.offer("dated/b", &dated(1));
    world.sampled_on("dated/b", &dated(2));
    world.commit();
    assert_eq!(world.seal(), ["b"]);
    world.clock.set(1_000);
    world.sampled("c");
    world.commit();
    assert_eq!(world.seal(), ["c*"], "both have left their place");
}

#[test]
fn a_reading_is_found_by_the_time_that_the_sealer_corrected() {
    let mut world = World::new(0);
    world.sampled("a");
    world.commit();
    let now = world.clock.now();
    world.store.clock_agreed(&Stamp { wall: now.wall.plus(HOUR), ..now }).unwrap();
    assert_eq!(world.seal(), ["a*"]);
}
