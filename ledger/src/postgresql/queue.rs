//! What the writer is asked for, one task after the other; proofs that wait are appended together.

use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc, oneshot};

use super::{
    loading::Need,
    writer::{Mode, Writer, Writing},
};
use crate::{
    api::{Outcome, Submission},
    error::LedgerError,
    state::State,
};

/// Answers a caller once its transaction is committed, with the position of its first record, or why it is not.
type Done = Box<dyn FnOnce(Result<u64, LedgerError>) + Send>;
/// Does its part of a transaction; `Err`: there is none.
type Job = Box<dyn FnOnce(Result<&mut Writing, LedgerError>) -> Done + Send>;
/// What a job needs, once the facts are read.
type Needs = Box<dyn FnOnce(&Writing) -> Need + Send>;

/// What is to be answered.
type Answers = Vec<Box<dyn FnOnce() + Send>>;

/// What the writer is asked for.
pub(super) enum Task {
    Append(Vec<Submission>, oneshot::Sender<Vec<Outcome>>),
    Do { mode: fn(&State) -> Mode, needs: Needs, job: Job },
    Stop,
}

/// Proofs that are appended together, and their bytes.
const GROUP: usize = 512;
const GROUP_BYTES: usize = 8 << 20;
impl Writer {
    /// Works through the queue until it is told to stop.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Task>, idle: Duration) {
        let changes = Arc::clone(&self.changes);
        loop {
            let task = tokio::select! {
                task = queue.recv() => task,
                () = changes.notified() => {
                    self.refresh().await;
                    continue;
                }
                () = tokio::time::sleep(idle) => {
                    self.refresh().await;
                    self.tick().await;
                    continue;
                }
            };
            let mut answers = Answers::new();
            let mut next = Some(task.unwrap_or(Task::Stop));
            if let Some(Task::Append(proofs, answer)) = next {
                next = self.group(&mut queue, proofs, answer, &mut answers).await;
            }
            let goes_on = match next {
                Some(task) => self.work(task, &mut answers).await,
                None => true,
            };
            // Before the answers, as in the embedded ledger: who was answered finds that it was served.
            self.tick().await;
            answers.into_iter().for_each(|answer| answer());
            if !goes_on {
                return;
            }
        }
    }

    /// Appends what waits together. A task of another kind that came between is left.
    async fn group(
        &mut self,
        queue: &mut mpsc::Receiver<Task>,
        proofs: Vec<Submission>,
        answer: oneshot::Sender<Vec<Outcome>>,
        answers: &mut Answers,
    ) -> Option<Task> {
        let size = |proofs: &[Submission]| {
            proofs.iter().flat_map(|proof| &proof.proof.sections).map(bytes::Bytes::len).sum::<usize>()
        };
        let (mut bytes, mut counts) = (size(&proofs), vec![(proofs.len(), answer)]);
        let (mut together, mut left) = (proofs, None);
        while bytes < GROUP_BYTES && together.len() < GROUP {
            match queue.try_recv() {
                Ok(Task::Append(proofs, answer)) => {
                    bytes += size(&proofs);
                    counts.push((proofs.len(), answer));
                    together.extend(proofs);
                }
                Ok(other) => {
                    left = Some(other);
                    break;
                }
                Err(_) => break,
            }
        }
        let mut outcomes = self.append(together).await.into_iter();
        for (count, answer) in counts {
            let own: Vec<Outcome> = outcomes.by_ref().take(count).collect();
            // A caller that is gone wants no answer.
            answers.push(Box::new(move || drop(answer.send(own))));
        }
        left
    }

    /// Does a task; false: it was to stop.
    async fn work(&mut self, task: Task, answers: &mut Answers) -> bool {
        match task {
            Task::Stop => return false,
            Task::Append(proofs, answer) => {
                let outcomes = self.append(proofs).await;
                answers.push(Box::new(move || drop(answer.send(outcomes))));
            }
            Task::Do { mode, needs, job } => match self.begin(mode, needs).await {
                Ok((mode, loaded)) => {
                    let done = job(Ok(&mut self.core));
                    let stored = self.store(mode, &loaded).await.map_err(LedgerError::from);
                    answers.push(Box::new(move || done(stored)));
                }
                Err(trouble) => {
                    let error = LedgerError::from(trouble);
                    let done = job(Err(error.clone()));
                    answers.push(Box::new(move || done(Err(error))));
                }
            },
        }
        true
    }
}
