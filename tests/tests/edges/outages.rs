//! Lines and hubs that are away, for an hour or for a week.

use depin_domain::rewards::{Amount, spec::Emission};

use crate::{
    furnish,
    network::{DAY, GENESIS, HOUR, MINUTE, SECOND, minute, program, program_change},
    site::{Message, measure},
    world::{World, paid},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_is_away_over_an_epochs_end_closes_nothing_before_it_took_proofs_for_the_grace() {
    let mut spec = program(HOUR);
    spec.grace_ms = 10 * MINUTE;
    let mut world = World::start().await;
    let [mut site, mut other] = furnish(&world, &spec, ["home", "mill"]).await;
    for one in [&mut site, &mut other] {
        one.start_configured().await;
    }
    world.time.set(minute(50));
    site.publish(measure(1, 0..50)).await;
    other.publish(measure(2, 0..20)).await;
    world.until_judged(140).await;
    world.hub_down().await;
    world.time.set(minute(60));
    site.publish(measure(1, 50..60)).await;
    // Four hours later it is back: not a moment of the grace has passed.
    world.time.set(minute(300));
    world.hub_up().await;
    assert!(world.try_close(&spec).await.unwrap_err().to_string().contains("600000"), "all ten minutes are left");
    world.until_judged(160).await;
    world.time.set(minute(310) - SECOND);
    assert!(world.try_close(&spec).await.is_err());
    world.time.set(minute(310));
    let epoch = world.close(&spec).await;
    assert_eq!(world.frozen(0, 0).await[&(1, "power".to_owned())], (60, 600, 0), "in time, for the hub was away");
    assert_eq!(world.frozen(0, 0).await[&(1, "energy".to_owned())], (60, 17_700, 590));
    // 900 × 600 / 800 and 900 × 200 / 800
    assert_eq!((paid(&epoch, 1), paid(&epoch, 2)), (675, 225));
    assert_eq!((world.accepted().await, world.rejected().await.len()), (160, 0));
    // The hours in which nobody could send anything are due too; they find no weight.
    for number in 1..4 {
        let empty = world.close(&spec).await;
        assert_eq!((empty.summary.number, empty.summary.pool.0), (number, 0));
    }
    site.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_weight_the_pool_waits_with_the_bucket() {
    let spec = program(HOUR);
    let mut world = World::start().await;
    let [mut site, mut other] = furnish(&world, &spec, ["home", "mill"]).await;
    for one in [&mut site, &mut other] {
        one.start_configured().await;
    }
    world.time.set(minute(60));
    let first = world.close(&spec).await;
    assert_eq!((first.summary.bucket.0, first.summary.pool.0, first.summary.root), (1_000, 0, None));
    world.time.set(minute(120));
    let second = world.close(&spec).await;
    assert_eq!((second.summary.bucket.0, second.summary.carried_out.0), (1_000, 2_000));
    // Hardware that had stored its readings brings some of the first hour; nobody has any of the second.
    world.time.set(minute(130));
    site.publish([Message::power(1, minute(5), 100)]).await;
    other.publish([Message::power(2, minute(5), 300), Message::power(2, minute(125), 50)]).await;
    world.until_judged(3).await;
    world.time.set(minute(180));
    let third = world.close(&spec).await;
    let matured = &third.summary.matured[0];
    assert_eq!((matured.number, matured.bucket.0, matured.paid.0, matured.returned.0), (0, 1_000, 1_000, 0));
    // 250 and 750 of the first hour; 900 of the third for the only one who sent.
    assert_eq!((paid(&third, 1), paid(&third, 2)), (250, 1_650));
    world.time.set(minute(240));
    let fourth = world.close(&spec).await;
    let matured = &fourth.summary.matured[0];
    assert_eq!((matured.number, matured.paid.0, matured.returned.0), (1, 0, 1_000));
    assert_eq!((fourth.summary.bucket.0, fourth.summary.carried_in.0), (2_000, 1_100), "and waits once more");
    site.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_dated_before_a_close_leaves_the_closed_epoch_to_its_own_spec() {
    let spec = program(HOUR);
    let mut world = World::start().await;
    let [mut site, mut other] = furnish(&world, &spec, ["home", "mill"]).await;
    for one in [&mut site, &mut other] {
        one.start_configured().await;
    }
    world.time.set(minute(30));
    site.publish([Message::power(1, minute(5), 100)]).await;
    other.publish([Message::power(2, minute(5), 300)]).await;
    world.until_judged(2).await;
    world.time.set(minute(60));
    let first = world.close(&spec).await;
    assert_eq!((paid(&first, 1), paid(&first, 2)), (225, 675));
    // An operator whose clock is an hour behind takes epoch 0 for a coming one; so does one that asks again after an outage.
    let mut edited = spec.clone();
    edited.emission = Emission::Fixed { amount: Amount(5_000) };
    edited.late.basis_points = 2_000;
    world.write(&[program_change(&edited)]).await;
    other.publish([Message::power(2, minute(35), 100)]).await;
    world.until_judged(3).await;
    for (number, minted) in [(1, 5_000), (2, 5_000)] {
        world.time.set(minute(60 * (number + 1)));
        let epoch = world.close(&spec).await;
        assert_eq!((epoch.summary.number as i64, epoch.summary.minted.0), (number, minted));
        if number == 2 {
            // Epoch 0 kept 100 of 1,000; 900 × 400 / 400 is due in all, of which 675 were paid.
            let matured = &epoch.summary.matured[0];
            assert_eq!((matured.number, matured.bucket.0, matured.dues.0, matured.paid.0), (0, 100, 225, 100));
        }
    }
    site.stop().await;
    other.stop().await;
}

/// Every quarter of an hour of a day.
fn quarters(meter: u8, day: i64, power: i64) -> Vec<Message> {
    let at = |quarter: i64| Message::power(meter, GENESIS + day * DAY + quarter * 15 * MINUTE, power);
    (0..96).map(at).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_week_offline_is_credited_once_in_time_or_from_the_late_buckets() {
    let mut spec = program(DAY);
    spec.late.late_until_ms = 9 * DAY;
    let mut world = World::start().await;
    let [mut site, mut other] = furnish(&world, &spec, ["home", "mill"]).await;
    for one in [&mut site, &mut other] {
        one.start_configured().await;
    }
    site.cut().await;
    let day = |number: i64| GENESIS + number * DAY;
    let mut judged = 0;
    for number in 0..7 {
        // Hardware speaks in the course of the day, the spool takes it.
        for part in quarters(1, number, 10).chunks(24) {
            world.time.set(part[23].at.unwrap());
            site.publish(part.iter().copied()).await;
        }
        judged += other.publish(quarters(2, number, 100)).await;
        world.until_judged(judged).await;
        world.time.set(day(number + 1));
        if number < 6 {
            let epoch = world.close(&spec).await;
            assert_eq!((epoch.summary.bucket.0, paid(&epoch, 1), paid(&epoch, 2)), (100, 0, 900), "day {number}");
        }
    }
    // A restart in the middle of it changes nothing.
    site.stop().await;
    site.start().await;
    site.link.mend();
    world.until_judged(judged + 7 * 96).await;
    assert_eq!((world.accepted().await, world.rejected().await.len()), (2 * 7 * 96, 0));
    // The newest day was not closed yet: 900 × 960 / 10,560 = 81.8 and 900 × 9,600 / 10,560 = 818.2.
    let seventh = world.close(&spec).await;
    assert_eq!((paid(&seventh, 1), paid(&seventh, 2), seventh.summary.carry.0), (81, 818, 1));
    for number in 7..9 {
        world.time.set(day(number + 1));
        judged = other.publish(quarters(2, number, 100)).await;
        world.until_judged((7 * 2 + u64::try_from(number).unwrap() - 6) * judged).await;
        let epoch = world.close(&spec).await;
        assert_eq!(paid(&epoch, 1), 0);
        // 1,001 with the carry: bucket 100, pool 901; and then again 1,000.
        assert_eq!(paid(&epoch, 2), if number == 7 { 901 } else { 900 });
    }
    // From the tenth day on the first ones are settled for good: 900 × 960 / 9,600 of a bucket of 100.
    let mut late = 0;
    for number in 9..15 {
        world.time.set(day(number + 1));
        let sent = other.publish(quarters(2, number, 100)).await;
        world.until_judged((7 * 2 + u64::try_from(number).unwrap() - 6) * sent).await;
        let epoch = world.close(&spec).await;
        let matured = &epoch.summary.matured[0];
        assert_eq!(matured.number, u64::try_from(number - 9).unwrap());
        assert_eq!((matured.bucket.0, matured.dues.0, matured.paid.0, matured.returned.0), (100, 90, 90, 10));
        // The 10 that returned: bucket 101, pool 909.
        assert_eq!((paid(&epoch, 1), paid(&epoch, 2)), (90, 909));
        late += paid(&epoch, 1);
        let frozen = world.frozen(epoch.summary.number, matured.number).await;
        assert_eq!(frozen[&(1, "power".to_owned())], (96, 960, 0));
    }
    assert_eq!(late, 6 * 90);
    // Of the day that was credited in time nothing is left to pay.
    world.time.set(day(16));
    let sent = other.publish(quarters(2, 15, 100)).await;
    world.until_judged(23 * sent).await;
    let last = world.close(&spec).await;
    assert_eq!((last.summary.matured[0].dues.0, paid(&last, 1)), (0, 0));
    site.stop().await;
    other.stop().await;
    world.hub_down().await;
    world.verify();
}
