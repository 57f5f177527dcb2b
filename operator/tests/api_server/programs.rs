//! Programs whose epochs cannot be closed, and programs that were away: what is told of them, and that no amount comes of it.

use depin_crds::{EdgeDevice, RewardProgram};
use kube::{Api, api::DeleteParams};

use crate::{
    objects::{FLEET, MODEL, PROGRAM, agent, device, grain},
    world::{World, eventually, registered},
};

const WATTS: &str = "town/watts";

/// A device that delivers for a quarter of an hour from now on.
async fn delivering() -> World {
    let world = World::new().await;
    let specs = [MODEL.to_owned(), FLEET.to_owned(), agent("roof-1", 1), device("m1", "roof-1", "")];
    specs.iter().for_each(|spec| world.apply(spec).unwrap());
    deliver(&world);
    world
}

fn deliver(world: &World) {
    let now = jiff::Timestamp::now().as_millisecond().div_euclid(1000) * 1000;
    world.ledger.set_statistics((-60..900).map(|second| grain("m1", now + second * 1000, 30)).collect());
}

async fn until_recorded(world: &World, program: &str, number: u64) {
    eventually(&format!("epoch {number} of {program}"), || async {
        world.ledger.recorded(program).last().is_some_and(|last| *last >= number).then_some(())
    })
    .await;
}

fn without_gap(world: &World, program: &str) -> Vec<u64> {
    let all = world.ledger.recorded(program);
    assert!(all.windows(2).all(|pair| pair[1] == pair[0] + 1), "{all:?}");
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_cannot_close_says_so_and_pays_every_epoch_once_it_can() {
    let world = delivering().await;
    let operator = world.start("one");
    condition!(world, EdgeDevice, "m1", "Eligible", "True");
    world.apply(PROGRAM).unwrap();
    until_recorded(&world, WATTS, 1).await;
    let programs: Api<RewardProgram> = world.api();
    let conditions = programs.get("watts").await.unwrap().status.unwrap_or_default().conditions;
    assert!(conditions.iter().all(|condition| condition.type_ != "EpochBlocked"), "{conditions:?}");

    // Statistics that nobody can read block the program; once they can be read, every epoch is closed and paid as if nothing had been.
    let mut broken = grain("m1", 0, 0);
    broken.sum = "many".into();
    world.ledger.set_statistics(vec![broken]);
    let told = condition!(world, RewardProgram, "watts", "EpochBlocked", "True");
    assert_eq!(told.reason, "LedgerDamaged", "{}", told.message);
    let blocked = *without_gap(&world, WATTS).last().unwrap();
    assert!(told.message.contains(&format!("epoch {}", blocked + 1)), "{}", told.message);
    deliver(&world);
    condition!(world, RewardProgram, "watts", "EpochBlocked", "False");
    until_recorded(&world, WATTS, blocked + 2).await;
    for number in without_gap(&world, WATTS) {
        assert_eq!(world.ledger.summary(WATTS, number)["minted"], "1000", "epoch {number}");
    }
    eventually("the Event of its end", || async {
        (world.events("watts", "EpochsGoOn").await.len() == 1).then_some(())
    })
    .await;
    assert_eq!(world.events("watts", "EpochBlocked").await.len(), 1, "one, however often it was tried");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_program_pays_no_gap() {
    let world = delivering().await;
    let operator = world.start("one");
    condition!(world, EdgeDevice, "m1", "Eligible", "True");
    world.apply(PROGRAM).unwrap();
    eventually("two epochs", || async { (world.ledger.recorded(WATTS).len() >= 2).then_some(()) }).await;

    let programs: Api<RewardProgram> = world.api();
    programs.delete("watts", &DeleteParams::default()).await.unwrap();
    registered(&world, "the removal", |registry| registry.program(WATTS).is_some_and(|program| program.is_removed()))
        .await;
    let gone = world.ledger.registry().program(WATTS).unwrap().removed_from().unwrap();
    // Its ended epochs are paid still, then nothing follows: time passes without it.
    until_recorded(&world, WATTS, gone).await;
    let end = world.ledger.summary(WATTS, gone)["end"].as_i64().unwrap();
    eventually("three epochs without it", || async {
        (jiff::Timestamp::now().as_millisecond() > end + 3 * 2_000).then_some(())
    })
    .await;
    assert_eq!(world.ledger.recorded(WATTS).last(), Some(&gone), "what is gone has no epochs");

    world.apply(PROGRAM).unwrap();
    condition!(world, RewardProgram, "watts", "Ready", "True");
    let back = world.ledger.registry().program(WATTS).unwrap().newest().unwrap().from_epoch;
    assert!(back > gone + 2, "{gone} {back}");
    until_recorded(&world, WATTS, back + 1).await;
    let all = without_gap(&world, WATTS);
    for number in &all {
        let epoch = world.ledger.summary(WATTS, *number);
        let away = (gone..back).contains(number);
        assert_eq!(
            (&epoch["minted"], &epoch["suspended"]),
            (&if away { "0" } else { "1000" }.into(), &away.into()),
            "{epoch}"
        );
        let paid = epoch["payouts"].as_array().unwrap().iter().filter(|payout| payout["amount"] != "0").count();
        assert_eq!(paid, usize::from(!away), "{epoch}");
    }
    let counted = all.iter().filter(|number| !(gone..back).contains(number)).count() * 1000;
    let last = world.ledger.summary(WATTS, *all.last().unwrap());
    assert_eq!(last["payouts"][0]["cumulative"], counted.to_string(), "nothing of the gap is made up for: {last}");
    operator.stop().await;
}
