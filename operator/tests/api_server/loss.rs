//! Kubernetes is not the record: a cluster that lost its store changes no amount.

use std::collections::BTreeSet;

use depin_crds::{EdgeAgent, EdgeDevice, RewardEpoch, RewardProgram};
use depin_domain::{
    ids::{AgentId, DeviceId},
    rewards::{Account, Amount, merkle},
};
use depin_operator::run;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api,
    api::{DeleteParams, ListParams},
};

use crate::{
    objects::{FLEET, MODEL, PROGRAM, agent, device, grain},
    world::{LIMIT, Running, World, eventually, registered},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_lost_its_store_changes_no_amount() {
    let mut world = World::new().await;
    let owned = |name: &str, owner: &str| device(name, "roof-1", &format!(", owner: '{owner}'"));
    // Each with its kind, of which so many are missing before it is applied.
    let specs = [
        ("EdgeDeviceModel", 1, MODEL.to_owned()),
        ("EdgeFleet", 1, FLEET.to_owned()),
        ("EdgeAgent", 3, agent("roof-1", 1)),
        ("EdgeAgent", 2, agent("roof-2", 2)),
        ("EdgeAgent", 1, agent("roof-3", 3)),
        ("EdgeDevice", 3, device("m1", "roof-1", "")),
        ("EdgeDevice", 2, owned("m2", SHARES[1].0)),
        ("EdgeDevice", 1, owned("m3", SHARES[2].0)),
        ("RewardProgram", 1, PROGRAM.to_owned()),
    ];
    specs.iter().for_each(|(_, _, spec)| world.apply(spec).unwrap());
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

    // The specs come back one by one, and the operator looks at what is missing in between: nothing of it is taken for deleted.
    let changed = world.ledger.registry().version();
    for (kind, missing, spec) in &specs {
        held(&operator, kind, *missing).await;
        world.apply(spec).unwrap();
        held(&operator, kind, missing - 1).await;
    }
    assert_eq!(removals(&world, changed), Vec::<String>::new());
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
    every_epoch_has_its_view_again(&world).await;
    deletions_that_nobody_saw(&world, operator).await;
}

/// The views of epochs that were recorded before the loss come back, the newest hundred at least.
async fn every_epoch_has_its_view_again(world: &World) {
    let recorded = world.ledger.recorded("town/watts");
    let wanted: BTreeSet<_> = recorded.iter().rev().take(90).map(|number| i64::try_from(*number).unwrap()).collect();
    let views: Api<RewardEpoch> = world.api();
    eventually("the views of earlier epochs", || async {
        let views = views.list(&ListParams::default()).await.unwrap().items;
        let root = |view: &RewardEpoch| view.status.as_ref().and_then(|status| status.root.clone());
        let told = views.iter().filter(|view| root(view).is_some()).map(|view| view.spec.number).collect();
        wanted.is_subset(&told).then_some(())
    })
    .await;
}

/// What is deleted while no operator runs goes from the registry, since this store is known to have held it; but never an agent, whose
/// key would be revoked for ever.
async fn deletions_that_nobody_saw(world: &World, operator: Running) {
    let maps: Api<ConfigMap> = Api::namespaced(world.client.clone(), "depin-system");
    eventually("a roll call of the devices", || async { maps.get_opt("depin-roll-call-edgedevice").await.unwrap() })
        .await;
    operator.stop().await;
    let stood = world.ledger.registry().version();
    world.api::<EdgeDevice>().delete("m3", &DeleteParams::default()).await.unwrap();
    world.api::<EdgeAgent>().delete("roof-3", &DeleteParams::default()).await.unwrap();
    let operator = world.start("three");
    let gone = DeviceId::of("town", "m3");
    registered(world, "the removal of m3", |registry| {
        registry.device(&gone).is_some_and(|device| device.current().is_none())
    })
    .await;
    held(&operator, "EdgeAgent", 1).await;
    held(&operator, "EdgeDevice", 0).await;
    assert_eq!(removals(world, stood), ["deviceRemoved"]);
    assert!(world.ledger.registry().agent(&AgentId::of("town", "roof-3")).is_some());
    operator.stop().await;
}

/// Waits for a look that misses so many of `kind`.
async fn held(operator: &Running, kind: &str, count: u64) {
    let name = format!("depin_operator_removals_held{{kind=\"{kind}\"}}");
    eventually(&format!("{name} {count}"), || async { (operator.metric(&name).await == Some(count)).then_some(()) })
        .await;
}

/// Names of the changes after `version` that take something away.
fn removals(world: &World, version: u64) -> Vec<String> {
    let changes = world.ledger.changes_after(version);
    changes.into_iter().filter(|change| change.ends_with("Removed") || change.ends_with("Retired")).collect()
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
