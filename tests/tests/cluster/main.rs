//! The packaged chart on a real cluster: control plane and two edge nodes with kubelet, containerd and kube-proxy; images as a user
//! builds them; hardware that speaks to the agents on the edge nodes. One cluster serves all steps, since making one takes longest.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it cannot go on")]

mod documents;
mod faults;
mod installation;
mod outage;
mod site;
mod upgrade;

use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use depin_tests::tools::{NodeTools, Tools};
use tokio::runtime::Runtime;
use xtask::nodes::RealCluster;

/// How long anything may take that is no matter of speed.
pub(crate) const LIMIT: Duration = Duration::from_secs(300);

/// Each test has a cluster, which takes the whole machine.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The archives of the product's images; why no cluster can be tested here, if so.
fn ready() -> Result<Vec<PathBuf>, String> {
    if let Some(reason) = RealCluster::impossible() {
        return Err(reason);
    }
    let missing = Tools::find().map(drop).and(NodeTools::find().map(drop));
    missing.map_err(|error| format!("{error:#}"))?;
    installation::images()
}

#[test]
fn what_is_installed_with_helm_counts_every_reading_once_and_survives_dark_edges() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let Some((images, runtime)) = or_skip(ready()) else { return };
    // What holds a runtime comes before what lets it go.
    let _entered = runtime.enter();
    let mut installation = installation::Installation::without_release(&images);
    let begun = Instant::now();
    installation.install(&installation.chart());
    progress("installed");
    let mut site = site::Site::open(&installation);
    progress("a network is applied, agents are enrolled, hardware publishes");
    site.await_readings(&runtime, 1);
    // Hardware begins with the first epoch, up to eleven seconds after its program.
    progress(&format!("{} s from `helm install` to the first accepted reading", begun.elapsed().as_secs()));
    site.await_readings(&runtime, 50);
    installation.check();
    installation.test();
    progress("check and helm test pass");
    outage::a_dark_edge_goes_on_and_is_credited_once(&installation, &site);
    progress("an edge was dark and is back");
    faults::killed_pods_come_back(&installation);
    progress("operator, gateway and agent were killed and are back");
    faults::without_the_api_server_gateways_go_on(&installation);
    progress("the API server was away and is back");
    faults::a_full_volume_holds_up_and_goes_on(&installation, &site);
    progress("the ledger's volume was full and has room again");
    faults::a_leader_that_hung_is_fenced(&installation);
    progress("a leader hung and another one leads");
    site.end(&runtime);
    progress("everything promised is counted once");
    faults::a_revoked_agent_is_cut_off(&installation);
    installation.uninstall();
    progress("uninstalled; what people made stays");
    documents::what_documents_tell_people_to_type_works(&installation);
    progress("what documents tell people to type works");
    installation.nodes.end().unwrap();
}

#[test]
fn an_upgrade_under_load_loses_nothing_and_can_be_taken_back() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let images = ready().and_then(|images| match xtask::before::images() {
        Ok(Some(before)) => Ok([images, before].concat()),
        Ok(None) => Err(xtask::before::missing()),
        Err(error) => Err(format!("{error:#}")),
    });
    let Some((images, runtime)) = or_skip(images) else { return };
    let _entered = runtime.enter();
    let mut installation = installation::Installation::without_release(&images);
    upgrade::an_upgrade_loses_nothing_and_can_be_taken_back(&installation, &runtime);
    installation.nodes.end().unwrap();
}

/// What a test needs; none, and a line that says why, where it cannot run here.
fn or_skip(images: Result<Vec<PathBuf>, String>) -> Option<(Vec<PathBuf>, Runtime)> {
    match images {
        Ok(images) => Some((images, tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap())),
        Err(reason) => {
            println!("skipped: {reason}");
            None
        }
    }
}

pub(crate) fn progress(what: &str) {
    println!("progress cluster: {what}");
}
