//! The protocol at each of its steps, against a fake store that fails on demand: a half backup is never taken for a whole one, whole ones
//! are never touched, and what was cut short goes on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use age::secrecy::ExposeSecret as _;
use depin_backup::{
    Authority, AuthorityBundle, BackupError, Backups, Done, FaultyStore, Generation, Identities, Recipients, Restored,
    SealError, StoreError, choose, restore, unseal_authority,
};
use depin_domain::{ids::Digest, time::Timestamp};
use depin_ledger::{Clock, EmbeddedLedger, Ledger as _, Settings, verify};
use depin_log::{Storage, simulated::SimulatedStorage};

const HOUR: i64 = 3_600_000;
const MONTH: i64 = 30 * 24 * HOUR;
/// So that small files have several objects.
const PART: usize = 1_500;

fn settings() -> Settings {
    Settings {
        segment_size: 4_096,
        idle_tick_ms: 3_600_000,
        max_pause_ms: i64::MAX,
        backup_configured: true,
        ..Settings::default()
    }
}

/// A ledger whose content is who held the writer token.
struct World {
    storage: SimulatedStorage,
    now: Arc<AtomicI64>,
    ledger: EmbeddedLedger,
}

impl World {
    fn new() -> Self {
        Self::over(SimulatedStorage::new(), Arc::new(AtomicI64::new(1_800_000_000_000)))
    }

    fn over(storage: SimulatedStorage, now: Arc<AtomicI64>) -> Self {
        let ledger = EmbeddedLedger::open(Arc::new(storage.clone()), settings(), clock(&now)).unwrap();
        Self { storage, now, ledger }
    }

    async fn grow(&self, records: u32) {
        for number in 0..records {
            self.ledger.acquire_writer(format!("HOLDER-{number:0>500}")).await.unwrap();
        }
    }

    fn pass(&self, ms: i64) {
        self.now.fetch_add(ms, Ordering::SeqCst);
    }

    async fn token(&self) -> u64 {
        self.ledger.info().await.unwrap().writer_token
    }

    async fn back_up(&self, store: &FaultyStore, recipients: &Recipients) -> Result<Done, BackupError> {
        backups(store, recipients).run(&self.ledger, None).await
    }
}

fn clock(now: &Arc<AtomicI64>) -> Clock {
    let now = Arc::clone(now);
    Clock::new(move || Timestamp(now.load(Ordering::SeqCst)))
}

/// As a gateway that starts anew.
fn backups(store: &FaultyStore, recipients: &Recipients) -> Backups {
    Backups::new(Arc::new(store.clone()), recipients.clone(), MONTH).with_parts(PART)
}

async fn bring_back(
    world: &World,
    store: &FaultyStore,
    generation: Generation,
    identities: &Identities,
) -> (SimulatedStorage, Result<Restored, BackupError>) {
    let fresh = SimulatedStorage::new();
    let target: Arc<dyn Storage> = Arc::new(fresh.clone());
    let restored = restore(store, generation, identities, &target, &settings(), &clock(&world.now)).await;
    (fresh, restored)
}

/// Restores a generation, which must be whole and hold exactly what the ledger had then.
async fn check(world: &World, store: &FaultyStore, generation: Generation, identities: &Identities, token: u64) {
    let (fresh, restored) = bring_back(world, store, generation, identities).await;
    assert_eq!(restored.unwrap().generation, generation);
    let ledger = World::over(fresh.clone(), Arc::clone(&world.now)).ledger;
    let info = ledger.info().await.unwrap();
    assert_eq!((info.writer_token, info.closing_held), (token, true));
    ledger.close();
    let found = verify(Arc::new(fresh), &settings(), None).unwrap();
    assert_eq!(found.findings, Vec::<String>::new());
}

fn identity(directory: &Path, name: &str) -> (String, PathBuf) {
    let identity = age::x25519::Identity::generate();
    let file = directory.join(name);
    std::fs::write(&file, identity.to_string().expose_secret()).unwrap();
    (identity.to_public().to_string(), file)
}

