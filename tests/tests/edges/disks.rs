//! Disks that are lost, put back and copied: the agent's and the ledger's.

use std::fs;

use depin_domain::rewards::ProgramSpec;
use depin_ledger::Settings;
use depin_operator::rewards::epochs::EpochError;

use crate::{
    furnish,
    network::{HOUR, minute, program},
    site::{Message, Site, copy_directory, measure},
    world::{World, paid, until},
};

/// Incarnations in which the site's proofs came, in order, each once.
async fn incarnations(world: &World) -> Vec<u64> {
    let proofs = world.proofs().await;
    let headers = proofs.iter().map(|proof| depin_proto::envelope::decode_header(&proof.proof.header).unwrap());
    let mut incarnations: Vec<u64> = headers.map(|header| header.incarnation).collect();
    incarnations.dedup();
    incarnations
}

/// Two sites that worked for half an hour; five more minutes wait in the spool of the first, which is stopped.
async fn five_minutes_wait(spec: &ProgramSpec) -> (World, [Site; 2]) {
    let world = World::start().await;
    let [mut site, mut other] = furnish(&world, spec, ["home", "mill"]).await;
    other.start_configured().await;
    site.start_configured().await;
    world.time.set(minute(30));
    other.publish([Message::power(2, minute(1), 300)]).await;
    site.publish(measure(1, 0..10)).await;
    world.until_judged(21).await;
    site.restart_cut_off().await;
    site.publish(measure(1, 10..15)).await;
    site.stop().await;
    (world, [site, other])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_of_the_agents_disk_counts_nothing_twice_and_the_chain_goes_on() {
    let spec = program(HOUR);
    let (mut world, [mut site, _other]) = five_minutes_wait(&spec).await;
    // They wait there when the disk is copied; then they are sealed and counted, and more after them.
    copy_directory(&site.directory, &world.path("older"));
    site.link.mend();
    site.start_configured().await;
    world.until_judged(31).await;
    site.publish(measure(1, 15..25)).await;
    world.until_judged(51).await;
    assert_eq!((world.accepted().await, incarnations(&world).await), (51, vec![1]));

    // The box dies, and somebody puts the older copy back.
    site.stop().await;
    fs::remove_dir_all(&site.directory).unwrap();
    copy_directory(&world.path("older"), &site.directory);
    site.start_configured().await;
    world.until_judged(61).await;
    assert_eq!(world.accepted().await, 51, "what was spooled in the copy had counted: {:?}", world.rejected().await);
    let rejected = world.rejected().await;
    assert_eq!(rejected["OutOfOrder"], 5, "the running total's: {rejected:?}");
    assert_eq!(rejected.values().sum::<u64>(), 10, "{rejected:?}");
    // What is new counts, also of a time before the newest that counted, where there is a place for it.
    site.publish(measure(1, 25..30)).await;
    world.until_judged(71).await;
    assert_eq!((world.accepted().await, incarnations(&world).await), (61, vec![1, 2]));

    world.time.set(minute(60));
    let epoch = world.close(&spec).await;
    let sums = world.frozen(0, 0).await;
    assert_eq!(sums[&(1, "power".to_owned())], (30, 300, 0));
    assert_eq!(sums[&(1, "energy".to_owned())], (30, 4_350, 290));
    // bucket 100, pool 900, halves.
    assert_eq!((paid(&epoch, 1), paid(&epoch, 2)), (450, 450));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_copies_of_an_agent_count_nothing_twice_and_leave_evidence_but_no_penalty() {
    let spec = program(HOUR);
    let (mut world, [mut site, mut other]) = five_minutes_wait(&spec).await;
    // Both copies begin with them.
    let mut copy = site.clone_to(&world, "copy-0").await;
    site.link.mend();
    site.start_configured().await;
    world.until_judged(31).await;
    world.time.set(minute(31));
    copy.start_configured().await;
    world.until_judged(41).await;
    assert_eq!(world.accepted().await, 31, "the five minutes count once: {:?}", world.rejected().await);
    site.answered().await;
    for one in [&mut site, &mut copy] {
        one.stop().await;
    }
    // Two copies once more, and both know the chain's head before the other seals the next proof of it.
    copy = site.clone_to(&world, "copy-1").await;
    for one in [&mut site, &mut copy] {
        one.start_configured().await;
        one.opened().await;
        one.link.hold();
    }
    tokio::join!(site.publish(measure(1, 15..17)), copy.publish(measure(1, 16..18)));
    for one in [&site, &copy] {
        one.sealed().await;
    }
    assert!(!world.refused().await.contains_key("Equivocation"));
    site.link.mend();
    world.until_judged(45).await;
    copy.link.mend();
    world.until_judged(49).await;
    assert_eq!(world.accepted().await, 37, "{:?}", world.rejected().await);
    until("the second history", async || world.refused().await.contains_key("Equivocation")).await;
    world.time.set(minute(60));
    let epoch = world.close(&spec).await;
    let sums = world.frozen(0, 0).await;
    assert_eq!(sums[&(1, "power".to_owned())], (18, 180, 0));
    assert_eq!(sums[&(1, "energy".to_owned())].2, 170);
    // 900 × 180 / 480 and 900 × 300 / 480
    assert_eq!([paid(&epoch, 1), paid(&epoch, 2)], [337, 562], "a clone costs nothing");
    for one in [&mut site, &mut copy, &mut other] {
        one.stop().await;
    }
    world.hub_down().await;
    let found = world.verify();
    assert!(!found.equivocations.is_empty(), "two histories were signed");
    let key = site_key(&site);
    for equivocation in &found.equivocations {
        let header = depin_proto::envelope::decode_header(&equivocation.refused.header).unwrap();
        assert_eq!(header.key, key);
        assert_ne!(equivocation.judged, depin_domain::ids::Digest::of(&equivocation.refused.header));
    }
}

fn site_key(site: &Site) -> depin_domain::ids::KeyId {
    depin_identity::SigningKey::load_or_create(&site.directory.join("agent.key")).unwrap().id()
}

/// A ledger whose agents keep what is in no backup, and a backup of two sites' ten minutes.
async fn backed_up(spec: &ProgramSpec) -> (World, [Site; 2]) {
    let world = World::start_with(Settings { backup_configured: true, ..Settings::default() }).await;
    let [mut site, mut other] = furnish(&world, spec, ["home", "mill"]).await;
    for one in [&mut site, &mut other] {
        one.start_configured().await;
    }
    world.time.set(minute(40));
    site.publish(measure(1, 0..10)).await;
    other.publish(measure(2, 0..10)).await;
    world.until_judged(40).await;
    world.backup("backup").await;
    (world, [site, other])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_ledger_closes_nothing_before_every_agent_resent_what_it_lacks() {
    let spec = program(HOUR);
    let (mut world, [mut site, mut other]) = backed_up(&spec).await;
    // Many proofs that no backup has.
    for first in (10..30).step_by(2) {
        site.publish(measure(1, first..first + 2)).await;
        other.publish(measure(2, first..first + 1)).await;
        world.until_judged(40 + (first as u64 - 8) / 2 * 6).await;
    }
    assert_eq!(world.accepted().await, 100);
    let before = world.proofs().await.len();
    other.cut().await;
    world.hub_down().await;
    world.time.set(minute(61));
    world.restore("backup").await;
    until("what the first agent resends", async || world.accepted().await == 80).await;
    let held = world.try_close(&spec).await.unwrap_err();
    assert!(matches!(&held, EpochError::Ledger { source, .. } if source.code() == tonic::Code::FailedPrecondition));
    assert!(world.closing_held().await, "{held}");
    other.link.mend();
    // The very first close that succeeds has everything.
    let mut epoch = None;
    until("the close", async || {
        epoch = world.try_close(&spec).await.ok();
        epoch.is_some()
    })
    .await;
    let epoch = epoch.unwrap();
    let sums = world.frozen(0, 0).await;
    assert_eq!(sums[&(1, "power".to_owned())], (30, 300, 0));
    assert_eq!(sums[&(2, "power".to_owned())], (20, 200, 0));
    assert_eq!(sums[&(1, "energy".to_owned())], (30, 4_350, 290));
    assert_eq!(world.proofs().await.len(), before, "every proof is there again, none twice");
    assert_eq!((world.accepted().await, world.rejected().await.len()), (100, 0));
    // 900 × 300 / 500 and 900 × 200 / 500
    assert_eq!((paid(&epoch, 1), paid(&epoch, 2)), (540, 360));
    assert_eq!(incarnations(&world).await, [1], "no chain was broken");
    for one in [&mut site, &mut other] {
        one.stop().await;
    }
    world.hub_down().await;
    world.verify();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_of_six_hours_ago_ends_as_if_nothing_had_happened() {
    let spec = program(HOUR);
    let (mut world, [mut site, mut other]) = backed_up(&spec).await;
    let (mut judged, mut closed, mut sums) = (40, Vec::new(), Vec::new());
    let mut old = None;
    for hour in 0..7 {
        let began = hour * 60;
        if hour > 0 {
            world.time.set(minute(began + 40));
            site.publish(measure(1, began..began + 10)).await;
            other.publish(measure(2, began..began + 5 + hour)).await;
            judged += 20 + 2 * (5 + hour as u64);
            world.until_judged(judged).await;
        }
        world.time.set(minute(began + 61));
        closed.push(world.close(&spec).await);
        sums.push(world.frozen(hour as u64, hour as u64).await);
        if hour == 0 {
            old = Some(world.backup("six-hours").await);
        }
    }
    let proofs = world.proofs().await;
    // The volume is lost, and all that can be found is what it was six hours ago, with one epoch of seven.
    world.hub_down().await;
    world.time.set(minute(6 * 60 + 62));
    let old = old.unwrap();
    assert!(world.time.now() - old.at.0 >= 6 * HOUR);
    world.restore_generation("six-hours", old).await;
    world.until_judged(judged).await;
    until("the end of the hold", async || !world.closing_held().await).await;
    for (hour, before) in closed.iter().enumerate().skip(1) {
        let again = world.close(&spec).await;
        assert_eq!(again.summary.root, before.summary.root, "epoch {hour}");
        assert_eq!((&again.payouts, &again.lines), (&before.payouts, &before.lines), "epoch {hour}");
        assert_eq!(world.frozen(hour as u64, hour as u64).await, sums[hour], "epoch {hour}");
    }
    assert_eq!((world.accepted().await, world.rejected().await.len()), (judged, 0));
    let resent = world.proofs().await;
    let digests = |proofs: &[depin_ledger::StoredProof]| {
        proofs
            .iter()
            .map(|proof| depin_domain::ids::Digest::of(&proof.proof.header))
            .collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!((digests(&resent), resent.len()), (digests(&proofs), proofs.len()), "the same proofs, each once");
    for one in [&mut site, &mut other] {
        one.stop().await;
    }
    world.hub_down().await;
    world.verify();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restore_a_person_may_close_without_an_agent_that_never_returns() {
    let spec = program(HOUR);
    let (mut world, [mut site, mut other]) = backed_up(&spec).await;
    site.publish(measure(1, 10..20)).await;
    other.publish(measure(2, 10..20)).await;
    world.until_judged(80).await;
    // The second agent burns down with what only it and the lost ledger had.
    other.stop().await;
    world.hub_down().await;
    world.time.set(minute(61));
    world.restore("backup").await;
    until("what the first agent resends", async || world.accepted().await == 60).await;
    assert!(world.try_close(&spec).await.is_err() && world.closing_held().await);
    world.release_closing().await;
    let epoch = world.close(&spec).await;
    assert_eq!(world.frozen(0, 0).await[&(1, "power".to_owned())], (20, 200, 0));
    assert_eq!(world.frozen(0, 0).await[&(2, "power".to_owned())], (10, 100, 0));
    assert_eq!((paid(&epoch, 1), paid(&epoch, 2)), (600, 300));
    // It was not burnt after all: what it had is late now, and is paid from the bucket: 900 × 100 / 300 is more than that has.
    other.start_configured().await;
    world.until_judged(80).await;
    assert_eq!(world.accepted().await, 80);
    world.time.set(minute(120));
    let second = world.close(&spec).await;
    assert_eq!(second.summary.bucket.0, 1_000, "nobody sent anything: the pool waits with the bucket");
    world.time.set(minute(180));
    let third = world.close(&spec).await;
    let matured = &third.summary.matured[0];
    assert_eq!((matured.bucket.0, matured.dues.0, matured.paid.0, matured.returned.0), (100, 300, 100, 0));
    assert_eq!((paid(&third, 1), paid(&third, 2)), (0, 100));
    site.stop().await;
    other.stop().await;
}
