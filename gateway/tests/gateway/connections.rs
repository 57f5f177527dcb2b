//! How connections begin and end: old ones in order, floods without taking a place from anybody.

use std::{sync::Arc, time::Duration};

use depin_gateway::Limits;
use depin_proto::v1::{self, enrollment_client::EnrollmentClient};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::{Code, transport::Channel};

use crate::network::{Agent, Chain, Network, Stream, section, told};

/// A counter's or gauge's value; none: nothing was counted yet.
fn metric(network: &Network, line: &str) -> Option<u64> {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &network.metrics).unwrap();
    let value = text.lines().find_map(|told| told.strip_prefix(line)?.strip_prefix(' '))?;
    Some(value.parse().unwrap())
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn stream(network: &Network, agent: &Agent) -> Stream {
    Stream::begin(network.channel(Some(&agent.identity)).0).await.unwrap()
}

#[tokio::test]
async fn streams_of_an_old_connection_end_in_order_and_nothing_is_lost_or_taken_twice() {
    let limits = Limits { max_connection_age: Duration::from_secs(1), ..Limits::default() };
    let mut network = Network::start_with(limits).await;
    let [agent, _] = network.furnish().await;
    let mut chain = Chain::new(&agent.identity.key);
    let (mut sealed, mut judged, mut waiting) = (0, 0, None);
    for _ in 0..3 {
        let mut open = stream(&network, &agent).await;
        open.open(vec![chain.open(judged + 1)]).await.unwrap();
        loop {
            let proof = waiting.take().unwrap_or_else(|| {
                sealed += 1;
                chain.seal(&[section(1, 3_500 - sealed, &[1])])
            });
            // An end in order; anything else is an error.
            let Some(outcomes) = open.submit_or_end(std::slice::from_ref(&proof)).await.unwrap() else {
                waiting = Some(proof);
                break;
            };
            assert_eq!(outcomes.iter().map(told).collect::<Vec<_>>(), ["judged 1"], "none was judged unanswered");
            judged += 1;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    assert!(judged > 0 && judged < 3_500);
    let info = network.operator.get_info(v1::GetInfoRequest {}).await.unwrap().into_inner();
    assert_eq!((info.readings_accepted, info.readings_rejected.len()), (judged, 0));
    assert_eq!(metric(&network, r#"depin_proof_streams_ended_total{reason="age"}"#), Some(3));
    network.stop().await;
}

/// Asks for an enrollment that cannot be; the answer tells that the gateway was reached.
async fn ask(channel: &Channel) -> Code {
    EnrollmentClient::new(channel.clone()).enroll(v1::EnrollRequest::default()).await.unwrap_err().code()
}

#[tokio::test]
async fn silent_connections_shorten_each_others_stay_and_keep_nobody_out() {
    let network = &mut Network::start_with(Limits { handshakes: 4, ..Limits::default() }).await;
    let [agent, _] = network.furnish().await;
    let address = network.agents_address().trim_start_matches("https://").to_owned();
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(TcpStream::connect(&address).await.unwrap());
    }
    // However many sit there, who speaks gets through.
    let mut open = stream(network, &agent).await;
    assert!(open.open(Vec::new()).await.is_ok());
    let crowded = r#"depin_connections_ended_total{reason="handshakes_crowded"}"#;
    until("36 displaced connections", || metric(network, crowded).is_some_and(|count| count >= 36)).await;
    let mut byte = [0];
    assert_eq!(silent[0].read(&mut byte).await.unwrap_or(0), 0, "the first is closed");
}

#[tokio::test]
async fn a_rush_waits_in_order_and_nobody_of_it_is_turned_away() {
    let network = &mut Network::start_with(Limits { handshakes: 4, ..Limits::default() }).await;
    let rush: Vec<_> = (0..40).map(|_| network.channel(None).0).collect();
    let answers = futures::future::join_all(rush.iter().map(ask)).await;
    assert!(answers.iter().all(|code| *code == Code::InvalidArgument), "{answers:?}");
    for reason in ["handshakes_crowded", "handshake_slow", "handshake_failed", "handshake_given_up"] {
        let ended = metric(network, &format!("depin_connections_ended_total{{reason=\"{reason}\"}}"));
        assert_eq!(ended.unwrap_or(0), 0, "{reason}");
    }
}

#[tokio::test]
async fn who_greets_and_does_not_answer_holds_nobody_up() {
    let network = &mut Network::start_with(Limits { handshakes: 4, ..Limits::default() }).await;
    let [agent, _] = network.furnish().await;
    let address = network.agents_address().trim_start_matches("https://").to_owned();
    let hello = hello();
    let mut greeters = Vec::new();
    for _ in 0..12 {
        let mut greeter = TcpStream::connect(&address).await.unwrap();
        greeter.write_all(&hello).await.unwrap();
        greeters.push(greeter);
    }
    // Each has its turn, which is short; four of them may go on being slow, and the others go.
    let mut open = stream(network, &agent).await;
    assert!(open.open(Vec::new()).await.is_ok());
    let crowded = r#"depin_connections_ended_total{reason="handshakes_crowded"}"#;
    until("eight displaced ones", || metric(network, crowded).is_some_and(|count| count >= 8)).await;
}

/// The first message of a handshake.
fn hello() -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let settings = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let settings = settings.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    let name = "gateway".try_into().unwrap();
    let mut bytes = Vec::new();
    rustls::ClientConnection::new(Arc::new(settings), name).unwrap().write_tls(&mut bytes).unwrap();
    bytes
}

#[tokio::test]
async fn strangers_take_no_place_from_agents_and_newer_ones_displace_older_ones() {
    let limits = Limits { stranger_connections: 2, connections: 2, ..Limits::default() };
    let network = &mut Network::start_with(limits).await;
    let [one, two] = network.furnish().await;
    let mut strangers = Vec::new();
    for _ in 0..6 {
        let (channel, _) = network.channel(None);
        assert_eq!(ask(&channel).await, Code::InvalidArgument);
        strangers.push(channel);
    }
    let crowded = r#"depin_connections_ended_total{reason="strangers_crowded"}"#;
    until("four displaced strangers", || metric(network, crowded) == Some(4)).await;
    let (_first, _second) = (stream(network, &one).await, stream(network, &two).await);
    // Agents have both of their places now; who wants to enroll still gets through.
    assert_eq!(ask(&network.channel(None).0).await, Code::InvalidArgument);
}

#[tokio::test]
async fn an_agent_has_so_many_connections_and_its_newest_ones_live() {
    let network = &mut Network::start_with(Limits { agent_connections: 2, ..Limits::default() }).await;
    let [one, two] = network.furnish().await;
    let mut other = stream(network, &two).await;
    let mut streams = vec![stream(network, &one).await, stream(network, &one).await];
    for open in &mut streams {
        open.open(Vec::new()).await.unwrap();
    }
    streams.push(stream(network, &one).await);
    assert!(streams[2].open(Vec::new()).await.is_ok());
    let crowded = r#"depin_connections_ended_total{reason="caller_crowded"}"#;
    until("the displaced connection", || metric(network, crowded) == Some(1)).await;
    assert!(streams[0].submit_or_end(&[]).await.is_err(), "the oldest broke");
    assert!(streams[1].open(Vec::new()).await.is_ok());
    assert!(other.open(Vec::new()).await.is_ok(), "another agent does not notice");
}
