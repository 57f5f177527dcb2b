//! Thousands of devices that vanish and return cost the API server next to nothing, heartbeats nothing at all.

use std::collections::BTreeMap;

use depin_crds::{EdgeAgent, EdgeDevice, EdgeFleet};
use depin_domain::ids::{AgentId, DeviceId};
use depin_proto::v1::{AgentPresence, DevicePresence, PresencePage};
use futures::{StreamExt as _, TryStreamExt as _};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, PostParams},
};

use crate::{
    objects::{FLEET, MODEL, agent, device},
    world::{World, eventually},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_devices_that_vanish_and_return_cost_a_few_status_writes() {
    const DEVICES: usize = 2000;
    let world = World::new().await;
    world.apply(MODEL).unwrap();
    world.apply(FLEET).unwrap();
    world.apply(&agent("roof-1", 1)).unwrap();
    let devices: Api<EdgeDevice> = world.api();
    let all: Vec<EdgeDevice> = (0..DEVICES)
        .map(|number| serde_saphyr::from_str(&device(&format!("m{number}"), "roof-1", "")).unwrap())
        .collect();
    let parameters = PostParams::default();
    let created = all.iter().map(|device| devices.create(&parameters, device));
    futures::stream::iter(created).buffer_unordered(16).try_for_each(|_| async { Ok(()) }).await.unwrap();
    let operator = world.start("one");

    let agent_id = AgentId::of("town", "roof-1").0.to_vec();
    let tell = |connected: bool, silent_ms: i64| {
        let now = jiff::Timestamp::now().as_millisecond();
        let heard = now - silent_ms;
        let agent =
            AgentPresence { agent_id: agent_id.clone().into(), connected, last_heard: heard, ..Default::default() };
        let devices = all.iter().map(|device| DevicePresence {
            device_id: DeviceId::of("town", &device.name_any()).0.to_vec().into(),
            last_accepted: heard,
            accepted: u64::try_from(now).unwrap(),
            ..Default::default()
        });
        world.ledger.set_presence(PresencePage { agents: vec![agent], devices: devices.collect() });
    };
    tell(true, 0);
    let fleets: Api<EdgeFleet> = world.api();
    eventually("all online, and counted", || async {
        tell(true, 0);
        let status = fleets.get("homes").await.unwrap().status?;
        (status.online == Some(2000) && status.ready == Some(2000)).then_some(())
    })
    .await;

    // What changes from here on: resource versions tell.
    let versions = || async {
        let list = devices.list_metadata(&ListParams::default()).await.unwrap();
        list.items.iter().map(|device| (device.name_any(), device.resource_version())).collect::<BTreeMap<_, _>>()
    };
    let before = versions().await;
    let agents: Api<EdgeAgent> = world.api();
    // Heartbeats and counters alone are nobody's write: not a device's, not the agent's, not the fleet's.
    let others = || async {
        let (agent, fleet) = (agents.get("roof-1").await.unwrap(), fleets.get("homes").await.unwrap());
        (agent.resource_version(), fleet.resource_version())
    };
    let stood = others().await;
    let looks = world.ledger.presence_reads();
    eventually("three looks at heartbeats", || async {
        tell(true, 0);
        (world.ledger.presence_reads() > looks + 3).then_some(())
    })
    .await;
    assert_eq!(others().await, stood);
    assert_eq!(versions().await, before);
    for round in 0..2 {
        // The uplink breaks for some minutes, as the gateway tells it, and comes back; heartbeats and counters go on all the time.
        tell(false, 300_000);
        condition!(world, EdgeAgent, "roof-1", "Online", "False");
        let back = agents.get("roof-1").await.unwrap().resource_version();
        tell(true, 0);
        condition!(world, EdgeAgent, "roof-1", "Online", "True");
        assert_ne!(agents.get("roof-1").await.unwrap().resource_version(), back, "round {round}");
    }
    assert_eq!(versions().await, before, "no device was written");
    let events: Api<k8s_openapi::api::events::v1::Event> = world.api();
    let told: Vec<_> = events.list(&ListParams::default()).await.unwrap().items;
    let lost = told.iter().filter(|event| event.reason.as_deref() == Some("AgentLost")).count();
    assert_eq!(lost, 1, "a repeated loss is one series: {}", told.len());
    operator.stop().await;
}
