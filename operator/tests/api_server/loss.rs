//! Kubernetes is not the record: a cluster that lost its store changes no amount.

use depin_crds::{EdgeDevice, RewardProgram};
use depin_domain::{
    ids::DeviceId,
    rewards::{Account, Amount, merkle},
};
use depin_operator::run;

use crate::{
    objects::{FLEET, MODEL, PROGRAM, agent, device, grain},
    world::{LIMIT, World, eventually},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_lost_its_store_changes_no_amount() {
    let mut world = World::new().await;
    let owned = |name: &str, owner: &str| device(name, "roof-1", &format!(", owner: '{owner}'"));
    let specs = [
        MODEL.to_owned(),
        FLEET.to_owned(),
        agent("roof-1", 1),
        device("m1", "roof-1", ""),
        owned("m2", SHARES[1].0),
        owned("m3", SHARES[2].0),
        PROGRAM.to_owned(),
    ];
    let apply_all = |world: &World| specs.iter().for_each(|spec| world.apply(spec).unwrap());
    apply_all(&world);
    let now = jiff::Timestamp::now().as_millisecond().div_euclid(1000) * 1000;
    let second = |second: i64| {
        let start = now + second * 1000;
        [grain("m1", start, 30), grain("m2", start, 10), grain("m3", start, 10)]
    };
    world.ledger.set_statistics((0..900).flat_map(second).collect());
    let operator = world.start("one");
    eventually("two epochs", || async { (world.ledger.recorded("town/watts").len() >= 2).then_some(()) }).await;
    let entry =
        || world.ledger.registry().device(&DeviceId::of("town", "m1")).and_then(|device| device.current().cloned());
    let before = entry().unwrap();

    // Everything in the cluster is gone. The operator cannot lead without a Lease and ends; its successor finds an empty cluster.
    tokio::task::block_in_place(|| world.plane.lose_etcd().unwrap());
    let ended = tokio::time::timeout(LIMIT, operator.task).await.expect("the operator ends without its Lease").unwrap();
    assert!(matches!(ended, Err(run::OperatorError::Leadership(_))), "{ended:?}");
    world.install();
    let operator = world.start("two");
    let stood = world.ledger.recorded("town/watts").last().copied().unwrap();
    eventually("epochs without resources", || async {
        (world.ledger.recorded("town/watts").last().is_some_and(|last| *last > stood + 1)).then_some(())
    })
    .await;
    assert_eq!(entry().as_ref(), Some(&before), "an empty view removes nothing");

    apply_all(&world);
    condition!(world, EdgeDevice, "m1", "Ready", "True");
    condition!(world, RewardProgram, "watts", "Ready", "True");
    assert_eq!(entry().as_ref(), Some(&before), "the same specs change nothing");
    let epochs = world.ledger.recorded("town/watts").len();
    eventually("further epochs", || async { (world.ledger.recorded("town/watts").len() > epochs + 1).then_some(()) })
        .await;
    let all = world.ledger.recorded("town/watts");
    assert!(all.windows(2).all(|pair| pair[1] == pair[0] + 1), "{all:?}");
    // What an undisturbed network would have paid: each epoch the same, so any later one follows from one before the loss.
    let base = all[1];
    assert!(base <= stood);
    for number in all.iter().skip(2) {
        let elapsed = u128::from(number - base);
        let leaves: Vec<(Account, Amount)> = cumulative(&world, base)
            .iter()
            .zip(SHARES)
            .map(|((account, before), (_, share))| (*account, Amount(before.0 + elapsed * share)))
            .collect();
        assert_eq!(cumulative(&world, *number), leaves, "epoch {number}");
        let root = merkle::to_text(&merkle::StandardTree::new(&leaves).unwrap().root());
        assert_eq!(world.ledger.summary("town/watts", *number)["root"], root, "epoch {number}");
    }
    operator.stop().await;
}

/// Who gets what of the 1000 of each epoch, ascending by account: the fleet's owner for m1, their own for m2 and m3.
const SHARES: [(&str, u128); 3] = [
    ("0x00000000000000000000000000000000000000a1", 600),
    ("0x00000000000000000000000000000000000000b2", 200),
    ("0x00000000000000000000000000000000000000c3", 200),
];

fn cumulative(world: &World, number: u64) -> Vec<(Account, Amount)> {
    let summary = world.ledger.summary("town/watts", number);
    let payouts = summary["payouts"].as_array().unwrap().iter();
    let mut all: Vec<(Account, Amount)> = payouts
        .map(|payout| {
            let text = |field: &str| payout[field].as_str().unwrap().to_owned();
            (text("account").parse().unwrap(), text("cumulative").parse().unwrap())
        })
        .collect();
    all.sort_unstable();
    all
}
