//! Enrollment: strangers with a join token or a ServiceAccount's, and agents whose certificate runs out. Each have a rate of their own.
//!
//! A ServiceAccount's token is sealed to the operator: here it can be neither read nor judged.
//!
//! The gateway only turns away what cannot be right; the operator, which holds the CA, answers through the ledger's inbox. The
//! same request again is the same entry, so the agent asks until it is answered.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use depin_domain::{
    ids::{Digest, KeyId},
    time::Timestamp,
};
use depin_identity::{
    CertificateRequest, PeerIdentity,
    peer::{is_label, is_subdomain},
};
use depin_ledger::{InboxRequest, Ledger, LedgerError};
use depin_proto::v1::{self, enroll_response, enrollment_server::Enrollment};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::{clock::Clock, metrics::Metrics, peer, rate::Bucket, tls_files::SealingKey};

/// How soon an agent asks again.
const RETRY_MS: u32 = 2_000;
/// So many times the rate of enrollments may be tried as renewals without a certificate. A signature is checked for each, no more.
const UNPROVEN: u64 = 4;
/// Bytes of each fact that a stranger tells.
const MAX_FACT: usize = 253;
/// Fleets that one agent may want to serve, and bytes of a sealed token.
const MAX_FLEETS: usize = 32;
const MAX_SEALED: usize = 16 << 10;
/// For how long an admitted request may be repeated after its invitation is gone, and how many are remembered.
const ADMITTED_MS: i64 = 24 * 3_600_000;
const MAX_ADMITTED: usize = 10_000;

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct EnrollmentService {
    ledger: Arc<dyn Ledger>,
    clock: Clock,
    metrics: Arc<Metrics>,
    enrollments: Arc<Mutex<Bucket>>,
    /// Apart from the strangers' bucket: a flood of them must not let good agents' certificates run out.
    renewals: Arc<Mutex<Bucket>>,
    /// Renewals without an agent's certificate, before their signature is looked at: only then it is known whose they are.
    unproven: Arc<Mutex<Bucket>>,
    /// Requests (digest of token and CSR) that were let in: using up the invitation must not lose their answer.
    admitted: Arc<Mutex<BTreeMap<Digest, Timestamp>>>,
    sealing: watch::Receiver<Option<SealingKey>>,
}

impl EnrollmentService {
    pub(crate) fn new(
        ledger: Arc<dyn Ledger>,
        clock: Clock,
        metrics: Arc<Metrics>,
        per_second: u64,
        sealing: watch::Receiver<Option<SealingKey>>,
    ) -> Self {
        let bucket = |per_second| Arc::new(Mutex::new(Bucket::new(per_second, 10, clock.now())));
        let (enrollments, renewals) = (bucket(per_second), bucket(per_second));
        let unproven = bucket(per_second.saturating_mul(UNPROVEN));
        Self { ledger, clock, metrics, enrollments, renewals, unproven, admitted: Arc::default(), sealing }
    }

    fn limit(&self, bucket: &Mutex<Bucket>, kind: &'static str) -> Result<(), Status> {
        let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
        if bucket.take(1, self.clock.now()) {
            return Ok(());
        }
        self.metrics.inbox(kind, "limited");
        Err(Status::resource_exhausted(format!("{kind}: too many requests at once; try again later")))
    }

    /// Whether the token invites, or the request was let in before, or its key is an agent's already.
    fn invited(&self, request: &v1::EnrollRequest, key: &KeyId) -> bool {
        let now = self.clock.now();
        let registry = self.ledger.registry();
        let snapshot = registry.borrow();
        let token = Digest::of(&request.token);
        let invited = snapshot.registry.invitation(&token).is_some_and(|invitation| now < invitation.expires);
        let known = snapshot.registry.agent_by_key(key).is_some();
        drop(snapshot);
        let name = Digest::of(&[request.token.as_ref(), &request.csr].concat());
        let mut admitted = self.admitted.lock().unwrap_or_else(PoisonError::into_inner);
        if invited {
            if admitted.len() >= MAX_ADMITTED {
                admitted.retain(|_, at| now.since(*at) < ADMITTED_MS);
            }
            if admitted.len() < MAX_ADMITTED {
                admitted.insert(name, now);
            }
        }
        invited || known || admitted.get(&name).is_some_and(|at| now.since(*at) < ADMITTED_MS)
    }

    /// Whether the registry has all of the fleets.
    fn has_fleets(&self, pass: &v1::ServiceAccountPass) -> bool {
        let registry = self.ledger.registry();
        let snapshot = registry.borrow();
        let has = |fleet: &String| snapshot.registry.fleet(&format!("{}/{fleet}", pass.namespace));
        pass.fleets.iter().all(|fleet| has(fleet).is_some_and(|fleet| fleet.current().is_some()))
    }

    async fn post(&self, kind: &'static str, request: InboxRequest) -> Result<Response<v1::EnrollResponse>, Status> {
        let posted = match self.ledger.post_inbox(request).await {
            Ok(posted) => posted,
            Err(error) => {
                self.metrics.inbox(kind, if matches!(error, LedgerError::InboxFull(_)) { "full" } else { "failed" });
                return Err(crate::record::status(error));
            }
        };
        let answered = posted.response.filter(|response| response.result.is_some());
        self.metrics.inbox(kind, if answered.is_some() { "answered" } else { "posted" });
        Ok(Response::new(answered.unwrap_or_else(|| v1::EnrollResponse {
            result: Some(enroll_response::Result::Pending(v1::Pending { retry_after_ms: RETRY_MS })),
        })))
    }
}

