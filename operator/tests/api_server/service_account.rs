//! Agents in the cluster: who is let in by the token of a ServiceAccount, and under which name.

use depin_crds::{EdgeAgent, EdgeFleet};
use depin_domain::ids::AgentId;
use depin_identity::{CertificateInfo, CertificateRequest, Pass, PeerIdentity, SigningKey, seal};
use depin_proto::v1::{EnrollRequest, ServiceAccountPass, enroll_response::Result as Answer, inbox_entry::Entry};
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{Pod, Secret, ServiceAccount},
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, PostParams},
};

use crate::{
    forged,
    objects::{FLEET, MODEL},
    world::{World, eventually, registered},
};

const AUDIENCE: &str = "depin-gateway";

/// Pods of one ServiceAccount on two nodes, and one of another.
const CLUSTER: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: edge}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: depin-agent, namespace: edge}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: other, namespace: edge}
---
apiVersion: v1
kind: Node
metadata: {name: edge-1}
---
apiVersion: v1
kind: Node
metadata: {name: edge-2}
";

fn pod(name: &str, account: &str, node: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: edge}}\nspec: {{serviceAccountName: {account}, nodeName: {node}, \
         automountServiceAccountToken: false, containers: [{{name: agent, image: unused}}]}}\n"
    )
}

/// The token that the kubelet projects into this Pod.
async fn token(world: &World, pod: &str, audience: &str) -> String {
    let pods: Api<Pod> = Api::namespaced(world.client.clone(), "edge");
    let found = pods.get(pod).await.unwrap();
    let account = found.spec.clone().unwrap().service_account_name.unwrap();
    let bound = BoundObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        name: Some(pod.to_owned()),
        uid: found.uid(),
    };
    request(world, &account, Some(bound), audience).await
}

async fn request(world: &World, account: &str, bound: Option<BoundObjectReference>, audience: &str) -> String {
    let accounts: Api<ServiceAccount> = Api::namespaced(world.client.clone(), "edge");
    let spec = TokenRequestSpec {
        audiences: Some(vec![audience.to_owned()]),
        bound_object_ref: bound,
        expiration_seconds: Some(600),
    };
    let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
    let made = accounts.create_token_request(account, &PostParams::default(), &request).await.unwrap();
    made.status.unwrap().token.unwrap()
}

/// What an agent sends: the token, sealed to the operator.
async fn sealed(world: &World, key: &SigningKey, token: &str, name: &str, fleets: &[&str]) -> EnrollRequest {
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), "depin-system");
    let data = secrets.get("depin-gateway-tls").await.unwrap().data.unwrap();
    let sealing = seal::public_key(std::str::from_utf8(&data["sealing.pub"].0).unwrap()).unwrap();
    let fleets: Vec<_> = fleets.iter().map(|fleet| (*fleet).to_owned()).collect();
    let csr = CertificateRequest::make(key).unwrap();
    let pass = Pass { csr: &csr, name, namespace: "town", fleets: &fleets };
    let sealed_token = pass.seal(&sealing, token).unwrap().into();
    EnrollRequest {
        csr: csr.into(),
        name: name.to_owned(),
        service_account: Some(ServiceAccountPass { namespace: "town".into(), fleets, sealed_token }),
        ..EnrollRequest::default()
    }
}

async fn ask(world: &World, request: EnrollRequest) -> Answer {
    let id = world.ledger.post(Entry::Enroll(request));
    eventually("an answer", || async { world.ledger.answer(id) }).await.unwrap().result.unwrap()
}

async fn enroll(world: &World, seed: u8, token: &str, name: &str) -> Answer {
    let request = sealed(world, &SigningKey::from_seed(&[seed; 32]), token, name, &["homes"]).await;
    ask(world, request).await
}

#[track_caller]
fn denied(answer: &Answer, reason: &str) {
    assert!(matches!(answer, Answer::Denied(denied) if denied.reason == reason), "{answer:?}");
}

