//! Peers beside us in the same run: the harness of peers is copied, its programs are built where they can be had, and its load is run.
//!
//! They are told apart from our own numbers by the prefix `peer/`. What is missing is skipped with one line.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{Bench, figures::Runs};
use crate::{packages, workspace};

/// Programs that the harness needs for each case, with messages and rate.
const CASES: [(&str, &str, &[&str]); 9] = [
    ("rumqttc-manual", ":160000:20000", &[]),
    ("rumqttc-manual", ":500000", &[]),
    ("raw-durable-hold1000us", ":160000:20000", &[]),
    ("bridge", ":160000:20000", &[]),
    ("benthos-http-batch", ":160000:20000", &["benthos"]),
    ("benthos-http-batch", ":300000", &["benthos"]),
    ("benthos-http-batch+drain", ":200000", &["benthos"]),
    ("benthos-sqlite-batched-http-batch", ":200000", &["benthos"]),
    ("telegraf-http", ":160000:20000", &["telegraf"]),
];
/// Runs of each peer at most.
const RUNS: usize = 3;
/// Tags that leave out all parts of telegraf that the harness does not use.
const TELEGRAF_TAGS: &str = "custom,inputs.mqtt_consumer,outputs.file,outputs.http,outputs.discard,parsers.json,parsers.json_v2,\
                             parsers.value,serializers.influx,serializers.json";

/// Where the harness says which version of a peer it builds, and the word before it.
const VERSIONS: [(&str, &str, &str); 3] = [
    ("Benthos", "go/benthos/go.mod", "github.com/benthosdev/benthos/v4"),
    ("Telegraf", "go/telegraf/go.mod", "github.com/influxdata/telegraf"),
    ("rumqttc", "rust/mq/Cargo.toml", "rumqttc"),
];

/// The peers with their versions, as far as the harness tells.
#[must_use]
pub fn versions(harness: &Path) -> String {
    let version = |(peer, file, word): &(&str, &str, &str)| {
        let text = fs::read_to_string(harness.join(file)).ok()?;
        let rest =
            text.lines().find_map(|line| line.split_once(&format!("{word} ")).map(|(_, rest)| rest.to_owned()))?;
        let from = rest.find(|character: char| character.is_ascii_digit())?;
        let number: String = rest[from..].chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
        Some(format!("{peer} {number}"))
    };
    VERSIONS.iter().filter_map(version).collect::<Vec<_>>().join(", ")
}

/// Runs the peers that can be had; which were left out, and why, is added to `left_out`.
///
/// # Errors
/// When a peer that was built does not run.
pub fn measure(bench: &Bench<'_>, runs: &mut Runs, left_out: &mut Vec<String>) -> Result<()> {
    let mut leave_out = |what: String| {
        println!("skipped: {what}");
        left_out.push(what);
    };
    if !bench.options.wants("peer") {
        return Ok(());
    }
    let harness = workspace().join(&bench.options.peers);
    if !harness.join("pipelines.py").is_file() {
        leave_out(format!("peers: no harness in {}; name its folder with --peers", bench.options.peers.display()));
        return Ok(());
    }
    if packages::MOSQUITTO.find().is_none() {
        leave_out("peers: mosquitto is missing (apt-get install mosquitto)".to_owned());
        return Ok(());
    }
    let work = bench.work.with_file_name("bench-peers");
    let copied = work.join("harness");
    copy(&harness, &copied).context("the harness of peers cannot be copied")?;
    let built = build(bench, &copied, &work, &mut leave_out)?;
    if !built.contains(&"mq") {
        return Ok(());
    }
    for (case, _, _) in CASES {
        for rate in ["20k", "full"] {
            runs.begin(&format!("peer/{case}-{rate}"));
        }
    }
    for number in 0..bench.options.runs.min(RUNS) {
        for (case, amount, needs) in CASES {
            if needs.iter().all(|program| built.contains(program)) {
                bench.go_on()?;
                one(&copied, &work, runs, (case, amount), number)?;
            }
        }
    }
    Ok(())
}

fn one(harness: &Path, work: &Path, runs: &mut Runs, (case, amount): (&str, &str), number: usize) -> Result<()> {
    let output = Command::new("python3")
        .arg(harness.join("pipelines.py"))
        .arg(format!("{case}{amount}"))
        .env("BENCH_WORK", work)
        .env("RUNS", "1")
        .stdin(Stdio::null())
        .output()
        .context("cannot run python3")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().rev().find_map(|line| serde_json::from_str::<Value>(line).ok());
    let Some(Value::Object(figures)) = line else {
        println!("skipped: {case}: {}", String::from_utf8_lossy(&output.stderr).trim());
        return Ok(());
    };
    let name = format!("peer/{case}-{}", if amount.ends_with(":20000") { "20k" } else { "full" });
    println!("{name} #{number}: {}", Value::Object(figures.clone()));
    runs.add(&name, figures);
    Ok(())
}

/// Builds what can be built and is wanted; says of the rest why it is left out.
fn build(
    bench: &Bench<'_>,
    harness: &Path,
    work: &Path,
    leave_out: &mut impl FnMut(String),
) -> Result<Vec<&'static str>> {
    let bin = work.join("bin");
    fs::create_dir_all(&bin)?;
    let mut built = Vec::new();
    let mut attempt = |name: &'static str, program: PathBuf, command: &mut Command| {
        let outcome = if program.is_file() {
            Ok(())
        } else if bench.options.build_peers {
            println!("== building the peer {name}");
            built_by(command)
        } else {
            Err("it is not built; --build-peers builds it".to_owned())
        };
        match outcome {
            Ok(()) => built.push(name),
            Err(why) => leave_out(format!("peer {name}: {why}")),
        }
    };
    let target = work.join("target");
    let mut mq = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    mq.args(["build", "--release", "-p", "mq", "--target-dir"]).arg(&target).current_dir(harness.join("rust"));
    attempt("mq", target.join("release/mq"), &mut mq);
    let go = |folder: &str, rest: &[&str]| {
        let mut command = Command::new("go");
        command.args(["build", "-o"]).arg(bin.join(folder)).args(rest).current_dir(harness.join("go").join(folder));
        command.env("GOFLAGS", "-buildvcs=false -mod=mod");
        command
    };
    attempt("benthos", bin.join("benthos"), &mut go("benthos", &["."]));
    let telegraf = "github.com/influxdata/telegraf/cmd/telegraf";
    attempt("telegraf", bin.join("telegraf"), &mut go("telegraf", &["-tags", TELEGRAF_TAGS, telegraf]));
    Ok(built)
}

fn built_by(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("it does not build here ({})", said.lines().last().unwrap_or_default()))
}

/// A writable copy, because builds write lock files beside the sources.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let (kind, target): (_, PathBuf) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            copy(&entry.path(), &target)?;
        } else if kind.is_file() {
            if target.exists() {
                continue;
            }
            let bytes = fs::read(entry.path())?;
            fs::write(&target, bytes)?;
        } else {
            bail!("{} is neither file nor folder", entry.path().display());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_versions_of_peers_are_those_that_the_harness_builds() {
        let dir = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("go/benthos/go.mod", "module x\nrequire github.com/benthosdev/benthos/v4 v4.27.0\n"),
            ("rust/mq/Cargo.toml", "[dependencies]\nrumqttc = { version = \"=0.25.1\", default-features = false }\n"),
        ] {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        assert_eq!(versions(dir.path()), "Benthos 4.27.0, rumqttc 0.25.1");
    }
}
