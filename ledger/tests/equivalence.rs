//! The same calls on the embedded ledger and on the PostgreSQL ledger get the same answers, to the last byte of what they freeze and export.
//!
//! Positions are marks of one ledger (bytes of a log there, records here) and differ; what is compared of them is their order.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod network;

use std::collections::BTreeMap;

use depin_domain::{canonical, registry::Change, rewards::Line};
use depin_ledger::{
    Confirmation, EpochRecord, Export, Ledger, LedgerError, OpenChain, Outcome, ProofFilter, Submission,
};
use depin_proto::v1;
use depin_trials::{PostgresqlServer, Rng, below, one_in};
use network::*;
use parquet::{
    file::reader::{FileReader, SerializedFileReader},
    record::Field,
};

/// What is compared: an answer as text, with positions taken out.
fn shown(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Judged { ledger_incarnation, received_at, verdict, rejected, repeated, archived, .. } => {
            format!("judged {ledger_incarnation} {received_at:?} {verdict:?} {rejected} {repeated} {archived}")
        }
        other => format!("{other:?}"),
    }
}

fn plain<T: std::fmt::Debug>(result: Result<T, LedgerError>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(error) => format!("error: {error}"),
    }
}

#[derive(Clone, Debug)]
enum Call {
    Clock(i64),
    Append(Vec<Submission>),
    Register(Change),
    Confirm(Confirmation),
    Open(Vec<OpenChain>),
    Close(u64, Vec<u64>, i64),
    Record(u64, Vec<u32>),
    Writer,
    Inbox(depin_ledger::InboxRequest),
    Answer(u64),
    Serve(bool),
    Look,
    Backup,
    Restart,
}

fn reading(rng: &mut Rng, agent: u8, hour: i64) -> (u32, &'static str, i64, i64) {
    let metric = if one_in(rng, 2) { "energy" } else { "power" };
    let from = if one_in(rng, 4) { (hour - 3).max(0) } else { hour } * HOUR;
    let device = if one_in(rng, 12) { 77 } else { u32::from(agent) * 4 + below(rng, 3) as u32 };
    (device, metric, from + below(rng, 60) as i64 * 60_000 + below(rng, 3) as i64, below(rng, 40) as i64)
}

