//! Who may ask the ledger through the operator: reviewed by the real API server, both ways.

use depin_operator::query::{AUDIENCE, NAMESPACE_HEADER};
use depin_proto::v1::{
    AcquireWriterRequest, GetInfoRequest, LedgerInfo, ReadRegistryRequest, ReleaseHoldRequest,
    ledger_client::LedgerClient,
};
use tonic::{Code, Request, Status, transport::Channel};

use crate::world::{Running, World, eventually};

/// A viewer in `town`, one of everything, and an account that may nothing.
const ACCOUNTS: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: {name: viewer, namespace: town}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: stranger, namespace: town}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: overseer, namespace: depin-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: ledger-query}
rules: [{apiGroups: [depin.dev], resources: [ledger], verbs: [query]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: viewer, namespace: town}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: ledger-query}
subjects: [{kind: ServiceAccount, name: viewer, namespace: town}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: overseer}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: ledger-query}
subjects: [{kind: ServiceAccount, name: overseer, namespace: depin-system}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: reads-whatever-there-is}
rules: [{apiGroups: ['*'], resources: ['*'], verbs: [get, list, watch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: stranger}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: reads-whatever-there-is}
subjects: [{kind: ServiceAccount, name: stranger, namespace: town}]
";

struct Asker<'a> {
    world: &'a World,
    channel: Channel,
}

impl<'a> Asker<'a> {
    fn of(world: &'a World, operator: &Running) -> Self {
        let address = format!("http://{}", operator.query);
        Self { world, channel: tonic::transport::Endpoint::from_shared(address).unwrap().connect_lazy() }
    }

    fn token(&self, namespace: &str, name: &str, audience: &str) -> String {
        let audience = format!("--audience={audience}");
        let made = tokio::task::block_in_place(|| {
            self.world.plane.run_kubectl(&["create", "token", name, "-n", namespace, &audience, "--duration=10m"])
        });
        made.unwrap().trim().to_owned()
    }

    fn client(&self) -> LedgerClient<Channel> {
        LedgerClient::new(self.channel.clone())
    }

    async fn info(&self, token: &str, namespace: &str) -> Result<LedgerInfo, Status> {
        let answer = self.client().get_info(signed(GetInfoRequest {}, token, namespace)).await;
        answer.map(tonic::Response::into_inner)
    }
}

fn signed<T>(message: T, token: &str, namespace: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request.metadata_mut().insert(NAMESPACE_HEADER, namespace.parse().unwrap());
    request
}

/// The same token, made an hour ago, with an end in so many seconds.
fn remade(world: &World, token: &str, seconds: i64) -> String {
    let [head, payload, _] = token.split('.').collect::<Vec<_>>()[..] else { panic!("no token: {token}") };
    let mut claims: serde_json::Value = serde_json::from_slice(&decoded(payload)).unwrap();
    let now = jiff::Timestamp::now().as_second();
    for (claim, at) in [("iat", now - 3_600), ("nbf", now - 3_600), ("exp", now + seconds)] {
        claims[claim] = at.into();
    }
    let signed = format!("{head}.{}", encoded(claims.to_string().as_bytes()));
    let key = std::fs::read_to_string(world.plane.dir().join("service-account.key")).unwrap();
    let signature = rcgen::KeyPair::from_pem(&key).unwrap();
    let der = rcgen::SigningKey::sign(&signature, signed.as_bytes()).unwrap();
    format!("{signed}.{}", encoded(&fixed(&der)))
}

/// The two numbers of an ECDSA signature in DER, 32 bytes each.
fn fixed(der: &[u8]) -> Vec<u8> {
    let first = &der[4..4 + usize::from(der[3])];
    let second = &der[6 + first.len()..];
    let padded = |number: &[u8]| {
        let number = &number[number.len().saturating_sub(32)..];
        [vec![0; 32 - number.len()], number.to_vec()].concat()
    };
    [padded(first), padded(second)].concat()
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Base64 as in tokens: URL's alphabet, without padding.
fn encoded(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        text.extend((0..=chunk.len()).map(|place| char::from(ALPHABET[(bits >> (18 - 6 * place) & 63) as usize])));
    }
    text
}

