//! What a gateway and an operator see of a ledger, whatever it is made of.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod network;

use depin_domain::proofs::Reason;
use depin_ledger::{Confirmation, EpochRecord, InboxRequest, Ledger, LedgerError, OpenChain, Outcome, ProofFilter};
use depin_log::simulated::SimulatedStorage;
use depin_proto::v1;
use network::*;

crate::in_places! {
    embedded: super::network::InMemory;
    postgresql: super::network::InDatabase;
    => {
        a_proof_is_judged_once_and_repeated_ever_after
        chains_defer_gaps_refuse_forks_and_fence_lower_incarnations
        a_close_freezes_once_counts_open_time_and_fences_old_writers
        the_registry_is_checked_compared_and_followed
        the_inbox_repeats_answers_is_capped_and_forgets_after_a_day
        strangers_with_passes_fill_no_more_than_their_own_room_and_a_pass_is_forgotten_once_it_is_answered
        a_denial_is_of_one_request_and_of_one_minute
        a_model_stays_admissible_until_its_successor_is_confirmed
        only_time_in_which_proofs_could_come_is_grace
        time_that_the_ledger_slept_through_or_that_its_clock_skipped_is_no_grace
        a_search_for_a_silent_device_reads_the_log_in_bounded_pieces
    }
}

crate::in_places! {
    embedded_large: super::network::place::OnDisk;
    postgresql_large: super::network::InDatabase;
    => {
        a_state_of_more_than_a_frame_is_read_back_and_what_could_not_be_is_refused
    }
}

fn a_proof_is_judged_once_and_repeated_ever_after<P: Place>(place: &P) {
    runtime().block_on(async {
        let hands = Hands::at(HOUR);
        let ledger = place.open(&hands);
        found(&ledger, 2).await.unwrap();
        let mut sealer = Sealer::new(1);
        let proofs: Vec<_> = (0..20)
            .map(|n| sealer.seal(&[(4, "energy", n * 60_000 + 1, n * 10), (5, "power", n * 60_000 + 1, 13 + n % 2)]))
            .collect();
        let first = ledger.append(proofs.clone()).await.unwrap();
        assert!(first.iter().step_by(2).all(|outcome| judged(outcome) == (1, false)), "the check rejects 13");
        assert!(first.iter().skip(1).step_by(2).all(|outcome| judged(outcome) == (2, false)));
        drop(ledger);
        let ledger = place.open(&hands);
        let again = ledger.append(proofs).await.unwrap();
        for (first, again) in first.iter().zip(&again) {
            assert_eq!((judged(first).0, true), judged(again));
            let (Outcome::Judged { position: a, verdict: b, .. }, Outcome::Judged { position: c, verdict: d, .. }) =
                (first, again)
            else {
                panic!("not judged");
            };
            assert_eq!((a, b), (c, d));
        }
        let info = ledger.info().await.unwrap();
        assert_eq!((info.proofs, info.readings_accepted), (20, 30));
        assert_eq!(info.readings_rejected[0].reason, u32::from(Reason::CheckFailed.code()));
        let head = ledger
            .open_chains(vec![OpenChain { key: sealer.key(), incarnation: 1, next_sequence: 21, sealed_sequence: 20 }])
            .await
            .unwrap()
            .remove(0);
        assert_eq!((head.head.sequence, head.archived_sequence, head.head.digest), (20, 20, sealer.previous));
        let filter = ProofFilter { device: Some(device_id(4)), limit: 7, ..ProofFilter::default() };
        let page = ledger.read_proofs(filter).await.unwrap().proofs;
        let next = ledger.read_proofs(ProofFilter { after: page[6].position, ..filter }).await.unwrap().proofs;
        assert_eq!((page.len(), next.len()), (7, 7));
        assert!(next[0].position > page[6].position);
    });
}

