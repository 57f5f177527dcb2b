//! One leads, another waits: whatever ends the first, the second goes on, no epoch is closed twice and none is missing.

use depin_operator::{leader::LeadershipLost, run};
use k8s_openapi::{api::coordination::v1::Lease, apimachinery::pkg::apis::meta::v1::MicroTime};
use kube::{Api, api::PostParams};

use crate::{
    objects::{FLEET, MODEL, PROGRAM, agent, device, grain},
    world::{LIMIT, World, eventually},
};

async fn further_epochs(world: &World) -> Vec<u64> {
    let stood = world.ledger.recorded("town/watts").last().copied().unwrap_or(0);
    eventually("further epochs", || async {
        (world.ledger.recorded("town/watts").last().is_some_and(|last| *last > stood + 1)).then_some(())
    })
    .await;
    let all = world.ledger.recorded("town/watts");
    assert!(all.windows(2).all(|pair| pair[1] == pair[0] + 1), "{all:?}");
    all
}

async fn holder(leases: &Api<Lease>) -> Option<String> {
    leases.get_opt("depin-operator").await.unwrap()?.spec?.holder_identity
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_is_ready_only_while_its_ledger_answers_and_takes_what_it_writes() {
    let world = World::new().await;
    let operator = world.start("one");
    let readiness = |expected: &'static str| {
        let operator = &operator;
        async move {
            eventually(&format!("readiness {expected}"), || async {
                operator.ask("/readyz").await.filter(|answer| answer.contains(expected))
            })
            .await
        }
    };
    readiness("HTTP/1.1 200").await;
    world.ledger.set_away(true);
    world.apply(MODEL).unwrap();
    let told = readiness("\"ledger\":\"The service is currently unavailable: away for a test").await;
    assert!(told.starts_with("HTTP/1.1 503") && told.contains("--ledger"), "{told}");
    readiness("\"registry\":\"the ledger answers").await;
    world.ledger.set_away(false);
    let told = readiness("HTTP/1.1 200").await;
    assert!(told.contains("\"ledger\":\"ok\"") && told.contains("\"registry\":\"ok\""), "{told}");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_and_a_lost_lease_leave_no_epoch_twice() {
    let world = World::new().await;
    let specs =
        [MODEL.to_owned(), FLEET.to_owned(), agent("roof-1", 1), device("m1", "roof-1", ""), PROGRAM.to_owned()];
    specs.iter().for_each(|spec| world.apply(spec).unwrap());
    let now = jiff::Timestamp::now().as_millisecond().div_euclid(1000) * 1000;
    world.ledger.set_statistics((0..900).map(|second| grain("m1", now + second * 1000, 30)).collect());
    let leases: Api<Lease> = Api::namespaced(world.client.clone(), "depin-system");
    let leads = |name: &'static str| {
        let leases = leases.clone();
        async move {
            eventually(&format!("{name} leads"), || async {
                (holder(&leases).await.as_deref() == Some(name)).then_some(())
            })
            .await;
        }
    };

    let first = world.start("first");
    leads("first").await;
    further_epochs(&world).await;
    let tokens = world.ledger.writer();
    let second = world.start("second");
    let all = further_epochs(&world).await;
    assert_eq!(world.ledger.writer(), tokens, "who waits takes nothing");
    // The next result is refused as if the leader died between close and record.
    world.ledger.refuse_records(1);
    first.kill().await;
    leads("second").await;
    let after = further_epochs(&world).await;
    assert!(after.starts_with(&all));
    assert_eq!(world.ledger.writer(), tokens + 1);

    // Somebody takes the Lease away: the leader ends rather than work on without it.
    let mut lease = leases.get("depin-operator").await.unwrap();
    let spec = lease.spec.as_mut().unwrap();
    spec.holder_identity = Some("thief".into());
    spec.renew_time = Some(MicroTime(jiff::Timestamp::now()));
    leases.replace("depin-operator", &PostParams::default(), &lease).await.unwrap();
    let ended = tokio::time::timeout(LIMIT, second.task).await.expect("the leader ends").unwrap();
    assert!(matches!(ended, Err(run::OperatorError::Leadership(LeadershipLost::Taken))), "{ended:?}");
    let third = world.start("third");
    leads("third").await;
    further_epochs(&world).await;
    assert_eq!(world.ledger.writer(), tokens + 2);

    // Nothing in the cluster waits for this operator to let it go.
    for kind in ["edgedevices", "edgeagents", "edgefleets", "edgedevicemodels", "rewardprograms", "rewardepochs"] {
        let finalizers = "-o=jsonpath={.items[*].metadata.finalizers}";
        let held = tokio::task::block_in_place(|| world.plane.run_kubectl(&["get", kind, "-A", finalizers]).unwrap());
        assert_eq!(held, "", "{kind}");
    }
    third.stop().await;
}