fn decoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for chunk in text.as_bytes().chunks(4) {
        let value = |byte: &u8| u32::try_from(ALPHABET.iter().position(|known| known == byte).unwrap()).unwrap();
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 6 | value(byte)) << (6 * (4 - chunk.len()));
        bytes.extend(&bits.to_be_bytes()[1..chunk.len()]);
    }
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_viewer_asks_about_its_namespace_and_nobody_else_asks_anything() {
    let world = World::new().await;
    world.apply(ACCOUNTS).unwrap();
    let operator = world.start("leader");
    let asker = Asker::of(&world, &operator);
    let viewer = asker.token("town", "viewer", AUDIENCE);
    // RBAC's caches follow a moment later.
    eventually("the first answer", || async { asker.info(&viewer, "town").await.ok() }).await;

    let overseer = asker.token("depin-system", "overseer", AUDIENCE);
    eventually("the overseer's answer", || async { asker.info(&overseer, "*").await.ok() }).await;
    asker.info(&overseer, "town").await.unwrap();

    let denied = |answer: Result<LedgerInfo, Status>| answer.unwrap_err();
    let other = denied(asker.info(&viewer, "village").await);
    assert_eq!(other.code(), Code::PermissionDenied);
    assert!(other.message().contains("namespace village") && other.message().contains("verbs [query]"), "{other}");
    assert_eq!(denied(asker.info(&viewer, "*").await).code(), Code::PermissionDenied);

    // Whoever may read every resource there is may not ask the ledger.
    let stranger = asker.token("town", "stranger", AUDIENCE);
    assert_eq!(denied(asker.info(&stranger, "town").await).code(), Code::PermissionDenied);

    // A token for the API server is not one for the operator, whoever's it is.
    let default = asker.token("town", "viewer", "https://kubernetes.default.svc");
    assert_eq!(denied(asker.info(&default, "town").await).code(), Code::Unauthenticated);
    let elsewhere = asker.token("town", "viewer", "somewhere-else");
    assert_eq!(denied(asker.info(&elsewhere, "town").await).code(), Code::Unauthenticated);
    for nothing in ["", "nonsense", &"x".repeat(20_000)] {
        let answer = asker.info(nothing, "town").await;
        let code = denied(answer).code();
        assert!(
            matches!(code, Code::Unauthenticated | Code::ResourceExhausted | Code::Internal | Code::Unknown),
            "{code:?}"
        );
    }
    let unsigned = asker.client().get_info(GetInfoRequest {}).await.unwrap_err();
    assert_eq!(unsigned.code(), Code::InvalidArgument, "no namespace is named: {unsigned}");

    // One that was good until a minute ago, signed by the API server's own key.
    let remade = remade(&world, &viewer, 300);
    asker.info(&remade, "town").await.unwrap();
    let expired = self::remade(&world, &viewer, -60);
    assert_eq!(denied(asker.info(&expired, "town").await).code(), Code::Unauthenticated);
    let forged = format!("{}AAAA", &viewer[..viewer.len() - 4]);
    assert_eq!(denied(asker.info(&forged, "town").await).code(), Code::Unauthenticated);

    // A deleted account's token is dead at once.
    world.plane.run_kubectl(&["delete", "serviceaccount", "viewer", "-n", "town"]).unwrap();
    eventually("the end of the token", || async {
        asker.info(&viewer, "town").await.err().filter(|status| status.code() == Code::Unauthenticated)
    })
    .await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_replica_answers_and_none_writes() {
    let world = World::new().await;
    world.apply(ACCOUNTS).unwrap();
    let leader = world.start("first");
    eventually("a leader", || async { (world.ledger.writer() > 0).then_some(()) }).await;
    let waiting = world.start("second");
    let asker = Asker::of(&world, &waiting);
    let overseer = asker.token("depin-system", "overseer", AUDIENCE);
    let info = eventually("an answer of the one that waits", || async { asker.info(&overseer, "*").await.ok() }).await;
    assert_eq!(info.writer_token, world.ledger.writer());

    // A stream comes through too.
    let read = ReadRegistryRequest { after_version: 0, until_version: 0, follow: false };
    let mut records = asker.client().read_registry(signed(read, &overseer, "*")).await.unwrap().into_inner();
    let mut count = 0_u64;
    while records.message().await.unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, world.ledger.registry().version());

    let before = world.ledger.writer();
    let write =
        asker.client().acquire_writer(signed(AcquireWriterRequest { holder: "me".into() }, &overseer, "*")).await;
    assert_eq!(write.unwrap_err().code(), Code::Unimplemented);
    let release = asker.client().release_hold(signed(ReleaseHoldRequest { writer: None }, &overseer, "*")).await;
    assert_eq!(release.unwrap_err().code(), Code::PermissionDenied, "to query is not to release");
    assert_eq!(world.ledger.writer(), before);

    let metric = "depin_operator_queries_total{method=\"AcquireWriter\"";
    let metrics = waiting.ask("/metrics").await.unwrap();
    assert!(!metrics.contains(metric), "no name from outside becomes a label");
    assert!(metrics.contains("depin_operator_queries_total{method=\"other\",result=\"denied\"} 1"), "{metrics}");
    waiting.stop().await;
    leader.stop().await;
}
