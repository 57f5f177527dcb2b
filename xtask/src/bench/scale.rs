//! Many devices in a cluster: how soon they are ready, what the operator needs and writes once they are, and what a dark site costs.
//!
//! A real API server with etcd, gateway and operator; the API server counts the writes.

use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::{
    Bench,
    figures::Runs,
    machine::{cpu_seconds, peak_megabytes, resident_megabytes},
    pipeline::output,
};
use crate::{cluster::Cluster, stack::Stack};

/// A small and a large network.
const SMALL: u64 = 10_000;
const LARGE: u64 = 100_000;
/// Devices of one site.
const SITE: u64 = 20_000;
const NETWORK: &str = "scale";
/// How long nothing is written before everything counts as done.
const QUIET: Duration = Duration::from_secs(15);
/// How long the steady state is watched.
const STEADY: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(1_200);
/// A site that is away longer has its devices told of. The default is a quarter of an hour.
const LONG_ABSENCE: &str = "--long-absence=120";

/// One message an hour is all that is asked of a device: it stays online on what it said once.
const MANIFESTS: &str = r#"
{apiVersion: v1, kind: Namespace, metadata: {name: scale}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: raw}}
---
apiVersion: depin.dev/v1alpha1
kind: EdgeDeviceModel
metadata: {name: scale-meter}
spec:
  sources:
  - topic: site/+/telemetry
    codec: Json
    device: {topicSegment: 1}
    timestamp: {path: ts, format: UnixMillis}
    fields:
    - {path: power_w, metric: power}
  metrics:
  - {name: power, unit: W, kind: Gauge, scale: 1}
  cadence: 1h
---
apiVersion: depin.dev/v1alpha1
kind: EdgeFleet
metadata: {name: meters, namespace: scale}
spec:
  modelRef: {name: scale-meter}
  grain: 1h
  enrollment: {policy: Token}
  owner: "0xc0ffee0000000000000000000000000000000001"
"#;

/// Runs every wanted measurement, each once: they take minutes.
///
/// # Errors
/// When one does not work.
pub fn measure(bench: &Bench<'_>, runs: &mut Runs) -> Result<()> {
    if bench.options.wants("scale/devices") {
        devices(bench, runs).context("scale/devices")?;
    }
    if bench.options.wants("scale/site") {
        site(bench, runs).context("scale/site")?;
    }
    Ok(())
}

/// API server, gateway and operator.
struct Center<'a> {
    bench: &'a Bench<'a>,
    cluster: Cluster,
    stack: Stack,
}

impl<'a> Center<'a> {
    fn start(bench: &'a Bench<'a>) -> Result<Self> {
        let dir = bench.folder("scale")?;
        let files = dir.join("control-plane");
        std::fs::create_dir_all(&files)?;
        let cluster = Cluster::start(&files)?;
        let mut stack = Stack::new(&dir, &bench.programs)?;
        stack.start_center(&cluster)?;
        stack.operator_arguments = vec![LONG_ABSENCE.into()];
        let center = Self { bench, cluster, stack };
        center.cluster.apply(MANIFESTS)?;
        Ok(center)
    }

    /// Devices `PREFIX-FROM` and so on; each thousand of them has an agent of its own, or all have `agent`.
    fn create(
        &self,
        namespace: &str,
        agent: Option<&str>,
        prefix: &str,
        numbers: (u64, u64),
        ready: bool,
    ) -> Result<Value> {
        let (from, count) = numbers;
        let mut command = Command::new(self.bench.programs.join("depin-bench"));
        command.arg("devices").arg("--kubeconfig").arg(self.cluster.kubeconfig());
        command.args(["--namespace", namespace, "--fleet", "meters", "--prefix", prefix]);
        command.args(["--from", &from.to_string(), "--count", &count.to_string()]);
        if let Some(agent) = agent {
            command.args(["--agent", agent]);
        }
        if ready {
            command.arg("--ready");
        }
        output(&mut command)
    }

    fn operator(&self) -> Result<u32> {
        Ok(self.stack.operator.as_ref().context("no operator runs")?.id())
    }

