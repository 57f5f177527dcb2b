//! Prometheus metrics, under the names that controller-runtime made usual where there is one. No label names an object.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::workqueue::{Workqueues, seconds};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ControllerLabel {
    controller: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    controller: String,
    result: String,
}

/// `request`: what an entry of the inbox asks for. No controller answers it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabel {
    request: String,
    result: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodLabel {
    method: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: String,
}

/// `what`: authority, gateway, publish, operator.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CertificateLabel {
    what: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProgramLabel {
    program: String,
}

/// All metrics of the operator; clones share their values.
#[derive(Clone, Debug)]
pub struct Metrics {
    reconciles: Family<ResultLabel, Counter>,
    errors: Family<ControllerLabel, Counter>,
    seconds: Family<ControllerLabel, Histogram, fn() -> Histogram>,
    active: Family<ControllerLabel, Gauge>,
    most: Family<ControllerLabel, Gauge>,
    status_writes: Family<KindLabel, Counter>,
    leader: Gauge,
    authority_kept: Gauge,
    removals_held: Family<KindLabel, Gauge>,
    registry_refusals: Counter,
    epochs: Family<ProgramLabel, Counter>,
    epoch_lag: Family<ProgramLabel, Gauge<i64>>,
    enrollments: Family<RequestLabel, Counter<u64, AtomicU64>>,
    certificate_failures: Family<CertificateLabel, Counter>,
    authority_end: Gauge<i64>,
    authorities: Gauge,
    queries: Family<MethodLabel, Counter>,
    queues: Workqueues,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            reconciles: Family::default(),
            errors: Family::default(),
            seconds: Family::new_with_constructor(seconds),
            active: Family::default(),
            most: Family::default(),
            status_writes: Family::default(),
            leader: Gauge::default(),
            authority_kept: Gauge::default(),
            removals_held: Family::default(),
            registry_refusals: Counter::default(),
            epochs: Family::default(),
            epoch_lag: Family::default(),
            enrollments: Family::default(),
            certificate_failures: Family::default(),
            authority_end: Gauge::default(),
            authorities: Gauge::default(),
            queries: Family::default(),
            queues: Workqueues::default(),
        }
    }
}

impl Metrics {
    /// Names them in `registry`.
    pub fn register(&self, registry: &mut Registry) {
        let runtime = registry.sub_registry_with_prefix("controller_runtime");
        runtime.register("reconcile", "Reconciles by controller and result", self.reconciles.clone());
        runtime.register("reconcile_errors", "Reconciles that failed", self.errors.clone());
        runtime.register("reconcile_time_seconds", "How long reconciles took", self.seconds.clone());
        runtime.register("active_workers", "Reconciles under way", self.active.clone());
        runtime.register("max_concurrent_reconciles", "Reconciles that may be under way at once", self.most.clone());
        self.queues.register(registry);
        registry.register(
            "depin_operator_authority_in_backup",
            "1 while the gateway's backups have the certificate authority that is in use, encrypted to the wanted recipients",
            self.authority_kept.clone(),
        );
        registry.register("leader_election_master_status", "1 while this operator leads", self.leader.clone());
        let own = registry.sub_registry_with_prefix("depin_operator");
        own.register("status_writes", "Status writes by kind", self.status_writes.clone());
        own.register(
            "removals_held",
            "Registry entries without an object that are kept for want of evidence",
            self.removals_held.clone(),
        );
        own.register(
            "registry_refusals",
            "Changes that registry or ledger refused; the object's Ready condition says why",
            self.registry_refusals.clone(),
        );
        own.register("epochs", "Epochs recorded by program", self.epochs.clone());
        own.register(
            "epoch_lag_seconds",
            "Seconds since the end of the oldest epoch that is not recorded",
            self.epoch_lag.clone(),
        );
        own.register(
            "enrollments",
            "Entries of the inbox answered, by what they ask for and the result",
            self.enrollments.clone(),
        );
        own.register(
            "certificate_failures",
            "Looks after certificates that failed, by what was looked after; they are tried again",
            self.certificate_failures.clone(),
        );
        own.register(
            "authority_expiry_timestamp_seconds",
            "When the certificate authority that issues ends",
            self.authority_end.clone(),
        );
        own.register("authorities", "Certificate authorities that are trusted", self.authorities.clone());
        own.register("queries", "People's questions to the ledger by method and result", self.queries.clone());
    }

    /// All of them with a value for each label, so that a text of them names everything that there is: for the reference.
    #[must_use]
    pub fn described() -> Registry {
        let (metrics, mut registry) = (Self::default(), Registry::default());
        metrics.register(&mut registry);
        metrics.controller("", 0);
        metrics.reconcile("").fail();
        metrics.status_written("");
        metrics.set_removals_held("", 0);
        metrics.epoch_recorded("");
        metrics.set_epoch_lag("", 0);
        metrics.enrollment("", "");
        metrics.certificates_failed("");
        metrics.query("", "");
        registry
    }