fn chains_defer_gaps_refuse_forks_and_fence_lower_incarnations<P: Place>(place: &P) {
    runtime().block_on(async {
        let hands = Hands::at(HOUR);
        let ledger = place.open(&hands);
        found(&ledger, 2).await.unwrap();
        let mut sealer = Sealer::new(1);
        let reading = |n: i64| [(4, "energy", n * 60_000, n)];
        let first = sealer.seal(&reading(1));
        let mut fork = sealer.clone();
        assert_eq!(judged(&submit(&ledger, first).await), (1, false));
        let second = sealer.seal(&reading(2));
        let third = sealer.seal(&reading(3));
        let reason = |outcome: Outcome| match outcome {
            Outcome::Deferred { reason, .. } | Outcome::Refused { reason, .. } => reason,
            Outcome::Judged { .. } => panic!("judged"),
        };
        assert_eq!(reason(submit(&ledger, third.clone()).await), Reason::SequenceGap);
        let honest = second.opened.digest;
        assert_eq!(judged(&submit(&ledger, second).await), (1, false));
        assert_eq!(judged(&submit(&ledger, third).await), (1, false));
        let forked = fork.seal(&[(4, "energy", 90_000, 7)]);
        assert_eq!(reason(submit(&ledger, forked.clone()).await), Reason::Equivocation);
        assert_eq!(reason(submit(&ledger, forked.clone()).await), Reason::Equivocation);
        sealer.sequence = 9;
        sealer.declared = Some(10);
        assert_eq!(judged(&submit(&ledger, sealer.seal(&reading(4))).await), (1, false));
        let mut higher = Sealer { incarnation: 2, ..Sealer::new(1) };
        assert_eq!(judged(&submit(&ledger, higher.seal(&reading(4))).await), (0, false), "the readings counted before");
        sealer.declared = None;
        assert_eq!(reason(submit(&ledger, sealer.seal(&reading(5))).await), Reason::IncarnationFenced);
        let mut newer = Sealer { registry_version: 99, ..Sealer::new(2) };
        assert_eq!(reason(submit(&ledger, newer.seal(&[(8, "energy", 1, 1)])).await), Reason::RegistryNewer);
        let mut foreign = Sealer::new(2).seal(&[(8, "energy", 1, 1)]);
        foreign.agent = agent_id(1);
        assert_eq!(reason(submit(&ledger, foreign).await), Reason::NotYourKey);
        let unknown = Sealer::new(9).seal(&[(8, "energy", 1, 1)]);
        assert_eq!(reason(submit(&ledger, unknown).await), Reason::KeyNotYetRegistered);
        // The fork is kept once, as both sides signed it, for whoever wants to see.
        drop(ledger);
        let verified = place.verify(&hands).await;
        let [evidence] = &verified.equivocations[..] else { panic!("{:?}", verified.equivocations) };
        assert_eq!((&evidence.refused.header, evidence.judged), (&forked.proof.header, honest));
    });
}

