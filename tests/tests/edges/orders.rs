//! Readings in any order, from any time, any number of times.

use depin_domain::time::Timestamp;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    furnish, furnish_with,
    network::{self, HOUR, MINUTE, SECOND, minute, program},
    site::{Message, Site, measure},
    world::{World, paid},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stragglers_count_within_the_horizon_and_beyond_it_where_a_slot_is_empty() {
    let spec = program(HOUR);
    let mut model = network::model(true);
    model.reorder_horizon_ms = 5 * MINUTE;
    let mut world = World::start().await;
    let [mut site, mut other] = furnish_with(&world, model, &spec, ["home", "mill"]).await;
    for one in [&mut site, &mut other] {
        one.start_configured().await;
    }
    // Within the horizon the agent sorts them.
    world.time.set(minute(4));
    let mut messages = measure(1, 0..4);
    messages.reverse();
    site.publish(messages).await;
    other.publish(measure(2, 0..1)).await;
    site.publish(measure(1, 6..9).into_iter().filter(|message| message.at != Some(minute(7)))).await;
    world.time.set(minute(9));
    world.until_judged(2 + 12).await;
    assert_eq!((world.accepted().await, world.rejected().await.len()), (14, 0));
    // Beyond it a level has its place in an empty slot, once; a running total has none.
    site.publish([
        Message::power(1, minute(7), 1),
        Message::power(1, minute(7) + 10 * SECOND, 2),
        Message::power(1, minute(6) + 10 * SECOND, 3),
        Message::energy(1, minute(7), 70),
    ])
    .await;
    world.time.set(minute(14));
    world.until_judged(18).await;
    let rejected = world.rejected().await;
    assert_eq!((world.accepted().await, rejected["SlotTaken"], rejected["OutOfOrder"]), (15, 2, 1), "{rejected:?}");
    world.time.set(minute(60));
    let epoch = world.close(&spec).await;
    let sums = world.frozen(0, 0).await;
    assert_eq!(sums[&(1, "power".to_owned())], (7, 61, 0));
    assert_eq!(sums[&(1, "energy".to_owned())], (6, 200, 80));
    // 900 × 61 / 71 = 773.2 and 900 × 10 / 71 = 126.8
    assert_eq!((paid(&epoch, 1), paid(&epoch, 2)), (773, 126));
    site.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_dated_2099_spoils_nothing_beside_or_after_it() {
    let spec = program(HOUR);
    let mut world = World::start().await;
    let [mut site, mut other] = furnish(&world, &spec, ["home", "mill"]).await;
    for one in [&mut site, &mut other] {
        one.start_configured().await;
    }
    let in_2099 = 4_070_908_800_000;
    world.time.set(minute(30));
    other.publish(measure(2, 0..10)).await;
    let mut messages = measure(1, 0..10);
    messages.push(Message { meter: 1, at: Some(in_2099), energy: Some(900_000), power: Some(900_000) });
    messages.extend(measure(1, 10..20));
    site.publish(messages).await;
    world.until_judged(62).await;
    let rejected = world.rejected().await;
    assert_eq!((world.accepted().await, rejected["InFuture"]), (60, 2), "{rejected:?}");
    site.publish(measure(1, 20..30)).await;
    world.until_judged(82).await;
    assert_eq!(world.accepted().await, 80, "its mark was not moved: {:?}", world.rejected().await);
    world.time.set(minute(60));
    let epoch = world.close(&spec).await;
    let sums = world.frozen(0, 0).await;
    assert_eq!(sums[&(1, "power".to_owned())], (30, 300, 0));
    assert_eq!(sums[&(1, "energy".to_owned())], (30, 4_350, 290));
    assert_eq!((paid(&epoch, 1), paid(&epoch, 2)), (675, 225));
    site.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_come_twice_and_in_any_order_count_once() {
    let spec = program(HOUR);
    let mut model = network::model(true);
    model.reorder_horizon_ms = 5 * MINUTE;
    let mut world = World::start().await;
    let [mut site, mut other] = furnish_with(&world, model, &spec, ["home", "mill"]).await;
    for one in [&mut site, &mut other] {
        one.start_configured().await;
    }
    // Five minutes at a time: backwards, then every second one again, then the last one a third time.
    for first in (0..30).step_by(5) {
        world.time.set(minute(first + 5));
        let mut messages = measure(1, first..first + 5);
        messages.reverse();
        let again: Vec<_> = messages.iter().step_by(2).copied().collect();
        messages.extend(again);
        messages.push(messages[0]);
        site.publish(messages).await;
    }
    other.publish(measure(2, 0..10)).await;
    world.time.set(minute(40));
    world.until_judged(80).await;
    // The same once more, long after.
    site.publish(measure(1, 10..20)).await;
    world.time.set(minute(46));
    world.until_judged(100).await;
    let rejected = world.rejected().await;
    assert_eq!((world.accepted().await, rejected.values().sum::<u64>()), (80, 20), "{rejected:?}");
    world.time.set(minute(60));
    let epoch = world.close(&spec).await;
    let sums = world.frozen(0, 0).await;
    assert_eq!(sums[&(1, "power".to_owned())], (30, 300, 0));
    assert_eq!(sums[&(1, "energy".to_owned())], (30, 4_350, 290));
    assert_eq!((paid(&epoch, 1), paid(&epoch, 2)), (675, 225));
    site.stop().await;
    other.stop().await;
}

/// Publishes bytes as they are on a session of its own and waits for the acknowledgement.
async fn publish_raw(site: &Site, duplicate: bool, packet: u8, payload: &str) {
    let mut stream = TcpStream::connect(site.agent().listener.unwrap()).await.unwrap();
    // MQTT 3.1.1, session kept, client `raw`.
    stream.write_all(b"\x10\x0f\x00\x04MQTT\x04\x00\x00\x3c\x00\x03raw").await.unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!((answer[0], answer[3]), (0x20, 0), "{answer:?}");
    let topic = format!("meters/{}/state", network::serial(1));
    let length = 2 + topic.len() + 2 + payload.len();
    let mut bytes = vec![if duplicate { 0x3a } else { 0x32 }, u8::try_from(length).unwrap(), 0, topic.len() as u8];
    bytes.extend(topic.as_bytes());
    bytes.extend([0, packet]);
    bytes.extend(payload.as_bytes());
    stream.write_all(&bytes).await.unwrap();
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, [0x40, 2, 0, packet]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undated_message_that_is_delivered_again_counts_once_also_after_a_restart() {
    let spec = program(HOUR);
    let mut world = World::start().await;
    let [mut site] = furnish_with(&world, network::model(false), &spec, ["home"]).await;
    site.start_configured().await;
    site.cut().await;
    for (number, restart) in [(1, false), (2, true)] {
        world.time.set(minute(i64::from(number) * 10));
        publish_raw(&site, false, number, r#"{"power":5}"#).await;
        // The acknowledgement was lost on the way: a minute later it comes again under its number.
        if restart {
            site.stop().await;
            site.start().await;
        }
        world.time.set(minute(i64::from(number) * 10 + 1));
        publish_raw(&site, true, number, r#"{"power":5}"#).await;
        // What only looks the same is another one.
        publish_raw(&site, false, number + 10, r#"{"power":5}"#).await;
    }
    site.link.mend();
    world.until_judged(4).await;
    let proofs = world.proofs().await;
    let sections = proofs.iter().flat_map(|proof| &proof.proof.sections);
    let readings: Vec<_> = sections
        .flat_map(|section| depin_proto::envelope::decode_section(section).unwrap().series)
        .flat_map(|series| series.readings)
        .map(|reading| reading.at)
        .collect();
    assert_eq!(readings, [10, 11, 20, 21].map(|number| Timestamp(minute(number))));
    world.time.set(minute(60));
    world.close(&spec).await;
    assert_eq!(world.frozen(0, 0).await[&(1, "power".to_owned())], (4, 20, 0));
    site.stop().await;
}
