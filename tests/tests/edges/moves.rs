//! Devices that move, models that change, cells that fill, while somebody is offline.

use depin_domain::{
    registry::{Change, FleetEntry},
    rewards::{
        ZeroReason,
        spec::{Aggregate, Limit},
    },
};

use crate::{
    furnish,
    network::{self, GENESIS, HOUR, MINUTE, device, minute, program},
    site::{Message, copy_directory, measure},
    world::{World, paid},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_device_left_with_its_old_agent_counts_after_it_moved() {
    let spec = program(HOUR);
    let mut world = World::start().await;
    let [mut old, mut new] = furnish(&world, &spec, ["home", "mill"]).await;
    for one in [&mut old, &mut new] {
        one.start_configured().await;
    }
    world.time.set(minute(10));
    old.publish(measure(1, 0..10)).await;
    new.publish(measure(2, 0..10)).await;
    world.until_judged(40).await;
    // Twenty minutes wait with the old agent when the device is carried over to the new one.
    old.cut().await;
    world.time.set(minute(30));
    old.publish(measure(1, 10..30)).await;
    world.write(&[Change::Device(device(1, "mill"))]).await;
    world.time.set(minute(50));
    new.publish(measure(1, 30..50)).await;
    world.until_judged(80).await;
    // Somebody plugs it in at the old place once more: none of that is the old agent's to tell.
    old.publish(measure(1, 50..55)).await;
    old.link.mend();
    world.until_judged(120).await;
    assert_eq!((world.accepted().await, world.rejected().await.len()), (120, 0));
    world.time.set(minute(60));
    let epoch = world.close(&spec).await;
    let sums = world.frozen(0, 0).await;
    assert_eq!(sums[&(1, "power".to_owned())], (50, 500, 0));
    // An increase never spans assignments: 0 to 290 at the old agent, 300 to 490 at the new one.
    assert_eq!(sums[&(1, "energy".to_owned())], (50, 12_250, 290 + 190));
    assert_eq!(sums[&(2, "power".to_owned())], (10, 100, 0));
    // 900 × 500 / 600 and 900 × 100 / 600
    assert_eq!((paid(&epoch, 1), paid(&epoch, 2)), (750, 150));
    // Another device with the same serial at the old agent does not inherit what waits there.
    let mut heir = device(3, "home");
    heir.serial = network::serial(1);
    world.write(&[Change::Device(heir)]).await;
    world.time.set(minute(70));
    old.publish([Message::power(1, minute(65), 7)]).await;
    // The five stray minutes go to the heir, who was approved later: `since` tells an hour before the genesis.
    world.until_judged(131).await;
    assert_eq!(world.accepted().await, 121 + 10, "{:?}", world.rejected().await);
    for one in [&mut old, &mut new] {
        one.stop().await;
    }
    world.hub_down().await;
    world.verify();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offline_agents_old_model_counts_until_it_confirmed_the_new_one() {
    let spec = program(HOUR);
    let mut world = World::start().await;
    let [mut site, mut other] = furnish(&world, &spec, ["home", "mill"]).await;
    for one in [&mut site, &mut other] {
        one.start_configured().await;
    }
    world.time.set(minute(20));
    site.publish(measure(1, 0..20)).await;
    other.publish(measure(2, 0..20)).await;
    world.until_judged(80).await;
    site.restart_cut_off().await;
    // From minute 30 on another model is in force, with slots of half a minute.
    let mut newer = network::model(true);
    newer.cadence_ms = MINUTE / 2;
    world.write(&[network::model_change(newer, minute(30))]).await;
    world.time.set(minute(40));
    site.publish(measure(1, 20..40)).await;
    site.stop().await;
    copy_directory(&site.directory, &world.path("older"));
    world.time.set(minute(45));
    site.link.mend();
    site.start().await;
    world.until_judged(120).await;
    assert_eq!((world.accepted().await, world.rejected().await.len()), (120, 0), "it could not know better");
    world.until_confirmed(&["home"]).await;
    world.time.set(minute(50));
    site.publish(measure(1, 45..50)).await;
    world.until_judged(130).await;
    // Its older disk is put back; what it decodes by the old model now was confirmed to be over.
    site.stop().await;
    site.link.cut();
    std::fs::remove_dir_all(&site.directory).unwrap();
    copy_directory(&world.path("older"), &site.directory);
    site.start().await;
    world.time.set(minute(54));
    site.publish(measure(1, 50..54)).await;
    site.link.mend();
    world.until_judged(130 + 40 + 8).await;
    let rejected = world.rejected().await;
    assert_eq!((world.accepted().await, rejected["ModelNotInForce"]), (130, 8), "{rejected:?}");
    world.until_confirmed(&["home"]).await;
    world.time.set(minute(60));
    site.publish(measure(1, 54..60)).await;
    world.until_judged(130 + 40 + 8 + 12).await;
    assert_eq!(world.accepted().await, 142, "it knows the new one again");
    let epoch = world.close(&spec).await;
    // Minutes 0 to 40, 45 to 50 and 54 to 60.
    assert_eq!(world.frozen(0, 0).await[&(1, "power".to_owned())], (51, 510, 0));
    assert_eq!(world.frozen(0, 0).await[&(1, "energy".to_owned())].2, 590);
    // 900 × 510 / 710 = 646.5 and 900 × 200 / 710 = 253.5
    assert_eq!((paid(&epoch, 1), paid(&epoch, 2), epoch.summary.carry.0), (646, 253, 1));
    site.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_before_a_fleet_changed_its_model_counts() {
    let spec = program(HOUR);
    let mut world = World::start().await;
    let [mut site, mut other] = furnish(&world, &spec, ["home", "mill"]).await;
    for one in [&mut site, &mut other] {
        one.start_configured().await;
    }
    world.time.set(minute(10));
    site.publish(measure(1, 0..10)).await;
    other.publish(measure(2, 0..10)).await;
    world.until_judged(40).await;
    // Twenty minutes wait in the spool of a site that is cut off, when the fleet gets another model: of another name.
    site.cut().await;
    world.time.set(minute(30));
    site.publish(measure(1, 10..30)).await;
    let mut newer = network::model(true);
    newer.name = "smart-meter".to_owned();
    let fleet = FleetEntry { id: network::FLEET.to_owned(), model: newer.name.clone(), grain_ms: HOUR };
    world.write(&[network::model_change(newer, 0), Change::Fleet(fleet)]).await;
    world.until_confirmed(&["mill"]).await;
    world.time.set(minute(40));
    other.publish(measure(2, 30..40)).await;
    world.until_judged(60).await;
    // The site cannot know: five minutes more come by the old model.
    site.publish(measure(1, 30..35)).await;
    site.link.mend();
    world.until_judged(60 + 40 + 10).await;
    world.until_confirmed(&["home"]).await;
    site.publish(measure(1, 35..40)).await;
    world.until_judged(60 + 40 + 10 + 10).await;
    let rejected = world.rejected().await;
    assert_eq!((world.accepted().await, rejected["WrongModel"], rejected.len()), (110, 10, 1), "{rejected:?}");
    world.time.set(minute(60));
    let epoch = world.close(&spec).await;
    let sums = world.frozen(0, 0).await;
    assert_eq!(sums[&(1, "power".to_owned())], (35, 350, 0), "minutes 0 to 30 and 35 to 40");
    assert_eq!(sums[&(1, "energy".to_owned())].2, 390);
    assert_eq!(sums[&(2, "power".to_owned())], (20, 200, 0));
    // 900 × 350 / 550 = 572.7 and 900 × 200 / 550 = 327.3
    assert_eq!((paid(&epoch, 1), paid(&epoch, 2), epoch.summary.carry.0), (572, 327, 1));
    site.stop().await;
    other.stop().await;
    world.hub_down().await;
    world.verify();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_counter_is_never_measured_in_two_scales_whatever_model_or_fleet_comes_next() {
    let mut spec = program(HOUR);
    spec.features[0].metric = "energy".to_owned();
    spec.features[0].aggregate = Aggregate::Delta;
    let mut world = World::start().await;
    let [mut site, mut other] = furnish(&world, &spec, ["home", "mill"]).await;
    for one in [&mut site, &mut other] {
        one.start_configured().await;
    }
    world.time.set(minute(10));
    site.publish(measure(1, 0..10)).await;
    other.publish(measure(2, 0..10)).await;
    world.until_judged(40).await;
    // Meters that tell thousandths, in a fleet of their own; neither the fleet nor a device of it can become one of them.
    let mut fine = network::model(true);
    fine.name = "fine-meter".to_owned();
    fine.metrics[0].scale = 3;
    let fleet =
        |id: &str| Change::Fleet(FleetEntry { id: id.to_owned(), model: "fine-meter".to_owned(), grain_ms: HOUR });
    world.write(&[network::model_change(fine.clone(), 0), fleet("grid/fine")]).await;
    let text = world.refusal(&[fleet(network::FLEET)]).await;
    assert!(text.contains("model: the scale of metric energy is 3") && text.contains("another name"), "{text}");
    let mut moved = device(1, "home");
    moved.fleet = "grid/fine".to_owned();
    let text = world.refusal(&[Change::Device(moved)]).await;
    assert!(text.contains("fleet: the scale of metric energy is 3") && text.contains("another name"), "{text}");
    world.time.set(minute(20));
    site.publish(measure(1, 10..20)).await;
    world.until_judged(60).await;
    // Under another name it may: that counter begins with its own first reading.
    fine.metrics[0].name = "energy_fine".to_owned();
    fine.sources[0].fields[0].metric = "energy_fine".to_owned();
    world.write(&[network::model_change(fine, 0), fleet(network::FLEET)]).await;
    world.until_confirmed(&["home", "mill"]).await;
    world.time.set(minute(40));
    other.publish(measure(2, 20..40)).await;
    world.until_judged(100).await;
    assert_eq!((world.accepted().await, world.rejected().await.len()), (100, 0));
    world.time.set(minute(60));
    let epoch = world.close(&spec).await;
    let sums = world.frozen(0, 0).await;
    assert_eq!(sums[&(1, "energy".to_owned())], (20, 1_900, 190));
    assert_eq!(sums[&(2, "energy".to_owned())], (10, 450, 90));
    assert_eq!(sums[&(2, "energy_fine".to_owned())].2, 190_000);
    // 900 × 190 / 280 = 610.7 and 900 × 90 / 280 = 289.3
    assert_eq!((paid(&epoch, 1), paid(&epoch, 2)), (610, 289));
    site.stop().await;
    other.stop().await;
    world.hub_down().await;
    world.verify();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_readings_share_the_room_that_a_cell_had_left_and_get_nothing_of_a_full_one() {
    let mut spec = program(HOUR);
    spec.limits = vec![Limit::HexCapacity { resolution: 8, capacity: 2, by: None }];
    let mut world = World::start().await;
    let [mut site] = furnish(&world, &spec, ["home"]).await;
    let cells = ["881fb46625fffff", "881fb46627fffff"];
    let placed = |number: u8, cell: usize| {
        let mut device = device(number, "home");
        device.location = Some(network::location(cells[cell]));
        Change::Device(device)
    };
    let devices: Vec<_> = [(1, 0), (2, 0), (3, 0), (4, 1), (5, 1), (6, 1)].map(|(n, cell)| placed(n, cell)).into();
    world.write(&devices).await;
    site.start_configured().await;
    world.time.set(minute(59));
    site.publish([1, 4, 5].map(|number| Message::power(number, minute(1), 300))).await;
    world.until_judged(3).await;
    world.time.set(minute(60));
    let first = world.close(&spec).await;
    assert_eq!([1, 4, 5].map(|number| paid(&first, number)), [300, 300, 300]);
    // One place is left in the first cell for two, none in the second.
    site.publish([(2, 120), (3, 60), (6, 500)].map(|(number, power)| Message::power(number, minute(2), power))).await;
    world.until_judged(6).await;
    assert_eq!(world.accepted().await, 6);
    world.time.set(minute(120));
    world.close(&spec).await;
    world.time.set(minute(180));
    let third = world.close(&spec).await;
    let line = |number: u8| third.lines.iter().find(|line| line.device == network::device_id(number)).unwrap();
    // Half of 120 and of 60 by Σw 900 and pool 900.
    assert_eq!((line(2).late[0].room, line(2).late[0].claims, line(2).late[0].paid.0), (1, 2, 60));
    assert_eq!((line(3).late[0].weight, line(3).late[0].paid.0), (30, 30));
    assert_eq!(line(6).late[0].reason, Some(ZeroReason::CapacityTaken.into()));
    assert_eq!([1, 2, 3, 4, 5, 6].map(|number| paid(&third, number)), [0, 60, 30, 0, 0, 0]);
    let matured = &third.summary.matured[0];
    assert_eq!((matured.dues.0, matured.paid.0, matured.returned.0), (90, 90, 10));
    assert_eq!(GENESIS + 3 * HOUR, third.summary.end.0);
    site.stop().await;
}
