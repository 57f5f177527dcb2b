//! The writer's task: one transaction after the other over one session, in which the core decides as it does everywhere.
//!
//! Appends of all gateways go on side by side: they hold the ledger's lock shared, and chains and devices of their own. What changes facts, a
//! close above all, holds it exclusively: everything appended before is committed then, and nothing is appended meanwhile.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use depin_domain::{proofs::Reason, time::Timestamp};
use tokio::sync::{Notify, watch};

use super::{
    connection::{CHANNEL, Pool, Server},
    files::{Held, Stored},
    loading::{self, Head, Loaded, Need},
    pending::{PROVISIONAL, Pending},
    schema,
    session::{Session, Trouble},
    storing::{self, STAGING},
};
use crate::{
    api::{Outcome, RegistrySnapshot, Submission},
    core::{Core, refused},
    error::LedgerError,
    settings::{Clock, Settings},
    snapshot,
    state::{Counters, State},
};

/// The core over one transaction.
pub(super) type Writing = Core<Pending>;
/// How a transaction stands to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Sees one moment, writes nothing.
    Read,
    /// Appends proofs, beside others.
    Append,
    /// Alone.
    Exclusive,
}

/// How often a transaction is begun anew when another one is in its way.
const ATTEMPTS: u32 = 8;
/// No transaction takes longer: a server that is gone may never say so.
const PATIENCE: Duration = Duration::from_secs(50);
/// Pauses between tries to reach the database.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

const LOCK_SHARED: &str = "BEGIN; SELECT pg_advisory_xact_lock_shared(1145392462, 0)";
const LOCK: &str = "BEGIN; SELECT pg_advisory_xact_lock(1145392462, 0)";
const SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// What others watch.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) registry: watch::Sender<Arc<RegistrySnapshot>>,
    pub(super) inbox: watch::Sender<u64>,
    pub(super) trouble: watch::Sender<Option<String>>,
}

/// The task's state.
#[derive(Debug)]
pub(super) struct Writer {
    server: Server,
    pool: Arc<Pool>,
    pub(super) core: Writing,
    files: Held,
    /// The server's clock at the newest transaction, where that is the ledger's.
    server_clock: Option<Arc<AtomicI64>>,
    session: Option<Session>,
    pub(super) changes: Arc<Notify>,
    days: BTreeSet<i32>,
    /// Facts before this position are in memory.
    facts: u64,
    /// The furthest that was ever seen: incarnation and position. A database that is behind it lost something.
    furthest: (u64, u64),
    /// The newest moment at which proofs were taken, as far as is known.
    open_newest: i64,
    told: Told,
    failures: u32,
    not_before: Option<Instant>,
}

impl Writer {
    /// Connects and reads all facts. The schema is up to date.
    pub(super) async fn open(
        server: Server,
        pool: Arc<Pool>,
        settings: Settings,
        clock: Option<Clock>,
        serving: Arc<AtomicBool>,
        told: Told,
    ) -> Result<Self, LedgerError> {
        let (clock, server_clock) = match clock {
            Some(clock) => (clock, None),
            None => {
                let time = Arc::new(AtomicI64::new(i64::MIN));
                let read = Arc::clone(&time);
                (Clock::new(move || Timestamp(read.load(Ordering::Relaxed))), Some(time))
            }
        };
        let files = Held::default();
        let journal = Pending::default();
        let core = Core::new(settings, clock, Arc::new(files.clone()), journal, State::default(), serving);
        let mut writer = Self {
            server,
            pool,
            core,
            files,
            server_clock,
            session: None,
            changes: Arc::new(Notify::new()),
            days: BTreeSet::new(),
            facts: 0,
            furthest: (0, 0),
            open_newest: i64::MIN,
            told,
            failures: 0,
            not_before: None,
        };
        writer.exclusive(Core::begin).await?;
        Ok(writer)
    }

    /// Judges and records proofs; all that were judged are committed when it returns.
    pub(super) async fn append(&mut self, proofs: Vec<Submission>) -> Vec<Outcome> {
        let count = proofs.len();
        let mut error = LedgerError::Overloaded;
        for attempt in 0..ATTEMPTS {
            match self.append_once(&proofs).await {
                Ok(outcomes) => return outcomes,
                Err(Trouble::Conflict(conflict)) => {
                    tracing::debug!(%conflict, attempt, "begun anew: another transaction was in the way");
                    error = conflict;
                }
                Err(Trouble::MissingDay(day)) => {
                    if let Err(failed) = self.make_day(day).await {
                        error = failed;
                        break;
                    }
                }
                Err(Trouble::Failed(failed)) => {
                    error = failed;
                    break;
                }
            }
        }
        vec![Outcome::Deferred { reason: Reason::LedgerUnavailable, message: error.to_string() }; count]
    }