#[tonic::async_trait]
impl Enrollment for EnrollmentService {
    async fn terms(&self, _: Request<v1::TermsRequest>) -> Result<Response<v1::EnrollmentTerms>, Status> {
        self.limit(&self.unproven, "terms")?;
        let key = *self.sealing.borrow();
        let key = key.ok_or_else(|| {
            Status::failed_precondition(
                "no sealing.pub: the operator is too old for ServiceAccounts' tokens; update it",
            )
        })?;
        Ok(Response::new(v1::EnrollmentTerms { sealing_key: key.to_vec().into() }))
    }

    async fn enroll(&self, request: Request<v1::EnrollRequest>) -> Result<Response<v1::EnrollResponse>, Status> {
        self.limit(&self.enrollments, "enroll")?;
        let address = peer::of(&request)?.address;
        let request = request.into_inner();
        check_credential(&request)?;
        let named = !request.name.is_empty() || request.service_account.is_none();
        if named && !is_label(&request.name) && !is_subdomain(&request.name) {
            return Err(Status::invalid_argument("name: is no RFC 1123 name (lower-case letters, digits, '-', '.')"));
        }
        check_facts(request.facts.as_ref())?;
        let csr = read_request(&request.csr)?;
        if let Some(pass) = &request.service_account {
            if !self.has_fleets(pass) {
                self.metrics.inbox("enroll", "denied");
                tracing::info!(%address, "an enrollment for fleets that are not there is denied");
                return Ok(Response::new(denied(
                    "NotAllowed",
                    "no such fleets, or they do not let this ServiceAccount in: see spec.enrollment.serviceAccounts of the EdgeFleets",
                )));
            }
            return self.post("enroll", InboxRequest::Enroll(request)).await;
        }
        if !self.invited(&request, &csr.key.id()) {
            self.metrics.inbox("enroll", "denied");
            tracing::info!(%address, name = %request.name, "an enrollment without a valid join token is denied");
            return Ok(Response::new(denied(
                "InvalidToken",
                "the join token is unknown, used or expired; ask for a new one",
            )));
        }
        self.post("enroll", InboxRequest::Enroll(request)).await
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::EnrollResponse>, Status> {
        let certificate = peer::of(&request)?.certificate.clone();
        let request = request.into_inner();
        check_facts(request.facts.as_ref())?;
        let registry = self.ledger.registry();
        let known = |key: &KeyId| registry.borrow().registry.agent_by_key(key).map(|entry| (entry.id, entry.clone()));
        let shown = certificate.as_ref().is_some_and(|certificate| known(&certificate.key.id()).is_some());
        self.limit(if shown { &self.renewals } else { &self.unproven }, "renew")?;
        let key = read_request(&request.csr)?.key.id();
        let agent = known(&key);
        if !shown {
            // A request is signed by the key that it names: only who has an agent's key draws from the agents' bucket.
            self.limit(if agent.is_some() { &self.renewals } else { &self.enrollments }, "renew")?;
        }
        let Some((agent, entry)) = agent else {
            self.metrics.inbox("renew", "denied");
            return Ok(Response::new(denied(
                "UnknownKey",
                "no agent has this key: it was removed, or its key was replaced; enroll anew",
            )));
        };
        if let Some(certificate) = certificate {
            let owner = PeerIdentity::Agent { namespace: entry.namespace.clone(), name: entry.name.clone() };
            if certificate.identity != owner || certificate.key.id() != key {
                return Err(Status::permission_denied("csr: is not for the key and agent of the client certificate"));
            }
        }
        self.post("renew", InboxRequest::Renew { request, agent, key }).await
    }
}

/// A join token, or a ServiceAccount's sealed token with what it is for; not both.
fn check_credential(request: &v1::EnrollRequest) -> Result<(), Status> {
    let invalid = |message: String| Err(Status::invalid_argument(message));
    let Some(pass) = &request.service_account else {
        if request.token.len() != 16 {
            return invalid("token: is not the 16 bytes of a join token's secret part".to_owned());
        }
        return Ok(());
    };
    if !request.token.is_empty() {
        return invalid("token: is there beside service_account; show one of them".to_owned());
    }
    if !is_label(&pass.namespace) {
        return invalid("service_account.namespace: is no RFC 1123 label".to_owned());
    }
    let fleets = 1..=MAX_FLEETS;
    if !fleets.contains(&pass.fleets.len()) || !pass.fleets.iter().all(|fleet| is_subdomain(fleet)) {
        return invalid(format!("service_account.fleets: are not 1 to {MAX_FLEETS} names of EdgeFleets"));
    }
    if !(depin_identity::seal::KEY_BYTES + 1..=MAX_SEALED).contains(&pass.sealed_token.len()) {
        return invalid(format!("service_account.sealed_token: is no sealed token of at most {MAX_SEALED} bytes"));
    }
    Ok(())
}

fn read_request(csr: &[u8]) -> Result<CertificateRequest, Status> {
    CertificateRequest::from_der(csr).map_err(|error| Status::invalid_argument(format!("csr: {error}")))
}

fn check_facts(facts: Option<&v1::AgentFacts>) -> Result<(), Status> {
    let Some(v1::AgentFacts { version, hostname, node, architecture }) = facts else { return Ok(()) };
    if [version, hostname, node, architecture].iter().any(|fact| fact.len() > MAX_FACT) {
        return Err(Status::invalid_argument(format!("facts: one is longer than {MAX_FACT} bytes")));
    }
    Ok(())
}

fn denied(reason: &str, message: &str) -> v1::EnrollResponse {
    let denied = v1::Denied { reason: reason.to_owned(), message: message.to_owned() };
    v1::EnrollResponse { result: Some(enroll_response::Result::Denied(denied)) }
}
