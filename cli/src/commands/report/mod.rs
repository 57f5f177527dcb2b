//! `report`: what somebody who helps needs to see, in one file that may be handed on: no secret is in it.
//!
//! Secrets and ConfigMaps are never fetched: the API server is asked for their names, types and ages. Everything else goes through
//! [`redact`] on its way into the bundle. What could not be had is listed, so that nothing is taken for absent.

mod bundle;
mod collect;
mod redact;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{check, status};
use crate::{
    args::{Arguments, Output},
    cluster::Cluster,
    fault::Fault,
    output::Report,
};
use bundle::Bundle;
use collect::Collector;

/// What is wanted.
pub(super) struct Wanted<'a> {
    /// Archive or directory.
    pub(super) out: Option<&'a Path>,
    /// Lines of each container's log.
    pub(super) tail: i64,
    /// Namespace of in-cluster agents.
    pub(super) agents_namespace: &'a str,
}

pub(super) async fn run(arguments: &Arguments, wanted: &Wanted<'_>) -> Result<Report, Fault> {
    let cluster = Cluster::connect(&arguments.cluster).await?;
    let now = jiff::Timestamp::now();
    let bundle =
        Bundle::new().map_err(|error| Fault::failed(format!("rules of redaction: {error}"), "report this as a bug"))?;
    let mut collector = Collector::new(&cluster, bundle);
    collector.versions().await;
    let mut namespaces = vec![arguments.cluster.operator_namespace.as_str(), wanted.agents_namespace];
    namespaces.dedup();
    for namespace in namespaces {
        collector.namespace(namespace, wanted.tail).await;
    }
    collector.nodes().await;
    collector.resources().await;
    examined(arguments, &mut collector).await;
    let (bundle, missing) = collector.finish(now);
    let out = wanted.out.map_or_else(|| default_name(now), Path::to_path_buf);
    bundle.write(&out, now.as_millisecond()).map_err(|error| Fault::file(&out, error))?;
    let names = bundle.names();
    let text = format!("{} holds {} files without secrets{}", out.display(), names.len(), told(&missing));
    Ok(Report::new(json!({"file": out, "files": names, "missing": missing}), text))
}

fn default_name(now: jiff::Timestamp) -> PathBuf {
    PathBuf::from(format!("depin-report-{}.tar.gz", now.strftime("%Y%m%dT%H%M%SZ")))
}

fn told(missing: &[Value]) -> String {
    let line = |it: &Value| {
        format!("\n  {}: {}", it["what"].as_str().unwrap_or_default(), it["why"].as_str().unwrap_or_default())
    };
    if missing.is_empty() {
        String::new()
    } else {
        format!("; could not be had:{}", missing.iter().map(line).collect::<String>())
    }
}

/// What `check` and `status` say.
async fn examined(arguments: &Arguments, collector: &mut Collector<'_>) {
    let wanted = check::Wanted { pre: false, wait: None, broker: None, gateway: None };
    match check::run(arguments, &wanted).await {
        Ok(report) => {
            collector.bundle.text("check.txt", &report.text);
            collector.bundle.json("check.json", report.json);
        }
        Err(fault) => collector.missing("check", &fault.message),
    }
    match status::run(arguments).await {
        Ok(report) => collector.bundle.json("status.json", report.json),
        Err(fault) => collector.missing("status", &fault.message),
    }
    collector.bundle.json(
        "command.json",
        json!({"program": env!("CARGO_PKG_VERSION"), "output": arguments.output == Output::Json}),
    );
}
