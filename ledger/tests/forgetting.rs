//! What is settled for good is forgotten; what is kept is what a scan of the record gives, to the last field.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod network;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use depin_domain::{
    ids::{DeviceId, Digest},
    proofs::{self, Reason},
    registry::{Change, FleetEntry},
    rewards::{ProgramSpec, spec::Late},
    statistics::DeviceStatistics,
    time::{Timestamp, Window},
};
use depin_ledger::{Ledger, Outcome, Submission, verify};
use depin_log::{Storage, simulated::SimulatedStorage};
use depin_proto::{envelope, v1};
use depin_trials::{Rng, below, one_in};
use network::*;

crate::in_places! {
    embedded: super::network::InMemory;
    postgresql: super::network::InDatabase;
    => {
        the_slowest_program_decides_and_a_fleet_that_left_one_stays_until_its_epochs_are_settled
        an_epoch_that_is_still_open_is_kept_though_a_later_one_matured_before_it
        without_a_bucket_epochs_are_settled_at_their_time_too
        a_removed_program_keeps_its_readings_until_its_epochs_are_settled
        where_no_program_pays_two_weeks_before_the_newest_reading_are_kept
        a_device_that_left_its_fleet_where_no_program_pays_is_forgotten_like_those_that_stayed
    }
}

const DAY: i64 = 24 * HOUR;
const FLEET: &str = "energy/meters";

/// What a restart may find missing.
trait Restarts: Place {
    fn lose_checkpoints(&self) {}
}

impl Restarts for InMemory {
    fn lose_checkpoints(&self) {
        for file in self.0.files().iter().filter(|file| file.starts_with("checkpoint")) {
            self.0.set_content(file, vec![7]);
        }
    }
}

/// It has none.
impl Restarts for InDatabase {}

/// A ledger beside a fold of the same proofs that forgets nothing.
struct Beside<P: Place> {
    place: P,
    hands: Hands,
    ledger: Option<P::Kept>,
    whole: HashMap<DeviceId, DeviceStatistics>,
    /// Readings before this time are settled.
    settled: i64,
}

impl<P: Restarts> Beside<P> {
    fn ledger(&self) -> &P::Kept {
        self.ledger.as_ref().unwrap()
    }

    /// Submits a proof, and enters into the fold what its verdict accepted.
    async fn submit(&mut self, submission: Submission) -> BTreeMap<Reason, u64> {
        let sections: Vec<_> =
            submission.proof.sections.iter().map(|bytes| envelope::decode_section(bytes).unwrap()).collect();
        let Outcome::Judged { verdict, .. } = submit(self.ledger(), submission).await else { panic!("not judged") };
        let registry = self.ledger().registry().borrow().registry.clone();
        proofs::apply(&registry, &sections, &verdict, &mut self.whole).unwrap();
        for rejection in &verdict.rejections {
            let series = rejection.series.map(|series| &sections[rejection.section as usize].series[series as usize]);
            let Some(series) = series else { continue };
            let all = (0..series.readings.len() as u32).collect();
            let readings = if rejection.readings.is_empty() { &all } else { &rejection.readings };
            for reading in readings {
                let late = series.readings[*reading as usize].at.0 < self.settled;
                assert_eq!(late, rejection.reason == Reason::LateBeyondUntil, "{:?}", rejection.reason);
            }
        }
        verdict.rejections.iter().map(|rejection| (rejection.reason, 1)).collect()
    }

    async fn restart(&mut self, without_checkpoint: bool) {
        self.ledger = None;
        if without_checkpoint {
            self.place.lose_checkpoints();
        }
        self.ledger = Some(self.place.open(&self.hands));
    }

    async fn close(&mut self, writer: v1::WriterToken, number: u64) {
        let matured = number.checked_sub(2);
        let matured_list: Vec<u64> = matured.into_iter().collect();
        self.ledger().close_epoch(close_request(writer, number, &matured_list)).await.unwrap();
        if let Some(matured) = matured {
            // Before it was forgotten it was frozen, with what came late.
            let window =
                Window { start: Timestamp(matured as i64 * HOUR), end: Timestamp((matured as i64 + 1) * HOUR) };
            let mut expected: Vec<_> = self
                .whole
                .iter()
                .flat_map(|(device, statistics)| {
                    statistics.within(window).map(|(_, metric, one)| (*device, metric, one))
                })
                .map(|(device, metric, one)| (device.0.to_vec(), metric.to_owned(), one.count, one.sum.to_string()))
                .collect();
            expected.sort();
            let statistics = frozen(self.ledger(), number, matured).await.unwrap();
            let found = statistics.into_iter().map(|one| (one.device_id.to_vec(), one.metric, one.count, one.sum));
            assert_eq!(found.collect::<Vec<_>>(), expected);
            self.settled = window.end.0;
        }
    }

