//! Which clients' sessions outlive their connections.
//!
//! There is nothing to deliver to hardware. What a session means is that a client may send again, under the same packet identifiers,
//! what was not acknowledged; a client that hears that its session is gone drops those messages. So a session is known for as long as
//! the client asked for, over a restart of the agent too, and packet identifiers belong to sessions ([`crate::intake::Intake::session`]).

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use depin_log::{Storage, checkpoint};
use tokio::{
    sync::{Notify, watch},
    time::{self, Instant},
};

use crate::stop::stopped;

const NAME: &str = "sessions";
const TAG: u32 = u32::from_le_bytes(*b"ases");
/// Bytes of a session on disk: its number and its expiry, little-endian.
const ON_DISK: usize = 12;
/// Between two writes.
const PACE: Duration = Duration::from_secs(1);

/// Sessions that are remembered; beyond it those that ended first are forgotten.
const MAX_SESSIONS: usize = 65_536;
/// A session that never expires.
pub(super) const FOR_EVER: u32 = u32::MAX;

/// When a session without a connection is forgotten.
#[derive(Debug)]
struct Kept {
    /// The newest connection that it belongs to.
    connection: Arc<Notify>,
    /// When that connection ended; `None`: it stands.
    ended: Option<Instant>,
    /// Seconds after that.
    expiry: u32,
}

impl Kept {
    fn stands(&self, now: Instant) -> bool {
        let over = |ended| now >= ended + Duration::from_secs(u64::from(self.expiry));
        match self.expiry {
            // It ends with its connection, which ends when another one comes.
            0 => false,
            FOR_EVER => true,
            _ => !self.ended.is_some_and(over),
        }
    }
}

/// A connection's hold on its session.
#[derive(Clone, Debug)]
pub(super) struct Hold {
    session: u64,
    connection: Arc<Notify>,
}

impl Hold {
    /// Waits until another connection takes the session over: what this one has not taken yet comes again there.
    pub(super) async fn lost(&self) {
        self.connection.notified().await;
    }
}

type Known = HashMap<u64, Kept>;

/// The sessions of all clients of a listener.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    known: Mutex<Known>,
    /// What is on disk is no longer what is to be there.
    changed: Notify,
}

impl Sessions {
    /// A panic elsewhere leaves the map whole.
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// With what was kept; from now on each of them expires as if its connection had ended now.
    pub(super) fn load(storage: &dyn Storage, now: Instant) -> Self {
        let sessions = Self::default();
        match checkpoint::load(storage, NAME, TAG) {
            Ok(loaded) => {
                let bytes = loaded.newest.map(|(_, bytes)| bytes).unwrap_or_default();
                sessions.lock().extend(bytes.chunks_exact(ON_DISK).filter_map(|bytes| {
                    let (session, expiry) = bytes.split_first_chunk()?;
                    let expiry = u32::from_le_bytes(expiry.try_into().ok()?);
                    let kept = Kept { connection: Arc::default(), ended: Some(now), expiry };
                    Some((u64::from_le_bytes(*session), kept))
                }));
            }
            Err(error) => tracing::error!(%error, "the kept MQTT sessions are not used: clients begin new ones"),
        }
        sessions
    }

    fn on_disk(&self) -> Vec<u8> {
        let known = self.lock();
        let kept = known.iter().filter(|(_, kept)| kept.expiry > 0);
        kept.flat_map(|(session, kept)| session.to_le_bytes().into_iter().chain(kept.expiry.to_le_bytes())).collect()
    }

    /// Writes what changed, now and then, until `stop`, and then once more. A session that a crash makes forgotten is a new one to its
    /// client, as after any loss.
    pub(super) async fn keep(self: Arc<Self>, storage: Arc<dyn Storage>, mut stop: watch::Receiver<bool>) {
        let mut last = false;
        while !last {
            tokio::select! {
                () = self.changed.notified() => tokio::select! {
                    () = time::sleep(PACE) => {}
                    () = stopped(&mut stop) => last = true,
                },
                () = stopped(&mut stop) => last = true,
            }
            let (bytes, storage) = (self.on_disk(), Arc::clone(&storage));
            let written = tokio::task::spawn_blocking(move || checkpoint::write(&*storage, NAME, TAG, &bytes)).await;
            match written {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%error, "MQTT sessions cannot be kept: after a restart clients begin new ones")
                }
                Err(error) => tracing::error!(%error, "writing the MQTT sessions ended unexpectedly"),
            }
        }
    }

    /// A client begins or goes on with its session. Answers whether the session was known; `clean`: it is to be a new one.
    pub(super) fn begin(&self, session: u64, clean: bool, expiry: u32, now: Instant) -> (bool, Hold) {
        let mut known = self.lock();
        let before = known.remove(&session);
        let present = !clean && before.as_ref().is_some_and(|kept| kept.stands(now));
        if let Some(before) = &before {
            before.connection.notify_one();
        }
        if known.len() >= MAX_SESSIONS {
            forget(&mut known, now);
        }
        if before.map_or(0, |kept| kept.expiry) != expiry {
            self.changed.notify_one();
        }
        let connection = Arc::new(Notify::new());
        known.insert(session, Kept { connection: Arc::clone(&connection), ended: None, expiry });
        (present, Hold { session, connection })
    }

    /// The connection ended; `expiry`: another one, told with DISCONNECT. Another connection may have taken the session over.
    pub(super) fn end(&self, hold: &Hold, expiry: Option<u32>, now: Instant) {
        let mut known = self.lock();
        let own = |kept: &&mut Kept| Arc::ptr_eq(&kept.connection, &hold.connection);
        let Some(kept) = known.get_mut(&hold.session).filter(own) else { return };
        kept.ended = Some(now);
        // A session that was to end with its connection cannot be made longer.
        if let Some(expiry) = expiry.filter(|expiry| kept.expiry > 0 && *expiry != kept.expiry) {
            kept.expiry = expiry;
            self.changed.notify_one();
        }
        if kept.expiry == 0 {
            known.remove(&hold.session);
        }
    }
}