async fn newest(store: &FaultyStore) -> Generation {
    choose(&Generation::list(store).await.unwrap(), None).unwrap()
}

#[tokio::test]
async fn whatever_request_fails_whole_generations_stay_whole_and_the_next_try_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let (recipient, file) = identity(directory.path(), "identity");
    let identities = Identities::read(&file).unwrap();
    for recipients in [Recipients::default(), Recipients::parse(&[recipient]).unwrap()] {
        let base = World::new();
        base.grow(30).await;
        let first = FaultyStore::default();
        let before = base.back_up(&first, &recipients).await.unwrap().generation;
        let token = base.token().await;
        base.pass(60_000);
        base.grow(6).await;
        let (mut failed, mut lost_answers) = (0, 0);
        for at in 0.. {
            let mut ended = false;
            for done in [false, true] {
                // The same ledger each time: a backup of its own would make the next one longer.
                let world = World::over(base.storage.after_kill(), Arc::clone(&base.now));
                let store = first.copy();
                store.fail_at(at, done);
                let tried = world.back_up(&store, &recipients).await;
                let changes = store.changes();
                store.mend();
                let now = newest(&store).await;
                match tried {
                    // Either nothing failed, or only what comes after the manifest.
                    Ok(made) => {
                        assert_eq!(made.generation, now);
                        ended |= changes <= at;
                    }
                    Err(error) => {
                        assert!(matches!(error, BackupError::Store(StoreError::Unavailable(_))), "{error}");
                        failed += 1;
                        lost_answers += u32::from(now != before);
                        assert!(now == before || done, "a manifest stands though its writing failed");
                    }
                }
                let expected = if now == before { token } else { world.token().await };
                check(&world, &store, now, &identities, expected).await;
                check(&world, &store, before, &identities, token).await;

                let made = world.back_up(&store, &recipients).await.unwrap();
                assert_eq!(made.pruning, None);
                check(&world, &store, made.generation, &identities, world.token().await).await;
                let mut named = BTreeSet::new();
                for generation in Generation::list(&store).await.unwrap() {
                    let manifest = generation.read(&store).await.unwrap();
                    named.extend(manifest.files.into_iter().flat_map(|file| file.parts).map(|part| part.object));
                }
                let there: BTreeSet<_> =
                    store.keys().into_iter().filter(|key| !key.starts_with("manifests/")).collect();
                assert_eq!(there, named, "nothing is missing, nothing is left over");
            }
            if ended {
                break;
            }
        }
        assert!(failed > 4 && lost_answers == 1, "{failed} {lost_answers}");
    }
}

#[tokio::test]
async fn a_first_backup_that_was_cut_short_goes_on_where_it_was() {
    let world = World::new();
    world.grow(400).await;
    let store = FaultyStore::default();
    let whole = world.back_up(&store, &Recipients::default()).await.unwrap();
    assert!(whole.files > 40, "{whole:?}");
    let cut = FaultyStore::default();
    cut.fail_at(whole.sent / u64::try_from(PART).unwrap() * 3 / 4, false);
    world.back_up(&cut, &Recipients::default()).await.unwrap_err();
    cut.mend();
    assert!(Generation::list(&cut).await.unwrap().is_empty(), "it is no backup");
    let rest = world.back_up(&cut, &Recipients::default()).await.unwrap();
    assert!(rest.sent < whole.sent * 3 / 4, "{} of {}", rest.sent, whole.sent);
    assert!(!cut.keys().iter().any(|key| key.starts_with("progress/")));
    check(&world, &cut, rest.generation, &Identities::default(), world.token().await).await;
}

