//! One machine of the cluster: an init process in namespaces of its own, and what is started inside.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::state::Recorded;
use crate::{
    cluster::enter,
    process::{Process, end_of},
};

/// How often a condition is looked at again.
const POLL: Duration = Duration::from_millis(50);
/// How long namespaces may take; milliseconds on an idle machine.
const INIT_LIMIT: Duration = Duration::from_secs(60);
/// Hierarchies of control groups that a kubelet expects its root in, where they are of version 1.
const CONTROLLERS: &str = "/sys/fs/cgroup";
/// What the names of machines' control groups begin with.
const PREFIX: &str = "depin-node-";
/// What a machine has of its own: the rest of the file system is the host's.
const OWN: [&str; 3] = ["/var/lib", "/var/log", "/etc/cni"];

/// Who the cluster ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// The process that started it, even when that one is killed.
    Starter,
    /// Nobody: until `cargo xtask cluster down`.
    Down,
}

/// A machine.
#[derive(Debug)]
pub(super) struct Machine {
    name: String,
    index: usize,
    dir: PathBuf,
    group: String,
    init: u32,
    /// Held where the cluster ends with its starter.
    owner: Option<Process>,
}

impl Machine {
    /// Starts an empty one.
    pub(super) fn start(cluster: &Path, name: &str, index: usize, lifetime: Lifetime) -> Result<Self> {
        let dir = cluster.join(name);
        for own in OWN {
            let path = dir.join(own.trim_start_matches('/'));
            fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        }
        let group = format!("{PREFIX}{}-{name}", std::process::id());
        make_groups(&group)?;
        let ready = dir.join("init.pid");
        let script = init_script(&dir, &ready);
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "--net",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--propagation",
            "private",
        ]);
        command.args(["sh", "-c", &script]);
        let log = dir.join("init.log");
        let (owner, outer) = match lifetime {
            Lifetime::Starter => {
                let process = Process::start(name, &mut command, &log)?;
                let id = process.id();
                (Some(process), id)
            }
            Lifetime::Down => (None, Process::start_alone(&mut command, &log)?),
        };
        let init = await_init(outer, &ready, &log)?;
        Ok(Self { name: name.to_owned(), index, dir, group, init, owner })
    }

    /// One that an earlier process started.
    pub(super) fn attach(cluster: &Path, recorded: &Recorded) -> Self {
        let Recorded { name, index, group, init, .. } = recorded;
        Self {
            name: name.clone(),
            index: *index,
            dir: cluster.join(name),
            group: group.clone(),
            init: *init,
            owner: None,
        }
    }

    /// Its name, which is its Node's too.
    #[must_use]
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// 0 is the hub.
    pub(super) fn index(&self) -> usize {
        self.index
    }

    /// Its address in the cluster's network.
    pub(super) fn address(&self) -> String {
        super::wiring::address(self.index)
    }

    /// Where its files are, as the host sees them.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The control group of its Pods.
    pub(super) fn group(&self) -> &str {
        &self.group
    }

    /// The host's id of its init.
    pub(super) fn init(&self) -> u32 {
        self.init
    }

    /// Whether it ends with this process.
    pub(super) fn is_owned(&self) -> bool {
        self.owner.is_some()
    }

    /// Its network namespace.
    pub(super) fn network(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.init))
    }

    /// A program that runs in its network only, with the host's files.
    pub(super) fn in_network(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        enter(&self.network(), program)
    }

    /// A program that runs inside.
    pub(super) fn inside(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg("--target").arg(self.init.to_string()).args(["--mount", "--net", "--pid", "--"]).arg(program);
        command
    }

    /// A daemon that runs inside, as a child of the init: whoever started it neither waits for it nor stops with it.
    pub(super) fn background(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = self.inside("sh");
        command.args(["-c", r#""$@" &"#, "daemon"]).arg(program);
        command
    }

    /// Runs a program inside to its end.
    pub(super) fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        super::output(
            self.inside(program).args(arguments).stdin(Stdio::null()),
            &format!("{program} {} on {}", arguments.join(" "), self.name),
        )
    }

    /// Starts what [`Machine::background`] made; it ends with the machine.
    pub(super) fn daemon(&self, name: &str, command: &mut Command) -> Result<()> {
        let log = self.log(name);
        Process::start_alone(command, &log).with_context(|| format!("cannot start {name} on {}", self.name)).map(drop)
    }

    /// Where a daemon logs to.
    pub(super) fn log(&self, daemon: &str) -> PathBuf {
        self.dir.join(format!("{daemon}.log"))
    }

    /// Waits until `ready` holds; the error shows the end of the daemon's log.
    pub(super) fn wait(&self, daemon: &str, what: &str, limit: Duration, ready: impl Fn() -> bool) -> Result<()> {
        let deadline = Instant::now() + limit;
        while !ready() {
            if Instant::now() >= deadline {
                bail!("{daemon} on {}: no {what} after {limit:?}:\n{}", self.name, end_of(&self.log(daemon)));
            }
            thread::sleep(POLL);
        }
        Ok(())
    }
}

