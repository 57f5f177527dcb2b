//! `token create`: an invitation for one agent. The token is shown once; only its hash is stored.

use depin_crds::{EdgeEnrollment, EdgeEnrollmentSpec, Time, enrollment::Token};
use depin_domain::ids::Digest;
use depin_identity::{JoinToken, certificates::certificates};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, api::PostParams};
use serde_json::json;

use super::suspend::MANAGER;
use crate::{
    args::{Arguments, TokenCommand},
    cluster::Cluster,
    fault::Fault,
    output::Report,
};

pub(super) async fn run(arguments: &Arguments, command: &TokenCommand) -> Result<Report, Fault> {
    let TokenCommand::Create { fleets, agent, hours } = command;
    let cluster = Cluster::connect(&arguments.cluster).await?;
    let pem = match &arguments.ledger.ca {
        Some(path) => std::fs::read_to_string(path).map_err(|error| Fault::file(path, error))?,
        None => published_ca(&cluster, &arguments.cluster.operator_namespace).await?,
    };
    let unusable = |error: &dyn std::fmt::Display| {
        Fault::failed(format!("CA certificate: {error}"), "give the network's CA with --ca")
    };
    let authority = certificates(&pem).map_err(|error| unusable(&error))?;
    let authority = authority.first().ok_or_else(|| unusable(&"there is none"))?;
    let token = JoinToken::generate(Digest::of(authority)).map_err(|error| unusable(&error))?;
    let expires = jiff::Timestamp::now()
        .checked_add(jiff::SignedDuration::from_hours(i64::from(*hours)))
        .map_err(|error| Fault::failed(error.to_string(), "give fewer --hours"))?;
    let hash = token.hash().to_string();
    let name = format!("token-{}", &hash[..12]);
    let spec = EdgeEnrollmentSpec {
        token: Some(Token { sha256: hash, expires_at: Time(expires), fleets: fleets.clone(), agent: agent.clone() }),
        request: None,
    };
    let parameters = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
    cluster.own().create(&parameters, &EdgeEnrollment::new(&name, spec)).await?;
    let value = json!({"namespace": cluster.namespace, "enrollment": name, "token": token.text().as_str(), "expires": expires.to_string()});
    Ok(Report::new(value, token.text().as_str()))
}

pub(super) async fn published_ca(cluster: &Cluster, namespace: &str) -> Result<String, Fault> {
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), namespace);
    let map = maps.get_opt("depin-ca").await?.and_then(|map| map.data);
    map.and_then(|mut data| data.remove("ca.crt")).ok_or_else(|| {
        Fault::not_found(
            format!("ConfigMap depin-ca with ca.crt is not in namespace {namespace:?}"),
            "name the operator's with --operator-namespace, or give --ca FILE",
        )
    })
}