#[tokio::test]
async fn only_what_is_new_is_sent_and_a_time_brings_back_what_was_then() {
    let world = World::new();
    let store = FaultyStore::default();
    let mut made = Vec::new();
    for hour in 0..8 {
        world.grow(40).await;
        let done = world.back_up(&store, &Recipients::default()).await.unwrap();
        let manifest = store.content(&done.generation.key()).unwrap().len() as u64;
        assert!(hour == 0 || done.sent - manifest < done.stored * 2 / (hour + 1), "{hour}: {done:?}");
        made.push((done.generation, world.token().await));
        world.pass(HOUR);
    }
    let generations = Generation::list(&store).await.unwrap();
    assert_eq!(generations, made.iter().map(|(generation, _)| *generation).collect::<Vec<_>>());
    for (generation, token) in &made {
        let at = Timestamp(generation.at.0 + HOUR / 2);
        assert_eq!(choose(&generations, Some(at)).unwrap(), *generation);
        check(&world, &store, *generation, &Identities::default(), *token).await;
    }
    // Restored to an earlier time the ledger goes on in the same place, beside what was later.
    let (third, token) = made[2];
    let (fresh, restored) = bring_back(&world, &store, third, &Identities::default()).await;
    assert!(restored.unwrap().incarnation > generations.last().unwrap().incarnation);
    let again = World::over(fresh, Arc::clone(&world.now));
    again.grow(3).await;
    let next = again.back_up(&store, &Recipients::default()).await.unwrap();
    assert!(next.generation > *generations.last().unwrap() && next.sent < next.stored, "{next:?}");
    check(&again, &store, next.generation, &Identities::default(), token + 3).await;
    check(&world, &store, made[7].0, &Identities::default(), made[7].1).await;
    // Whoever goes on with the lost disk after all is told.
    let error = world.back_up(&store, &Recipients::default()).await.unwrap_err();
    assert!(matches!(error, BackupError::Foreign { .. }), "{error}");
}

#[tokio::test]
async fn an_encrypted_backup_shows_nothing_and_opens_only_with_its_identity() {
    let directory = tempfile::tempdir().unwrap();
    let (recipient, file) = identity(directory.path(), "identity");
    let (other, other_file) = identity(directory.path(), "other");
    let recipients = Recipients::parse(std::slice::from_ref(&recipient)).unwrap();
    let world = World::new();
    world.grow(30).await;
    let (store, plain) = (FaultyStore::default(), FaultyStore::default());
    let bundle = AuthorityBundle(zeroize::Zeroizing::new(format!("{{{}}}", "KEY".repeat(9)).into_bytes()));
    let authority = Authority {
        sealed: bundle.seal(&recipients).unwrap(),
        content: Digest([1; 32]),
        recipients: recipients.names().to_vec(),
    };
    let made = backups(&store, &recipients).run(&world.ledger, Some(&authority)).await.unwrap();
    world.back_up(&plain, &Recipients::default()).await.unwrap();
    let shows = |store: &FaultyStore, what: &[u8]| {
        store.keys().iter().any(|key| store.content(key).unwrap().windows(what.len()).any(|window| window == what))
    };
    assert!(shows(&plain, b"HOLDER-") && !shows(&store, b"HOLDER-") && !shows(&store, b"KEYKEY"));

    let (fresh, refused) = bring_back(&world, &store, made.generation, &Identities::default()).await;
    let refused = refused.unwrap_err();
    assert!(matches!(refused, BackupError::Seal(SealError::NeedsIdentity(_))));
    assert!(refused.to_string().contains("--identity") && refused.to_string().contains(&recipient), "{refused}");
    assert!(fresh.files().is_empty(), "the directory is as it was");
    let wrong = Identities::read(&other_file).unwrap();
    let (fresh, refused) = bring_back(&world, &store, made.generation, &wrong).await;
    assert!(matches!(refused, Err(BackupError::Seal(SealError::WrongIdentity(_)))) && fresh.files().is_empty());
    let right = Identities::read(&file).unwrap();
    check(&world, &store, made.generation, &right, world.token().await).await;
    assert_eq!(unseal_authority(&store, made.generation, &right).await.unwrap(), bundle);
    assert!(unseal_authority(&store, made.generation, &wrong).await.is_err());

    // A gateway that starts anew and was handed nothing yet carries the authority on.
    world.grow(1).await;
    let next = world.back_up(&store, &recipients).await.unwrap();
    assert_eq!(next.authority, Some(Digest([1; 32])));
    assert_eq!(unseal_authority(&store, next.generation, &right).await.unwrap(), bundle);

    // Other recipients can read all that is backed up from then on, and those before cannot.
    let others = Recipients::parse(&[other]).unwrap();
    let moved = world.back_up(&store, &others).await.unwrap();
    check(&world, &store, moved.generation, &wrong, world.token().await).await;
    let (_, refused) = bring_back(&world, &store, moved.generation, &right).await;
    assert!(matches!(refused, Err(BackupError::Seal(SealError::WrongIdentity(_)))));
    check(&world, &store, next.generation, &right, world.token().await).await;

    // Back to those before: what they have is not written over, or their older generations would be damaged.
    let (token, objects) = (world.token().await, store.keys());
    world.grow(1).await;
    let back = world.back_up(&store, &recipients).await.unwrap();
    assert!(objects.iter().all(|object| store.keys().contains(object)));
    assert!(back.sent < made.sent, "{} of {}", back.sent, made.sent);
    check(&world, &store, back.generation, &right, token + 1).await;
    check(&world, &store, next.generation, &right, token).await;
    let found = depin_backup::verify(&store, next.generation, Some(&right)).await.unwrap();
    assert!(found.opened && found.authority && found.findings.is_empty(), "{found:?}");
    let found = depin_backup::verify(&store, next.generation, None).await.unwrap();
    assert!(!found.opened && found.findings.is_empty(), "{found:?}");
    let damaged = store.keys().into_iter().find(|key| key.contains(".log.")).unwrap();
    store.set_content(&damaged, Some(b"something else".to_vec().into()));
    let generations = Generation::list(&store).await.unwrap();
    let mut findings = Vec::new();
    for one in generations {
        findings.extend(depin_backup::verify(&store, one, None).await.unwrap().findings);
    }
    assert!(!findings.is_empty() && findings.iter().all(|finding| finding.contains(&damaged)), "{findings:?}");
}