fn a_close_freezes_once_counts_open_time_and_fences_old_writers<P: Place>(place: &P) {
    runtime().block_on(async {
        let hands = Hands::at(HOUR / 2);
        let ledger = place.open(&hands);
        let old = found(&ledger, 1).await.unwrap();
        let mut sealer = Sealer::new(1);
        let sealed = sealer.seal(&[(4, "energy", 100, 10), (4, "energy", 200, 25), (5, "power", 300, 7)]);
        assert_eq!(judged(&submit(&ledger, sealed).await), (3, false));
        let writer = ledger.acquire_writer("second".into()).await.unwrap();
        let fenced = ledger.close_epoch(close_request(old, 0, &[])).await.unwrap_err();
        assert!(matches!(fenced, LedgerError::Fenced { token: 1, newest: 2, .. }), "{fenced}");
        let early = ledger.close_epoch(close_request(writer, 0, &[])).await.unwrap_err();
        assert!(matches!(early, LedgerError::TooEarly { .. }));
        // The ledger is down over the epoch's end: that time is no grace.
        drop(ledger);
        hands.set(3 * HOUR);
        let ledger = place.open(&hands);
        let request = v1::CloseEpochRequest { grace_ms: 5_000, ..close_request(writer, 0, &[]) };
        let early = ledger.close_epoch(request.clone()).await.unwrap_err();
        assert!(matches!(early, LedgerError::TooEarly { remaining_ms: 5_000, .. }), "{early}");
        hands.set(3 * HOUR + 4_999);
        let early = ledger.close_epoch(request.clone()).await.unwrap_err();
        assert!(matches!(early, LedgerError::TooEarly { remaining_ms: 1, .. }), "{early}");
        hands.set(3 * HOUR + 5_000);
        let close = ledger.close_epoch(request.clone()).await.unwrap();
        let statistics = frozen(&ledger, 0, 0).await.unwrap();
        assert_eq!(statistics.len(), 2);
        let energy = statistics.iter().find(|one| one.metric == "energy").unwrap();
        assert_eq!((energy.count, energy.sum.as_str(), energy.increase.as_str()), (2, "35", "15"));
        // A late reading moves the memory, not what is frozen.
        let late = sealer.seal(&[(4, "energy", 400, 30)]);
        assert_eq!(judged(&submit(&ledger, late).await), (1, false));
        assert_eq!(ledger.close_epoch(request.clone()).await.unwrap(), close);
        assert_eq!(frozen(&ledger, 0, 0).await.unwrap(), statistics);
        let moved = v1::CloseEpochRequest { end: HOUR + 1, ..request.clone() };
        assert!(matches!(ledger.close_epoch(moved).await, Err(LedgerError::Conflict { .. })));
        let overlapping = v1::CloseEpochRequest { number: 7, start: 10, end: HOUR, ..request };
        assert!(matches!(ledger.close_epoch(overlapping).await, Err(LedgerError::Invalid { field: "start", .. })));

        let result = EpochRecord {
            summary: b"{\"a\":1}".to_vec(),
            lines: vec![b"{\"device\":1}".to_vec(), b"{\"device\":2}".to_vec()],
            state: b"{}".to_vec(),
        };
        let record = |result: &EpochRecord| ledger.record_epoch(writer, PROGRAM.into(), 0, result.clone());
        let first = record(&result).await.unwrap();
        assert!(!first.repeated);
        let again = record(&result).await.unwrap();
        assert!(again.repeated && again.digest == first.digest);
        let other = EpochRecord { state: b"{\"b\":1}".to_vec(), ..result.clone() };
        assert!(matches!(record(&other).await, Err(LedgerError::Conflict { .. })));
        let loose = EpochRecord { state: b"{ }".to_vec(), ..result.clone() };
        assert!(matches!(record(&loose).await, Err(LedgerError::Invalid { field: "state", .. })));
        drop(ledger);
        let ledger = place.open(&hands);
        let (entry, stored) = ledger.read_epoch(PROGRAM.into(), 0).await.unwrap();
        assert_eq!((entry.close.unwrap(), entry.result_digest, stored.unwrap()), (close.clone(), first.digest, result));
        let listed = ledger.list_epochs(PROGRAM.into(), 0, 10).await.unwrap();
        assert_eq!(listed.len(), 1);

        // Once the epoch has matured its readings are too late for good.
        hands.set(6 * HOUR);
        let writer = ledger.acquire_writer("third".into()).await.unwrap();
        ledger.close_epoch(close_request(writer, 1, &[0])).await.unwrap();
        let matured = frozen(&ledger, 1, 0).await.unwrap();
        let energy = matured.iter().find(|one| one.metric == "energy").unwrap();
        assert_eq!((energy.count, energy.increase.as_str()), (3, "20"));
        let outcome = submit(&ledger, sealer.seal(&[(4, "energy", 500, 40)])).await;
        let Outcome::Judged { verdict, .. } = outcome else { panic!("not judged") };
        assert_eq!(verdict.rejections[0].reason, Reason::LateBeyondUntil);
    });
}

