//! What the documents tell people to type, typed: every block of commands that is marked `sh stack`, document by document, beside a real API
//! server, operator, gateway, agents and virtual hardware.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it cannot go on")]

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use depin_tests::{Cluster, Stack, eventually, programs, tools::Tools, workspace};
use xtask::{
    demo::networks,
    documents::{Block, blocks},
};

/// For one block: an epoch of the examples takes 22 seconds.
const LIMIT: Duration = Duration::from_secs(120);

/// Where the gateway backs up to, and the key that opens it, as the documents name them.
const BACKUP: &str = "backup-disk";
const IDENTITY: &str = "depin-backup.identity";

/// Energy and weather as in the examples, with three devices of each kind and an epoch that is paid.
fn start(dir: &Path) -> (Cluster, Stack) {
    let (cluster, mut stack) = depin_tests::start_networks(dir).unwrap();
    back_up(&cluster, &mut stack, dir);
    networks::apply_devices(&cluster).unwrap();
    // As they are, since the documents apply them again.
    for network in ["energy", "weather"] {
        let program = workspace().join("examples/networks").join(network).join("program.yaml");
        cluster.apply(&fs::read_to_string(program).unwrap()).unwrap();
    }
    let mqtt = stack.agents.iter().map(|agent| agent.mqtt.clone()).collect::<Vec<_>>();
    for (network, at) in [("meters", 0), ("pv", 0), ("weather", 1)] {
        let arguments = ["--network", network, "--devices", "3", "--world-hour", "14"];
        stack.start_simulator(network, &mqtt[at], &arguments).unwrap();
    }
    let programs = ["energy/kilowatts"];
    eventually("an epoch", LIMIT, || {
        let seen = stack.observe(&programs, false).unwrap();
        seen.to_string().contains("\"root\":\"")
    });
    (cluster, stack)
}

/// Gateway and operator start anew, and back up for somebody with a key.
fn back_up(cluster: &Cluster, stack: &mut Stack, dir: &Path) {
    use age::secrecy::ExposeSecret as _;
    let identity = age::x25519::Identity::generate();
    let text = format!("# {}\n{}\n", identity.to_public(), identity.to_string().expose_secret());
    fs::write(dir.join(IDENTITY), text).unwrap();
    let to: [OsString; 2] = ["--backup-recipient".into(), identity.to_public().to_string().into()];
    stack.gateway_arguments = ["--backup-dir".into(), dir.join(BACKUP).into()].into_iter().chain(to.clone()).collect();
    stack.operator_arguments = to.to_vec();
    stack.gateway.take().unwrap().kill();
    stack.start_gateway().unwrap();
    stack.operator.take().unwrap().kill();
    stack.start_operator(cluster).unwrap();
    let asked = || {
        let mut ask = Command::new(programs().unwrap().join("kubectl-depin"));
        ask.args(["backup", "-o", "json", "--ledger", &stack.ledger()]).env("KUBECONFIG", cluster.kubeconfig());
        String::from_utf8(ask.env("NO_PROXY", "*").output().unwrap().stdout).unwrap()
    };
    eventually("a backup that has the authorities", LIMIT, || asked().contains("\"authority\": true"));
}

/// Everything that a block may name: the examples, copies of a ledger and of an agent's directory, the programs.
struct Desk<'a> {
    cluster: &'a Cluster,
    stack: &'a Stack,
    folder: PathBuf,
}

impl<'a> Desk<'a> {
    fn set(cluster: &'a Cluster, stack: &'a Stack, folder: PathBuf) -> Self {
        fs::create_dir_all(folder.join("bin")).unwrap();
        symlink(workspace().join("examples"), folder.join("examples")).unwrap();
        symlink(cluster.kubectl_program(), folder.join("bin/kubectl")).unwrap();
        copy(&stack.dir.join("ledger"), &folder.join("data"));
        copy(&stack.dir.join("agent-home"), &folder.join("agent-state"));
        for shared in [BACKUP, IDENTITY] {
            symlink(folder.parent().unwrap().join(shared), folder.join(shared)).unwrap();
        }
        Self { cluster, stack, folder }
    }

    /// What is wrong with the block, if anything.
    fn run(&self, block: &Block) -> Option<String> {
        let (own, outer) = ([self.folder.join("bin"), programs().unwrap()], std::env::var_os("PATH").unwrap());
        let path = own.into_iter().chain(std::env::split_paths(&outer));
        let log = self.folder.join("log");
        let output = fs::File::create(&log).unwrap();
        let mut child = Command::new("sh")
            .args(["-eu", "-c", &block.text])
            .current_dir(&self.folder)
            .env("PATH", std::env::join_paths(path).unwrap())
            .env("HOME", &self.folder)
            .env("KUBECONFIG", self.cluster.kubeconfig())
            .env("DEPIN_LEDGER", self.stack.ledger())
            .env("GATEWAY", self.stack.gateway())
            .env(
                "RECIPIENT",
                fs::read_to_string(self.folder.join(IDENTITY))
                    .unwrap()
                    .lines()
                    .next()
                    .unwrap()
                    .trim_start_matches("# "),
            )
            .env("NO_PROXY", "*")
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        let deadline = Instant::now() + LIMIT;
        let ended = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break if status.success() { return None } else { status.to_string() };
            }
            if Instant::now() > deadline {
                child.kill().unwrap();
                child.wait().unwrap();
                break format!("no end within {LIMIT:?}");
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let told = String::from_utf8_lossy(&fs::read(&log).unwrap()).into_owned();
        Some(format!("{}:{}: {ended}\n{}{told}", block.document, block.line, block.text))
    }
}

/// Copies a directory of a running program: what such a copy holds is what a crash would leave.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else if let Err(error) = fs::copy(entry.path(), &target) {
            // A segment or checkpoint that was replaced meanwhile.
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
        }
    }
}

#[test]
fn what_the_documents_tell_people_to_type_works() {
    if let Err(missing) = Tools::find() {
        println!("skipped: {missing}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (cluster, mut stack) = start(dir.path());
    let blocks = blocks(&workspace(), "stack").unwrap();
    let mut documents: Vec<&str> = blocks.iter().map(|block| block.document.as_str()).collect();
    documents.dedup();
    assert!(!documents.is_empty());
    let mut wrong = Vec::new();
    for (number, document) in documents.iter().enumerate() {
        let desk = Desk::set(&cluster, &stack, dir.path().join(format!("desk-{number}")));
        wrong.extend(blocks.iter().filter(|block| block.document == *document).filter_map(|block| desk.run(block)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!("{} blocks of {} documents", blocks.len(), documents.len());
    stack.check_alive().unwrap();
    stack.stop().unwrap();
}
