//! Metrics of queues under client-go's names, as far as they are known.
//!
//! kube keeps the queues of controllers to itself: how long they are, what enters them and how long it waits there is known to nobody else, so
//! `workqueue_depth`, `workqueue_adds_total` and `workqueue_queue_duration_seconds` have no series of a controller. What this program queues
//! itself is counted whole.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use std::time::Duration;

/// The queue of status writes.
pub const STATUS: &str = "status";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueueLabel {
    controller: String,
    name: String,
}

impl QueueLabel {
    fn of(name: &str) -> Self {
        Self { controller: name.to_owned(), name: name.to_owned() }
    }
}

/// Metrics of all queues; clones share their values.
#[derive(Clone, Debug)]
pub struct Workqueues {
    depth: Family<QueueLabel, Gauge>,
    adds: Family<QueueLabel, Counter>,
    retries: Family<QueueLabel, Counter>,
    work: Family<QueueLabel, Histogram, fn() -> Histogram>,
}

/// From a millisecond to half a minute: how long work takes here.
pub(crate) fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 16))
}

impl Default for Workqueues {
    fn default() -> Self {
        Self {
            depth: Family::default(),
            adds: Family::default(),
            retries: Family::default(),
            work: Family::new_with_constructor(seconds),
        }
    }
}

impl Workqueues {
    /// Names them in `registry`.
    pub fn register(&self, registry: &mut Registry) {
        let own = registry.sub_registry_with_prefix("workqueue");
        own.register("depth", "What waits in a queue", self.depth.clone());
        own.register("adds", "What was put into a queue, without what replaced something there", self.adds.clone());
        own.register("retries", "What is tried again after a failure", self.retries.clone());
        own.register("work_duration_seconds", "How long the work on one item took", self.work.clone());
        // Present from the start: a rate over what appears with its first increment misses that increment.
        self.set_depth(STATUS, 0);
        drop(self.adds.get_or_create(&QueueLabel::of(STATUS)));
        self.announce(STATUS);
    }

    /// The queue `name` will be worked on.
    pub fn announce(&self, name: &str) {
        let label = QueueLabel::of(name);
        drop(self.retries.get_or_create(&label));
        drop(self.work.get_or_create(&label));
    }

    /// Something new waits in the queue.
    pub fn added(&self, name: &str) {
        self.adds.get_or_create(&QueueLabel::of(name)).inc();
    }

    /// So many wait in the queue.
    pub fn set_depth(&self, name: &str, waiting: usize) {
        self.depth.get_or_create(&QueueLabel::of(name)).set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }

    /// Something is tried again.
    pub fn retried(&self, name: &str) {
        self.retries.get_or_create(&QueueLabel::of(name)).inc();
    }

    /// The work on one item is done, well or not.
    pub fn worked(&self, name: &str, took: Duration) {
        self.work.get_or_create(&QueueLabel::of(name)).observe(took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_have_client_gos_names_and_controllers_only_what_is_known() {
        let (queues, mut registry) = (Workqueues::default(), Registry::default());
        queues.register(&mut registry);
        queues.announce("devices");
        queues.retried("devices");
        queues.worked("devices", Duration::from_millis(3));
        queues.added(STATUS);
        queues.set_depth(STATUS, 4);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "workqueue_depth{controller=\"status\",name=\"status\"} 4",
            "workqueue_adds_total{controller=\"status\",name=\"status\"} 1",
            "workqueue_retries_total{controller=\"devices\",name=\"devices\"} 1",
            "workqueue_retries_total{controller=\"status\",name=\"status\"} 0",
            "workqueue_work_duration_seconds_count{controller=\"devices\",name=\"devices\"} 1",
        ] {
            assert!(text.lines().any(|known| known == line), "{line}: {text}");
        }
        for unknown in ["workqueue_depth{controller=\"devices\"", "workqueue_adds_total{controller=\"devices\""] {
            assert!(!text.contains(unknown), "{text}");
        }
    }
}
