//! The agent where hardware and broker keep strangers out: TLS, user names and client certificates on both sides.

use std::{os::unix::fs::PermissionsExt as _, sync::Arc};

use depin_domain::time::{Timestamp, Window};
use depin_identity::{
    authority::CertificateAuthority,
    certificates::{self, CertificateRequest},
    keys::SigningKey,
    peer::PeerIdentity,
};
use rumqttc::{TlsConfiguration, Transport};
use rustls::{ClientConfig, RootCertStore, crypto::ring};

use super::*;

/// A CA with a server's and a client's certificate as files.
struct Site {
    folder: tempfile::TempDir,
    authority: CertificateAuthority,
}

impl Site {
    fn new() -> Self {
        let authority = CertificateAuthority::create(validity()).unwrap();
        let site = Self { folder: tempfile::tempdir().unwrap(), authority };
        // The broker gives its root privileges up before it reads some of its files.
        fs::set_permissions(site.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(site.path("ca.crt"), site.authority.certificate_pem()).unwrap();
        site.certify("server", &PeerIdentity::Gateway);
        site.certify("client", &PeerIdentity::Agent { namespace: "site".to_owned(), name: "one".to_owned() });
        fs::write(site.path("password"), "long and secret\n").unwrap();
        site
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn certify(&self, name: &str, identity: &PeerIdentity) {
        let key = SigningKey::generate().unwrap();
        let request = CertificateRequest::from_der(&CertificateRequest::make(&key).unwrap()).unwrap();
        let hosts = ["127.0.0.1".to_owned()];
        let pem = self.authority.issue(&request, identity, &hosts, validity()).unwrap();
        fs::write(self.path(&format!("{name}.crt")), pem).unwrap();
        fs::write(self.path(&format!("{name}.key")), key.to_pem().as_bytes()).unwrap();
        fs::set_permissions(self.path(&format!("{name}.key")), fs::Permissions::from_mode(0o644)).unwrap();
    }

    /// What hardware knows: the CA, and its own certificate if it has one.
    fn hardware(&self, certified: bool) -> Transport {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.certificate().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = if certified {
            let chain = certificates::certificates(&fs::read_to_string(self.path("client.crt")).unwrap()).unwrap();
            let key = fs::read_to_string(self.path("client.key")).unwrap();
            builder.with_client_auth_cert(chain, SigningKey::from_pem(&key, "key").unwrap().to_tls()).unwrap()
        } else {
            builder.with_no_client_auth()
        };
        Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(config)))
    }

    /// Starts mosquitto with a TLS listener that demands certificate and password.
    fn broker(&self) -> Option<Broker> {
        let folder = self.path("broker");
        fs::create_dir_all(&folder).unwrap();
        let made = Command::new("mosquitto_passwd")
            .args(["-b", "-c", self.path("users").to_str().unwrap(), "agent", "long and secret"])
            .stderr(Stdio::null())
            .status();
        if !made.is_ok_and(|status| status.success()) {
            println!("skipped: mosquitto_passwd is not installed (apt-get install mosquitto)");
            return None;
        }
        fs::set_permissions(self.path("users"), fs::Permissions::from_mode(0o644)).unwrap();
        let file = |name: &str| self.path(name).display().to_string();
        let more = format!(
            "allow_anonymous false\npassword_file {}\ncafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\n",
            file("users"),
            file("ca.crt"),
            file("server.crt"),
            file("server.key")
        );
        Broker::start_with(&folder, None, &more)
    }

    /// The agent's settings for `section` and nothing else.
    fn settings(&self, folder: &Path, gateway: &Gateway, section: &str) -> AgentOptions {
        let text = section.replace("SITE", &self.folder.path().display().to_string());
        options_with(folder, gateway, &[], &format!("sealIntervalMs: 20\nstatusIntervalSeconds: 1\n{text}"))
    }
}

fn validity() -> Window {
    let now = i64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis());
    let now = now.unwrap();
    Window { start: Timestamp(now - 3_600_000), end: Timestamp(now + 86_400_000) }
}

fn client(id: &str, port: u16, transport: Transport, user: Option<&str>) -> (AsyncClient, rumqttc::EventLoop) {
    let mut mqtt = MqttOptions::new(id, "127.0.0.1", port);
    mqtt.set_keep_alive(Duration::from_secs(5)).set_transport(transport);
    if let Some(password) = user {
        mqtt.set_credentials("agent", password);
    }
    AsyncClient::new(mqtt, 4_096)
}

