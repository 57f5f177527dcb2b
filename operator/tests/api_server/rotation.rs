//! The certificate authority is rotated: by a person's word, and by somebody who puts another one in place.

use std::collections::BTreeMap;

use depin_crds::EdgeFleet;
use depin_domain::{
    ids::{AgentId, Digest},
    time::{Timestamp, Window},
};
use depin_identity::{
    CertificateAuthority, CertificateRequest, JoinToken, SigningKey,
    certificates::{certificates, is_signed_by},
    trust::adopt,
};
use depin_operator::clock::Clock;
use depin_proto::v1::{RenewRequest, RenewalEntry, enroll_response::Result as Answer, inbox_entry::Entry};
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams, PostParams},
};
use rustls_pki_types::CertificateDer;
use serde_json::json;

use crate::{
    objects::{FLEET, MODEL, enrollment},
    world::{World, enroll, eventually, registered},
};

type Chain = Vec<CertificateDer<'static>>;

/// What everyone is told: the CAs, and what they say for each other.
async fn published(world: &World) -> (Chain, Chain) {
    let maps: Api<ConfigMap> = Api::namespaced(world.client.clone(), "depin-system");
    let data = maps.get("depin-ca").await.unwrap().data.unwrap();
    let vouchers =
        if data["vouchers.crt"].is_empty() { Vec::new() } else { certificates(&data["vouchers.crt"]).unwrap() };
    let ca = certificates(&data["ca.crt"]).unwrap();
    assert_eq!(Digest::of(&ca[0]).to_string(), data["sha256"], "join tokens carry the one that issues");
    (ca, vouchers)
}

async fn gateway(world: &World) -> (Chain, BTreeMap<String, ByteString>) {
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), "depin-system");
    let data = secrets.get("depin-gateway-tls").await.unwrap().data.unwrap();
    (certificates(std::str::from_utf8(&data["tls.crt"].0).unwrap()).unwrap(), data)
}

async fn say(world: &World, word: &str) {
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), "depin-system");
    let patch = json!({"metadata": {"annotations": {word: "a person"}}});
    secrets.patch("depin-ca", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
}

async fn until_published(world: &World, what: &str, wanted: impl Fn(&Chain) -> bool) -> (Chain, Chain) {
    eventually(what, || async { Some(published(world).await).filter(|(ca, _)| wanted(ca)) }).await
}