    /// Writes that the API server has taken so far, but for Leases.
    fn writes(&self) -> Result<f64> {
        let metrics = self.cluster.kubectl(&["get", "--raw", "/metrics"])?;
        Ok(writes(&metrics))
    }

    /// Once nothing has been written for a while: writes so far, and when the last one was seen.
    fn settle(&self) -> Result<(f64, Instant)> {
        let deadline = Instant::now() + LIMIT;
        let (mut seen, mut since) = (self.writes()?, Instant::now());
        while since.elapsed() < QUIET {
            self.bench.go_on()?;
            ensure!(Instant::now() < deadline, "something writes without end: {seen} writes");
            thread::sleep(POLL);
            let now = self.writes()?;
            if now > seen {
                (seen, since) = (now, Instant::now());
            }
        }
        Ok((seen, since))
    }

    fn stop(mut self) -> Result<()> {
        self.stack.stop()
    }
}

/// Requests that change something.
const WRITES: [&str; 6] = ["POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION"];

fn writes(metrics: &str) -> f64 {
    let requests = metrics.lines().filter_map(|line| line.strip_prefix("apiserver_request_total{")?.split_once("} "));
    let writing = requests.filter(|(labels, _)| {
        WRITES.iter().any(|verb| labels.contains(&format!("verb=\"{verb}\"")))
            && !labels.contains("resource=\"leases\"")
    });
    writing.filter_map(|(_, count)| count.parse::<f64>().ok()).sum()
}

fn number(line: &Value, figure: &str) -> f64 {
    line[figure].as_f64().unwrap_or_default()
}

fn devices(bench: &Bench<'_>, runs: &mut Runs) -> Result<()> {
    let (small, large) = (bench.options.amount(SMALL), bench.options.amount(LARGE));
    let mut center = Center::start(bench)?;
    // Nobody but the API server has work with these.
    center.stack.operator.take().context("no operator runs")?.kill();
    let raw = center.create("raw", None, "raw", (0, small), false)?;
    center.cluster.kubectl(&["delete", "--raw", "/apis/depin.dev/v1alpha1/namespaces/raw/edgedevices"])?;
    center.stack.start_operator(&center.cluster)?;
    // Taken up again: it has written what it has to.
    center.settle()?;
    let ready = center.create(NETWORK, None, "dev", (0, small), true)?;
    let part = number(&ready, "readyPerSecond") / number(&raw, "createdPerSecond");
    record(
        runs,
        "scale/devices-create",
        json!({
            "devices": small, "rawPerSecond": raw["createdPerSecond"], "createdPerSecond": ready["createdPerSecond"],
            "readyPerSecond": ready["readyPerSecond"], "readySeconds": ready["readySeconds"], "partOfRaw": part,
        }),
    );
    steady(&center, runs, "scale/devices-steady-10k", small)?;
    center.create(NETWORK, None, "dev", (small, large - small), true)?;
    steady(&center, runs, "scale/devices-steady-100k", large)?;
    center.stop()
}

/// Memory and writes while nothing flips.
fn steady(center: &Center<'_>, runs: &mut Runs, name: &str, devices: u64) -> Result<()> {
    center.settle()?;
    let operator = center.operator()?;
    let (before, cpu) = (center.writes()?, cpu_seconds(operator)?);
    let begun = Instant::now();
    while begun.elapsed() < STEADY {
        center.bench.go_on()?;
        thread::sleep(POLL);
    }
    let minutes = begun.elapsed().as_secs_f64() / 60.0;
    let figures = json!({
        "devices": devices, "writesPerMinute": (center.writes()? - before) / minutes,
        "operatorMb": resident_megabytes(operator)?, "operatorPeakMb": peak_megabytes(operator)?,
        "operatorCpuPerMinute": (cpu_seconds(operator)? - cpu) / minutes,
    });
    record(runs, name, figures);
    Ok(())
}