    async fn append_once(&mut self, proofs: &[Submission]) -> Result<Vec<Outcome>, Trouble> {
        // While closing is held each proof may end that: a fact.
        let mode = |state: &State| if state.held { Mode::Exclusive } else { Mode::Append };
        let (mode, loaded) = self.begin(mode, |core| Need::of(proofs, &core.state)).await?;
        let judged = self.judge(proofs).await;
        let outcomes = match judged {
            Ok(outcomes) => outcomes,
            Err(trouble) => {
                self.abandon(&trouble).await;
                return Err(trouble);
            }
        };
        let base = self.store(mode, &loaded).await?;
        let settled = |outcome| match outcome {
            Outcome::Judged { ledger_incarnation, position, received_at, verdict, rejected, repeated, archived } => {
                let position = Pending::settled(position, base);
                Outcome::Judged { ledger_incarnation, position, received_at, verdict, rejected, repeated, archived }
            }
            other => other,
        };
        Ok(outcomes.into_iter().map(settled).collect())
    }

    async fn judge(&mut self, proofs: &[Submission]) -> Result<Vec<Outcome>, Trouble> {
        let mut wanted = BTreeSet::new();
        for header in proofs.iter().map(|proof| &proof.opened.header) {
            let head = self.core.state.chains.head(&header.key);
            if head.is_some_and(|head| head.incarnation == header.incarnation && header.sequence <= head.sequence) {
                wanted.insert((header.key, header.incarnation, header.sequence));
            }
        }
        if let (false, Some(session)) = (wanted.is_empty(), &self.session) {
            for (position, record) in loading::recorded(session, &wanted).await? {
                self.core.journal.recall(position, &record)?;
            }
        }
        let mut outcomes = Vec::with_capacity(proofs.len());
        for proof in proofs.iter().cloned() {
            let header = &proof.opened.header;
            if i64::try_from(header.incarnation).is_err() || i64::try_from(header.sequence).is_err() {
                outcomes.push(refused(Reason::Malformed, "incarnation or sequence is beyond 2^63"));
                continue;
            }
            outcomes.push(self.core.submit(proof)?);
        }
        Ok(outcomes)
    }

    /// Does `work` alone.
    async fn exclusive(
        &mut self,
        work: impl FnOnce(&mut Writing) -> Result<(), LedgerError>,
    ) -> Result<(), LedgerError> {
        let (mode, loaded) = self.begin(|_| Mode::Exclusive, needs_of_tick).await?;
        let result = work(&mut self.core);
        self.store(mode, &loaded).await?;
        result
    }

    /// Records that proofs are taken, if that is due.
    pub(super) async fn tick(&mut self) {
        if !self.core.tick_is_due(self.open_newest) || self.told.trouble.borrow().is_some() {
            return;
        }
        if let Err(error) = self.exclusive(|core| core.tick(false)).await {
            tracing::warn!(%error, "that proofs are taken could not be recorded");
        }
    }

    /// Reads facts that others wrote.
    pub(super) async fn refresh(&mut self) {
        if let Ok((mode, loaded)) = self.begin(|_| Mode::Read, |_| Need::default()).await {
            // Where it fails, whoever watches is told of the trouble.
            drop(self.store(mode, &loaded).await);
        }
    }

    /// Begins a transaction and reads what it needs.
    pub(super) async fn begin(
        &mut self,
        mode: fn(&State) -> Mode,
        needs: impl FnOnce(&Writing) -> Need,
    ) -> Result<(Mode, Loaded), Trouble> {
        // A session that had ended unnoticed is replaced once; nothing was done yet.
        let mut fresh = self.session.is_none();
        let mode = loop {
            self.reach().await?;
            match self.lock_and_read(mode).await {
                Ok(mode) => break mode,
                Err(trouble) => {
                    self.abandon(&trouble).await;
                    if fresh || self.session.is_some() {
                        return Err(trouble);
                    }
                    (fresh, self.not_before) = (true, None);
                }
            }
        };
        let needs = needs(&self.core);
        match self.load(mode, &needs).await {
            Ok(loaded) => Ok((mode, loaded)),
            Err(trouble) => {
                self.abandon(&trouble).await;
                Err(trouble)
            }
        }
    }