fn script(rng: &mut Rng) -> Vec<Call> {
    let (mut calls, mut closed) = (Vec::new(), 0_u64);
    let mut sealers: Vec<Sealer> = (1..=3).map(Sealer::new).collect();
    let mut old: Vec<Submission> = Vec::new();
    for hour in 0..5 {
        calls.push(Call::Clock(hour * HOUR + HOUR / 2 + below(rng, 1_000) as i64));
        for _ in 0..4 + below(rng, 6) {
            let agent = below(rng, 3) as usize;
            match below(rng, 14) {
                0..=6 => {
                    let mut batch: Vec<_> = (0..1 + below(rng, 3))
                        .map(|_| {
                            let sealer = &mut sealers[below(rng, 3) as usize];
                            let mut readings: Vec<_> =
                                (0..1 + below(rng, 5)).map(|_| reading(rng, sealer.agent, hour)).collect();
                            readings.sort_by_key(|one| one.2);
                            readings.dedup_by_key(|one| (one.0, one.1, one.2));
                            sealer.seal(&readings)
                        })
                        .collect();
                    if one_in(rng, 3) && !old.is_empty() {
                        batch.push(old[below(rng, old.len() as u64) as usize].clone());
                    }
                    old.extend(batch.clone());
                    calls.push(Call::Append(batch));
                }
                7 => {
                    // A gap, a fork, or a new life of the chain.
                    let sealer = &mut sealers[agent];
                    match below(rng, 3) {
                        0 => {
                            sealer.sequence += 1 + below(rng, 5);
                            sealer.declared = one_in(rng, 2).then_some(sealer.sequence + 1);
                        }
                        1 => {
                            let mut fork = sealer.clone();
                            fork.sequence = fork.sequence.saturating_sub(1 + below(rng, 3));
                            calls.push(Call::Append(vec![fork.seal(&[reading(rng, fork.agent, hour)])]));
                        }
                        _ => {
                            let incarnation = sealer.incarnation + 1;
                            *sealer = Sealer { incarnation, ..Sealer::new(sealer.agent) };
                        }
                    }
                    let sealed = sealers[agent].seal(&[reading(rng, agent as u8 + 1, hour)]);
                    calls.push(Call::Append(vec![sealed]));
                    sealers[agent].declared = None;
                }
                8 => calls.push(Call::Register(device(20 + below(rng, 3) as u32, 1 + agent as u8))),
                9 => {
                    let models = vec![model().digest().unwrap()];
                    let agent = agent_id(1 + agent as u8);
                    calls.push(Call::Confirm(Confirmation {
                        agent,
                        registry_incarnation: 1,
                        registry_version: 1,
                        models,
                    }));
                }
                10 => {
                    let open = |sealer: &Sealer| OpenChain {
                        key: sealer.key(),
                        incarnation: sealer.incarnation,
                        next_sequence: sealer.sequence + 1,
                        sealed_sequence: sealer.sequence,
                    };
                    calls.push(Call::Open(sealers.iter().map(open).collect()));
                }
                11 => {
                    let number = below(rng, 4) as u32;
                    let request = v1::EnrollRequest {
                        token: vec![number as u8; 16].into(),
                        csr: vec![number as u8].into(),
                        ..Default::default()
                    };
                    calls.push(Call::Inbox(depin_ledger::InboxRequest::Enroll(request)));
                    if one_in(rng, 2) {
                        calls.push(Call::Answer(1 + below(rng, 4)));
                    }
                }
                12 => calls.push(
                    [Call::Writer, Call::Look, Call::Serve(one_in(rng, 2)), Call::Backup][below(rng, 4) as usize]
                        .clone(),
                ),
                _ => calls.push(Call::Restart),
            }
        }
        if one_in(rng, 4) {
            continue;
        }
        calls.push(Call::Serve(true));
        calls.push(Call::Clock((hour + 1) * HOUR + below(rng, 5_000) as i64));
        let matured = closed.checked_sub(2).into_iter().collect();
        calls.push(Call::Close(closed, matured, below(rng, 2) as i64 * 1_000));
        calls.push(Call::Clock((hour + 1) * HOUR + 10_000));
        let matured = closed.checked_sub(2).into_iter().collect();
        calls.push(Call::Close(closed, matured, 0));
        calls.push(Call::Record(closed, vec![4, 5, 8]));
        closed += 1;
    }
    calls.push(Call::Look);
    calls
}

/// One ledger under the script.
struct Played<P: Place> {
    place: P,
    hands: Hands,
    ledger: Option<P::Kept>,
    writer: v1::WriterToken,
    told: Vec<String>,
    positions: Vec<u64>,
}

impl<P: Place> Played<P> {
    async fn new(place: P) -> Self {
        let hands = Hands::at(1);
        let keep = depin_ledger::Settings { backup_configured: true, ..settings() };
        let ledger = place.open_with(&hands, keep);
        let writer = found(&ledger, 3).await.unwrap();
        Self { place, hands, ledger: Some(ledger), writer, told: Vec::new(), positions: Vec::new() }
    }

    fn ledger(&self) -> &P::Kept {
        self.ledger.as_ref().unwrap()
    }