#[tokio::test]
async fn what_is_damaged_or_gone_is_named_and_older_generations_are_still_good() {
    let world = World::new();
    world.grow(30).await;
    let store = FaultyStore::default();
    let first = world.back_up(&store, &Recipients::default()).await.unwrap().generation;
    let token = world.token().await;
    world.grow(10).await;
    let second = world.back_up(&store, &Recipients::default()).await.unwrap().generation;
    let (old, new) = (first.read(&store).await.unwrap(), second.read(&store).await.unwrap());
    let file = new.files.iter().rfind(|file| !old.files.contains(file)).unwrap();
    let key = &file.parts[0].object;
    let content = store.content(key).unwrap();
    let mut changed = content.to_vec();
    changed[0] ^= 1;
    for damage in [Some(changed.into()), Some(content.slice(1..)), None] {
        store.set_content(key, damage);
        let (fresh, refused) = bring_back(&world, &store, second, &Identities::default()).await;
        assert!(refused.unwrap_err().to_string().contains(key));
        let opened = EmbeddedLedger::open(Arc::new(fresh), settings(), clock(&world.now));
        assert!(opened.is_err(), "what is half restored is no ledger");
        check(&world, &store, first, &Identities::default(), token).await;
    }
}

#[tokio::test]
async fn a_copy_of_the_ledger_that_went_its_own_way_is_not_mixed_in() {
    let world = World::new();
    world.grow(10).await;
    let copy = World::over(world.storage.after_kill(), Arc::clone(&world.now));
    let store = FaultyStore::default();
    world.grow(5).await;
    world.back_up(&store, &Recipients::default()).await.unwrap();
    world.pass(1_000);
    copy.grow(40).await;
    let keys = store.keys();
    let error = copy.back_up(&store, &Recipients::default()).await.unwrap_err();
    assert!(error.to_string().contains("differs"), "{error}");
    assert_eq!(store.keys(), keys);
}
