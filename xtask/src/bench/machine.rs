//! The machine that numbers are of: they mean little without it.

use std::{
    fmt, fs,
    fs::File,
    io::Write as _,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use crate::{packages, workspace};

/// Ticks of a CPU second in `/proc`: 100 on every Linux that this runs on.
const TICKS: f64 = 100.0;
/// Below this load a machine counts as quiet.
const QUIET: f64 = 0.5;
/// Writes by which the disk's sync is timed.
const SYNCS: usize = 200;

/// Facts by name.
#[derive(Clone, Debug, Default)]
pub struct Machine(pub Map<String, Value>);

impl Machine {
    /// Looks at this machine; `data` is where the measurements write.
    ///
    /// # Errors
    /// When the disk cannot be tried.
    pub fn look(data: &Path) -> Result<Self> {
        let cpu = line("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
        let memory: f64 = line("/proc/meminfo", "MemTotal")
            .and_then(|text| text.trim_end_matches(" kB").parse().ok())
            .unwrap_or_default();
        let (median, slow) = sync_time(data)?;
        let commit = first_line("git", &["rev-parse", "--short=12", "HEAD"]);
        let changed = !first_line("git", &["status", "--porcelain", "--untracked-files=no"]).is_empty();
        let broker =
            packages::MOSQUITTO.find().map_or_else(String::new, |path| first_line(&path.to_string_lossy(), &["-h"]));
        let facts = json!({
            "date": first_line("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
            "commit": format!("{commit}{}", if changed { " with uncommitted changes" } else { "" }),
            "cpu": cpu,
            "cores": std::thread::available_parallelism().map_or(0, usize::from),
            "memoryGb": (memory / 1e5).round() / 10.0,
            "kernel": first_line("uname", &["-sr"]),
            "disk": first_line("df", &["--output=fstype", "--", &data.to_string_lossy()]),
            "fdatasyncMs": format!("{median:.2} (p99 {slow:.2}) after 4 KiB"),
            "compiler": first_line("rustc", &["-V"]),
            "broker": broker,
            "load": loads().iter().map(|load| format!("{load:.2}")).collect::<Vec<_>>().join(" "),
        });
        Ok(Self(facts.as_object().cloned().unwrap_or_default()))
    }

    /// Tells which versions of the peers stand beside us.
    pub fn peers(&mut self, versions: &str) {
        if !versions.is_empty() {
            self.0.insert("peers".into(), json!(versions));
        }
    }

    /// Tells what could not be measured here, and why.
    pub fn leave_out(&mut self, what: &[String]) {
        if !what.is_empty() {
            self.0.insert("leftOut".into(), json!(what.join("; ")));
        }
    }
}

/// Waits until a compiler that has just ended is out of the load's average, at most `limit`: somebody else may keep the
/// machine busy, which the report then tells.
///
/// # Errors
/// What `go_on` says.
pub fn settle(limit: Duration, go_on: impl Fn() -> Result<()>) -> Result<()> {
    let deadline = Instant::now() + limit;
    let quiet = || loads().first().is_none_or(|load| *load < QUIET);
    if !quiet() {
        println!("waiting until the machine is quiet, at most {} s …", limit.as_secs());
    }
    while !quiet() && Instant::now() < deadline {
        go_on()?;
        thread::sleep(Duration::from_secs(1));
    }
    Ok(())
}

/// The load's averages over 1, 5 and 15 minutes; none where the system does not tell.
fn loads() -> Vec<f64> {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).filter_map(|load| load.parse().ok()).collect()
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.0 {
            writeln!(f, "{name:<12} {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned))?;
        }
        Ok(())
    }
}

/// What follows `NAME:` in a file of `/proc`.
fn line(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The last line that is not empty of what a program prints first: `df` begins with a heading.
fn first_line(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).current_dir(workspace()).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    let text = if program == "df" { lines.next().unwrap_or(first) } else { first };
    text.to_owned()
}

/// Median and 99th percentile in milliseconds of a small write made durable.
fn sync_time(data: &Path) -> Result<(f64, f64)> {
    let path = data.join("sync-probe");
    let mut file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut times = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        file.write_all(&[0x5a; 4096])?;
        let begun = Instant::now();
        file.sync_data()?;
        times.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    fs::remove_file(&path)?;
    times.sort_by(f64::total_cmp);
    Ok((times[SYNCS / 2], times[SYNCS * 99 / 100]))
}

/// CPU seconds of a process so far, user and system.
///
/// # Errors
/// When it is gone.
pub fn cpu_seconds(process: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).context("the process is gone")?;
    // The name ends with the last parenthesis; user and system time are the 12th and 13th field after it.
    let (_, fields) = text.rsplit_once(") ").context("a stat line without a name")?;
    let times = fields.split(' ').skip(11).take(2).filter_map(|field| field.parse::<f64>().ok());
    Ok(times.sum::<f64>() / TICKS)
}

/// Memory that a process has now, in MB.
///
/// # Errors
/// When it is gone.
pub fn resident_megabytes(process: u32) -> Result<f64> {
    megabytes(process, "VmRSS")
}

/// Most memory that a process ever had, in MB.
///
/// # Errors
/// When it is gone.
pub fn peak_megabytes(process: u32) -> Result<f64> {
    megabytes(process, "VmHWM")
}

fn megabytes(process: u32, what: &str) -> Result<f64> {
    let text = line(&format!("/proc/{process}/status"), what).context("the process is gone")?;
    Ok(text.trim_end_matches(" kB").trim().parse::<f64>()? / 1024.0)
}