fn the_registry_is_checked_compared_and_followed<P: Place>(place: &P) {
    runtime().block_on(async {
        let hands = Hands::at(1);
        let ledger = place.open(&hands);
        let mut follower = ledger.registry();
        let writer = found(&ledger, 1).await.unwrap();
        follower.changed().await.unwrap();
        let version = follower.borrow_and_update().registry.version();
        assert_eq!(version, changes(1).len() as u64);
        let write = |changes: Vec<_>, expected_version| {
            let request = v1::WriteRegistryRequest { writer: Some(writer), changes: bytes(&changes), expected_version };
            ledger.write_registry(request)
        };
        assert_eq!(write(changes(1), version).await.unwrap(), version, "what says nothing new is not written");
        let conflict = write(vec![device(9, 1)], 3).await.unwrap_err();
        assert_eq!(conflict, LedgerError::VersionConflict { expected: 3, newest: version });
        let invalid = write(vec![device(90, 1), device(91, 7)], version).await.unwrap_err();
        assert!(
            matches!(&invalid, LedgerError::InvalidChange { index: 1, message } if message.contains("agent")),
            "{invalid}"
        );
        assert_eq!(ledger.info().await.unwrap().registry_version, version, "all or none");
        let read = ledger.read_registry(2, 3).await.unwrap();
        assert_eq!(read.iter().map(|record| record.version).collect::<Vec<_>>(), [3, 4, 5]);
        drop(ledger);
        let ledger = place.open(&hands);
        assert_eq!(ledger.registry().borrow().registry.version(), version);
        assert!(ledger.registry().borrow().registry.device(&device_id(4)).is_some());
    });
}

fn the_inbox_repeats_answers_is_capped_and_forgets_after_a_day<P: Place>(place: &P) {
    runtime().block_on(async {
        let hands = Hands::at(1_000);
        let ledger = place.open(&hands);
        let writer = ledger.acquire_writer("test".into()).await.unwrap();
        let enroll = |number: u32| {
            InboxRequest::Enroll(v1::EnrollRequest {
                token: vec![1; 16].into(),
                csr: number.to_le_bytes().to_vec().into(),
                name: format!("agent-{number}"),
                ..v1::EnrollRequest::default()
            })
        };
        let mut changes = ledger.inbox_changes();
        let posted = ledger.post_inbox(enroll(0)).await.unwrap();
        changes.changed().await.unwrap();
        assert_eq!(ledger.post_inbox(enroll(0)).await.unwrap(), posted, "the same request is the same entry");
        for number in 1..100 {
            ledger.post_inbox(enroll(number)).await.unwrap();
        }
        assert!(matches!(ledger.post_inbox(enroll(100)).await, Err(LedgerError::InboxFull(_))));
        let denied = v1::EnrollResponse {
            result: Some(v1::enroll_response::Result::Denied(v1::Denied {
                reason: "No".into(),
                message: String::new(),
            })),
        };
        let answer = v1::AnswerInboxRequest { writer: Some(writer), id: posted.id, response: Some(denied.clone()) };
        ledger.answer_inbox(answer.clone()).await.unwrap();
        ledger.answer_inbox(answer).await.unwrap();
        drop(ledger);
        let ledger = place.open(&hands);
        assert_eq!(ledger.post_inbox(enroll(0)).await.unwrap().response, Some(denied));
        assert_eq!(ledger.read_inbox(0).await.unwrap().len(), 99);
        assert_eq!(ledger.read_inbox(50).await.unwrap().len(), 50);
        let seen = |serial: &str| v1::Sighting {
            model: "meter".into(),
            serial: serial.into(),
            first_seen: 1,
            topic: "t".into(),
        };
        let sight = |serials: &[&str]| InboxRequest::Sightings {
            agent: agent_id(1),
            sightings: serials.iter().map(|serial| seen(serial)).collect(),
        };
        assert_eq!(ledger.post_inbox(sight(&["a", "b"])).await.unwrap().recorded, 2);
        assert_eq!(ledger.post_inbox(sight(&["b", "c"])).await.unwrap().recorded, 1);
        assert_eq!(ledger.post_inbox(sight(&["b", "c"])).await.unwrap().recorded, 0);
        hands.set(1_000 + 24 * HOUR);
        assert_eq!(ledger.read_inbox(0).await.unwrap().len(), 0);
        assert_eq!(ledger.post_inbox(enroll(0)).await.unwrap().response, None, "the answer was forgotten");
    });
}