    /// What the ledger keeps is the whole less what was settled.
    async fn compare(&self) {
        for (device, whole) in &self.whole {
            let mut expected = whole.clone();
            expected.forget_before(Timestamp(self.settled));
            assert_eq!(P::statistics(self.ledger(), *device).await.as_ref(), Some(&expected));
        }
    }
}

async fn trial<P: Restarts>(place: P, rng: &mut Rng) {
    let hands = Hands::at(0);
    let ledger = place.open(&hands);
    found(&ledger, 2).await.unwrap();
    let mut beside = Beside { place, hands, ledger: Some(ledger), whole: HashMap::new(), settled: i64::MIN };
    let mut sealers = [Sealer::new(1), Sealer::new(2)];
    for number in 0..6 {
        let hour = number as i64 * HOUR;
        beside.hands.set(hour + HOUR);
        for _ in 0..below(rng, 6) {
            let sealer = &mut sealers[below(rng, 2) as usize];
            let device = u32::from(sealer.agent) * 4 + below(rng, 2) as u32;
            let metric = if one_in(rng, 2) { "energy" } else { "power" };
            let mut at = if one_in(rng, 3) { (hour - 4 * HOUR).max(0) } else { hour } + below(rng, 60) as i64 * 60_000;
            let mut readings = Vec::new();
            for _ in 0..1 + below(rng, 4) {
                readings.push((device, metric, at, below(rng, 100) as i64));
                at += 1 + below(rng, 40) as i64 * 60_000;
            }
            // Nothing of the future, so that only lateness and order decide.
            readings.retain(|(_, _, at, _)| *at < hour + HOUR);
            let sealed = sealer.seal(&readings);
            beside.submit(sealed).await;
        }
        let writer = beside.ledger().acquire_writer("closer".into()).await.unwrap();
        beside.close(writer, number).await;
        beside.compare().await;
        if one_in(rng, 3) {
            beside.restart(one_in(rng, 2)).await;
            beside.compare().await;
        }
    }
    beside.ledger = None;
    assert_eq!(beside.place.verify(&beside.hands).await.findings, Vec::<String>::new());
}

#[test]
fn what_is_kept_is_what_a_scan_gives_and_what_is_settled_is_gone() {
    depin_trials::run("ledger forgetting", |rng| runtime().block_on(trial(InMemory::fresh().unwrap(), rng)));
}

#[test]
fn what_is_kept_in_a_database_is_what_a_scan_gives_and_what_is_settled_is_gone() {
    if InDatabase::fresh().is_some() {
        depin_trials::run("PostgreSQL ledger forgetting", |rng| {
            runtime().block_on(trial(InDatabase::fresh().unwrap(), rng));
        });
    }
}

fn grains(statistics: Option<DeviceStatistics>) -> Vec<i64> {
    let statistics = statistics.unwrap_or_default();
    let metrics = statistics.assignments.iter().flat_map(|assignment| &assignment.metrics);
    metrics.flat_map(|metric| &metric.grains).map(|grain| grain.start.0 / HOUR).collect()
}