    async fn play(&mut self, call: Call) {
        let told = match call {
            Call::Clock(now) => {
                self.hands.set(now);
                String::new()
            }
            Call::Append(proofs) => {
                let outcomes = self.ledger().append(proofs).await.unwrap();
                let positions = outcomes.iter().filter_map(|outcome| match outcome {
                    Outcome::Judged { position, .. } => Some(*position),
                    _ => None,
                });
                self.positions.extend(positions);
                outcomes.iter().map(shown).collect::<Vec<_>>().join("\n")
            }
            Call::Register(change) => {
                let expected_version = self.ledger().info().await.unwrap().registry_version;
                let (writer, changes) = (Some(self.writer), bytes(&[change]));
                let request = v1::WriteRegistryRequest { writer, changes, expected_version };
                plain(self.ledger().write_registry(request).await)
            }
            Call::Confirm(confirmation) => plain(self.ledger().confirm(confirmation).await),
            Call::Open(chains) => plain(self.ledger().open_chains(chains).await),
            Call::Close(number, matured, grace_ms) => {
                let request = v1::CloseEpochRequest { grace_ms, ..close_request(self.writer, number, &matured) };
                plain(self.ledger().close_epoch(request).await.map(|mut close| {
                    self.positions.push(close.position);
                    close.position = 0;
                    close
                }))
            }
            Call::Record(number, devices) => {
                let line = |device: &u32| Line { device: device_id(*device), weight: 7, ..Line::default() };
                let lines = devices.iter().map(|device| canonical::to_vec(&line(device)).unwrap()).collect();
                let result = EpochRecord { summary: b"{\"a\":1}".to_vec(), lines, state: b"{}".to_vec() };
                let recorded = self.ledger().record_epoch(self.writer, PROGRAM.into(), number, result).await;
                let exported = self.exported(number).await;
                format!("{} {exported}", plain(recorded))
            }
            Call::Writer => {
                let token = self.ledger().acquire_writer("again".into()).await;
                self.writer = *token.as_ref().unwrap();
                plain(token)
            }
            Call::Inbox(request) => plain(self.ledger().post_inbox(request).await),
            Call::Answer(id) => {
                let denied = v1::Denied { reason: "No".into(), message: String::new() };
                let result = Some(v1::enroll_response::Result::Denied(denied));
                let response = Some(v1::EnrollResponse { result });
                plain(
                    self.ledger()
                        .answer_inbox(v1::AnswerInboxRequest { writer: Some(self.writer), id, response })
                        .await,
                )
            }
            Call::Serve(serving) => {
                self.ledger().serve(serving);
                // The writer looks with the next request.
                plain(self.ledger().read_inbox(0).await)
            }
            Call::Backup => {
                P::back_up(self.ledger()).await;
                String::new()
            }
            Call::Look => self.look().await,
            Call::Restart => {
                self.ledger = None;
                let keep = depin_ledger::Settings { backup_configured: true, ..settings() };
                self.ledger = Some(self.place.open_with(&self.hands, keep));
                String::new()
            }
        };
        self.told.push(told);
    }

    /// All that can be read.
    async fn look(&mut self) -> String {
        let ledger = self.ledger();
        let mut info = ledger.info().await.unwrap();
        info.position = 0;
        let registry = ledger.read_registry(0, 0).await;
        let inbox = ledger.read_inbox(0).await;
        let hold = ledger.read_hold(9).await;
        let mut epochs = ledger.list_epochs(PROGRAM.into(), 0, 0).await.unwrap();
        epochs.iter_mut().filter_map(|epoch| epoch.close.as_mut()).for_each(|close| close.position = 0);
        let mut proofs = Vec::new();
        let mut filter = ProofFilter { device: Some(device_id(4)), ..ProofFilter::default() };
        loop {
            let page = ledger.read_proofs(filter).await.unwrap();
            for proof in &page.proofs {
                proofs
                    .push(format!("{:?} {:?} {:?} {}", proof.received_at, proof.verdict, proof.agent, proof.archived));
                assert_eq!(proof.proof.signature.len(), 64);
            }
            let Some(next) = page.next else { break };
            filter.after = next;
        }
        let mut statistics = Vec::new();
        for device in 0..24 {
            statistics.push(format!("{:?}", P::statistics(ledger, device_id(device)).await));
        }
        format!("{info:?}\n{registry:?}\n{inbox:?}\n{hold:?}\n{epochs:?}\n{proofs:#?}\n{statistics:#?}")
    }