/// What the init does: a file system view of its own, then nothing but reaping what loses its parent.
fn init_script(dir: &Path, ready: &Path) -> String {
    let mut script = String::from("set -e\nmount -t tmpfs tmpfs /run\n");
    for own in OWN {
        let source = dir.join(own.trim_start_matches('/'));
        script.push_str(&format!("mkdir -p {own} && mount --bind {:?} {own}\n", source.display().to_string()));
    }
    // Volumes that a Pod mounts for others must be seen by them.
    script.push_str("mkdir -p /var/lib/kubelet && mount --bind /var/lib/kubelet /var/lib/kubelet && mount --make-shared /var/lib/kubelet\n");
    script.push_str("ip link set lo up\n");
    script.push_str(&format!("touch {:?}\n", ready.display().to_string()));
    script.push_str("set +e\nwhile :; do sleep 1000 & wait; done\n");
    script
}

/// The host's id of the init: `unshare`'s only child, once it has done its work.
fn await_init(outer: u32, ready: &Path, log: &Path) -> Result<u32> {
    let deadline = Instant::now() + INIT_LIMIT;
    let children = format!("/proc/{outer}/task/{outer}/children");
    loop {
        let child = fs::read_to_string(&children).ok().and_then(|text| text.split_whitespace().next()?.parse().ok());
        if let Some(child) = child
            && ready.exists()
        {
            return Ok(child);
        }
        if Instant::now() >= deadline || !Path::new(&format!("/proc/{outer}")).exists() {
            bail!("no namespaces: {}", fs::read_to_string(log).unwrap_or_default().trim());
        }
        thread::sleep(POLL);
    }
}

/// The hierarchies of control groups of version 1; with version 2 there is one, and the kubelet makes its own root.
fn hierarchies() -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(CONTROLLERS) else { return Vec::new() };
    entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.join("tasks").exists() && !path.is_symlink())
        .collect()
}

/// Every place where a control group of that name may be.
pub(super) fn groups(name: &str) -> Vec<PathBuf> {
    let unified = Path::new(CONTROLLERS).join("unified");
    let root = PathBuf::from(CONTROLLERS);
    hierarchies().into_iter().chain([unified, root]).map(|path| path.join(name)).collect()
}

fn make_groups(group: &str) -> Result<()> {
    for hierarchy in hierarchies() {
        let path = hierarchy.join(group);
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        for setting in ["cpuset.cpus", "cpuset.mems"] {
            // A new cpuset is empty, and nothing can run in it.
            if let Ok(value) = fs::read_to_string(hierarchy.join(setting)) {
                fs::write(path.join(setting), value.trim()).with_context(|| format!("cannot set {setting}"))?;
            }
        }
    }
    Ok(())
}

/// Removes control groups of clusters whose starter was killed: nothing runs in them, and nobody comes to remove them.
pub(super) fn sweep() {
    for name in groups("").iter().filter_map(|folder| fs::read_dir(folder).ok()).flat_map(Iterator::flatten) {
        let path = name.path();
        let ours = name.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        if ours && is_empty(&path) {
            remove_group(&path);
        }
    }
}

/// Whether no process is in a control group or below it.
fn is_empty(group: &Path) -> bool {
    let idle = fs::read_to_string(group.join("cgroup.procs")).is_ok_and(|text| text.is_empty());
    let children = fs::read_dir(group).into_iter().flatten().flatten();
    idle && children
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .all(|entry| is_empty(&entry.path()))
}

/// Removes a control group with its children; says whether it is gone.
pub(super) fn remove_group(group: &Path) -> bool {
    if let Ok(children) = fs::read_dir(group) {
        for child in children.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            remove_group(&child.path());
        }
    }
    match fs::remove_dir(group) {
        Ok(()) => true,
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}