fn the_slowest_program_decides_and_a_fleet_that_left_one_stays_until_its_epochs_are_settled<P: Place>(place: &P) {
    runtime().block_on(async {
        let hands = Hands::at(0);
        let ledger = place.open(&hands);
        let writer = found(&ledger, 1).await.unwrap();
        let write = |change: Change| {
            let ledger = &ledger;
            async move {
                let expected_version = ledger.info().await.unwrap().registry_version;
                let changes = bytes(&[change]);
                let request = v1::WriteRegistryRequest { writer: Some(writer), changes, expected_version };
                ledger.write_registry(request).await.unwrap();
            }
        };
        write(program_of("energy/slow", &[FLEET], 0)).await;
        let mut sealer = Sealer::new(1);
        for hour in 0..6 {
            hands.set(hour * HOUR + 1);
            submit(&ledger, sealer.seal(&[(4, "energy", hour * HOUR, hour)])).await;
        }
        hands.set(9 * HOUR);
        let close = |program: &'static str, number, matured: &'static [u64]| {
            let request = v1::CloseEpochRequest { program: program.into(), ..close_request(writer, number, matured) };
            ledger.close_epoch(request)
        };
        for number in 0..3 {
            close(PROGRAM, number, &[]).await.unwrap();
        }
        close(PROGRAM, 3, &[0, 1, 2]).await.unwrap();
        assert_eq!(grains(P::statistics(&ledger, device_id(4)).await), [0, 1, 2, 3, 4, 5]);
        close("energy/slow", 0, &[]).await.unwrap();
        close("energy/slow", 1, &[0]).await.unwrap();
        assert_eq!(grains(P::statistics(&ledger, device_id(4)).await), [1, 2, 3, 4, 5]);
        // It leaves the slow program from epoch 2 on: epoch 1 of it is still to be settled.
        write(program_of("energy/slow", &["energy/others"], 2)).await;
        assert_eq!(grains(P::statistics(&ledger, device_id(4)).await), [1, 2, 3, 4, 5]);
        close("energy/slow", 2, &[1]).await.unwrap();
        assert_eq!(grains(P::statistics(&ledger, device_id(4)).await), [3, 4, 5]);
        write(Change::ProgramRemoved { id: "energy/slow".into() }).await;
        close(PROGRAM, 4, &[3]).await.unwrap();
        assert_eq!(grains(P::statistics(&ledger, device_id(4)).await), [4, 5]);
    });
}

/// The network's program with another late bucket, from an epoch on.
fn late(basis_points: u32, hours: i64, from_epoch: u64) -> Change {
    let Change::Program(mut entry) = program_of(PROGRAM, &[FLEET], from_epoch) else { panic!("a program") };
    let mut spec: ProgramSpec = serde_json::from_str(&entry.spec).unwrap();
    spec.late = Late { basis_points, late_until_ms: hours * HOUR };
    entry.spec = String::from_utf8(spec.canonical().unwrap()).unwrap();
    entry.digest = Digest::of(entry.spec.as_bytes());
    Change::Program(entry)
}

/// A ledger with a reading in each of `hours` hours under the programs, the clock behind them.
async fn hourly<P: Place>(place: &P, programs: &[Change], hours: i64) -> (P::Kept, v1::WriterToken, Sealer) {
    let hands = Hands::at(0);
    let ledger = place.open(&hands);
    let writer = found(&ledger, 1).await.unwrap();
    if !programs.is_empty() {
        let expected_version = ledger.info().await.unwrap().registry_version;
        let request = v1::WriteRegistryRequest { writer: Some(writer), changes: bytes(programs), expected_version };
        ledger.write_registry(request).await.unwrap();
    }
    let mut sealer = Sealer::new(1);
    for hour in 0..hours {
        hands.set(hour * HOUR + 1);
        submit(&ledger, sealer.seal(&[(4, "power", hour * HOUR, hour)])).await;
    }
    hands.set(hours * HOUR);
    (ledger, writer, sealer)
}

fn an_epoch_that_is_still_open_is_kept_though_a_later_one_matured_before_it<P: Place>(place: &P) {
    runtime().block_on(async {
        // Epoch 0 is open until hour 6; from epoch 1 on readings count for an hour only.
        let (ledger, writer, mut sealer) = hourly(place, &[late(1_000, 5, 0), late(1_000, 1, 1)], 8).await;
        let close = |number, matured: &'static [u64]| ledger.close_epoch(close_request(writer, number, matured));
        close(0, &[]).await.unwrap();
        close(1, &[]).await.unwrap();
        close(2, &[1]).await.unwrap();
        close(3, &[2]).await.unwrap();
        assert_eq!(grains(P::statistics(&ledger, device_id(4)).await), [0, 1, 2, 3, 4, 5, 6, 7]);
        let late = sealer.seal(&[(4, "power", 30 * 60_000, 5)]);
        assert_eq!(judged(&submit(&ledger, late).await).0, 1, "it counts until hour 6");
        close(4, &[3]).await.unwrap();
        close(5, &[0, 4]).await.unwrap();
        assert_eq!(grains(P::statistics(&ledger, device_id(4)).await), [5, 6, 7]);
    });
}

