//! A machine that boots without knowing what time it is.

use depin_domain::proofs::DropReason;
use depin_proto::envelope::{decode_header, decode_section};

use crate::{
    furnish_with,
    network::{self, HOUR, minute, program},
    site::{Message, Site},
    world::World,
};

/// An undated reading, now.
async fn speak(site: &Site, power: i64) {
    site.publish([Message { meter: 1, power: Some(power), ..Message::default() }]).await;
}

/// Times and values of everything that is recorded, in order.
async fn recorded(world: &World) -> Vec<(i64, i64)> {
    let proofs = world.proofs().await;
    let sections = proofs.iter().flat_map(|proof| &proof.proof.sections);
    let series = sections.flat_map(|section| decode_section(section).unwrap().series);
    series.flat_map(|series| series.readings).map(|reading| (reading.at.0, reading.value)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_measured_before_the_clock_is_set_is_dated_before_it_is_signed() {
    let spec = program(HOUR);
    let mut world = World::start().await;
    let [mut site] = furnish_with(&world, network::model(false), &spec, ["home"]).await;
    world.time.set(minute(5));
    site.start_configured().await;
    speak(&site, 1).await;
    world.until_judged(1).await;
    // One more waits in the spool when the power fails.
    site.cut().await;
    world.time.set(minute(6));
    speak(&site, 6).await;
    site.stop().await;

    // Power is back at minute 10, the line and the time only later.
    world.time.set(minute(10));
    site.machine.reboot_unset();
    site.start().await;
    for number in 11..14 {
        world.time.set(minute(number));
        speak(&site, number).await;
    }
    site.link.mend();
    site.connected().await;
    world.time.set(minute(14));
    speak(&site, 14).await;
    assert_eq!(recorded(&world).await, [(minute(5), 1)], "nothing is signed yet");
    world.time.set(minute(20));
    site.machine.set_clock();
    speak(&site, 20).await;
    world.until_judged(7).await;
    let expected: Vec<_> = [(5, 1), (6, 6), (11, 11), (12, 12), (13, 13), (14, 14), (20, 20)]
        .map(|(at, value)| (minute(at), value))
        .into();
    assert_eq!(recorded(&world).await, expected);
    for proof in world.proofs().await {
        assert!(decode_header(&proof.proof.header).unwrap().sealed_at.0 >= minute(5), "nothing is signed in 1970");
    }
    site.stop().await;

    // A boot that never learnt the time cannot be dated: that is told, not guessed.
    world.time.set(minute(30));
    site.machine.reboot_unset();
    site.link.cut();
    site.start().await;
    for power in 1..4 {
        speak(&site, power).await;
    }
    site.stop().await;
    site.machine.reboot_unset();
    site.machine.set_clock();
    site.link.mend();
    site.start().await;
    world.time.set(minute(40));
    speak(&site, 40).await;
    world.until_judged(8).await;
    let mut told = 0;
    crate::world::until("the drop", async || {
        let proofs = world.proofs().await;
        let drops = proofs.iter().flat_map(|proof| decode_header(&proof.proof.header).unwrap().drops);
        told = drops.filter(|drop| drop.reason == DropReason::Unreadable).map(|drop| drop.count).sum();
        told > 0
    })
    .await;
    assert_eq!(told, 3);
    world.time.set(minute(60));
    world.close(&spec).await;
    assert_eq!(world.frozen(0, 0).await[&(1, "power".to_owned())], (8, 117, 0));
    site.stop().await;
}
