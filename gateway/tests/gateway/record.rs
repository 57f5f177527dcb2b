//! The ledger's service: who may read and write what.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use depin_domain::{ids::DeviceId, registry::Change, time::Timestamp};
use depin_gateway::{Clock, Gateway, Limits, server::Settings};
use depin_identity::{CertificateAuthority, PeerIdentity, SigningKey};
use depin_ledger::{EmbeddedLedger, Ledger};
use depin_log::DiskStorage;
use depin_proto::{
    convert::path_from_proto,
    envelope::decode_header,
    v1::{self, ledger_client::LedgerClient},
};
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;
use tonic::{Code, transport::Channel};

use crate::network::{Chain, Network, Stream, invitation, issue, lately, section, write_tls};

fn viewer(network: &Network, namespace: &str) -> LedgerClient<Channel> {
    let peer = PeerIdentity::Viewer { namespace: namespace.into() };
    network.ledger_client(Some(&issue(&network.ca, &peer, SigningKey::generate().unwrap())))
}

async fn records(client: &mut LedgerClient<Channel>) -> usize {
    let mut stream = client.read_registry(v1::ReadRegistryRequest::default()).await.unwrap().into_inner();
    let mut count = 0;
    while stream.message().await.unwrap().is_some() {
        count += 1;
    }
    count
}

#[tokio::test]
async fn neither_strangers_nor_agents_reach_the_ledger() {
    let mut network = Network::start().await;
    let [agent, _] = network.furnish().await;
    let status = network.ledger_client(None).get_info(v1::GetInfoRequest {}).await.unwrap_err();
    // The handshake fails; when the client learns of it decides how it tells that.
    assert!(matches!(status.code(), Code::Unavailable | Code::Unknown), "{status}");
    let mut client = network.ledger_client(Some(&agent.identity));
    assert_eq!(client.get_info(v1::GetInfoRequest {}).await.unwrap_err().code(), Code::PermissionDenied);
    network.stop().await;
}

