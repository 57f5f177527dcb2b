//! The way to the gateway: several addresses, proxies, silent hosts.

use depin_agent::metrics::EndpointLabel;
use depin_identity::Route;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
};

use super::*;

const MQTT: [&str; 2] = ["--mqtt-listen", "127.0.0.1:0"];

/// An agent of `gateway` that is told these addresses, by way of further settings.
fn told(folder: &Path, gateway: &Gateway, addresses: &[&str], settings: &str) -> AgentOptions {
    let urls = addresses.join(",");
    let mut options = options_with(folder, gateway, &MQTT, &format!("sealIntervalMs: 20\n{settings}"));
    let (config, state) = (folder.join("agent.yaml"), folder.join("state"));
    let again = ["depin-agent", "--gateway", &urls, "--config", config.to_str().unwrap()];
    let again = again.into_iter().chain(["--state-dir", state.to_str().unwrap()]).chain(MQTT);
    options.uplink.gateways = AgentOptions::resolve(&Arguments::parse_from(again)).unwrap().uplink.gateways;
    options
}

fn label(address: &str) -> EndpointLabel {
    EndpointLabel::of(&Route::direct(address))
}

/// A host that takes connections and never says a word, as behind a firewall that answers for others.
async fn silent() -> (String, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://{}", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        let mut taken = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            taken.push(stream);
        }
    });
    (address, task)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_and_dead_gateways_are_left_for_one_that_answers() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(configuration(1, &model(true), &["a"])).await;
    let (silent, task) = silent().await;
    // Nobody listens at a port that was given back.
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (dead, live) = (format!("https://{dead}"), gateway.url());
    let options = told(folder.path(), &gateway, &[&silent, &dead, &live], "connectTimeoutSeconds: 1\n");
    let agent = Agent::start(options).await.unwrap();
    publish(agent.listener.unwrap(), "one", 0..50, &["a"]).await;
    gateway.until("all readings", |ledger| complete(ledger, 0..50)).await;
    let metrics = &agent.metrics;
    let failures = |address: &str| metrics.gateway_failures.get_or_create(&label(address)).get();
    assert_eq!((failures(&silent), failures(&dead), failures(&live)), (1, 1, 0), "each was tried once");
    assert_eq!(metrics.endpoint.get_or_create(&label(&live)).get(), 1);
    assert_eq!(metrics.endpoint.get_or_create(&label(&silent)).get(), 0);
    gateway.until("the status", |ledger| ledger.status.is_some()).await;
    gateway.look(|ledger| assert_eq!(ledger.status.as_ref().unwrap().gateway, live));
    agent.stop().await;
    task.abort();
}

/// A proxy that opens tunnels for whoever signs in; a fake of the few lines that CONNECT needs. It tells what it was asked.
async fn tunnelling_proxy(
    authorization: &'static str,
) -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<String>, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (told, asked) = tokio::sync::mpsc::unbounded_channel();
    let task = tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let told = told.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = near.read_u8().await else { return };
                    head.push(byte);
                }
                let head = String::from_utf8(head).unwrap();
                let target = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()).unwrap().to_owned();
                let _ = told.send(head.lines().next().unwrap().to_owned());
                if !head.contains(&format!("Proxy-Authorization: {authorization}\r\n")) {
                    let _ = near
                        .write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                        .await;
                    return;
                }
                let mut far = TcpStream::connect(target).await.unwrap();
                near.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
                let _ = copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    (address, asked, task)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_tunnels_to_the_gateway_and_a_wrong_password_is_told_without_showing_it() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(configuration(1, &model(true), &["a"])).await;
    // site-7:open
    let (proxy, mut asked, task) = tunnelling_proxy("Basic c2l0ZS03Om9wZW4=").await;
    let url = folder.path().join("proxy");
    fs::write(&url, format!("http://site-7:shut@{proxy}\n")).unwrap();
    let settings = format!("proxy:\n  urlFile: {}\n", url.display());
    let live = gateway.url();
    let agent = Agent::start(told(folder.path(), &gateway, &[&live], &settings)).await.unwrap();
    let wanted = format!("CONNECT {} HTTP/1.1", gateway.address);
    assert_eq!(asked.recv().await.unwrap(), wanted);
    let failures = || agent.metrics.gateway_failures.get_or_create(&label(&live)).get();
    while failures() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    gateway.look(|ledger| assert!(ledger.issued.is_empty(), "nothing came through"));
    agent.stop().await;
    // The right one: enrollment, configuration and proofs all go through the tunnel, and only there.
    fs::write(&url, format!("http://site-7:open@{proxy}\n")).unwrap();
    let agent = Agent::start(told(folder.path(), &gateway, &[&live], &settings)).await.unwrap();
    publish(agent.listener.unwrap(), "one", 0..50, &["a"]).await;
    gateway.until("all readings", |ledger| complete(ledger, 0..50)).await;
    gateway.look(|ledger| assert!(ledger.readings.values().all(|(_, count)| *count == 1), "nothing twice"));
    task.abort();
    agent.stop().await;
}
