//! `cargo xtask package`: the agent for a box outside any cluster, as a Debian package and as an archive for everything else.
//!
//! Written without Debian's tools, byte for byte the same from the same program. What is in it lies in `packaging/agent/`.

pub mod archive;
pub mod program;

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail};
use archive::{Entry, ar, tar};
use clap::Args;

use crate::cargo::Cargo;

/// Dates every file: when it was built is nobody's business, and would make each package another one. 2026-01-01.
const TIME: u64 = 1_767_225_600;
const NAME: &str = "depin-agent";

/// Which program is packaged, and where to.
#[derive(Args, Debug)]
pub struct Options {
    /// The built agent; by default it is built now, with optimizations, for this machine
    #[arg(long, value_name = "FILE")]
    pub program: Option<PathBuf>,
    /// Where package and archive go
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub out: PathBuf,
}

/// Writes package and archive and prints their names.
///
/// # Errors
/// When the program cannot be built or read, or a file not written.
pub fn run(options: &Options) -> Result<ExitCode> {
    let program = match &options.program {
        Some(program) => program.clone(),
        None => {
            let cargo = Cargo::find()?.optimised();
            let status = cargo.command(&["build", "--release", "--locked", "-p", NAME]).status()?;
            if !status.success() {
                bail!("the agent does not build");
            }
            cargo.program(NAME)
        }
    };
    for written in write(&program, &options.out)? {
        println!("{}", written.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes package and archive of this program in `out`.
///
/// # Errors
/// When something cannot be read or written.
pub fn write(program: &Path, out: &Path) -> Result<[PathBuf; 2]> {
    let bytes = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    let examined = program::examine(&bytes).with_context(|| program.display().to_string())?;
    let version = env!("CARGO_PKG_VERSION");
    let files = files(&crate::workspace(), bytes)?;
    let stem = format!("{NAME}_{version}_{}", examined.architecture);
    let data = gzip(&tar(&files, TIME)?)?;
    let control = gzip(&tar(&control(&files, &examined, version)?, TIME)?)?;
    let members = [("debian-binary", b"2.0\n".to_vec()), ("control.tar.gz", control), ("data.tar.gz", data.clone())];
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let written = [out.join(format!("{stem}.deb")), out.join(format!("{stem}.tar.gz"))];
    for (path, content) in written.iter().zip([ar(&members, TIME), data]) {
        fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(written)
}

/// Everything that is installed.
fn files(workspace: &Path, program: Vec<u8>) -> Result<Vec<Entry>> {
    let mut files = vec![Entry { path: format!("usr/bin/{NAME}"), mode: 0o755, content: program }];
    // Settings may name passwords: the tmpfiles entry gives them to the agent's group.
    let placed = [
        ("packaging/agent/depin-agent.service", "usr/lib/systemd/system/depin-agent.service", 0o644),
        ("packaging/agent/depin-agent.sysusers", "usr/lib/sysusers.d/depin-agent.conf", 0o644),
        ("packaging/agent/depin-agent.tmpfiles", "usr/lib/tmpfiles.d/depin-agent.conf", 0o644),
        ("packaging/agent/agent.yaml", "etc/depin-agent/agent.yaml", 0o640),
        ("packaging/agent/environment", "etc/depin-agent/environment", 0o640),
        ("agent/agent.example.yaml", "usr/share/doc/depin-agent/agent.example.yaml", 0o644),
        ("docs/operations/agent-on-a-box.md", "usr/share/doc/depin-agent/agent-on-a-box.md", 0o644),
        ("LICENSE", "usr/share/doc/depin-agent/copyright", 0o644),
    ];
    for (source, path, mode) in placed {
        let content = fs::read(workspace.join(source)).with_context(|| format!("cannot read {source}"))?;
        files.push(Entry { path: path.to_owned(), mode, content });
    }
    Ok(files)
}

/// What `dpkg` wants to know.
fn control(files: &[Entry], program: &program::Program, version: &str) -> Result<Vec<Entry>> {
    let size = files.iter().map(|file| file.content.len()).sum::<usize>().div_ceil(1_024);
    let library = program.glibc.as_ref().map(|least| format!("libc6 (>= {least}), ")).unwrap_or_default();
    let control = format!(
        "Package: {NAME}\nVersion: {version}\nArchitecture: {}\nMaintainer: depin-operator <maintainers@depin.dev>\n\
         Installed-Size: {size}\nDepends: {library}systemd (>= 247)\nSection: net\nPriority: optional\n\
         Description: edge agent of depin-operator\n Takes telemetry of devices over MQTT, keeps it durably, and submits it\n to the \
         gateway as signed proofs.\n",
        program.architecture
    );
    let settings = files.iter().filter(|file| file.path.starts_with("etc/"));
    let conffiles: String = settings.map(|file| format!("/{}\n", file.path)).collect();
    let text = |path: &str, text: String| Entry { path: path.to_owned(), mode: 0o644, content: text.into_bytes() };
    let mut entries = vec![text("control", control), text("conffiles", conffiles)];
    for script in ["postinst", "prerm", "postrm"] {
        let source = crate::workspace().join("packaging/agent").join(script);
        let content = fs::read(&source).with_context(|| format!("cannot read {}", source.display()))?;
        entries.push(Entry { path: script.to_owned(), mode: 0o755, content });
    }
    Ok(entries)
}

/// Compressed by the machine's gzip, without name and time.
fn gzip(content: &[u8]) -> Result<Vec<u8>> {
    let mut command = Command::new("gzip");
    command.args(["-9", "-n", "-c"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().context("cannot run gzip: install it")?;
    let mut input = child.stdin.take().context("gzip has no input")?;
    let content = content.to_vec();
    let feeding = std::thread::spawn(move || input.write_all(&content));
    let output = child.wait_with_output()?;
    let fed = feeding.join().map_err(|_| anyhow::anyhow!("feeding gzip failed"))?;
    fed.context("gzip took not everything")?;
    if !output.status.success() {
        bail!("gzip failed");
    }
    Ok(output.stdout)
}