fn strangers_with_passes_fill_no_more_than_their_own_room_and_a_pass_is_forgotten_once_it_is_answered<P: Place>(
    place: &P,
) {
    runtime().block_on(async {
        let hands = Hands::at(1_000);
        let ledger = place.open(&hands);
        let writer = ledger.acquire_writer("test".into()).await.unwrap();
        let pass = |number: u32, sealed: &'static [u8]| {
            InboxRequest::Enroll(v1::EnrollRequest {
                csr: number.to_le_bytes().to_vec().into(),
                service_account: Some(v1::ServiceAccountPass {
                    namespace: "town".into(),
                    fleets: vec!["homes".into()],
                    sealed_token: sealed.into(),
                }),
                ..v1::EnrollRequest::default()
            })
        };
        let answer = |id, result| {
            let response = Some(v1::EnrollResponse { result: Some(result) });
            ledger.answer_inbox(v1::AnswerInboxRequest { writer: Some(writer), id, response })
        };
        let denied = || v1::enroll_response::Result::Denied(v1::Denied::default());
        let issued = || v1::enroll_response::Result::Issued(v1::IssuedCertificate::default());
        let first = ledger.post_inbox(pass(0, b"sealed")).await.unwrap();
        // It is sealed anew each time, and the same request all the same.
        assert_eq!(ledger.post_inbox(pass(0, b"again")).await.unwrap(), first);
        for number in 1..2_000 {
            ledger.post_inbox(pass(number, b"sealed")).await.unwrap();
        }
        assert!(matches!(ledger.post_inbox(pass(2_000, b"sealed")).await, Err(LedgerError::InboxFull(_))));
        let token = InboxRequest::Enroll(v1::EnrollRequest {
            token: vec![1; 16].into(),
            csr: vec![1].into(),
            ..v1::EnrollRequest::default()
        });
        ledger.post_inbox(token).await.unwrap();
        // Who is let in takes none of the strangers' room; who is turned away takes it for a minute.
        answer(first.id, issued()).await.unwrap();
        ledger.post_inbox(pass(2_000, b"sealed")).await.unwrap();
        answer(first.id + 1, denied()).await.unwrap();
        assert!(matches!(ledger.post_inbox(pass(2_001, b"sealed")).await, Err(LedgerError::InboxFull(_))));
        hands.set(1_000 + 60_000);
        ledger.post_inbox(pass(2_001, b"sealed")).await.unwrap();
        assert!(matches!(ledger.post_inbox(pass(1, b"sealed")).await, Err(LedgerError::InboxFull(_))), "forgotten");
        let open_entries = ledger.read_inbox(0).await.unwrap();
        drop(ledger);
        let ledger = place.open(&hands);
        assert_eq!(ledger.read_inbox(0).await.unwrap(), open_entries, "the same after a restart");
        assert!(matches!(
            ledger.post_inbox(pass(0, b"once more")).await.unwrap().response.unwrap().result,
            Some(v1::enroll_response::Result::Issued(_))
        ));
    });
}

