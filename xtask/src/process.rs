//! A program that was started here and ends with whoever started it, even when that one is killed.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How often a condition is looked at again.
const POLL: Duration = Duration::from_millis(20);

/// A running program with its log file. Dropping it kills it.
///
/// It runs in a process group of its own, so that Ctrl-C at the terminal reaches only whoever started it. Beside it runs a
/// guard: a shell that waits for the end of its standard input, which comes when the starting process is gone for whatever
/// reason, and then kills the program.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    guard: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with both its outputs appended to `log`.
    ///
    /// # Errors
    /// When the log cannot be opened or the program not be started.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let output = open(log)?;
        // An error's backtrace would push the error itself out of the end of the log. Panics keep theirs.
        let child = command
            .env("RUST_LIB_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {name} ({})", Path::new(command.get_program()).display()))?;
        let guard = Command::new("sh")
            .args(["-c", "cat >/dev/null; kill -9 \"$0\" 2>/dev/null", &child.id().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn();
        match guard {
            Ok(guard) => Ok(Self { name: name.to_owned(), child, guard, log: log.to_path_buf() }),
            Err(error) => {
                let mut child = child;
                end(&mut child);
                Err(error).context("cannot start sh, which guards against programs left behind")
            }
        }
    }

    /// Starts `command` with both its outputs appended to `log`, and lets it outlive whoever started it: the caller must
    /// know how it ends. Answers with its id.
    ///
    /// # Errors
    /// When the log cannot be opened or the program not be started.
    pub fn start_alone(command: &mut Command, log: &Path) -> Result<u32> {
        let output = open(log)?;
        let command = command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
        let mut child =
            command.spawn().with_context(|| format!("cannot start {}", Path::new(command.get_program()).display()))?;
        let id = child.id();
        // Reaped where its end comes first, so that it does not stay as a zombie.
        thread::spawn(move || child.wait());
        Ok(id)
    }

    /// What it was called at the start.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Where its outputs go.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Asks it to end (SIGTERM), waits up to `grace`, and kills it if it has not ended then.
    ///
    /// # Errors
    /// When it had to be killed, or the system does not say how it ended.
    pub fn stop(mut self, grace: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        let deadline = Instant::now() + grace;
        loop {
            if let Some(status) = self.exited()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!("{} did not end within {grace:?} of SIGTERM; its log is {}", self.name, self.log.display());
            }
            thread::sleep(POLL);
        }
    }

    /// Kills it at once (SIGKILL), as a power cut would.
    pub fn kill(self) {
        drop(self);
    }

    /// The same, where whoever holds it goes on holding it: its log can still be read.
    pub fn crash(&mut self) {
        // The guard first: once the program is reaped its id may be another's.
        end(&mut self.guard);
        end(&mut self.child);
    }

    /// Stops it where it stands (SIGSTOP), as a paused machine would: it keeps what it holds and notices nothing.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn pause(&mut self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on after [`Process::pause`].
    ///
    /// # Errors
    /// When the system refuses.
    pub fn resume(&mut self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Sends a signal, if it still runs.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        // Not reaped until `try_wait` says so, hence the id is still this process's.
        if self.exited()?.is_none() {
            let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("process id out of range")?;
            kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.name))?;
        }
        Ok(())
    }

    /// Waits until `ready` holds; `what` names the condition in the error.
    ///
    /// # Errors
    /// When the program ends or `limit` passes first; the error shows the log's end.
    pub fn wait_until(&mut self, what: &str, limit: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
        let deadline = Instant::now() + limit;
        while !ready() {
            if let Some(status) = self.exited()? {
                bail!("{} ended ({status}) before {what}:\n{}", self.name, self.log_end());
            }
            if Instant::now() >= deadline {
                bail!("{}: no {what} after {limit:?}:\n{}", self.name, self.log_end());
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log_end(&self) -> String {
        end_of(&self.log)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.crash();
    }
}

fn open(log: &Path) -> Result<File> {
    let file = File::options().create(true).append(true).open(log);
    file.with_context(|| format!("cannot write the log {}", log.display()))
}

/// The last lines of a log.
pub(crate) fn end_of(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(30)..).unwrap_or_default().join("\n")
}

/// Kills and reaps. Both fail only if the process is gone already, which is what is wanted.
fn end(child: &mut Child) {
    drop(child.kill());
    drop(child.wait());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alive(id: u32) -> bool {
        // A zombie still has an entry. The state follows the name, which ends with the last parenthesis.
        let Ok(stat) = fs::read_to_string(format!("/proc/{id}/stat")) else { return false };
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    }

    #[test]
    fn a_dropped_process_is_gone_and_so_is_its_guard() {
        let dir = tempfile::tempdir().unwrap();
        let process = Process::start("sleeper", Command::new("sleep").arg("600"), &dir.path().join("log")).unwrap();
        let (id, guard) = (process.id(), process.guard.id());
        assert!(alive(id));
        drop(process);
        assert!(!alive(id));
        assert!(!alive(guard));
    }

    #[test]
    fn the_guard_ends_the_process_when_its_starter_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let mut process = Process::start("sleeper", Command::new("sleep").arg("600"), &dir.path().join("log")).unwrap();
        // What the kernel does to the pipe when the starter dies.
        drop(process.guard.stdin.take());
        let status = process.guard.wait().unwrap();
        assert!(status.success());
        let status = process.child.wait().unwrap();
        assert!(!status.success(), "killed by the guard");
    }

    #[test]
    fn what_ends_too_early_shows_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo broken pipe dream; exit 3"]);
        let mut process = Process::start("failing", &mut command, &dir.path().join("log")).unwrap();
        let error = process.wait_until("readiness", Duration::from_secs(60), || false).unwrap_err();
        assert!(error.to_string().contains("broken pipe dream"), "{error}");
        assert!(error.to_string().contains("failing ended"), "{error}");
    }

    #[test]
    fn stopping_asks_first() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut command = Command::new("sh");
        command.args(["-c", "trap 'echo draining; exit 0' TERM; echo up; while :; do sleep 0.01; done"]);
        let mut process = Process::start("polite", &mut command, &log).unwrap();
        let up = log.clone();
        process
            .wait_until("start", Duration::from_secs(60), || {
                fs::read_to_string(&up).is_ok_and(|text| text.contains("up"))
            })
            .unwrap();
        assert!(process.stop(Duration::from_secs(60)).unwrap().success());
        assert!(fs::read_to_string(&log).unwrap().contains("draining"));
    }
}