fn without_a_bucket_epochs_are_settled_at_their_time_too<P: Place>(place: &P) {
    runtime().block_on(async {
        let (ledger, writer, mut sealer) = hourly(place, &[late(0, 2, 0)], 6).await;
        for number in 0..5 {
            ledger.close_epoch(close_request(writer, number, &[])).await.unwrap();
        }
        // Epoch 2 ended at hour 3: the close of epoch 4, which ends at hour 5, would have settled its bucket.
        assert_eq!(grains(P::statistics(&ledger, device_id(4)).await), [3, 4, 5]);
        let late = sealer.seal(&[(4, "power", 2 * HOUR + 1, 5)]);
        assert_eq!(judged(&submit(&ledger, late).await).0, 0);
    });
}

fn a_removed_program_keeps_its_readings_until_its_epochs_are_settled<P: Place>(place: &P) {
    runtime().block_on(async {
        let (ledger, writer, _) = hourly(place, &[], 6).await;
        let write = |change: Change| {
            let ledger = &ledger;
            async move {
                let expected_version = ledger.info().await.unwrap().registry_version;
                let request =
                    v1::WriteRegistryRequest { writer: Some(writer), changes: bytes(&[change]), expected_version };
                ledger.write_registry(request).await.unwrap();
            }
        };
        write(program_of("energy/fast", &[FLEET], 0)).await;
        let close = |program: &'static str, number, matured: &'static [u64]| {
            let request = v1::CloseEpochRequest { program: program.into(), ..close_request(writer, number, matured) };
            ledger.close_epoch(request)
        };
        for number in 0..4 {
            close("energy/fast", number, &[]).await.unwrap();
        }
        close(PROGRAM, 0, &[]).await.unwrap();
        // Removed at hour 6 with epochs 1 to 5 still to be closed.
        write(Change::ProgramRemoved { id: PROGRAM.into() }).await;
        close("energy/fast", 4, &[]).await.unwrap();
        assert_eq!(grains(P::statistics(&ledger, device_id(4)).await), [0, 1, 2, 3, 4, 5]);
        close(PROGRAM, 1, &[]).await.unwrap();
        close(PROGRAM, 2, &[0]).await.unwrap();
        assert_eq!(grains(P::statistics(&ledger, device_id(4)).await), [1, 2, 3, 4, 5]);
    });
}

// Of the embedded ledger alone: it removes segments of its log.
#[test]
fn a_device_whose_clock_is_years_ahead_keeps_nothing_from_going() {
    runtime().block_on(async {
        let (storage, hands) = (SimulatedStorage::new(), Hands::at(1));
        let ledger = open(storage.clone(), &hands).unwrap();
        let writer = found(&ledger, 1).await.unwrap();
        let mut sealer = Sealer::new(1);
        let mut thinned = 0;
        for hour in 0..5 {
            hands.set((hour + 1) * HOUR);
            for minute in 0..30 {
                let at = hour * HOUR + minute * 60_000;
                let proof = sealer.seal(&[(4, "power", at, 100 + minute), (5, "power", at + 73 * 365 * DAY, 1)]);
                assert_eq!(judged(&submit(&ledger, proof).await).0, 1, "the year 2043 has not come");
                thinned += u64::from(at < 2 * HOUR);
            }
        }
        for number in 0..5_u64 {
            let matured: Vec<u64> = number.checked_sub(2).into_iter().collect();
            ledger.close_epoch(close_request(writer, number, &matured)).await.unwrap();
        }
        let done = ledger.compact(Timestamp(i64::MAX)).await.unwrap();
        assert!(done.thinned >= thinned, "{} of {thinned} may go", done.thinned);
        drop(ledger);
        let storage: Arc<dyn Storage> = Arc::new(storage);
        assert_eq!(verify(storage, &settings(), None).unwrap().findings, Vec::<String>::new());
    });
}

