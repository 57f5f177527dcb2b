//! A spool that is full, under both policies.

use depin_agent::{sealer::StoreOptions, spool::LimitPolicy};
use depin_domain::proofs::{Drop, DropReason};
use depin_proto::{envelope::decode_header, v1::DropCount};

use crate::{
    furnish,
    network::{GENESIS, HOUR, minute, program},
    site::{Message, Site},
    world::{World, until},
};

const LIMIT: u64 = 32 << 10;
const MESSAGES: i64 = 6_000;

/// One reading of power every half second, each its number.
fn stream() -> Vec<Message> {
    (0..MESSAGES).map(|number| Message::power(1, GENESIS + number * 500, number)).collect()
}

async fn cut_off(policy: LimitPolicy) -> (World, Site) {
    let spec = program(HOUR);
    let world = World::start().await;
    let [mut site] = furnish(&world, &spec, ["home"]).await;
    site.store = StoreOptions { limit: LIMIT, policy, ..StoreOptions::default() };
    site.start_configured().await;
    site.cut().await;
    world.time.set(minute(59));
    (world, site)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_spool_stops_acknowledging_and_loses_nothing() {
    let (mut world, mut site) = cut_off(LimitPolicy::StopAcknowledging).await;
    let mut hardware = site.hardware("hardware");
    hardware.send(stream());
    let acknowledged = hardware.acknowledged_until(|| !site.agent().health.ready().ok).await;
    assert!(acknowledged > 0 && acknowledged < MESSAGES as u64, "{acknowledged} of {MESSAGES}");
    assert!(site.agent().metrics.spool_bytes.get() <= i64::try_from(LIMIT).unwrap());
    // What was acknowledged survives the agent's end, the rest is the hardware's.
    site.link.mend();
    hardware.acknowledged(MESSAGES as u64 - acknowledged).await;
    world.until_judged(MESSAGES as u64).await;
    world.time.set(minute(60));
    world.close(&program(HOUR)).await;
    let sum = i128::from(MESSAGES * (MESSAGES - 1) / 2);
    assert_eq!(world.frozen(0, 0).await[&(1, "power".to_owned())], (MESSAGES as u64, sum, 0));
    site.stop().await;
}

/// What the first header with drops told of them.
async fn told(world: &World) -> Vec<Drop> {
    let mut dropped = Vec::new();
    until("the drops", async || {
        let proofs = world.proofs().await;
        let drops = proofs.iter().flat_map(|proof| decode_header(&proof.proof.header).unwrap().drops);
        dropped = drops.collect();
        !dropped.is_empty()
    })
    .await;
    dropped
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_spool_drops_the_oldest_and_the_next_header_tells_how_much() {
    let (mut world, mut site) = cut_off(LimitPolicy::DropOldest).await;
    site.publish(stream()).await;
    site.stop().await;
    site.link.mend();
    site.start().await;
    let dropped = told(&world).await;
    assert_eq!((dropped.len(), dropped[0].reason), (1, DropReason::LimitReached));
    let lost = dropped[0].count;
    assert!(lost > 0 && lost < MESSAGES as u64, "{lost} of {MESSAGES}");
    // The oldest, and nothing else: told with the times of the first and the last.
    assert_eq!((dropped[0].first.0, dropped[0].last.0), (GENESIS, GENESIS + (lost as i64 - 1) * 500));
    world.until_judged(MESSAGES as u64 - lost).await;
    world.time.set(minute(60));
    world.close(&program(HOUR)).await;
    let sum: i64 = (i64::try_from(lost).unwrap()..MESSAGES).sum();
    assert_eq!(world.frozen(0, 0).await[&(1, "power".to_owned())], (MESSAGES as u64 - lost, i128::from(sum), 0));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_full_spool_dropped_stays_in_the_status_after_the_header_told_it() {
    let (world, mut site) = cut_off(LimitPolicy::DropOldest).await;
    site.publish(stream()).await;
    site.link.mend();
    let lost: u64 = told(&world).await.iter().map(|drop| drop.count).sum();
    // A status of after that is known by the agent's clock.
    let later = minute(59) + 1_000;
    world.time.set(later);
    let mut status = None;
    until("a status", async || {
        status = world.agents().await.into_iter().filter_map(|agent| agent.status).find(|status| status.clock >= later);
        status.is_some()
    })
    .await;
    assert_eq!(status.unwrap().drops, [DropCount { reason: DropReason::LimitReached as u32, count: lost }]);
    site.stop().await;
}
