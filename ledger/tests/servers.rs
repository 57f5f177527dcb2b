//! Several gateways on one database, servers that crash, and standbys that take over.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod network;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use depin_domain::proofs::Reason;
use depin_ledger::{Ledger, LedgerError, Note, OpenChain, Outcome, PostgresqlLedger, Server, Settings, Submission};
use depin_trials::{PostgresqlServer, below};
use network::*;

/// A gateway's ledger on these servers, whichever of them takes writes.
fn gateway(servers: &[&PostgresqlServer], database: &str, hands: &Hands) -> PostgresqlLedger {
    let url = PostgresqlServer::url_of(servers, database);
    let ledger = PostgresqlLedger::open(Server::new(&url, None).unwrap(), settings(), Some(hands.clock())).unwrap();
    ledger.serve(true);
    ledger
}

fn threads() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap()
}

/// Sends a proof until it is judged: by one ledger or another.
async fn until_judged(ledger: &PostgresqlLedger, proof: &Submission) -> (u64, u64, bool) {
    let started = Instant::now();
    loop {
        match submit(ledger, proof.clone()).await {
            Outcome::Judged { position, verdict, repeated, .. } => return (position, verdict.accepted, repeated),
            Outcome::Deferred { reason: Reason::LedgerUnavailable, message } => {
                assert!(started.elapsed() < Duration::from_secs(60), "{message}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn gateways_that_append_the_same_and_other_chains_at_once_count_each_reading_once() {
    let Some(server) = PostgresqlServer::shared() else { return };
    depin_trials::run("several gateways", |rng| {
        let (database, hands) = (server.database().unwrap(), Hands::at(HOUR + 1));
        let ledgers: Vec<_> = (0..3).map(|_| Arc::new(gateway(&[server], &database, &hands))).collect();
        let closes_at = below(rng, 30);
        threads().block_on(async {
            let writer = found(&*ledgers[0], 4).await.unwrap();
            let sent = Arc::new(AtomicU64::new(0));
            let mut streams = Vec::new();
            // Each chain goes to all three gateways at once: an agent whose connections were cut in between, and worse.
            for agent in 1..=4 {
                let mut sealer = Sealer::new(agent);
                let proofs: Vec<_> = (0..15)
                    .map(|n| {
                        let at = n * 60_000 + 1;
                        let device = u32::from(agent) * 4;
                        sealer.seal(&[(device, "energy", at, 100 + n), (device + 1, "power", at, 100 + n)])
                    })
                    .collect();
                for ledger in &ledgers {
                    let (ledger, proofs, sent) = (Arc::clone(ledger), proofs.clone(), Arc::clone(&sent));
                    streams.push(tokio::spawn(async move {
                        let mut judged = Vec::new();
                        for proof in proofs {
                            loop {
                                match submit(&*ledger, proof.clone()).await {
                                    Outcome::Judged { position, verdict, .. } => {
                                        judged.push((agent, proof.opened.header.sequence, position, verdict.accepted));
                                        sent.fetch_add(1, Ordering::Relaxed);
                                        break;
                                    }
                                    Outcome::Deferred { .. } => tokio::task::yield_now().await,
                                    Outcome::Refused { reason, message } => panic!("{reason:?} {message}"),
                                }
                            }
                        }
                        judged
                    }));
                }
            }
            while sent.load(Ordering::Relaxed) < closes_at {
                tokio::task::yield_now().await;
            }
            let close = ledgers[1].close_epoch(close_request(writer, 0, &[])).await.unwrap();
            let mut judged = BTreeSet::new();
            for stream in streams {
                judged.extend(stream.await.unwrap());
            }
            assert_eq!(judged.len(), 4 * 15, "each proof has one place and one verdict, whoever is asked");
            assert!(judged.iter().all(|(.., accepted)| *accepted == 2));
            let positions: BTreeSet<_> = judged.iter().map(|(_, _, position, _)| position).collect();
            assert_eq!(positions.len(), 4 * 15);
            let counted: u64 = frozen(&*ledgers[2], 0, 0).await.unwrap().iter().map(|one| one.count).sum();
            let before: u64 = judged.iter().filter(|one| one.2 < close.position).map(|one| one.3).sum();
            assert_eq!(counted, before, "exactly what stands before the close");
            for ledger in &ledgers {
                let info = ledger.info().await.unwrap();
                assert_eq!((info.proofs, info.readings_accepted), (60, 120));
            }
        });
        drop(ledgers);
        let found = runtime().block_on(gateway(&[server], &database, &hands).verify(None)).unwrap();
        assert_eq!((found.findings, found.proofs), (Vec::new(), 60));
    });
}

#[test]
fn what_one_gateway_writes_the_others_see_and_an_older_writer_is_fenced_on_all() {
    let Some(server) = PostgresqlServer::shared() else { return };
    let (database, hands) = (server.database().unwrap(), Hands::at(HOUR));
    let (one, other) = (gateway(&[server], &database, &hands), gateway(&[server], &database, &hands));
    runtime().block_on(async {
        let (mut registry, mut inbox) = (other.registry(), other.inbox_changes());
        let old = found(&one, 1).await.unwrap();
        registry.wait_for(|known| known.registry.version() == changes(1).len() as u64).await.unwrap();
        let request = depin_ledger::InboxRequest::Sightings {
            agent: agent_id(1),
            sightings: vec![depin_proto::v1::Sighting {
                serial: "S".into(),
                model: "meter".into(),
                ..Default::default()
            }],
        };
        inbox.borrow_and_update();
        one.post_inbox(request).await.unwrap();
        inbox.changed().await.unwrap();
        assert_eq!(other.read_inbox(0).await.unwrap().len(), 1);
        other.acquire_writer("second".into()).await.unwrap();
        let fenced = one.close_epoch(close_request(old, 0, &[])).await.unwrap_err();
        assert!(matches!(fenced, LedgerError::Fenced { token: 1, newest: 2, .. }), "{fenced}");
    });
}

#[test]
fn a_server_that_crashes_in_mid_stream_loses_nothing_that_was_acknowledged() {
    let Some(mut server) = PostgresqlServer::start().unwrap() else { return };
    let (database, hands) = (server.database().unwrap(), Hands::at(HOUR + 1));
    let ledger = Arc::new(gateway(&[&server], &database, &hands));
    threads().block_on(async {
        let writer = found(&*ledger, 2).await.unwrap();
        let (stop, judged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut streams = Vec::new();
        for agent in 1..=2_u8 {
            let (ledger, stop, judged) = (Arc::clone(&ledger), Arc::clone(&stop), Arc::clone(&judged));
            streams.push(tokio::spawn(async move {
                let (mut sealer, mut accepted) = (Sealer::new(agent), 0);
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    n += 1;
                    let proof = sealer.seal(&[(u32::from(agent) * 4, "energy", n, n)]);
                    accepted += until_judged(&ledger, &proof).await.1;
                    judged.fetch_add(1, Ordering::Relaxed);
                }
                accepted
            }));
        }
        let until = async |count: u64| {
            while judged.load(Ordering::Relaxed) < count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let mut trouble = ledger.trouble();
        for round in 1..=3 {
            until(round * 10).await;
            server.crash().unwrap();
            trouble.wait_for(Option::is_some).await.unwrap();
            let known = judged.load(Ordering::Relaxed);
            server.resume().unwrap();
            until(known + 4).await;
            assert!(trouble.borrow_and_update().is_none(), "the trouble is over");
        }
        stop.store(true, Ordering::Relaxed);
        let mut accepted = 0;
        for stream in streams {
            accepted += stream.await.unwrap();
        }
        let info = ledger.info().await.unwrap();
        assert_eq!((info.readings_accepted, info.proofs), (accepted, judged.load(Ordering::Relaxed)));
        ledger.close_epoch(close_request(writer, 0, &[])).await.unwrap();
        let counted: u64 = frozen(&*ledger, 0, 0).await.unwrap().iter().map(|one| one.count).sum();
        assert_eq!(counted, accepted);
        assert_eq!(ledger.verify(None).await.unwrap().findings, Vec::<String>::new());
    });
}

#[test]
fn a_synchronous_standby_takes_over_with_everything_that_was_acknowledged() {
    let Some(mut primary) = PostgresqlServer::start().unwrap() else { return };
    let standby = primary.standby().unwrap();
    primary.sql("ALTER SYSTEM SET synchronous_standby_names = '*'").unwrap();
    primary.sql("SELECT pg_reload_conf()").unwrap();
    let (database, hands) = (primary.database().unwrap(), Hands::at(HOUR + 1));
    let ledger = gateway(&[&primary, &standby], &database, &hands);
    threads().block_on(async {
        found(&ledger, 1).await.unwrap();
        let mut sealer = Sealer::new(1);
        let proofs: Vec<_> = (1..=40).map(|n| sealer.seal(&[(4, "energy", n, 100 + n)])).collect();
        for proof in &proofs[..20] {
            assert_eq!(judged(&submit(&ledger, proof.clone()).await), (1, false));
        }
        primary.crash().unwrap();
        standby.promote().unwrap();
        standby.sql("ALTER SYSTEM SET synchronous_standby_names = ''").unwrap();
        standby.sql("SELECT pg_reload_conf()").unwrap();
        for (proof, place) in proofs.iter().zip(0..) {
            let (_, accepted, repeated) = until_judged(&ledger, proof).await;
            assert_eq!((accepted, repeated), (1, place < 20), "proof {place}");
        }
        assert_eq!(ledger.info().await.unwrap().readings_accepted, 40);
        assert_eq!(ledger.verify(None).await.unwrap().findings, Vec::<String>::new());
    });
}

#[test]
fn a_database_that_went_back_is_refused_until_it_is_declared_restored_and_ends_in_exact_sums() {
    let Some(server) = PostgresqlServer::shared() else { return };
    let (database, hands) = (server.database().unwrap(), Hands::at(HOUR + 1));
    let keep = Settings { backup_configured: true, ..settings() };
    let open = |database: &str| {
        let server = Server::new(&server.url(database), None).unwrap();
        let ledger = PostgresqlLedger::open(server, keep.clone(), Some(hands.clock())).unwrap();
        ledger.serve(true);
        ledger
    };
    runtime().block_on(async {
        let ledger = open(&database);
        let writer = found(&ledger, 1).await.unwrap();
        let mut sealer = Sealer::new(1);
        let proofs: Vec<_> = (1..=20).map(|n| sealer.seal(&[(4, "energy", n * 1_000, n * 10)])).collect();
        ledger.append(proofs[..10].to_vec()).await.unwrap();
        // A backup of the database: here a copy, made while nobody is connected.
        let begun = ledger.begin_backup().await.unwrap();
        drop(ledger);
        server.sql(&format!("CREATE DATABASE {database}_copy TEMPLATE {database}")).unwrap();
        let ledger = open(&database);
        let refused = ledger.complete_backup(begun + 1).await.unwrap_err();
        assert!(matches!(refused, LedgerError::Invalid { field: "position", .. }), "{refused}");
        ledger.complete_backup(begun).await.unwrap();
        let chain = OpenChain { key: sealer.key(), incarnation: 1, next_sequence: 21, sealed_sequence: 20 };
        ledger.append(proofs[10..].to_vec()).await.unwrap();
        let heads = ledger.open_chains(vec![chain]).await.unwrap();
        assert_eq!((heads[0].head.sequence, heads[0].archived_sequence), (20, 10), "the rest is only durable");

        // The database is lost under a gateway that goes on; the copy takes its place.
        let cut = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'");
        server.sql(&format!("ALTER DATABASE {database} ALLOW_CONNECTIONS false")).unwrap();
        server.sql(&cut).unwrap();
        server.sql(&format!("ALTER DATABASE {database} RENAME TO {database}_lost")).unwrap();
        server.sql(&format!("ALTER DATABASE {database}_copy RENAME TO {database}")).unwrap();
        let started = Instant::now();
        let refused = loop {
            let outcome = submit(&ledger, proofs[10].clone()).await;
            let Outcome::Deferred { message, .. } = outcome else { panic!("{outcome:?}") };
            if message.contains("declare-restored") {
                break message;
            }
            assert!(started.elapsed() < Duration::from_secs(30), "{message}");
            std::thread::sleep(Duration::from_millis(20));
        };
        assert!(refused.contains("was acknowledged"), "{refused}");
        let incarnation = open(&database).declare_restored().await.unwrap();
        assert!(incarnation > 1);
        drop(ledger);

        let ledger = open(&database);
        let fenced = ledger.close_epoch(close_request(writer, 0, &[])).await.unwrap_err();
        assert!(matches!(fenced, LedgerError::Fenced { .. }), "tokens of the lost ledger are void: {fenced}");
        let writer = ledger.acquire_writer("after".into()).await.unwrap();
        let held = ledger.close_epoch(close_request(writer, 0, &[])).await.unwrap_err();
        assert_eq!(held, LedgerError::ClosingHeld { missing: 1 });
        let heads = ledger.open_chains(vec![chain]).await.unwrap();
        assert_eq!(heads[0].head.sequence, 10, "the agent sees what is missing");
        let hold = ledger.read_hold(10).await.unwrap();
        assert_eq!((hold.held, hold.awaited, hold.chains[0].reported_sequence), (true, 1, 20));
        for outcome in ledger.append(proofs[10..].to_vec()).await.unwrap() {
            assert_eq!(judged(&outcome), (1, false));
        }
        assert!(!ledger.read_hold(10).await.unwrap().held, "all is there");
        ledger.close_epoch(close_request(writer, 0, &[])).await.unwrap();
        let statistics = frozen(&ledger, 0, 0).await.unwrap();
        assert_eq!((statistics[0].count, statistics[0].increase.as_str()), (20, "190"));
        drop(ledger);
        assert_eq!(open(&database).verify(None).await.unwrap().findings, Vec::<String>::new());
    });
}

#[test]
fn a_newer_schema_and_an_unsafe_server_are_refused_with_what_to_do() {
    let Some(server) = PostgresqlServer::shared() else { return };
    let (database, hands) = (server.database().unwrap(), Hands::at(HOUR));
    drop(gateway(&[server], &database, &hands));
    server.sql_in(&database, "INSERT INTO depin.schema_version VALUES (99)").unwrap();
    let open = || PostgresqlLedger::open(Server::new(&server.url(&database), None)?, settings(), None);
    let refused = open().unwrap_err().to_string();
    assert!(refused.contains("schema version 99") && refused.contains("as new as"), "{refused}");

    let url = |url: &str| Server::new(url, None).map(|_| ()).unwrap_err().to_string();
    let secret = url("postgresql://depin:hunter2@db.example.org/depin");
    assert!(secret.contains("--postgresql-ca") && !secret.contains("hunter2"), "{secret}");
    let broken = url("postgresql://depin:hunter2@[::1");
    assert!(broken.contains("postgresql://USER") && !broken.contains("hunter2"), "{broken}");
    assert!(url("postgresql://depin@localhost").contains("/DATABASE"));
    let shown = format!("{:?}", Server::new("postgresql://depin:hunter2@localhost/depin", None).unwrap());
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn the_server_is_known_by_its_certificate_and_spoken_to_through_tls() {
    let Some(mut server) = PostgresqlServer::start().unwrap() else { return };
    let made = |name: &str| rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let own = made("127.0.0.1");
    let port = server.resume_with_tls(&own.cert.pem(), &own.signing_key.serialize_pem()).unwrap();
    let url = format!("postgresql://depin@127.0.0.1:{port}/{}", server.database().unwrap());
    let open = |ca: &str| {
        let server = Server::new(&url, Some(ca.as_bytes()))?;
        PostgresqlLedger::open(server, settings(), Some(Hands::at(HOUR).clock()))
    };
    let ledger = open(&own.cert.pem()).unwrap();
    let encrypted = "SELECT bool_and(ssl) AND count(*) > 0 FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                     WHERE application_name = 'depin-gateway'";
    assert_eq!(server.sql(encrypted).unwrap(), "t");
    runtime().block_on(found(&ledger, 1)).unwrap();
    drop(ledger);
    let foreign = open(&made("127.0.0.1").cert.pem()).unwrap_err();
    assert!(foreign.to_string().contains("certificate"), "{foreign}");
    assert!(matches!(open("no PEM"), Err(LedgerError::Invalid { field: "postgresql-ca", .. })));
    let other = made("db.example.org");
    let port = server.resume_with_tls(&other.cert.pem(), &other.signing_key.serialize_pem()).unwrap();
    let url = format!("postgresql://depin@127.0.0.1:{port}/postgres");
    let misnamed = Server::new(&url, Some(other.cert.pem().as_bytes()))
        .and_then(|server| PostgresqlLedger::open(server, settings(), None))
        .unwrap_err();
    assert!(misnamed.to_string().contains("certificate"), "{misnamed}");
}

#[test]
fn gateways_tell_each_other_who_was_heard_and_again_after_a_crash_that_forgot_it() {
    let Some(mut server) = PostgresqlServer::start().unwrap() else { return };
    let (database, hands) = (server.database().unwrap(), Hands::at(HOUR));
    let note = |id: u8, body: &'static [u8]| Note { kind: 1, id: vec![id; 32], body: body.into() };
    {
        let (one, other) = (gateway(&[&server], &database, &hands), gateway(&[&server], &database, &hands));
        runtime().block_on(async {
            let (one, other) = (one.board(), other.board());
            let first = one.exchange([1; 16], vec![note(1, b"here"), note(2, b"here")], 0).await.unwrap();
            assert!(first.forgotten && first.notes.is_empty() && first.gateways.is_empty());
            let heard = other.exchange([2; 16], Vec::new(), 0).await.unwrap();
            assert_eq!(heard.gateways, [([1; 16], true)]);
            assert_eq!(heard.notes, [([1; 16], note(1, b"here")), ([1; 16], note(2, b"here"))]);
            let again = one.exchange([1; 16], vec![note(2, b"gone")], first.until).await.unwrap();
            assert!(!again.forgotten);
            let heard = other.exchange([2; 16], Vec::new(), heard.until).await.unwrap();
            assert!(heard.notes.contains(&([1; 16], note(2, b"gone"))), "{heard:?}");
            // Silent for long: known to have ended, then forgotten with all that it said.
            server
                .sql_in(
                    &database,
                    "UPDATE depin.gateways SET alive = alive - 20000 WHERE gateway = decode(repeat('01', 16), 'hex')",
                )
                .unwrap();
            let heard = other.exchange([2; 16], Vec::new(), heard.until).await.unwrap();
            assert_eq!(heard.gateways, [([1; 16], false)]);
            server
                .sql_in(
                    &database,
                    "UPDATE depin.gateways SET alive = alive - 700000 WHERE gateway = decode(repeat('01', 16), 'hex')",
                )
                .unwrap();
            let heard = other.exchange([2; 16], Vec::new(), 0).await.unwrap();
            assert_eq!((heard.gateways, heard.notes), (Vec::new(), Vec::new()));
            assert!(one.exchange([1; 16], Vec::new(), 0).await.unwrap().forgotten);
        });
    }
    server.crash().unwrap();
    server.resume().unwrap();
    let one = gateway(&[&server], &database, &hands);
    let heard = runtime().block_on(one.board().exchange([2; 16], Vec::new(), 0)).unwrap();
    assert!(heard.forgotten && heard.gateways.is_empty() && heard.notes.is_empty(), "{heard:?}");
}