fn forget(known: &mut Known, now: Instant) {
    known.retain(|_, kept| kept.stands(now));
    if known.len() >= MAX_SESSIONS {
        let ended = known.iter().filter_map(|(session, kept)| Some((kept.ended?, *session)));
        if let Some((_, oldest)) = ended.min() {
            known.remove(&oldest);
        }
    }
}

/// A name for a client that has none, so that it shares no session with others.
pub(super) fn made_up_name() -> String {
    format!("depin-{:016x}", RandomState::new().hash_one(0_u8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_known_for_as_long_as_the_client_asked() {
        let (sessions, start) = (Sessions::default(), Instant::now());
        let later = |seconds| start + Duration::from_secs(seconds);
        let (present, hold) = sessions.begin(1, false, 10, start);
        assert!(!present, "the first time");
        sessions.end(&hold, None, later(100));
        let (present, hold) = sessions.begin(1, false, 10, later(109));
        assert!(present, "it counts from the end of the connection");
        sessions.end(&hold, None, later(200));
        assert!(!sessions.begin(1, false, 10, later(210)).0, "expired");
        assert!(!sessions.begin(1, true, 10, later(211)).0, "the client wants a new one");
        assert!(!sessions.begin(2, false, 10, later(211)).0, "another client");
    }

    #[test]
    fn a_session_without_expiry_ends_with_its_connection() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let (_, hold) = sessions.begin(1, true, 0, now);
        sessions.end(&hold, Some(100), now);
        assert!(!sessions.begin(1, false, FOR_EVER, now).0);
        let (_, hold) = sessions.begin(1, false, FOR_EVER, now);
        sessions.end(&hold, None, now);
        let year = now + Duration::from_secs(366 * 86_400);
        let (present, hold) = sessions.begin(1, false, FOR_EVER, year);
        assert!(present);
        sessions.end(&hold, Some(0), year);
        assert!(!sessions.begin(1, false, FOR_EVER, year).0, "told with DISCONNECT");
    }

    #[tokio::test]
    async fn an_old_connection_does_not_end_what_a_new_one_took_over() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let (_, old) = sessions.begin(1, true, 0, now);
        let (present, new) = sessions.begin(1, false, 60, now);
        assert!(!present, "the old one's session ends with it");
        old.lost().await;
        sessions.end(&old, None, now);
        sessions.end(&new, None, now);
        assert!(sessions.begin(1, false, 60, now).0);
    }

    #[test]
    fn too_many_sessions_push_out_the_one_that_ended_first() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        for session in 0..MAX_SESSIONS as u64 {
            let (_, hold) = sessions.begin(session, false, FOR_EVER, now);
            if session == 7 || session == 8 {
                sessions.end(&hold, None, now + Duration::from_secs(session));
            }
        }
        sessions.begin(u64::MAX, false, FOR_EVER, now);
        let known = sessions.lock();
        assert_eq!((known.len(), known.contains_key(&7), known.contains_key(&8)), (MAX_SESSIONS, false, true));
    }

    #[tokio::test]
    async fn sessions_outlive_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let storage: Arc<dyn Storage> = Arc::new(depin_log::DiskStorage::open(folder.path()).unwrap());
        let (sessions, now) = (Arc::new(Sessions::load(&*storage, Instant::now())), Instant::now());
        sessions.begin(1, false, FOR_EVER, now);
        sessions.begin(2, true, 60, now);
        sessions.begin(3, true, 0, now);
        let (stop, stopping) = watch::channel(false);
        let keeping = tokio::spawn(Arc::clone(&sessions).keep(Arc::clone(&storage), stopping));
        stop.send_replace(true);
        keeping.await.unwrap();
        let sessions = Sessions::load(&*storage, now);
        let known = |session, seconds| sessions.begin(session, false, 60, now + Duration::from_secs(seconds)).0;
        assert_eq!([known(1, 1 << 30), known(2, 61), known(3, 0)], [true, false, false]);
        let sessions = Sessions::load(&*storage, now);
        assert!(sessions.begin(2, false, 60, now + Duration::from_secs(59)).0);
    }

    #[test]
    fn made_up_names_differ() {
        assert_ne!(made_up_name(), made_up_name());
    }
}