#[track_caller]
fn issued(answer: Answer, name: &str) {
    let Answer::Issued(issued) = answer else { panic!("{answer:?}") };
    let peer = PeerIdentity::Agent { namespace: "town".into(), name: name.into() };
    assert_eq!(CertificateInfo::from_pem(&issued.chain).unwrap().identity, peer);
    assert_eq!((issued.name.as_str(), issued.namespace.as_str()), (name, "town"));
}

async fn world() -> World {
    let world = World::new().await;
    world.apply(CLUSTER).unwrap();
    world.apply(&pod("agent-1", "depin-agent", "edge-1")).unwrap();
    world.apply(&pod("agent-2", "depin-agent", "edge-2")).unwrap();
    world.apply(&pod("other-1", "other", "edge-1")).unwrap();
    world.apply(MODEL).unwrap();
    world
}

/// The fleet whose namespace lets these ServiceAccounts in.
fn fleet(accounts: &str) -> String {
    FLEET.replace("{policy: Token}", &format!("{{policy: Token, serviceAccounts: [{accounts}]}}"))
}

const OURS: &str = "{namespace: edge, name: depin-agent}";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_account_that_the_fleet_names_brings_an_agent_in_under_its_nodes_name() {
    let world = world().await;
    let operator = world.start("one");
    for wrong in [&format!("{OURS}, {OURS}"), "{namespace: Edge, name: a}", "{namespace: edge}", ""] {
        assert!(world.apply(&fleet(wrong)).is_err(), "{wrong}");
    }
    world.apply(FLEET).unwrap();
    condition!(world, EdgeFleet, "homes", "Ready", "True");
    let shown = token(&world, "agent-1", AUDIENCE).await;
    denied(&enroll(&world, 1, &shown, "").await, "NotAllowed");
    world.apply(&fleet(OURS)).unwrap();
    eventually("the policy", || async {
        matches!(enroll(&world, 1, &shown, "").await, Answer::Issued(_)).then_some(())
    })
    .await;
    let agents: Api<EdgeAgent> = world.api();
    let agent = agents.get("edge-1").await.unwrap();
    assert_eq!((agent.spec.node.as_deref(), agent.spec.fleets.as_slice()), (Some("edge-1"), &["homes".to_owned()][..]));
    assert_eq!(agent.annotations()["depin.dev/service-account"], "edge/depin-agent");
    condition!(world, EdgeAgent, "edge-1", "Ready", "True");
    // The kubelet has rotated the token meanwhile, the agent has its key: the same agent, also by its Pod's right name.
    let rotated = token(&world, "agent-1", AUDIENCE).await;
    issued(enroll(&world, 1, &rotated, "edge-1").await, "edge-1");
    // A second node is a second agent.
    let second = token(&world, "agent-2", AUDIENCE).await;
    issued(enroll(&world, 2, &second, "").await, "edge-2");
    assert_eq!(agents.list(&ListParams::default()).await.unwrap().items.len(), 2);
    // Nothing in the cluster repeats a token.
    let told = tokio::task::block_in_place(|| {
        world.plane.run_kubectl(&["get", "edgeagents,edgefleets,events,configmaps", "-A", "-o", "json"]).unwrap()
    });
    for token in [shown, rotated, second] {
        let signature = token.rsplit('.').next().unwrap();
        assert!(!told.contains(signature), "a token is told");
    }
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_not_for_this_or_not_its_own_lets_nobody_in() {
    let world = world().await;
    let operator = world.start("one");
    world.apply(&fleet(OURS)).unwrap();
    condition!(world, EdgeFleet, "homes", "Ready", "True");
    let good = token(&world, "agent-1", AUDIENCE).await;
    // For the API server itself; of another account; expired; changed; of a Pod that is gone.
    let for_the_api = token(&world, "agent-1", "https://kubernetes.default.svc").await;
    denied(&enroll(&world, 1, &for_the_api, "").await, "InvalidToken");
    let others = token(&world, "other-1", AUDIENCE).await;
    denied(&enroll(&world, 1, &others, "").await, "NotAllowed");
    let key = std::fs::read_to_string(world.plane.dir().join("service-account.key")).unwrap();
    denied(&enroll(&world, 1, &forged::expired(&good, &key), "").await, "InvalidToken");
    denied(&enroll(&world, 1, &forged::unsigned(&good), "").await, "InvalidToken");
    denied(&enroll(&world, 1, "rubbish", "").await, "InvalidToken");
    issued(enroll(&world, 1, &forged::again(&good, &key), "").await, "edge-1");
    let orphan = token(&world, "agent-2", AUDIENCE).await;
    let pods: Api<Pod> = Api::namespaced(world.client.clone(), "edge");
    pods.delete("agent-2", &DeleteParams::default().grace_period(0)).await.unwrap();
    eventually("the end of the Pod", || async { pods.get_opt("agent-2").await.unwrap().is_none().then_some(()) }).await;
    denied(&enroll(&world, 2, &orphan, "").await, "InvalidToken");
    // A request that somebody changed on its way, or that goes with another's pass.
    let mine = sealed(&world, &SigningKey::from_seed(&[3; 32]), &good, "", &["homes"]).await;
    let theirs = CertificateRequest::make(&SigningKey::from_seed(&[4; 32])).unwrap();
    denied(&ask(&world, EnrollRequest { csr: theirs.into(), ..mine }).await, "NotSealedToUs");
    // A fleet that is not there, and one that is beside one that is not.
    let key = SigningKey::from_seed(&[5; 32]);
    for fleets in [&["offices"][..], &["homes", "offices"]] {
        denied(&ask(&world, sealed(&world, &key, &good, "", fleets).await).await, "NotAllowed");
    }
    let agents: Api<EdgeAgent> = world.api();
    assert_eq!(agents.list(&ListParams::default()).await.unwrap().items.len(), 1);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_its_nodes_and_a_lost_disk_is_a_persons_decision() {
    let world = world().await;
    let operator = world.start("one");
    world.apply(&fleet(OURS)).unwrap();
    condition!(world, EdgeFleet, "homes", "Ready", "True");
    let (first, second) = (token(&world, "agent-1", AUDIENCE).await, token(&world, "agent-2", AUDIENCE).await);
    // Neither before nor after it came does another node get its name.
    denied(&enroll(&world, 2, &second, "edge-1").await, "NotItsName");
    issued(enroll(&world, 1, &first, "").await, "edge-1");
    denied(&enroll(&world, 2, &second, "edge-1").await, "NotItsName");
    issued(enroll(&world, 2, &second, "agent-2").await, "agent-2");
    condition!(world, EdgeAgent, "edge-1", "Ready", "True");

    // The disk is lost: another key under the same name. It is told, and nothing changes.
    denied(&enroll(&world, 7, &first, "").await, "OtherKey");
    let told = condition!(world, EdgeAgent, "edge-1", "OtherKeyAsked", "True");
    assert!(told.message.contains("kubectl delete edgeagent edge-1"), "{}", told.message);
    eventually("the Event", || async { (world.events("edge-1", "OtherKeyAsked").await.len() == 1).then_some(()) })
        .await;
    issued(enroll(&world, 1, &first, "").await, "edge-1");
    condition!(world, EdgeAgent, "edge-1", "OtherKeyAsked", "False");
    denied(&enroll(&world, 7, &first, "").await, "OtherKey");

    // A person says that it is gone for good: the new key comes in, the old one never again.
    let agents: Api<EdgeAgent> = world.api();
    agents.delete("edge-1", &DeleteParams::default()).await.unwrap();
    let id = AgentId::of("town", "edge-1");
    registered(&world, "the removal", |registry| registry.agent(&id).is_none()).await;
    denied(&enroll(&world, 1, &first, "").await, "KeyRevoked");
    issued(enroll(&world, 7, &first, "").await, "edge-1");
    condition!(world, EdgeAgent, "edge-1", "Ready", "True");
    denied(&enroll(&world, 1, &first, "").await, "OtherKey");

    // Who may ask the API server for tokens that are bound to nothing names the agent; the rules of a name stay.
    let unbound = request(&world, "depin-agent", None, AUDIENCE).await;
    denied(&enroll(&world, 8, &unbound, "").await, "NoName");
    denied(&enroll(&world, 8, &unbound, "edge-1").await, "OtherKey");
    issued(enroll(&world, 8, &unbound, "roof-8").await, "roof-8");
    operator.stop().await;
}
