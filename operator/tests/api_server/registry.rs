//! The registry writer before the ledger alone.

use depin_domain::{
    ids::Digest,
    registry::{Change, InvitationEntry, ProgramEntry},
    time::Timestamp,
};
use depin_operator::{
    clock::Clock,
    ledger::Ledger,
    registry::{Outcome, RegistryWriter},
};
use depin_telemetry::Health;
use tokio::sync::watch;

use crate::ledger::FakeLedger;

fn invitation(byte: u8) -> Change {
    let (token, namespace) = (Digest([byte; 32]), "town".to_owned());
    Change::Invitation(InvitationEntry { token, namespace, expires: Timestamp(1) })
}

/// Short enough for the registry's rules, but six bytes of JSON for each of its own.
fn outsized() -> Change {
    let spec = "\u{1}".repeat(200_000);
    let digest = Digest::of(spec.as_bytes());
    Change::Program(ProgramEntry { id: "town/watts".to_owned(), digest, spec, from_epoch: 0 })
}

#[tokio::test]
async fn one_change_that_the_ledger_refuses_does_not_stop_the_others() {
    let (fake, address) = FakeLedger::serve().await;
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
    let (_held, channel) = watch::channel(channel);
    let ledger = Ledger::new(channel);
    ledger.acquire_writer("one").await.unwrap();
    let health = Health::new();
    let takes = health.readiness("registry");
    let (writer, handle) = RegistryWriter::open(ledger, Clock::system(), takes).await.unwrap();
    let submitted = [invitation(1), outsized(), invitation(2)].map(|change| {
        let handle = handle.clone();
        async move { handle.submit(change).await.unwrap() }
    });
    // All three wait before the writer looks for the first time: one batch.
    let outcomes = futures::future::join_all(submitted);
    let outcomes = tokio::select! {
        outcomes = outcomes => outcomes,
        ended = writer.run() => panic!("{ended:?}"),
    };
    assert_eq!((&outcomes[0], &outcomes[2]), (&Outcome::Recorded, &Outcome::Recorded));
    assert!(matches!(&outcomes[1], Outcome::RefusedByLedger(why) if why.contains("bytes")), "{:?}", outcomes[1]);
    assert_eq!(fake.changes_after(0), ["invitation", "invitation"]);
    assert_eq!(fake.attempts(), 4, "all together, then each");
    assert!(health.ready().ok, "it goes on taking writes");
}