#[tokio::test]
async fn a_viewer_reads_its_namespace_and_writes_nothing() {
    let mut network = Network::start().await;
    network.furnish().await;
    network.write(&[invitation(&[1; 16])]).await;
    let all = records(&mut network.operator.clone()).await;
    assert_eq!(all, 7);
    let mut own = viewer(&network, "grid");
    assert_eq!(records(&mut own).await, all - 1, "everything but the invitation");
    let mut other = viewer(&network, "water");
    assert_eq!(records(&mut other).await, 1, "the model only");
    let write = v1::WriteRegistryRequest { writer: Some(network.writer), ..Default::default() };
    assert_eq!(own.write_registry(write).await.unwrap_err().code(), Code::PermissionDenied);
    let acquire = v1::AcquireWriterRequest { holder: "viewer".into() };
    assert_eq!(own.acquire_writer(acquire).await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(own.watch_inbox(v1::WatchInboxRequest {}).await.unwrap_err().code(), Code::PermissionDenied);
    let list = v1::ListEpochsRequest { program: "grid/energy".into(), ..Default::default() };
    assert!(own.list_epochs(list.clone()).await.unwrap().into_inner().epochs.is_empty());
    assert_eq!(other.list_epochs(list).await.unwrap_err().code(), Code::PermissionDenied);
    network.stop().await;
}

#[tokio::test]
async fn the_operator_sees_what_a_restore_waits_for_and_releases_it() {
    let mut network = Network::start().await;
    let [one, two] = network.furnish().await;
    let mut chains = [Chain::new(&one.identity.key), Chain::new(&two.identity.key)];
    for (number, agent) in [(1, &one), (2, &two)] {
        let proof = chains[number - 1].seal(&[section(number as u32, 60, &[1])]);
        Stream::begin(network.channel(Some(&agent.identity)).0).await.unwrap().submit(&[proof]).await.unwrap();
    }
    let hold = network.operator.read_hold(v1::ReadHoldRequest::default()).await.unwrap().into_inner();
    assert!(!hold.held && hold.chains.is_empty(), "{hold:?}");

    let mut network = network.restored().await;
    // The first agent says that it has a second proof, which the ledger lacks; the other one is not heard of.
    chains[0].seal(&[section(1, 50, &[2])]);
    let mut stream = Stream::begin(network.channel(Some(&one.identity)).0).await.unwrap();
    stream.open(vec![chains[0].open(2)]).await.unwrap();
    let hold = network.operator.read_hold(v1::ReadHoldRequest::default()).await.unwrap().into_inner();
    let told = |chain: &v1::AwaitedChain| (chain.agent.clone(), chain.sequence, chain.reported_sequence);
    assert_eq!(
        hold.chains.iter().map(told).collect::<Vec<_>>(),
        [("grid/site-1".to_owned(), 1, 2), ("grid/site-2".to_owned(), 1, 0)]
    );
    assert_eq!((hold.held, hold.awaited, hold.incarnation), (true, 2, network.writer.incarnation));
    let first = network.operator.read_hold(v1::ReadHoldRequest { limit: 1 }).await.unwrap().into_inner();
    assert_eq!((first.awaited, first.chains.len()), (2, 1));

    let release = |writer| v1::ReleaseHoldRequest { writer };
    let mut own = viewer(&network, "grid");
    assert_eq!(own.read_hold(v1::ReadHoldRequest::default()).await.unwrap_err().code(), Code::PermissionDenied);
    let refused = own.release_hold(release(Some(network.writer))).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let lost = v1::WriterToken { incarnation: 1, token: network.writer.token };
    for writer in [None, Some(lost)] {
        let refused = network.operator.release_hold(release(writer)).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    }
    assert!(network.operator.get_info(v1::GetInfoRequest {}).await.unwrap().into_inner().closing_held);

    let released = network.operator.release_hold(release(Some(network.writer))).await.unwrap().into_inner();
    assert_eq!(released.awaited, 2);
    assert!(!network.operator.get_info(v1::GetInfoRequest {}).await.unwrap().into_inner().closing_held);
    let again = network.operator.release_hold(release(Some(network.writer))).await.unwrap().into_inner();
    assert_eq!(again.awaited, 0);
    network.stop().await;
}

#[tokio::test]
async fn proofs_are_read_whole_or_by_section_with_a_path() {
    let mut network = Network::start().await;
    let [agent, _] = network.furnish().await;
    network.write(&[Change::Device(crate::network::device(3, &agent, None))]).await;
    let mut stream = Stream::begin(network.channel(Some(&agent.identity)).0).await.unwrap();
    let proof = Chain::new(&agent.identity.key).seal(&[section(1, 60, &[1]), section(3, 60, &[2, 3])]);
    stream.submit(std::slice::from_ref(&proof)).await.unwrap();

    let request =
        v1::ReadProofsRequest { device_id: DeviceId::of("grid", "meter-3").0.to_vec().into(), ..Default::default() };
    let mut whole = network.operator.read_proofs(request.clone()).await.unwrap().into_inner();
    let record = whole.message().await.unwrap().unwrap();
    assert_eq!(record.proof.as_ref().unwrap().sections, proof.sections);
    assert_eq!(record.verdict.unwrap().accepted, 3);
    assert!(whole.message().await.unwrap().is_none());

    let mut own = viewer(&network, "grid");
    let mut shown = own.read_proofs(request.clone()).await.unwrap().into_inner();
    let record = shown.message().await.unwrap().unwrap();
    let shown = record.proof.unwrap();
    assert_eq!(shown.sections, [proof.sections[1].clone()]);
    let path = path_from_proto(&record.paths[0]).unwrap();
    let header = decode_header(&shown.header).unwrap();
    assert_eq!((path.index, path.count), (1, 2));
    assert!(path.verify(&shown.sections[0], &header.body));

    let refused = |status: Result<_, tonic::Status>| async move {
        let mut stream: tonic::Streaming<v1::ProofRecord> = status.unwrap();
        stream.message().await.unwrap_err().code()
    };
    let mut other = viewer(&network, "water");
    let answer = other.read_proofs(request).await.map(tonic::Response::into_inner);
    assert_eq!(refused(answer).await, Code::PermissionDenied);
    let answer = own.read_proofs(v1::ReadProofsRequest::default()).await.map(tonic::Response::into_inner);
    assert_eq!(refused(answer).await, Code::PermissionDenied);
    network.stop().await;
}

#[tokio::test]
async fn a_search_for_a_silent_device_ends_where_it_is_to_be_asked_for_again() {
    let settings = depin_ledger::Settings { scan_bytes: 2_000, ..Default::default() };
    let mut network = Network::start_over(Limits::default(), settings).await;
    let [agent, _] = network.furnish().await;
    network.write(&[Change::Device(crate::network::device(3, &agent, None))]).await;
    let mut stream = Stream::begin(network.channel(Some(&agent.identity)).0).await.unwrap();
    let mut chain = Chain::new(&agent.identity.key);
    let mut proofs: Vec<_> = (0..40).map(|n| chain.seal(&[section(1, 60 + n, &[1])])).collect();
    proofs.push(chain.seal(&[section(3, 60, &[2])]));
    stream.submit(&proofs).await.unwrap();

    let mut own = viewer(&network, "grid");
    let mut request =
        v1::ReadProofsRequest { device_id: DeviceId::of("grid", "meter-3").0.to_vec().into(), ..Default::default() };
    let (mut found, mut requests) = (0, 0);
    loop {
        requests += 1;
        let mut records = own.read_proofs(request.clone()).await.unwrap().into_inner();
        let mut scanned_to = None;
        while let Some(record) = records.message().await.unwrap() {
            assert!(scanned_to.is_none(), "nothing follows the request's end");
            match record.scanned_to {
                0 => found += record.proof.map_or(0, |proof| proof.sections.len()),
                position => scanned_to = Some(position),
            }
        }
        let Some(position) = scanned_to else { break };
        assert!(position > request.after_position);
        request.after_position = position;
    }
    assert_eq!(found, 1);
    assert!(requests > 3, "{requests} requests");
    network.stop().await;
}

#[tokio::test]
async fn a_gateway_that_waits_for_its_certificates_or_has_stopped_gives_no_grace() {
    let directory = tempfile::tempdir().unwrap();
    let hands = Arc::new(AtomicI64::new(0));
    let shown = Arc::clone(&hands);
    let clock = depin_ledger::Clock::new(move || Timestamp(shown.load(Ordering::SeqCst)));
    let storage = DiskStorage::open(directory.path().join("ledger")).unwrap();
    let settings = depin_ledger::Settings { idle_tick_ms: 3_600_000, max_pause_ms: i64::MAX, ..Default::default() };
    let ledger: Arc<dyn Ledger> = Arc::new(EmbeddedLedger::open(Arc::new(storage), settings, clock).unwrap());
    let loopback = "127.0.0.1:0".parse().unwrap();
    let tls_dir = directory.path().to_owned();
    let settings =
        Settings { listen: loopback, ledger_listen: loopback, tls_dir, ca_dir: None, limits: Limits::default() };
    let stop = CancellationToken::new();
    let gateway = Gateway::new(settings, Arc::clone(&ledger), Clock::system(), &mut Registry::default());
    let starting = tokio::spawn(gateway.start(stop.clone()));
    // The first request at a time shows it to the writer, the second one is answered after that.
    let open_at = async |now: i64| {
        hands.store(now, Ordering::SeqCst);
        ledger.info().await.unwrap();
        ledger.info().await.unwrap().open_ms
    };
    assert_eq!((open_at(10_000).await, open_at(20_000).await), (0, 0));
    let ca = CertificateAuthority::create(lately()).unwrap();
    write_tls(directory.path(), &ca, &ca.certificate_pem());
    let running = starting.await.unwrap().unwrap().unwrap();
    assert_eq!((open_at(30_000).await, open_at(40_000).await), (0, 10_000));
    stop.cancel();
    running.finished().await.unwrap();
    assert_eq!(open_at(90_000).await, 10_000);
}

#[tokio::test]
async fn a_follower_sees_changes_as_they_come() {
    let mut network = Network::start().await;
    network.furnish().await;
    let request = v1::ReadRegistryRequest { after_version: 6, until_version: 0, follow: true };
    let mut stream = network.operator.read_registry(request).await.unwrap().into_inner();
    let version = network.write(&[invitation(&[2; 16])]).await;
    assert_eq!(stream.message().await.unwrap().unwrap().version, version);
    network.stop().await;
}

#[tokio::test]
async fn an_older_writer_is_fenced_off() {
    let mut network = Network::start().await;
    let old = network.writer;
    let request = v1::AcquireWriterRequest { holder: "other".into() };
    network.writer = network.operator.acquire_writer(request).await.unwrap().into_inner();
    let request = v1::WriteRegistryRequest { writer: Some(old), ..Default::default() };
    assert_eq!(network.operator.write_registry(request).await.unwrap_err().code(), Code::PermissionDenied);
    network.write(&[invitation(&[3; 16])]).await;
    network.stop().await;
}