    /// Makes sure that there is a session.
    async fn reach(&mut self) -> Result<(), LedgerError> {
        if self.session.as_ref().is_some_and(|session| !session.client.is_closed()) {
            return Ok(());
        }
        self.session = None;
        if self.not_before.is_some_and(|time| Instant::now() < time) {
            let why = self.told.trouble.borrow().clone().unwrap_or_default();
            return Err(LedgerError::Unavailable(why));
        }
        let connected = tokio::time::timeout(PATIENCE, self.server.connect(Some(Arc::clone(&self.changes)))).await;
        let connected =
            connected.unwrap_or_else(|_| Err(LedgerError::Unavailable("the database: connect: no answer".into())));
        let session = match connected {
            Ok(client) => Session::new(client),
            Err(error) => {
                self.note(&error);
                return Err(error);
            }
        };
        let ready = async {
            session.batch("make the staging table", STAGING).await?;
            session.batch("listen", &format!("LISTEN {CHANNEL}")).await?;
            loading::days(&session).await
        };
        match ready.await {
            Ok(days) => {
                self.days = days;
                self.session = Some(session);
                Ok(())
            }
            Err(trouble) => {
                self.abandon(&trouble).await;
                Err(trouble.into())
            }
        }
    }

    /// Begins the transaction, takes its lock and reads facts that are new.
    async fn lock_and_read(&mut self, wanted: fn(&State) -> Mode) -> Result<Mode, Trouble> {
        let mut mode = wanted(&self.core.state);
        loop {
            let sql = match mode {
                Mode::Read => SNAPSHOT,
                Mode::Append => LOCK_SHARED,
                Mode::Exclusive => LOCK,
            };
            let session = self.session.as_ref().ok_or_else(gone)?;
            let begun = tokio::time::timeout(PATIENCE, session.batch("begin", sql)).await;
            begun.unwrap_or_else(|_| Err(gone().into()))?;
            let head = loading::head(session).await?;
            self.read_facts(head).await?;
            self.core.state.last_received = head.last_received;
            self.open_newest = head.open_newest.unwrap_or(i64::MIN);
            if let Some(clock) = &self.server_clock {
                clock.store(head.now, Ordering::Relaxed);
            }
            let base = if mode == Mode::Append { PROVISIONAL } else { head.position };
            self.core.journal = Pending::new(base);
            self.core.state.counters = Counters::default();
            if mode == Mode::Read {
                let Head { proofs, accepted, .. } = head;
                self.core.state.counters = Counters { proofs, accepted, ..Counters::default() };
            }
            self.core.state.open_time.forgotten = head.open_forgotten;
            // What was just read may ask for another lock.
            let again = wanted(&self.core.state);
            if again == mode {
                return Ok(mode);
            }
            self.session.as_ref().ok_or_else(gone)?.batch("begin anew", "ROLLBACK").await?;
            mode = again;
        }
    }

    /// Reads on from where the facts were read to. A database that is behind what was seen is refused, unless it was declared restored.
    async fn read_facts(&mut self, head: Head) -> Result<(), Trouble> {
        let session = self.session.as_ref().ok_or_else(gone)?;
        let lost = head.facts < self.facts || head.position < self.furthest.1;
        if lost {
            self.core.state = State::default();
            self.facts = 0;
        }
        if self.facts == 0
            && let Some(base) = Stored::read(&self.pool, super::BASE).await?
        {
            let base = snapshot::decode(base.into())?;
            self.facts = base.applied;
            // Chains and statistics are rows, totals and open time too.
            let (chains, accounts) = Default::default();
            let (counters, open_time) = Default::default();
            let base = State { chains, accounts, counters, open_time, ..base };
            self.core.state = base;
        }
        if head.facts > self.facts {
            for (position, entry) in loading::facts(session, self.facts).await? {
                if matches!(entry.kind(), 5 | 6) {
                    self.core.inbox_touched = true;
                }
                self.core.state.apply(position, entry)?;
            }
            self.facts = head.facts;
        }
        self.core.state.understood(self.core.settings.feature_level)?;
        let here = (self.core.state.incarnation, head.position);
        if here < self.furthest {
            let (incarnation, position) = self.furthest;
            let message = format!(
                "the database ends at {}, but {position} of incarnation {incarnation} was acknowledged: it was restored, or a standby that \
                 lagged took over; run `depin-gateway ledger declare-restored`",
                head.position
            );
            self.facts = 0;
            return Err(LedgerError::Unavailable(message).into());
        }
        self.furthest = here;
        Ok(())
    }

    async fn load(&mut self, mode: Mode, need: &Need) -> Result<Loaded, Trouble> {
        let session = self.session.as_ref().ok_or_else(gone)?;
        let mut loaded = loading::load(session, need, mode != Mode::Read, &mut self.core.state).await?;
        if mode != Mode::Append {
            let (first, spans) = loading::spans(session).await?;
            (loaded.first_span, loaded.spans) = (first, spans.clone());
            self.core.state.open_time.spans = spans;
        } else {
            loaded.spans.clone_from(&self.core.state.open_time.spans);
        }
        self.core.reported.clone_from(&loaded.reported);
        Ok(loaded)
    }