/// Publishes readings 0..`count` of device a; answers how many were acknowledged before the connection failed, if it did.
async fn send(client: AsyncClient, mut events: rumqttc::EventLoop, count: i64) -> usize {
    for value in 0..count {
        let payload = format!(r#"{{"ts":{},"energy":{{"total":0.{value:03}}},"power":1}}"#, START + value);
        client.publish("meters/a/state", QoS::AtLeastOnce, false, payload).await.unwrap();
    }
    let mut acknowledged = 0;
    while acknowledged < usize::try_from(count).unwrap() {
        match tokio::time::timeout(Duration::from_secs(30), events.poll()).await.expect("an answer") {
            Ok(Event::Incoming(Packet::PubAck(_))) => acknowledged += 1,
            Ok(_) => {}
            Err(_) => break,
        }
    }
    acknowledged
}

fn energy(gateway: &Gateway) -> usize {
    gateway.ledger.lock().unwrap().readings.keys().filter(|(_, metric, _)| metric == "energy").count()
}

const BROKER: &str = "broker:
  url: mqtts://127.0.0.1:PORT
  version: \"VERSION\"
  username: agent
  passwordFile: SITE/PASSWORD
  tls: {ca: SITE/ca.crt, certificate: SITE/client.crt, key: SITE/client.key}
";

async fn behind_a_guarded_broker(version: &str) {
    let site = Site::new();
    let Some(broker) = site.broker() else { return };
    broker.ready().await;
    let gateway = Gateway::start(configuration(1, &model(true), &["a"])).await;
    let section = BROKER.replace("PORT", &broker.1.to_string()).replace("VERSION", version);

    // A wrong password is told, and the agent goes on trying.
    fs::write(site.path("wrong"), "guessed\n").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let wrong = section.replace("PASSWORD", "wrong");
    let agent = Agent::start(site.settings(folder.path(), &gateway, &wrong)).await.unwrap();
    let refused = async {
        let told = |(name, state): &(&str, Option<String>)| {
            *name == "broker" && state.as_ref().is_some_and(|state| state.starts_with("broker: "))
        };
        while !agent.health.ready().checks.iter().any(told) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), refused).await.expect("the refusal in the readiness check");
    agent.stop().await;

    let right = section.replace("PASSWORD", "password");
    let agent = Agent::start(site.settings(folder.path(), &gateway, &right)).await.unwrap();
    let arrives = async {
        let mut probe = 0;
        while energy(&gateway) < 40 {
            probe += 1;
            let (publisher, events) =
                client(&format!("hardware-{probe}"), broker.1, site.hardware(true), Some("long and secret"));
            assert_eq!(send(publisher, events, 40).await, 40);
        }
    };
    tokio::time::timeout(Duration::from_secs(60), arrives).await.expect("readings through the guarded broker");
    assert_eq!(energy(&gateway), 40, "what was sent again is not counted again");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_may_demand_password_and_certificate() {
    behind_a_guarded_broker("3.1.1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_may_demand_password_and_certificate_over_mqtt_5() {
    behind_a_guarded_broker("5").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_own_listener_may_demand_password_and_certificate() {
    let site = Site::new();
    let mut gateway = Gateway::start(configuration(1, &model(true), &["a"])).await;
    let folder = tempfile::tempdir().unwrap();
    let section = "listener:
  address: 127.0.0.1:0
  username: agent
  passwordFile: SITE/password
  tls: {certificate: SITE/server.crt, key: SITE/server.key, clientCa: SITE/ca.crt}
";
    let agent = Agent::start(site.settings(folder.path(), &gateway, section)).await.unwrap();
    let port = agent.listener.unwrap().port();
    let none = [
        ("no TLS", Transport::Tcp, Some("long and secret")),
        ("no certificate", site.hardware(false), Some("long and secret")),
        ("no password", site.hardware(true), None),
        ("a wrong password", site.hardware(true), Some("guessed")),
    ];
    for (what, transport, user) in none {
        let (publisher, events) = client("hardware", port, transport, user);
        assert_eq!(send(publisher, events, 1).await, 0, "with {what} nothing is acknowledged");
    }
    let (publisher, events) = client("hardware", port, site.hardware(true), Some("long and secret"));
    assert_eq!(send(publisher, events, 40).await, 40);
    gateway.until("what the guarded listener took", |ledger| ledger.readings.len() == 80).await;
    assert_eq!(energy(&gateway), 40);
    gateway.stop().await;
    agent.stop().await;
}
