//! The writer's thread: works through what is asked, in groups that are made durable together.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use super::disk::Core;
use crate::error::LedgerError;

/// Answers a caller once its group is durable, or why it is not.
pub(crate) type Done = Box<dyn FnOnce(Result<(), LedgerError>) + Send>;
/// Does its part of a group; `Err`: the ledger takes nothing now.
pub(crate) type Job = Box<dyn FnOnce(Result<&mut Core, LedgerError>) -> Done + Send>;

/// What the writer is asked for.
pub(crate) enum Task {
    Do(Job),
    Stop,
}

/// Most jobs made durable together.
const GROUP: usize = 512;
/// Most bytes made durable together: bounds how long the first of a group waits.
const GROUP_BYTES: u64 = 16 << 20;
/// Pauses between tries to mend a broken ledger.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// When a broken ledger is read anew: at once, then ever less often, since each try reads the log.
#[derive(Debug, Default)]
struct Retry {
    not_before: Option<Instant>,
    failures: u32,
}

impl Retry {
    fn recover(&mut self, core: &mut Core) {
        if self.not_before.is_some_and(|time| Instant::now() < time) {
            return;
        }
        match core.recover() {
            Ok(()) => {
                tracing::info!("the ledger takes writes again");
                *self = Self::default();
            }
            Err(error) => {
                let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(10)).min(LONGEST_PAUSE);
                tracing::warn!(%error, "the ledger still takes no writes");
                self.failures += 1;
                self.not_before = Some(Instant::now() + pause);
            }
        }
    }
}

/// The writer's loop: one round is one group.
pub(crate) fn run(mut core: Core, queue: &Receiver<Task>, idle: Duration) {
    let mut retry = Retry::default();
    loop {
        let mut group: Vec<Done> = Vec::new();
        let mut stop = false;
        match queue.recv_timeout(idle) {
            Ok(task) => {
                if core.journal.broken.is_some() {
                    retry.recover(&mut core);
                }
                let begun = core.journal.log.end();
                let mut next = Some(task);
                while let Some(task) = next.take() {
                    match task {
                        Task::Do(job) => group.push(job(usable(&mut core))),
                        Task::Stop => stop = true,
                    }
                    if !stop && group.len() < GROUP && core.journal.log.end() - begun < GROUP_BYTES {
                        next = queue.try_recv().ok();
                    }
                }
            }
            Err(RecvTimeoutError::Timeout) if core.journal.broken.is_some() => retry.recover(&mut core),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => stop = true,
        }
        let committed = usable(&mut core).map(|_| ()).and_then(|()| {
            core.tick(false)?;
            core.commit()
        });
        core.tell_trouble();
        for done in group {
            done(committed.clone());
        }
        if stop {
            shut(core);
            return;
        }
    }
}

fn usable(core: &mut Core) -> Result<&mut Core, LedgerError> {
    match &core.journal.broken {
        Some(why) => Err(LedgerError::Unavailable(why.clone())),
        None => Ok(core),
    }
}

fn shut(mut core: Core) {
    if core.journal.broken.is_some() {
        return;
    }
    if let Err(error) = core.checkpoint() {
        tracing::warn!(%error, "no checkpoint at the end: the next start reads more of the log");
    }
    if let Err(error) = core.journal.log.close() {
        tracing::warn!(%error, "the log could not be closed cleanly; nothing acknowledged is lost");
    }
}