fn a_denial_is_of_one_request_and_of_one_minute<P: Place>(place: &P) {
    runtime().block_on(async {
        let hands = Hands::at(1_000);
        let mut ledger = place.open(&hands);
        let writer = ledger.acquire_writer("test".into()).await.unwrap();
        // A key's certificate request is always the same bytes.
        let enroll = |token: u8, name: &str| {
            InboxRequest::Enroll(v1::EnrollRequest {
                token: vec![token; 16].into(),
                csr: b"of one key".to_vec().into(),
                name: name.into(),
                ..v1::EnrollRequest::default()
            })
        };
        let denied = v1::EnrollResponse {
            result: Some(v1::enroll_response::Result::Denied(v1::Denied {
                reason: "NameTaken".into(),
                message: String::new(),
            })),
        };
        let deny = |id| v1::AnswerInboxRequest { writer: Some(writer), id, response: Some(denied.clone()) };
        let first = ledger.post_inbox(enroll(1, "roof")).await.unwrap();
        ledger.answer_inbox(deny(first.id)).await.unwrap();
        // Another token or another name is another request.
        for other in [enroll(2, "roof"), enroll(1, "hall")] {
            let posted = ledger.post_inbox(other).await.unwrap();
            assert!(posted.response.is_none() && posted.id > first.id, "{posted:?}");
        }
        // The same one gets its denial again, and after a minute a new look; across restarts too, with and without a checkpoint.
        let mut newest = first.id;
        for round in 1..=150_u64 {
            hands.set(1_000 + i64::try_from(round).unwrap() * 60_000 - 1);
            assert_eq!(ledger.post_inbox(enroll(1, "roof")).await.unwrap().response, Some(denied.clone()), "{round}");
            hands.set(1_000 + i64::try_from(round).unwrap() * 60_000);
            let again = ledger.post_inbox(enroll(1, "roof")).await.unwrap();
            assert!(again.response.is_none() && again.id > newest, "{again:?}");
            newest = again.id;
            ledger.answer_inbox(deny(newest)).await.unwrap();
            if round % 50 == 0 {
                drop(ledger);
                ledger = place.open(&hands);
            }
        }
        // What waits is never asked twice, and a certificate is repeated for as long as it is kept.
        let waiting = ledger.read_inbox(0).await.unwrap();
        assert_eq!(waiting.len(), 2, "the two other requests");
        let issued =
            v1::EnrollResponse { result: Some(v1::enroll_response::Result::Issued(v1::IssuedCertificate::default())) };
        let answer = v1::AnswerInboxRequest { writer: Some(writer), id: waiting[0].id, response: Some(issued.clone()) };
        ledger.answer_inbox(answer).await.unwrap();
        hands.set(1_000 + 23 * HOUR);
        assert_eq!(ledger.post_inbox(enroll(2, "roof")).await.unwrap().response, Some(issued));
        assert_eq!(ledger.post_inbox(enroll(1, "hall")).await.unwrap().id, waiting[1].id);
    });
}

fn a_model_stays_admissible_until_its_successor_is_confirmed<P: Place>(place: &P) {
    runtime().block_on(async {
        let hands = Hands::at(HOUR);
        let ledger = place.open(&hands);
        let writer = found(&ledger, 1).await.unwrap();
        let mut newer = model();
        newer.cadence_ms = 30_000;
        let digest = newer.digest().unwrap();
        let change = depin_domain::registry::Change::Model(depin_domain::registry::ModelEntry {
            digest,
            model: newer,
            effective_from: depin_domain::time::Timestamp(2 * HOUR),
        });
        let version = ledger.info().await.unwrap().registry_version;
        let request =
            v1::WriteRegistryRequest { writer: Some(writer), changes: bytes(&[change]), expected_version: version };
        ledger.write_registry(request).await.unwrap();
        hands.set(2 * HOUR + 20);
        let mut sealer = Sealer::new(1);
        let old = sealer.seal(&[(4, "energy", 2 * HOUR + 10, 5)]);
        assert_eq!(judged(&submit(&ledger, old).await), (1, false));
        hands.set(2 * HOUR + 50);
        let confirmation = Confirmation {
            agent: agent_id(1),
            registry_incarnation: 1,
            registry_version: version + 1,
            models: vec![digest],
        };
        ledger.confirm(confirmation).await.unwrap();
        let mixed = sealer.seal(&[(4, "energy", 2 * HOUR + 20, 6), (4, "energy", 2 * HOUR + 60, 7)]);
        assert_eq!(judged(&submit(&ledger, mixed).await), (1, false));
    });
}

