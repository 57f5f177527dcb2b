//! `viewer create`: key and certificate with which a tenant reads its namespace in the ledger, without a cluster.

use std::path::Path;

use depin_domain::time::{Timestamp, Window};
use depin_identity::{PeerIdentity, keys::write_private};
use serde_json::json;

use super::own_namespace;
use crate::{
    args::{Arguments, ViewerCommand},
    credentials,
    fault::Fault,
    output::{Report, when},
};

const DAY_MS: i64 = 86_400_000;
/// How far clocks may differ.
const SKEW_MS: i64 = 3_600_000;

pub(super) async fn run(arguments: &Arguments, command: &ViewerCommand) -> Result<Report, Fault> {
    let ViewerCommand::Create { out, days } = command;
    let namespace = own_namespace(arguments).await;
    let authority = credentials::authority(arguments).await?;
    let now = Timestamp(jiff::Timestamp::now().as_millisecond());
    let validity = Window { start: now.plus(-SKEW_MS), end: now.plus(i64::from(*days).saturating_mul(DAY_MS)) };
    let viewer = PeerIdentity::Viewer { namespace: namespace.clone() };
    let (key, certificate) = credentials::certify(&authority, &viewer, validity)
        .map_err(|error| Fault::failed(error, "check the namespace's name (-n)"))?;
    std::fs::create_dir_all(out).map_err(|error| Fault::file(out, error))?;
    let put = |name: &str, bytes: &[u8]| {
        let path = out.join(name);
        write_private(&path, bytes).map_err(|error| Fault::file(&path, error))
    };
    put("viewer.key", key.to_pem().as_bytes())?;
    put("viewer.crt", certificate.as_bytes())?;
    put("ca.crt", authority.certificate_pem().as_bytes())?;
    let text = format!(
        "a viewer of namespace {namespace}, until {}; use it with\n  --cert {} --key {} --ca {}",
        when(validity.end),
        show(out, "viewer.crt"),
        show(out, "viewer.key"),
        show(out, "ca.crt")
    );
    let value = json!({"namespace": namespace, "directory": out, "expires": when(validity.end)});
    Ok(Report::new(value, text))
}

fn show(out: &Path, name: &str) -> String {
    out.join(name).display().to_string()
}
