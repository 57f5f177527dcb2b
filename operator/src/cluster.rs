//! Which way leads to the API server.
//!
//! The client library takes the proxy that the environment names for every cluster. `kubectl` does not: it never asks a proxy for a loopback
//! address, and leaves out what `NO_PROXY` names. So does everything here.

use depin_identity::proxy::{Variables, is_direct};
use kube::{Config, config::InferConfigError};

/// The cluster of the kubeconfig, or the one this runs in.
///
/// # Errors
/// When there is neither, or it cannot be read.
pub async fn infer() -> Result<Config, InferConfigError> {
    Ok(reach(Config::infer().await?))
}

/// `config` without the environment's proxy where kubectl would not use it.
#[must_use]
pub fn reach(mut config: Config) -> Config {
    let Variables { https_proxy, no_proxy } = Variables::read();
    let environment = https_proxy.and_then(|text| text.parse().ok());
    let except = no_proxy.unwrap_or_default();
    // One that the kubeconfig names was meant for this cluster.
    if config.proxy_url.is_some() && config.proxy_url == environment && is_direct(&config.cluster_url, &except) {
        config.proxy_url = None;
    }
    config
}
