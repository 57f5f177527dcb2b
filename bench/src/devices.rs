//! EdgeDevices by the thousand: how fast the API server takes them, and how soon the operator has made them ready.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    pin::pin,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use depin_identity::SigningKey;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::{
    Api, Client, Config, ResourceExt as _,
    api::{DynamicObject, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    discovery::ApiResource,
    runtime::{WatchStreamExt as _, watcher},
};
use serde_json::json;

/// Requests under way at the same time.
const AT_ONCE: usize = 32;
/// Nothing became ready for so long: something is broken.
const STALLED: Duration = Duration::from_secs(120);
/// Between two entries of the progress on standard error.
const PROGRESS: usize = 10_000;

/// What is created.
#[derive(Args)]
pub(crate) struct Options {
    /// Whose access to use
    #[arg(long)]
    kubeconfig: PathBuf,
    /// Where they live
    #[arg(long)]
    namespace: String,
    /// Their fleet
    #[arg(long)]
    fleet: String,
    /// Their agent; none named: one for each thousand
    #[arg(long)]
    agent: Option<String>,
    /// Their names and serials begin with it
    #[arg(long)]
    prefix: String,
    /// Number of the first
    #[arg(long, default_value_t = 0)]
    from: u32,
    /// How many
    #[arg(long, default_value_t = 10_000)]
    count: u32,
    /// Wait until all of them are ready
    #[arg(long)]
    ready: bool,
}

/// Creates, and waits.
pub(crate) async fn run(options: &Options) -> Result<()> {
    let api = api(options, "EdgeDevice").await?;
    let devices: Vec<(String, String)> = (options.from..options.from + options.count)
        .map(|number| {
            let agent = options.agent.clone().unwrap_or_else(|| format!("rack-{}", number / 1_000));
            (format!("{}-{number:05}", options.prefix), agent)
        })
        .collect();
    let waiting: BTreeSet<String> = devices.iter().map(|(name, _)| name.clone()).collect();
    if options.ready && options.agent.is_none() {
        register_agents(options, devices.iter().map(|(_, agent)| agent.clone()).collect()).await?;
    }
    let begun = Instant::now();
    let ready =
        async { if options.ready { await_ready(api.clone(), waiting, begun).await.map(Some) } else { Ok(None) } };
    let created = async {
        let created =
            stream::iter(&devices).map(|(name, agent)| create(&api, options, name, agent)).buffer_unordered(AT_ONCE);
        created.try_collect::<Vec<()>>().await?;
        anyhow::Ok(begun.elapsed().as_secs_f64())
    };
    let (created, ready) = tokio::try_join!(created, ready)?;
    let count = f64::from(options.count);
    println!(
        "{}",
        json!({
            "case": "devices", "devices": options.count, "createSeconds": created, "createdPerSecond": count / created,
            "readySeconds": ready, "readyPerSecond": ready.map(|seconds| count / seconds),
        })
    );
    Ok(())
}

async fn api(options: &Options, kind: &str) -> Result<Api<DynamicObject>> {
    let kubeconfig = Kubeconfig::read_from(&options.kubeconfig).context("the kubeconfig cannot be read")?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let kind = ApiResource {
        group: "depin.dev".into(),
        version: "v1alpha1".into(),
        api_version: "depin.dev/v1alpha1".into(),
        kind: kind.to_owned(),
        plural: format!("{}s", kind.to_lowercase()),
    };
    Ok(Api::namespaced_with(Client::try_from(config)?, &options.namespace, &kind))
}

async fn create(api: &Api<DynamicObject>, options: &Options, name: &str, agent: &str) -> Result<()> {
    let device = serde_json::from_value(json!({
        "apiVersion": "depin.dev/v1alpha1", "kind": "EdgeDevice",
        "metadata": {"name": name, "namespace": options.namespace},
        "spec": {"fleet": options.fleet, "agent": agent, "serial": name},
    }))?;
    api.create(&PostParams::default(), &device).await.with_context(|| format!("cannot create {name}"))?;
    Ok(())
}

/// Agents that are known before their devices: none of them ever comes.
async fn register_agents(options: &Options, names: BTreeSet<String>) -> Result<()> {
    let api = api(options, "EdgeAgent").await?;
    for name in &names {
        let key = SigningKey::generate()?.public().bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let agent = serde_json::from_value(json!({
            "apiVersion": "depin.dev/v1alpha1", "kind": "EdgeAgent",
            "metadata": {"name": name, "namespace": options.namespace},
            "spec": {"fleets": [options.fleet], "publicKey": {"algorithm": "Ed25519", "key": key}},
        }))?;
        match api.create(&PostParams::default(), &agent).await {
            // Of devices that were made before.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            made => drop(made.with_context(|| format!("cannot create {name}"))?),
        }
    }
    await_ready(api, names, Instant::now()).await.map(drop)
}

/// Seconds until the last of them says that it is ready.
async fn await_ready(api: Api<DynamicObject>, mut waiting: BTreeSet<String>, begun: Instant) -> Result<f64> {
    let mut told = pin!(watcher(api, watcher::Config::default()).default_backoff().applied_objects());
    while !waiting.is_empty() {
        let next = tokio::time::timeout(STALLED, told.next()).await;
        let Ok(Some(object)) = next else { bail!("{} are not ready, and nothing goes on", waiting.len()) };
        let object = object?;
        let ready = object.data.pointer("/status/conditions").and_then(|conditions| conditions.as_array());
        let ready = ready.is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"));
        if ready && waiting.remove(&object.name_any()) && waiting.len().is_multiple_of(PROGRESS) {
            eprintln!("{} s: {} are not ready yet", begun.elapsed().as_secs(), waiting.len());
        }
    }
    Ok(begun.elapsed().as_secs_f64())
}
