//! What a cluster leaves on disk so that another process can find and end it.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::machine::{Machine, groups, remove_group};

const FILE: &str = "cluster.json";
/// How long processes and control groups may take to go; seconds on a busy machine.
const END_LIMIT: Duration = Duration::from_secs(60);

/// A machine as it is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Recorded {
    pub(super) name: String,
    pub(super) index: usize,
    pub(super) group: String,
    pub(super) init: u32,
    /// When the init began, in the kernel's ticks: another process may have its id later.
    pub(super) began: String,
}

/// All machines of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    machines: Vec<Recorded>,
}

/// What came of ending a cluster.
#[derive(Debug)]
pub(super) enum Ended {
    All,
    Left(Vec<String>),
}

impl State {
    pub(super) fn of(machines: &[Machine]) -> Self {
        let recorded = |machine: &Machine| Recorded {
            name: machine.name().to_owned(),
            index: machine.index(),
            group: machine.group().to_owned(),
            init: machine.init(),
            began: began(machine.init()).unwrap_or_default(),
        };
        Self { machines: machines.iter().map(recorded).collect() }
    }

    pub(super) fn write(&self, dir: &Path) -> Result<()> {
        let machines: Vec<Value> = self
            .machines
            .iter()
            .map(|Recorded { name, index, group, init, began }| {
                json!({"name": name, "index": index, "group": group, "init": init, "began": began})
            })
            .collect();
        let path = dir.join(FILE);
        fs::write(&path, json!({ "machines": machines }).to_string())
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// What is recorded in `dir`.
    ///
    /// # Errors
    /// When there is nothing, or it cannot be read.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        let text = fs::read_to_string(&path).with_context(|| {
            format!("no cluster in {} (no {FILE}); `cargo xtask cluster up` makes one", dir.display())
        })?;
        let value: Value = serde_json::from_str(&text).with_context(|| format!("{} is no JSON", path.display()))?;
        let parse = |value: &Value| {
            let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
            let number = |key: &str| value.get(key).and_then(Value::as_u64);
            Some(Recorded {
                name: text("name")?,
                index: usize::try_from(number("index")?).ok()?,
                group: text("group")?,
                init: u32::try_from(number("init")?).ok()?,
                began: text("began")?,
            })
        };
        let machines = value.get("machines").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let machines: Option<Vec<Recorded>> = machines.iter().map(parse).collect();
        Ok(Self { machines: machines.with_context(|| format!("{} is not of this version", path.display()))? })
    }

    pub(super) fn attach(&self, dir: &Path) -> Result<Vec<Machine>> {
        if let Some(gone) = self.machines.iter().find(|machine| !machine.runs()) {
            bail!("the cluster's node {} is gone; `cargo xtask cluster down` clears the rest", gone.name);
        }
        Ok(self.machines.iter().map(|recorded| Machine::attach(dir, recorded)).collect())
    }

    /// Ends all machines. Ending an init ends everything in its namespaces.
    pub(super) fn end(&self) -> Result<Ended> {
        for machine in self.machines.iter().filter(|machine| machine.runs()) {
            let init = i32::try_from(machine.init).ok().and_then(Pid::from_raw).context("process id out of range")?;
            kill_process(init, Signal::KILL).with_context(|| format!("cannot end {}", machine.name))?;
        }
        let groups: Vec<PathBuf> = self.machines.iter().flat_map(|machine| groups(&machine.group)).collect();
        let deadline = Instant::now() + END_LIMIT;
        loop {
            let running = self.machines.iter().filter(|machine| machine.runs()).map(|machine| machine.name.clone());
            let kept = groups.iter().filter(|group| !remove_group(group)).map(|group| group.display().to_string());
            let left: Vec<String> = running.chain(kept).collect();
            if left.is_empty() {
                return Ok(Ended::All);
            }
            if Instant::now() >= deadline {
                return Ok(Ended::Left(left));
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Recorded {
    /// Whether its init is still the process that was recorded.
    fn runs(&self) -> bool {
        began(self.init).is_some_and(|began| began == self.began)
    }
}

/// When a process began, in the kernel's ticks since boot; nothing if it is gone or only waits to be reaped.
fn began(id: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name may hold spaces; the state is the first field behind it, the start the twentieth.
    let (_, fields) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    (!matches!(fields.first(), Some(&"Z" | &"X"))).then(|| fields.get(19).map(ToString::to_string)).flatten()
}
