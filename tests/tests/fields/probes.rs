//! Whoever comes in by a fleet's policy: hardware that speaks for the first time, and an agent with a ServiceAccount's token.

use std::{ffi::OsString, fs, time::Duration};

use kube::{ResourceExt as _, api::ListParams};
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use serde_json::json;

use crate::site::{NAMESPACE, Patience, Site};

/// For whom the tokens of ServiceAccounts are.
const AUDIENCE: &str = "depin-gateway";
const GRACE: Duration = Duration::from_secs(20);

impl Site {
    /// Hardware speaks, an object of `kind` is made of it, and is deleted again.
    pub(crate) async fn until_heard(&mut self, serial: &str, kind: &str) {
        self.speak(serial).await;
        let pointer = if kind == "EdgeDevice" { "/serial" } else { "/request/serial" };
        let patience = Patience::for_(format!("the {kind} of {serial}"));
        let name = loop {
            let objects = self.api(kind).list(&ListParams::default()).await.unwrap();
            let made = objects
                .items
                .iter()
                .find(|object| object.data["spec"].pointer(pointer).is_some_and(|known| known == serial));
            if let Some(made) = made {
                break made.name_any();
            }
            self.check();
            patience.more("no such object").await;
        };
        let other = if kind == "EdgeDevice" { "EdgeEnrollment" } else { "EdgeDevice" };
        let others = self.api(other).list(&ListParams::default()).await.unwrap();
        assert!(
            others.items.iter().all(|object| !object.data["spec"].to_string().contains(serial)),
            "{serial} is both"
        );
        self.delete(kind, &name).await;
    }

    /// One message of a meter, until the agent has acknowledged it.
    async fn speak(&self, serial: &str) {
        let (host, port) = self.stack.agents[0].mqtt.rsplit_once(':').unwrap();
        let (client, mut events) = AsyncClient::new(MqttOptions::new(serial, host, port.parse().unwrap()), 4);
        let payload = json!({"ts": depin_tests::now_ms(), "power_w": 100, "energy_kwh": 1}).to_string();
        client.publish(format!("energy/meters/{serial}/telemetry"), QoS::AtLeastOnce, false, payload).await.unwrap();
        loop {
            if let Event::Incoming(Packet::PubAck(_)) = events.poll().await.unwrap() {
                return;
            }
        }
    }

    /// An agent with a token of `account` comes in; it ends, and its object is deleted again.
    pub(crate) async fn until_admitted(&mut self, account: &str, name: &str) {
        self.cluster.kubectl(&["create", "serviceaccount", account, "-n", NAMESPACE]).unwrap();
        let audience = format!("--audience={AUDIENCE}");
        let token = self.cluster.kubectl(&["create", "token", account, "-n", NAMESPACE, &audience]).unwrap();
        let file = self.stack.dir.join(format!("token-{name}"));
        fs::write(&file, token.trim()).unwrap();
        let arguments: [OsString; 6] = [
            "--service-account-token-file".into(),
            file.into(),
            "--fleet".into(),
            format!("{NAMESPACE}/meters").into(),
            "--gateway-ca-file".into(),
            self.stack.authority().join("tls.crt").into(),
        ];
        self.stack.start_enrolled_agent(NAMESPACE, name, false, &arguments).unwrap();
        let patience = Patience::for_(format!("EdgeAgent {name}"));
        while self.api("EdgeAgent").get_opt(name).await.unwrap().is_none() {
            self.check();
            patience.more("no such object").await;
        }
        let agent = self.stack.agents.pop().unwrap();
        agent.process.stop(GRACE).unwrap();
        self.delete("EdgeAgent", name).await;
        self.cluster.kubectl(&["delete", "serviceaccount", account, "-n", NAMESPACE]).unwrap();
    }
}