/// The issued certificate and the CAs that came with it.
fn issued(answer: Answer) -> (CertificateDer<'static>, Chain) {
    let Answer::Issued(issued) = answer else { panic!("{answer:?}") };
    (certificates(&issued.chain).unwrap().remove(0), certificates(&issued.ca).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_is_told_first_then_used_and_ends_with_a_persons_word() {
    let world = World::new().await;
    let flags = ["--ca-introduction", "15s"];
    let operator = world.start_with("one", Clock::system(), &flags);
    world.apply(MODEL).unwrap();
    world.apply(FLEET).unwrap();
    condition!(world, EdgeFleet, "homes", "Ready", "True");
    let (first, none) = published(&world).await;
    assert_eq!((first.len(), none.len()), (1, 0));
    let token = JoinToken::new([7; 16], Digest([0; 32]));
    world.apply(&enrollment(&token)).unwrap();
    registered(&world, "the invitation", |registry| registry.invitation(&token.hash()).is_some()).await;
    let key = SigningKey::from_seed(&[5; 32]);
    let (leaf, told) = issued(enroll(&world, &token, &key, "roof-5").await);
    assert!(is_signed_by(&leaf, &first[0]) && told == first);
    let id = AgentId::of("town", "roof-5");
    registered(&world, "the agent", |registry| registry.agent(&id).is_some()).await;
    let renew = async |occasion| {
        let csr = CertificateRequest::make_renewal(&key, Timestamp(occasion)).unwrap();
        let request = RenewRequest { csr: csr.into(), ..RenewRequest::default() };
        let entry = RenewalEntry { agent_id: id.0.to_vec().into(), request: Some(request), ..RenewalEntry::default() };
        let posted = world.ledger.post(Entry::Renew(entry));
        issued(eventually("an answer", || async { world.ledger.answer(posted) }).await.unwrap().result.unwrap())
    };

    say(&world, "depin.dev/rotate").await;
    let (both, vouchers) = until_published(&world, "the introduction", |ca| ca.len() == 2).await;
    assert_eq!(both[0], first[0], "the old one issues still");
    let (leaf, told) = renew(1).await;
    assert!(is_signed_by(&leaf, &first[0]) && told == both);
    assert_eq!(adopt(&first, &both, &vouchers, Timestamp(jiff::Timestamp::now().as_millisecond())), both);
    let before = gateway(&world).await.0;

    let second = both[1].clone();
    until_published(&world, "the change", |ca| ca[0] == second).await;
    let (leaf, told) = renew(2).await;
    assert!(is_signed_by(&leaf, &second) && told == [second.clone(), first[0].clone()]);
    let (chain, data) = eventually("the gateway's new certificate", || async {
        Some(gateway(&world).await).filter(|(chain, _)| is_signed_by(&chain[0], &second))
    })
    .await;
    assert_ne!(chain, before);
    // Who was dark and trusts the first one alone comes from there to the gateway's certificate.
    let vouchers = certificates(std::str::from_utf8(&data["vouchers.crt"].0).unwrap()).unwrap();
    assert!(vouchers.iter().any(|voucher| is_signed_by(voucher, &first[0]) && is_signed_by(&chain[0], voucher)));
    // The old key is nowhere any more, and the word is taken.
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), "depin-system");
    let kept = secrets.get("depin-ca").await.unwrap();
    assert!(!kept.annotations().contains_key("depin.dev/rotate") && !kept.data.unwrap().contains_key("next.key"));

    // Another operator goes on from there.
    operator.stop().await;
    let operator = world.start_with("two", Clock::system(), &flags);
    say(&world, "depin.dev/retire").await;
    let (last, vouchers) = until_published(&world, "the end of the old one", |ca| ca.len() == 1).await;
    assert_eq!((last, vouchers.len()), (vec![second], 0));
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_that_somebody_brings_is_used_and_the_one_before_is_trusted_on() {
    let world = World::new().await;
    let now = Timestamp(jiff::Timestamp::now().as_millisecond());
    let lately = || Window { start: now.plus(-3_600_000), end: now.plus(86_400_000) };
    let (own, next) =
        (CertificateAuthority::create(lately()).unwrap(), CertificateAuthority::create(lately()).unwrap());
    let brought = |authority: &CertificateAuthority| {
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "depin-ca", "namespace": "depin-system"},
            "type": "kubernetes.io/tls",
            "stringData": {"tls.crt": format!("# ours\n{}", authority.certificate_pem()), "tls.key": authority.key_pem().as_str()},
        })
    };
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), "depin-system");
    let secret = serde_json::from_value(brought(&own)).unwrap();
    secrets.create(&PostParams::default(), &secret).await.unwrap();
    let operator = world.start("one");
    let maps: Api<ConfigMap> = Api::namespaced(world.client.clone(), "depin-system");
    eventually("the CA", || async { maps.get_opt("depin-ca").await.unwrap() }).await;
    assert_eq!(published(&world).await.0, [own.certificate().clone()]);
    eventually("the gateway's certificate", || async { secrets.get_opt("depin-gateway-tls").await.unwrap() }).await;
    assert!(is_signed_by(&gateway(&world).await.0[0], own.certificate()));
    // It is replaced in place, as cert-manager does.
    let patch = PatchParams::apply("somebody").force();
    secrets.patch("depin-ca", &patch, &Patch::Apply(brought(&next))).await.unwrap();
    let (both, vouchers) = until_published(&world, "both", |ca| ca.len() == 2).await;
    assert_eq!(both, [next.certificate().clone(), own.certificate().clone()]);
    assert_eq!(adopt(&both[1..], &both, &vouchers, now), both);
    let kept = secrets.get("depin-ca").await.unwrap().data.unwrap();
    assert!(kept["tls.crt"].0.starts_with(b"# ours"), "what somebody brought stays as it is");
    operator.stop().await;
}
