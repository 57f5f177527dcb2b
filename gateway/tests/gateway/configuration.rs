//! Configuration: snapshot, changes, sightings, status.

use depin_domain::{
    ids::{AgentId, DeviceId},
    registry::Change,
};
use depin_gateway::Limits;
use depin_proto::v1::{self, configuration_client::ConfigurationClient, inbox_entry::Entry};
use tonic::Code;

use crate::network::{Network, device};

fn sightings(count: usize) -> v1::SightingsRequest {
    let sighting = |number| v1::Sighting {
        model: "meter".into(),
        serial: format!("serial-{number}"),
        first_seen: 1,
        topic: "meters/x".into(),
    };
    v1::SightingsRequest { sightings: (0..count).map(sighting).collect() }
}

/// The version that the operator hears the agent was sent.
async fn sent(network: &mut Network, agent: &AgentId) -> u64 {
    let mut pages = network.operator.read_presence(v1::ReadPresenceRequest {}).await.unwrap().into_inner();
    let page = pages.message().await.unwrap().unwrap();
    page.agents.iter().find(|known| known.agent_id == agent.0.as_slice()).unwrap().sent_registry_version
}

#[tokio::test]
async fn a_watch_begins_with_everything_and_follows_the_registry() {
    let mut network = Network::start().await;
    let [one, two] = network.furnish().await;
    let mut client = ConfigurationClient::new(network.channel(Some(&one.identity)).0);
    let mut updates = client.watch(v1::WatchConfigurationRequest::default()).await.unwrap().into_inner();
    let first = updates.message().await.unwrap().unwrap();
    assert!(first.snapshot && first.limits.is_some() && first.now > 0);
    assert_eq!((first.models.len(), first.devices.len()), (1, 1));
    assert_eq!(first.devices[0].name, "meter-1");
    assert_eq!(sent(&mut network, &one.id).await, first.registry_version);
    // What concerns the other agent only is not told.
    network.write(&[Change::Device(device(4, &two, None))]).await;
    assert_eq!(sent(&mut network, &one.id).await, first.registry_version, "nothing of it to confirm");
    let version = network.write(&[Change::Device(device(3, &one, None))]).await;
    let change = updates.message().await.unwrap().unwrap();
    assert!(!change.snapshot && change.models.is_empty());
    assert_eq!((change.devices.len(), change.devices[0].name.as_str()), (1, "meter-3"));
    assert_eq!(change.registry_version, version);
    assert_eq!(sent(&mut network, &one.id).await, version);
    network.write(&[Change::Device(device(1, &two, None))]).await;
    let change = updates.message().await.unwrap().unwrap();
    assert!(change.removed_devices.is_empty(), "what is spooled for it is still sealed");
    assert_eq!(change.devices[0].device_id, DeviceId::of("grid", "meter-1").0.to_vec());
    assert!(change.devices[0].until > 0);
    // Whoever holds the newest version is told changes only.
    let held = v1::WatchConfigurationRequest {
        registry_incarnation: change.registry_incarnation,
        registry_version: change.registry_version,
        ..v1::WatchConfigurationRequest::default()
    };
    let mut again = client.watch(held).await.unwrap().into_inner();
    network.write(&[Change::Device(device(5, &one, None))]).await;
    let change = again.message().await.unwrap().unwrap();
    assert!(!change.snapshot);
    assert_eq!(change.devices[0].name, "meter-5");
    network.write(&[Change::AgentRemoved { id: one.id }]).await;
    loop {
        match again.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a removed agent is told why"),
            Err(status) => break assert_eq!(status.code(), Code::PermissionDenied),
        }
    }
    network.stop().await;
}

#[tokio::test]
async fn sightings_reach_the_inbox_and_are_limited() {
    let mut network = Network::start_with(Limits { agent_sightings_per_minute: 60, ..Limits::default() }).await;
    let [agent, _] = network.furnish().await;
    let mut inbox = network.operator.watch_inbox(v1::WatchInboxRequest {}).await.unwrap().into_inner();
    let mut client = ConfigurationClient::new(network.channel(Some(&agent.identity)).0);
    let recorded = client.report_sightings(sightings(2)).await.unwrap().into_inner().recorded;
    assert_eq!(recorded, 2);
    let entry = inbox.message().await.unwrap().unwrap();
    let Some(Entry::Sightings(posted)) = entry.entry else { panic!("{entry:?}") };
    assert_eq!((posted.agent_id.as_ref(), posted.sightings.len()), (agent.id.0.as_slice(), 2));
    assert_eq!(client.report_sightings(sightings(100)).await.unwrap_err().code(), Code::ResourceExhausted);
    assert_eq!(client.report_sightings(sightings(300)).await.unwrap_err().code(), Code::InvalidArgument);
    network.stop().await;
}

#[tokio::test]
async fn a_status_is_shown_to_the_operator() {
    let mut network = Network::start().await;
    let [agent, _] = network.furnish().await;
    let mut client = ConfigurationClient::new(network.channel(Some(&agent.identity)).0);
    let status = v1::AgentStatus { version: "1.2.3".into(), spool_readings: 5, ..Default::default() };
    assert!(client.report_status(status.clone()).await.unwrap().into_inner().now > 0);
    let mut pages = network.operator.read_presence(v1::ReadPresenceRequest {}).await.unwrap().into_inner();
    let page = pages.message().await.unwrap().unwrap();
    assert_eq!(page.agents[0].agent_id, agent.id.0.as_slice());
    assert_eq!(page.agents[0].status, Some(status));
    assert!(page.agents[0].last_heard > 0);
    network.stop().await;
}