// Of the embedded ledger alone: whose disk fails is the database's concern; `tests/servers.rs` has a server that fails.
#[test]
fn a_failing_disk_defers_and_loses_nothing() {
    runtime().block_on(async {
        let (storage, hands) = (SimulatedStorage::new(), Hands::at(HOUR));
        let ledger = open(storage.clone(), &hands).unwrap();
        found(&ledger, 1).await.unwrap();
        let mut sealer = Sealer::new(1);
        assert_eq!(judged(&submit(&ledger, sealer.seal(&[(4, "energy", 1, 1)])).await), (1, false));
        for fault in 0..3 {
            match fault {
                0 => storage.fail_syncs(1),
                1 => storage.set_read_only(true),
                _ => storage.set_capacity(Some(storage.used() + 20)),
            }
            let proof = sealer.seal(&[(4, "energy", 10 + fault, 10 + fault)]);
            let outcome = submit(&ledger, proof.clone()).await;
            assert!(matches!(outcome, Outcome::Deferred { reason: Reason::LedgerUnavailable, .. }), "{outcome:?}");
            storage.set_read_only(false);
            storage.set_capacity(None);
            assert_eq!(judged(&submit(&ledger, proof).await), (1, false), "after the fault {fault}");
        }
        drop(ledger);
        let ledger = open(storage.after_power_failure(&mut |_| 0), &hands).unwrap();
        let info = ledger.info().await.unwrap();
        assert_eq!((info.proofs, info.readings_accepted), (4, 4));
    });
}

fn only_time_in_which_proofs_could_come_is_grace<P: Place>(place: &P) {
    runtime().block_on(async {
        let hands = Hands::at(HOUR);
        // Open as for a backup: nobody serves it.
        let ledger = place.closed(&hands, settings()).unwrap();
        let writer = found(&ledger, 1).await.unwrap();
        let close = || ledger.close_epoch(v1::CloseEpochRequest { grace_ms: 5_000, ..close_request(writer, 0, &[]) });
        let remaining = |closed: Result<v1::EpochClose, LedgerError>| match closed {
            Err(LedgerError::TooEarly { remaining_ms, .. }) => remaining_ms,
            other => panic!("{other:?}"),
        };
        assert_eq!(remaining(close().await), 5_000);
        hands.set(2 * HOUR);
        P::back_up(&ledger).await;
        hands.set(3 * HOUR);
        assert_eq!(remaining(close().await), 5_000, "open for a backup is not served");
        ledger.serve(true);
        assert_eq!(remaining(close().await), 5_000);
        hands.set(3 * HOUR + 3_000);
        assert_eq!(remaining(close().await), 2_000);
        ledger.serve(false);
        hands.set(4 * HOUR);
        assert_eq!(remaining(close().await), 2_000);
        ledger.serve(true);
        assert_eq!(remaining(close().await), 2_000);
        hands.set(4 * HOUR + 2_000);
        close().await.unwrap();
        assert_eq!(ledger.info().await.unwrap().open_ms, 5_000);
    });
}

