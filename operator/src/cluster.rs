//! Which way leads to the API server.
//!
//! The client library takes the proxy that the environment names for every cluster. `kubectl` does not: it never asks a proxy for a loopback
//! address, and leaves out what `NO_PROXY` names. So does everything here.

use std::net::IpAddr;

use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;
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
    let named =
        |names: [&str; 2]| names.into_iter().find_map(|name| std::env::var(name).ok().filter(|text| !text.is_empty()));
    let environment = named(["HTTPS_PROXY", "https_proxy"]).and_then(|text| text.parse().ok());
    let except = named(["NO_PROXY", "no_proxy"]).unwrap_or_default();
    // One that the kubeconfig names was meant for this cluster.
    if config.proxy_url.is_some() && config.proxy_url == environment && is_direct(&config.cluster_url, &except) {
        config.proxy_url = None;
    }
    config
}

/// Whether `server` is reached without a proxy: a loopback address, or one of `except`, a list like `NO_PROXY`'s.
fn is_direct(server: &Uri, except: &str) -> bool {
    let host = server.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    // The matcher wants some proxy to say what is not for it.
    let others = Matcher::builder().all("http://proxy.invalid").no(except).build();
    loopback || others.intercept(server).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loopback_address_and_what_is_excepted_is_reached_directly() {
        let direct = |server: &str, except: &str| is_direct(&server.parse().unwrap(), except);
        for server in ["https://127.0.0.1:6443", "https://127.8.0.1", "https://[::1]:6443", "https://localhost:1"] {
            assert!(direct(server, ""), "{server}");
        }
        for (server, except) in [
            ("https://10.1.2.3:6443", "10.0.0.0/8"),
            ("https://10.1.2.3", "192.0.2.1, 10.1.2.3"),
            ("https://api.cluster.example:6443", ".cluster.example"),
            ("https://api.cluster.example", "cluster.example"),
            ("https://anything.example", "*"),
        ] {
            assert!(direct(server, except), "{server} {except}");
            assert!(!direct(server, ""), "{server}");
        }
        assert!(!direct("https://api.cluster.example", "other.example,10.0.0.0/8"));
    }
}
