//! Stages that run beside another one: what compiles while tests mostly wait for clocks.

use std::{
    ffi::OsStr,
    process::{Command, Stdio},
    sync::mpsc::{Receiver, Sender, channel},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};

use crate::stages::{Outcome, Stages};

/// How much less of the machine they get than the tests beside which they run.
const NICENESS: &str = "10";

/// A stage that is one command.
pub struct Beside {
    name: &'static str,
    work: Work,
}

enum Work {
    Run(Command),
    Skip(String),
}

/// What came of one.
struct Done {
    name: &'static str,
    outcome: Result<Outcome>,
    said: String,
    took: Duration,
}

/// Stages under way, one after the other, as soon as they may begin.
pub struct Running {
    begin: Sender<()>,
    stages: JoinHandle<Vec<Done>>,
}

impl Beside {
    /// A stage that passes where `command` ends well; its output is shown at the end.
    #[must_use]
    pub fn run(name: &'static str, command: &Command) -> Self {
        let mut nice = Command::new("nice");
        nice.args(["-n", NICENESS]).arg(command.get_program()).args(command.get_args());
        if let Some(folder) = command.get_current_dir() {
            nice.current_dir(folder);
        }
        for (variable, value) in command.get_envs() {
            set(&mut nice, variable, value);
        }
        Self { name, work: Work::Run(nice) }
    }

    /// A stage that is left out, and why.
    #[must_use]
    pub fn skip(name: &'static str, why: &str) -> Self {
        Self { name, work: Work::Skip(why.to_owned()) }
    }

    fn done(self) -> Done {
        let started = Instant::now();
        let (outcome, said) = match self.work {
            Work::Skip(why) => (Ok(Outcome::skipped(&why)), String::new()),
            Work::Run(mut command) => {
                let output = command.stdin(Stdio::null()).output().context("cannot run it under nice");
                match output {
                    Ok(output) => {
                        let said = [output.stdout, output.stderr].concat();
                        (Ok(Outcome::one(output.status.success())), String::from_utf8_lossy(&said).into_owned())
                    }
                    Err(error) => (Err(error), String::new()),
                }
            }
        };
        Done { name: self.name, outcome, said, took: started.elapsed() }
    }
}

fn set(command: &mut Command, variable: &OsStr, value: Option<&OsStr>) {
    match value {
        Some(value) => command.env(variable, value),
        None => command.env_remove(variable),
    };
}

impl Running {
    /// They wait for [`Running::begin`].
    #[must_use]
    pub fn new(stages: Vec<Beside>) -> Self {
        let (begin, begun): (Sender<()>, Receiver<()>) = channel();
        let stages = std::thread::spawn(move || {
            // Whoever is gone without a word wants them run too.
            let (Ok(()) | Err(_)) = begun.recv();
            stages.into_iter().map(Beside::done).collect()
        });
        Self { begin, stages }
    }

    /// Lets them run.
    pub fn begin(&self) {
        // Where they have ended already nobody listens.
        let (Ok(()) | Err(_)) = self.begin.send(());
    }

    /// Waits for them and counts each as a stage of the run; what a failed one said is shown.
    pub fn join(self, stages: &mut Stages) {
        drop(self.begin);
        match self.stages.join() {
            Ok(done) => done.into_iter().for_each(|done| {
                stages.ran(done.name, done.took, || {
                    let outcome = done.outcome?;
                    if outcome.failed > 0 {
                        println!("{}", done.said);
                    }
                    Ok(outcome)
                });
            }),
            Err(_) => {
                stages.run("what ran beside the tests", || Err(anyhow!("its thread failed")));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_beside_is_counted_and_begins_when_it_is_let() {
        let shell = |line: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", line]).env("WORD", "there");
            command
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().display().to_string();
        let running = Running::new(vec![
            Beside::run("good", &shell(&format!("echo $WORD > {path}"))),
            Beside::run("bad", &shell("echo why >&2; exit 3")),
            Beside::skip("absent", "no compiler"),
        ]);
        assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "");
        running.begin();
        let mut stages = Stages::default();
        running.join(&mut stages);
        assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "there\n");
        assert_eq!(stages.totals(), (1, 1));
    }
}