fn site(bench: &Bench<'_>, runs: &mut Runs) -> Result<()> {
    let count = bench.options.amount(SITE);
    let mut center = Center::start(bench)?;
    center.stack.operator.take().context("no operator runs")?.kill();
    center.stack.start_operator(&center.cluster)?;
    center.stack.start_agent(&center.cluster, NETWORK, "home", &["meters"], false)?;
    center.create(NETWORK, Some("home"), "dev", (0, count), true)?;
    let agent = center.stack.agents.first().context("no agent runs")?;
    let mut publish = Command::new(bench.programs.join("depin-bench"));
    publish.args(["publish", "--mqtt", &agent.mqtt, "--window", "500"]);
    output(publish.args(["--messages", &count.to_string(), "--devices", &count.to_string()]))?;
    center.settle()?;
    ensure!(center.devices_online()? == count, "not all devices are online to begin with");
    for (name, long) in [("scale/site-short", false), ("scale/site-long", true)] {
        bench.go_on()?;
        let figures = dark(&mut center, count, long)?;
        record(runs, name, figures);
    }
    center.stop()
}

/// The site's agent goes, and comes back when that was told: of itself, or of its devices too.
fn dark(center: &mut Center<'_>, devices: u64, long: bool) -> Result<Value> {
    let before = center.writes()?;
    let off = Instant::now();
    center.stack.agents.first_mut().context("no agent runs")?.process.crash();
    center.await_agent("False")?;
    let lost = off.elapsed().as_secs_f64();
    let mut told = off;
    if long {
        while center.devices_online()? > 0 {
            ensure!(off.elapsed() < LIMIT, "devices are told to be online for {LIMIT:?}");
            thread::sleep(POLL);
        }
        told = center.settle()?.1;
    }
    let gone = center.writes()?;
    let on = Instant::now();
    center.stack.restart_agent(0)?;
    center.await_agent("True")?;
    let back = on.elapsed().as_secs_f64();
    let (writes, last) = center.settle()?;
    ensure!(center.devices_online()? == devices, "not all devices came back");
    Ok(json!({
        "devices": devices, "offWrites": gone - before, "offAgentSeconds": lost,
        "offDevicesSeconds": long.then(|| told.duration_since(off).as_secs_f64()),
        "onWrites": writes - gone, "onAgentSeconds": back, "onDevicesSeconds": last.saturating_duration_since(on).as_secs_f64(),
    }))
}

impl Center<'_> {
    fn devices_online(&self) -> Result<u64> {
        let path = r#"-o=jsonpath={range .items[*]}{.status.conditions[?(@.type=="Online")].status}{"\n"}{end}"#;
        let told = self.cluster.kubectl(&["get", "edgedevices", "-n", NETWORK, path])?;
        Ok(told.lines().filter(|line| *line == "True").count() as u64)
    }

    fn await_agent(&self, online: &str) -> Result<()> {
        let path = r#"-o=jsonpath={.status.conditions[?(@.type=="Online")].status}"#;
        let deadline = Instant::now() + LIMIT;
        while self.cluster.kubectl(&["get", "edgeagent", "home", "-n", NETWORK, path])? != online {
            self.bench.go_on()?;
            if Instant::now() >= deadline {
                bail!("the agent is not told to be {online} within {LIMIT:?}");
            }
            thread::sleep(POLL);
        }
        Ok(())
    }
}

fn record(runs: &mut Runs, name: &str, figures: Value) {
    println!("{name}: {figures}");
    runs.begin(name);
    runs.add(name, figures.as_object().cloned().unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_leases_are_no_writes() {
        let metrics = "# TYPE apiserver_request_total counter\n\
            apiserver_request_total{code=\"200\",group=\"depin.dev\",resource=\"edgedevices\",verb=\"APPLY\",version=\"v1alpha1\"} 12\n\
            apiserver_request_total{code=\"201\",group=\"\",resource=\"events\",verb=\"POST\",version=\"v1\"} 3\n\
            apiserver_request_total{code=\"200\",group=\"coordination.k8s.io\",resource=\"leases\",verb=\"PUT\",version=\"v1\"} 99\n\
            apiserver_request_total{code=\"200\",group=\"\",resource=\"secrets\",verb=\"LIST\",version=\"v1\"} 7\n";
        assert!((writes(metrics) - 15.0).abs() < f64::EPSILON);
    }
}