fn time_that_the_ledger_slept_through_or_that_its_clock_skipped_is_no_grace<P: Place>(place: &P) {
    runtime().block_on(async {
        let hands = Hands::at(HOUR - 1_000);
        let watchful = depin_ledger::Settings { max_pause_ms: 15_000, ..settings() };
        let ledger = place.open_with(&hands, watchful);
        let writer = found(&ledger, 1).await.unwrap();
        let grace_ms = 30_000;
        let remaining = async || match ledger
            .close_epoch(v1::CloseEpochRequest { grace_ms, ..close_request(writer, 0, &[]) })
            .await
        {
            Err(LedgerError::TooEarly { remaining_ms, .. }) => remaining_ms,
            other => panic!("{other:?}"),
        };
        assert_eq!(remaining().await, 31_000);
        hands.set(9 * HOUR);
        assert_eq!(remaining().await, grace_ms, "eight hours that nobody saw pass");
        hands.set(9 * HOUR + 15_000);
        assert_eq!(remaining().await, 15_000, "the longest pause that counts");
        hands.set(9 * HOUR + 30_001);
        assert_eq!(remaining().await, 15_000, "a longer one does not, though it is shorter than the grace");
        hands.set(9 * HOUR + 45_001);
        let close = v1::CloseEpochRequest { grace_ms, ..close_request(writer, 0, &[]) };
        ledger.close_epoch(close).await.unwrap();
    });
}

fn a_search_for_a_silent_device_reads_the_log_in_bounded_pieces<P: Place>(place: &P) {
    runtime().block_on(async {
        let hands = Hands::at(HOUR);
        let scan = depin_ledger::Settings { scan_bytes: 3_000, ..settings() };
        let ledger = place.open_with(&hands, scan);
        found(&ledger, 1).await.unwrap();
        let mut sealer = Sealer::new(1);
        let mut own = Vec::new();
        for n in 0..200 {
            // Of device 6 the first and the last.
            let number = if n % 199 == 0 { 6 } else { 4 };
            let outcome = submit(&ledger, sealer.seal(&[(number, "energy", n * 1_000 + 1, n)])).await;
            let Outcome::Judged { position, .. } = outcome else { panic!("not judged") };
            own.extend((number == 6).then_some(position));
        }
        for (number, expected) in [(6, own), (7, Vec::new())] {
            let mut filter = ProofFilter { device: Some(device_id(number)), ..ProofFilter::default() };
            let (mut found, mut pieces) = (Vec::new(), 1);
            loop {
                let page = ledger.read_proofs(filter).await.unwrap();
                found.extend(page.proofs.iter().map(|proof| proof.position));
                let Some(next) = page.next else { break };
                assert!(next > filter.after && next <= filter.after + 4_000, "{} to {next}", filter.after);
                (filter.after, pieces) = (next, pieces + 1);
            }
            assert_eq!(found, expected);
            assert!(pieces > 10, "{pieces} pieces");
        }
    });
}

fn a_state_of_more_than_a_frame_is_read_back_and_what_could_not_be_is_refused<P: Place>(place: &P) {
    runtime().block_on(async {
        let hands = Hands::at(2 * HOUR);
        let ledger = place.open(&hands);
        let writer = found(&ledger, 1).await.unwrap();
        ledger.close_epoch(close_request(writer, 0, &[])).await.unwrap();
        let long = |bytes: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(bytes)).into_bytes();
        let result = EpochRecord {
            summary: b"{}".to_vec(),
            lines: vec![b"{\"device\":1}".to_vec(), long(33 << 20), long(33 << 20)],
            state: long(65 << 20),
        };
        let record = |result: EpochRecord| ledger.record_epoch(writer, PROGRAM.into(), 0, result);
        let endless = EpochRecord { lines: vec![long(64 << 20)], ..result.clone() };
        let refused = record(endless).await.unwrap_err();
        assert!(matches!(&refused, LedgerError::Invalid { field: "size", .. }), "{refused}");
        let first = record(result.clone()).await.unwrap();
        assert!(record(result.clone()).await.unwrap().repeated);
        let (entry, stored) = ledger.read_epoch(PROGRAM.into(), 0).await.unwrap();
        assert_eq!((entry.result_digest, entry.summary), (first.digest, result.summary.clone().into()));
        assert!(stored.unwrap() == result, "what was recorded comes back");
        drop(ledger);
        assert_eq!(place.verify(&hands).await.findings, Vec::<String>::new());
    });
}