    /// Everything that leaves the ledger about an epoch.
    async fn exported(&self, number: u64) -> String {
        let mut all = Vec::new();
        for export in [Export::Public, Export::Audit, Export::Owner(owner_of(4))] {
            let mut stream = match self.ledger().read_export(PROGRAM.into(), number, export).await {
                Ok(stream) => stream,
                Err(error) => {
                    all.push(format!("error: {error}"));
                    continue;
                }
            };
            let mut files: Vec<(String, Vec<u8>)> = Vec::new();
            while let Some(chunk) = stream.recv().await {
                match chunk {
                    Ok(v1::FileChunk { name, data }) => {
                        if !name.is_empty() {
                            files.push((name, Vec::new()));
                        }
                        files.last_mut().unwrap().1.extend_from_slice(&data);
                    }
                    Err(error) => all.push(format!("error: {error}")),
                }
            }
            for (name, content) in files {
                all.push(format!("{name} {}", content_of(&name, content)));
            }
        }
        all.join("\n")
    }
}

/// A file byte for byte, but for the columns that tell positions and the digests of the files that hold them.
fn content_of(name: &str, content: Vec<u8>) -> String {
    const WITH_POSITIONS: [&str; 3] = ["sections-00000.parquet", "confirmations.parquet", "boundaries.parquet"];
    if name == "manifest.json" {
        let mut manifest: serde_json::Value = serde_json::from_slice(&content).unwrap();
        for file in manifest["files"].as_array_mut().unwrap() {
            if WITH_POSITIONS.contains(&file["name"].as_str().unwrap()) {
                (file["sha256"], file["bytes"]) = (serde_json::Value::Null, serde_json::Value::Null);
            }
        }
        return manifest.to_string();
    }
    if !WITH_POSITIONS.contains(&name) {
        return depin_domain::ids::Digest::of(&content).to_string();
    }
    let reader = SerializedFileReader::new(bytes::Bytes::from(content)).unwrap();
    let rows = reader.get_row_iter(None).unwrap().map(|row| {
        let columns = row.unwrap().into_columns();
        assert!(matches!(columns[0].1, Field::Long(_)), "the first column is the position");
        format!("{:?}", &columns[1..])
    });
    rows.collect::<Vec<_>>().join("\n")
}

#[test]
fn both_ledgers_answer_the_same_calls_alike() {
    if PostgresqlServer::shared().is_none() {
        return;
    }
    depin_trials::run("equivalence of ledgers", |rng| {
        let script = script(rng);
        runtime().block_on(async {
            let mut embedded = Played::new(InMemory::fresh().unwrap()).await;
            let mut database = Played::new(InDatabase::fresh().unwrap()).await;
            for (call, number) in script.into_iter().zip(0..) {
                let what = format!("{call:?}");
                embedded.play(call.clone()).await;
                database.play(call).await;
                let what = &what[..what.len().min(300)];
                let told = |played: &[String]| played.last().cloned().unwrap_or_default();
                assert_eq!(told(&embedded.told), told(&database.told), "call {number}: {what}");
            }
            let ranks = |positions: &[u64]| {
                let sorted: std::collections::BTreeSet<_> = positions.iter().copied().collect();
                let ranks: BTreeMap<u64, usize> = sorted.into_iter().zip(0..).collect();
                positions.iter().map(|position| ranks[position]).collect::<Vec<_>>()
            };
            assert_eq!(ranks(&embedded.positions), ranks(&database.positions), "the order in the journal");
            (embedded.ledger, database.ledger) = (None, None);
            let (one, other) =
                (embedded.place.verify(&embedded.hands).await, database.place.verify(&database.hands).await);
            assert_eq!((&one.findings, one.proofs, one.accepted), (&Vec::new(), other.proofs, other.accepted));
            assert_eq!(other.findings, Vec::<String>::new());
        });
    });
}
