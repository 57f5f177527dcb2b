//! `suspend` and `resume`: a person's decision, as the object's spec says it.

use depin_crds::{EdgeDevice, RewardProgram};
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::{cluster::Cluster, fault::Fault, output::Report};

/// Field manager of everything that this program changes.
pub(super) const MANAGER: &str = "kubectl-depin";
/// Annotation with why a suspension began or ended.
const REASON: &str = "depin.dev/suspend-reason";

pub(super) async fn run(cluster: &Cluster, target: &str, suspend: bool, reason: Option<&str>) -> Result<Report, Fault> {
    let (kind, name) = target.split_once('/').unwrap_or(("device", target));
    let parameters = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
    match kind {
        "device" | "edgedevice" | "edev" => {
            let reason = reason.filter(|_| suspend);
            let patch = json!({"spec": {"suspend": suspend, "suspendReason": reason}});
            cluster.own::<EdgeDevice>().patch(name, &parameters, &Patch::Merge(patch)).await?;
        }
        "program" | "rewardprogram" | "rp" => {
            let patch = json!({"metadata": {"annotations": {REASON: reason}}, "spec": {"suspend": suspend}});
            cluster.own::<RewardProgram>().patch(name, &parameters, &Patch::Merge(patch)).await?;
        }
        other => {
            return Err(Fault::failed(format!("{other:?} cannot be suspended"), "name device/NAME or program/NAME"));
        }
    }
    let done = if suspend { "suspended" } else { "resumed" };
    let effect = match (kind.starts_with('d') || kind.starts_with('e'), suspend) {
        (true, true) => "readings from now on do not count",
        (true, false) => "readings from now on count again",
        (false, _) => "in force from the next epoch on",
    };
    let value = json!({"namespace": cluster.namespace, "target": target, "suspend": suspend, "reason": reason});
    Ok(Report::new(value, format!("{kind}/{name} {done}: {effect}")))
}