    /// A look after certificates failed.
    pub fn certificates_failed(&self, what: &'static str) {
        self.certificate_failures.get_or_create(&CertificateLabel { what: what.to_owned() }).inc();
    }

    /// When the authority that issues ends, in seconds of Unix time, and how many are trusted.
    pub fn authority_ends(&self, at: i64, trusted: usize) {
        self.authority_end.set(at);
        self.authorities.set(i64::try_from(trusted).unwrap_or(i64::MAX));
    }

    /// A controller runs, with so many reconciles at once at most.
    pub fn controller(&self, controller: &'static str, concurrency: u16) {
        let label = ControllerLabel { controller: controller.to_owned() };
        self.most.get_or_create(&label).set(concurrency.into());
        // Present from the start: a rate over what appears with its first error misses that error.
        drop(self.errors.get_or_create(&label));
        drop(self.active.get_or_create(&label));
        self.queues.announce(controller);
    }

    /// The queues.
    #[must_use]
    pub fn queues(&self) -> &Workqueues {
        &self.queues
    }

    /// A reconcile begins; the guard notes its end.
    #[must_use]
    pub fn reconcile(&self, controller: &'static str) -> Reconcile<'_> {
        let label = ControllerLabel { controller: controller.to_owned() };
        self.active.get_or_create(&label).inc();
        Reconcile { metrics: self, label, started: std::time::Instant::now(), result: "success" }
    }

    /// A status was written.
    pub fn status_written(&self, kind: &str) {
        self.status_writes.get_or_create(&KindLabel { kind: kind.to_owned() }).inc();
    }

    /// How many status writes there were of `kind`.
    #[must_use]
    pub fn status_writes(&self, kind: &str) -> u64 {
        self.status_writes.get_or_create(&KindLabel { kind: kind.to_owned() }).get()
    }

    /// Whether the gateway's backups have the authority.
    pub fn set_authority_kept(&self, kept: bool) {
        self.authority_kept.set(i64::from(kept));
    }

    /// Whether this operator leads.
    pub fn set_leader(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// Entries of `kind` that are kept for want of evidence.
    pub fn set_removals_held(&self, kind: &str, count: usize) {
        self.removals_held
            .get_or_create(&KindLabel { kind: kind.to_owned() })
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A change was refused.
    pub fn registry_refused(&self) {
        self.registry_refusals.inc();
    }

    /// An epoch was recorded.
    pub fn epoch_recorded(&self, program: &str) {
        self.epochs.get_or_create(&ProgramLabel { program: program.to_owned() }).inc();
    }

    /// How far behind a program's epochs are.
    pub fn set_epoch_lag(&self, program: &str, seconds: i64) {
        self.epoch_lag.get_or_create(&ProgramLabel { program: program.to_owned() }).set(seconds);
    }

    /// A question to the ledger was taken or turned away.
    pub fn query(&self, method: &'static str, result: &'static str) {
        self.queries.get_or_create(&MethodLabel { method, result }).inc();
    }

    /// An entry of the inbox was answered.
    pub fn enrollment(&self, request: &str, result: &str) {
        let label = RequestLabel { request: request.to_owned(), result: result.to_owned() };
        self.enrollments.get_or_create(&label).inc();
    }
}

/// A reconcile under way.
#[derive(Debug)]
pub struct Reconcile<'a> {
    metrics: &'a Metrics,
    label: ControllerLabel,
    started: std::time::Instant,
    result: &'static str,
}

impl Reconcile<'_> {
    /// It failed.
    pub fn fail(&mut self) {
        self.result = "error";
    }
}

impl Drop for Reconcile<'_> {
    fn drop(&mut self) {
        let Self { metrics, label, started, result } = self;
        metrics.active.get_or_create(label).dec();
        let took = started.elapsed();
        metrics.seconds.get_or_create(label).observe(took.as_secs_f64());
        metrics.queues.worked(&label.controller, took);
        let labels = ResultLabel { controller: label.controller.clone(), result: (*result).to_owned() };
        metrics.reconciles.get_or_create(&labels).inc();
        if *result == "error" {
            metrics.errors.get_or_create(label).inc();
            metrics.queues.retried(&label.controller);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_say_what_they_name() {
        let (metrics, mut registry) = (Metrics::default(), Registry::default());
        metrics.register(&mut registry);
        metrics.controller("enrollments", 16);
        drop(metrics.reconcile("enrollments"));
        metrics.reconcile("devices").fail();
        metrics.enrollment("renew", "issued");
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "controller_runtime_reconcile_total{controller=\"enrollments\",result=\"success\"} 1",
            "controller_runtime_reconcile_errors_total{controller=\"devices\"} 1",
            "controller_runtime_max_concurrent_reconciles{controller=\"enrollments\"} 16",
            "workqueue_retries_total{controller=\"devices\",name=\"devices\"} 1",
            "depin_operator_enrollments_total{request=\"renew\",result=\"issued\"} 1",
        ] {
            assert!(text.lines().any(|known| known == line), "{line}: {text}");
        }
    }
}
