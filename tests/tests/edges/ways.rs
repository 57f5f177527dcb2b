//! Several ways to the gateway, and connections that it ends when they are old: nothing is lost and nothing comes twice.

use std::time::Duration;

use depin_agent::metrics::{EndpointLabel, PeerLabel};
use depin_gateway::Limits;
use depin_identity::Route;

use crate::{
    furnish,
    link::Link,
    network::{GENESIS, HOUR, SECOND, minute, program},
    site::{Message, Site, measure},
    world::World,
};

fn failures(site: &Site, link: &Link) -> u64 {
    let label = EndpointLabel::of(&Route::direct(&link.url()));
    site.agent().metrics.gateway_failures.get_or_create(&label).get()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_way_is_left_for_another_and_one_that_breaks_in_mid_stream_loses_nothing() {
    let spec = program(HOUR);
    let mut world = World::start().await;
    let [mut site] = furnish(&world, &spec, ["home"]).await;
    site.others.push(Link::to(world.gateway()).await);
    site.link.cut();
    site.start_configured().await;
    world.time.set(minute(30));
    site.publish(measure(1, 0..10)).await;
    world.until_judged(20).await;
    let in_use = |site: &Site, link: &Link| {
        let label = EndpointLabel::of(&Route::direct(&link.url()));
        site.agent().metrics.endpoint.get_or_create(&label).get()
    };
    assert_eq!((in_use(&site, &site.link), in_use(&site, &site.others[0])), (0, 1));
    assert!(failures(&site, &site.link) > 0);
    // Proofs are under way on the second when it breaks; the first is well again.
    site.others[0].hold();
    site.publish(measure(1, 10..20)).await;
    site.sealed().await;
    site.link.mend();
    site.others[0].cut();
    world.until_judged(40).await;
    site.answered().await;
    assert_eq!((in_use(&site, &site.link), in_use(&site, &site.others[0])), (1, 0));
    world.time.set(minute(60));
    world.close(&spec).await;
    let frozen = world.frozen(0, 0).await;
    assert_eq!(frozen[&(1, "power".to_owned())], (20, 200, 0));
    assert_eq!(frozen[&(1, "energy".to_owned())], (20, 1_900, 190));
    assert!(world.rejected().await.is_empty() && world.refused().await.is_empty());
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_end_of_age_cost_nothing() {
    let spec = program(HOUR);
    // Long enough for a connection to come about within it on a machine that stalls: one that ends before its stream has begun is a failure.
    let limits = Limits { max_connection_age: Duration::from_secs(4), ..Limits::default() };
    let mut world = World::start_limited(limits).await;
    let [mut site] = furnish(&world, &spec, ["home"]).await;
    site.start_configured().await;
    world.time.set(minute(59));
    let label = PeerLabel { peer: "gateway" };
    let mut published = 0;
    while site.agent().metrics.reconnects.get_or_create(&label).get() < 3 {
        site.publish([Message::power(1, GENESIS + published * SECOND, 10)]).await;
        published += 1;
        assert!(published < 3_500, "no connection ends");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.until_judged(published as u64).await;
    site.answered().await;
    assert_eq!(failures(&site, &site.link), 0, "each ended in order");
    assert!(world.rejected().await.is_empty() && world.refused().await.is_empty());
    world.time.set(minute(60));
    world.close(&spec).await;
    let sums = (published as u64, i128::from(published) * 10, 0);
    assert_eq!(world.frozen(0, 0).await[&(1, "power".to_owned())], sums);
    site.stop().await;
}