/// The network without its program, and a reading an hour of device 4 from `first` on; the ledger's clock stands at `now` or at the reading.
async fn unclaimed<P: Place>(place: &P, first: i64, hours: i64, now: Option<i64>) -> (P::Kept, Sealer, Hands) {
    let hands = Hands::at(now.unwrap_or(first));
    let ledger = place.open(&hands);
    let writer = ledger.acquire_writer("test".into()).await.unwrap();
    let programless = changes(1).into_iter().filter(|change| !matches!(change, Change::Program(_)));
    let changes = bytes(&programless.collect::<Vec<_>>());
    let request = v1::WriteRegistryRequest { writer: Some(writer), changes, expected_version: 0 };
    ledger.write_registry(request).await.unwrap();
    let mut sealer = Sealer::new(1);
    for hour in 0..hours {
        let at = first + hour * HOUR;
        hands.set(now.map_or(at, |now| now + hour * HOUR));
        assert_eq!(judged(&submit(&ledger, sealer.seal(&[(4, "power", at, 1_000 + hour)])).await).0, 1, "hour {hour}");
    }
    (ledger, sealer, hands)
}

fn where_no_program_pays_two_weeks_before_the_newest_reading_are_kept<P: Place>(_place: &P) {
    runtime().block_on(async {
        for (first, now) in [(100 * DAY, None), (0, Some(5_000 * DAY))] {
            let Some(place) = P::fresh() else { return };
            let (ledger, mut sealer, hands) = unclaimed(&place, first, 24 * 30, now).await;
            let kept = grains(P::statistics(&ledger, device_id(4)).await);
            assert!((14 * 24..=16 * 24).contains(&kept.len()), "{} hours are kept", kept.len());
            let oldest = kept[0] * HOUR;
            let Outcome::Judged { verdict, .. } =
                submit(&ledger, sealer.seal(&[(4, "power", first + 1, 1), (4, "power", oldest + 61_000, 1)])).await
            else {
                panic!("not judged")
            };
            assert_eq!(verdict.accepted, 1, "what is kept takes late readings");
            assert_eq!(verdict.rejections[0].reason, Reason::LateBeyondUntil);
            drop(ledger);
            assert_eq!(place.verify(&hands).await.findings, Vec::<String>::new());
        }
    });
}

fn a_device_that_left_its_fleet_where_no_program_pays_is_forgotten_like_those_that_stayed<P: Place>(place: &P) {
    runtime().block_on(async {
        let (ledger, mut sealer, hands) = unclaimed(place, 100 * DAY, 1, None).await;
        let writer = ledger.acquire_writer("test".into()).await.unwrap();
        let Change::Device(mut moved) = device(4, 1) else { panic!("a device") };
        moved.fleet = "energy/others".into();
        let others = FleetEntry { id: moved.fleet.clone(), model: "meter".into(), grain_ms: HOUR };
        let expected_version = ledger.info().await.unwrap().registry_version;
        let changes = bytes(&[Change::Fleet(others), Change::Device(moved)]);
        let request = v1::WriteRegistryRequest { writer: Some(writer), changes, expected_version };
        ledger.write_registry(request).await.unwrap();
        for hour in 1..24 * 30 {
            let at = 100 * DAY + hour * HOUR;
            hands.set(at);
            assert_eq!(
                judged(&submit(&ledger, sealer.seal(&[(4, "power", at, 1_000 + hour)])).await).0,
                1,
                "hour {hour}"
            );
        }
        let kept = grains(P::statistics(&ledger, device_id(4)).await);
        assert!((14 * 24..=16 * 24).contains(&kept.len()), "{} hours are kept", kept.len());
        drop(ledger);
        assert_eq!(place.verify(&hands).await.findings, Vec::<String>::new());
    });
}

// Of the embedded ledger alone: it removes segments of its log.
#[test]
fn without_a_bucket_what_is_settled_may_go() {
    runtime().block_on(async {
        let (ledger, writer, _) = hourly(&InMemory::fresh().unwrap(), &[late(0, 2, 0)], 6).await;
        for number in 0..5 {
            ledger.close_epoch(close_request(writer, number, &[])).await.unwrap();
        }
        assert!(ledger.compact(Timestamp(i64::MAX)).await.unwrap().thinned > 0);
    });
}