    /// Writes and commits.
    pub(super) async fn store(&mut self, mode: Mode, loaded: &Loaded) -> Result<u64, Trouble> {
        let stored = tokio::time::timeout(PATIENCE, self.store_all(mode, loaded)).await;
        let stored = stored.unwrap_or_else(|_| Err(gone().into()));
        match stored {
            Ok(base) => {
                self.committed(mode, base);
                Ok(base)
            }
            Err(trouble) => {
                self.abandon(&trouble).await;
                Err(trouble)
            }
        }
    }

    async fn store_all(&mut self, mode: Mode, loaded: &Loaded) -> Result<u64, Trouble> {
        let session = self.session.as_ref().ok_or_else(gone)?;
        let journal = &self.core.journal;
        if let Some(why) = &journal.spoiled {
            return Err(LedgerError::Unavailable(why.clone()).into());
        }
        let idle = journal.count == 0
            && self.core.state.open_time.spans == loaded.spans
            && self.core.reported == loaded.reported;
        if mode == Mode::Read || idle {
            session.batch("end", "COMMIT").await?;
            return Ok(0);
        }
        storing::store(session, &self.core, loaded, &self.files, &self.days).await
    }

    /// What was committed is remembered and told.
    fn committed(&mut self, mode: Mode, base: u64) {
        let Pending { count, facts, .. } = &self.core.journal;
        if *count > 0 {
            self.furthest = (self.core.state.incarnation, base + count);
            // Beside others, facts of theirs may stand before one's own: all are read with the next transaction.
            if let (Mode::Exclusive, Some((offset, _))) = (mode, facts.last()) {
                self.facts = base + offset + 1;
            }
        }
        if let Some(newest) = self.core.state.open_time.newest().filter(|_| mode != Mode::Append) {
            self.open_newest = newest;
        }
        self.clear();
        self.failures = 0;
        self.not_before = None;
        self.told.trouble.send_if_modified(|known| known.take().is_some());
        self.publish();
    }

    /// Forgets what belonged to one transaction.
    fn clear(&mut self) {
        self.core.state.chains.by_key.clear();
        self.core.state.accounts.clear();
        self.core.journal = Pending::default();
        drop(self.files.take());
    }

    /// Gives up the transaction, and the session unless only another one was in its way. What is in memory is read anew where it may be ahead.
    async fn abandon(&mut self, trouble: &Trouble) {
        if !self.core.journal.facts.is_empty() || self.core.journal.spoiled.is_some() {
            self.core.state = State::default();
            self.facts = 0;
        }
        self.clear();
        if let Trouble::Failed(error) = trouble {
            self.session = None;
            self.note(error);
            return;
        }
        let rolled_back = match &self.session {
            Some(session) => session.batch("roll back", "ROLLBACK").await,
            None => Ok(()),
        };
        if rolled_back.is_err() {
            self.session = None;
        }
    }

    /// Tells why nothing is taken, and waits a little longer with each failure.
    fn note(&mut self, error: &LedgerError) {
        let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(10)).min(LONGEST_PAUSE);
        self.failures += 1;
        self.not_before = Some(Instant::now() + pause);
        let why = error.to_string();
        let news = self.told.trouble.send_if_modified(|known| {
            let changed = known.is_none();
            *known = Some(why.clone());
            changed
        });
        if news {
            tracing::error!(%error, "the ledger's database cannot be used: nothing is acknowledged until it can");
        }
    }

    fn publish(&mut self) {
        if std::mem::take(&mut self.core.inbox_touched) {
            self.told.inbox.send_modify(|changes| *changes += 1);
        }
        let state = &self.core.state;
        self.told.registry.send_if_modified(|known| {
            let changed =
                (known.incarnation, known.registry.version()) != (state.incarnation, state.registry.version());
            if changed {
                let (incarnation, registry) = (state.incarnation, state.registry.clone());
                *known = Arc::new(RegistrySnapshot { incarnation, registry });
            }
            changed
        });
    }

    async fn make_day(&mut self, day: i32) -> Result<(), LedgerError> {
        let mut client = self.server.connect(None).await?;
        // The next one too: midnight finds it there.
        schema::make_day(&mut client, day).await?;
        schema::make_day(&mut client, day.saturating_add(1)).await?;
        self.days.extend([day, day.saturating_add(1)]);
        Ok(())
    }
}

/// What a tick needs: once a day the marks of all devices.
fn needs_of_tick(core: &Writing) -> Need {
    Need { all_marks: core.now().0 >= core.unclaimed_due, ..Need::default() }
}

fn gone() -> LedgerError {
    LedgerError::Unavailable("the database: the session ended or does not answer".into())
}
