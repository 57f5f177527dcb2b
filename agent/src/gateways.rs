//! Which gateways an agent is given, and through which proxy it reaches them.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use depin_identity::{
    Proxy, Route,
    channel::target,
    proxy::{InvalidProxy, Variables, from_environment},
};
use serde::Deserialize;

use crate::settings::{SettingsError, read_secret, wrong};

/// More than one needs are a mistake: a list of hosts given for a name that has many addresses.
const MOST: usize = 16;
/// In place of a proxy: none, whatever the environment says.
const NO_PROXY_AT_ALL: &str = "none";

/// The way to the gateway, as flags and variables.
#[derive(Args, Clone, Debug, Default)]
pub struct GatewayArguments {
    /// The gateway, https://HOST:PORT. Several, repeated or with commas between, are tried in this order; the one that works is kept
    #[arg(long, env = "DEPIN_GATEWAY", value_name = "URL", value_delimiter = ',')]
    pub gateway: Vec<String>,
    /// HTTP proxy for the way to the gateway (CONNECT), http://[USER:PASSWORD@]HOST[:PORT], or none; by default what HTTPS_PROXY and
    /// NO_PROXY say
    #[arg(long, env = "DEPIN_PROXY", value_name = "URL", hide_env_values = true)]
    pub proxy: Option<String>,
    /// File that holds the proxy's URL, where its password must not be seen
    #[arg(long, env = "DEPIN_PROXY_FILE", value_name = "FILE", conflicts_with = "proxy")]
    pub proxy_file: Option<PathBuf>,
}

/// The same in the YAML file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(crate) struct ProxyFile {
    url: Option<String>,
    url_file: Option<PathBuf>,
}

/// What the file says of the way to the gateway.
#[derive(Clone, Debug, Default)]
pub(crate) struct GatewayFile {
    pub(crate) gateway: Option<String>,
    pub(crate) gateways: Vec<String>,
    pub(crate) proxy: Option<ProxyFile>,
    pub(crate) connect_timeout_seconds: Option<u64>,
    pub(crate) keep_alive_seconds: Option<u64>,
}

/// Where the proxy is named.
enum Named {
    /// In the settings: for every gateway.
    Proxy(Option<Proxy>),
    /// By the environment, which excepts some.
    Environment(Variables),
}

/// The routes to all gateways, in their order.
pub(crate) fn routes(
    arguments: &GatewayArguments,
    file: GatewayFile,
    environment: Variables,
) -> Result<Vec<Route>, SettingsError> {
    let setting = "gateways (--gateway)";
    let addresses = match (arguments.gateway.is_empty(), file.gateway, file.gateways.is_empty()) {
        (false, ..) => arguments.gateway.clone(),
        (true, Some(_), false) => {
            return Err(wrong("gateway, gateways", "are both there: name all of them under gateways"));
        }
        (true, Some(one), true) => vec![one],
        (true, None, _) => file.gateways,
    };
    let addresses: Vec<String> =
        addresses.iter().map(|address| address.trim().to_owned()).filter(|address| !address.is_empty()).collect();
    if addresses.is_empty() {
        return Err(wrong("gateway (--gateway)", "is missing: https://HOST:PORT"));
    }
    if addresses.len() > MOST {
        return Err(wrong(setting, format!("are more than {MOST}: give the name that has these addresses")));
    }
    let named = named(arguments, file.proxy, environment)?;
    let (connect, alive) = (file.connect_timeout_seconds, file.keep_alive_seconds);
    let mut routes: Vec<Route> = Vec::with_capacity(addresses.len());
    for address in addresses {
        let (uri, _) = target(&address).map_err(|error| wrong(setting, error))?;
        if routes.iter().any(|route| route.address == address) {
            return Err(wrong(setting, format!("{address} is there twice")));
        }
        let proxy = match &named {
            Named::Proxy(proxy) => proxy.clone(),
            Named::Environment(variables) => {
                let found = from_environment(&uri, variables.https_proxy.as_deref(), variables.no_proxy.as_deref());
                found.map_err(|error| wrong("HTTPS_PROXY", format!("{error}; name another with --proxy, or none")))?
            }
        };
        let mut route = Route { proxy, ..Route::direct(&address) };
        route.connect_timeout = seconds("connectTimeoutSeconds", connect, route.connect_timeout, 1..=120)?;
        route.keep_alive = seconds("keepAliveSeconds", alive, route.keep_alive, 5..=3_600)?;
        routes.push(route);
    }
    Ok(routes)
}

fn seconds(
    setting: &'static str,
    asked: Option<u64>,
    default: Duration,
    range: std::ops::RangeInclusive<u64>,
) -> Result<Duration, SettingsError> {
    match asked {
        None => Ok(default),
        Some(asked) if range.contains(&asked) => Ok(Duration::from_secs(asked)),
        Some(asked) => Err(wrong(setting, format!("{asked} is not from {} to {}", range.start(), range.end()))),
    }
}

fn named(
    arguments: &GatewayArguments,
    file: Option<ProxyFile>,
    environment: Variables,
) -> Result<Named, SettingsError> {
    let file = file.unwrap_or_default();
    if file.url.is_some() && file.url_file.is_some() {
        return Err(wrong("proxy.url, proxy.urlFile", "are both there: keep one of them"));
    }
    // A flag or variable of either form wins over both of the file.
    let (url, url_file) = match (&arguments.proxy, &arguments.proxy_file) {
        (None, None) => (file.url, file.url_file),
        (url, url_file) => (url.clone(), url_file.clone()),
    };
    let text = match (url, url_file) {
        (Some(url), _) => url,
        (None, Some(path)) => read_secret(Path::new(&path))?,
        (None, None) => return Ok(Named::Environment(environment)),
    };
    if text == NO_PROXY_AT_ALL {
        return Ok(Named::Proxy(None));
    }
    let parsed = Proxy::parse(&text);
    let proxy =
        parsed.map_err(|error: InvalidProxy| wrong("proxy.url, proxy.urlFile (--proxy, --proxy-file)", error))?;
    Ok(Named::Proxy(Some(proxy)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(gateways: &[&str], proxy: Option<&str>) -> GatewayArguments {
        GatewayArguments {
            gateway: gateways.iter().map(|&gateway| gateway.to_owned()).collect(),
            proxy: proxy.map(str::to_owned),
            proxy_file: None,
        }
    }

    fn with_proxy(no_proxy: Option<&str>) -> Variables {
        Variables { https_proxy: Some("http://far.example:3128".to_owned()), no_proxy: no_proxy.map(str::to_owned) }
    }

    /// Addresses and the host of each one's proxy.
    fn resolved(
        arguments: &GatewayArguments,
        file: GatewayFile,
        environment: Variables,
    ) -> Result<Vec<(String, Option<String>)>, String> {
        let routes = routes(arguments, file, environment).map_err(|error| error.to_string())?;
        let proxy = |route: &Route| route.proxy.as_ref().map(|proxy| proxy.address().0.to_owned());
        Ok(routes.iter().map(|route| (route.address.clone(), proxy(route))).collect())
    }

    #[test]
    fn flags_win_and_the_order_is_kept() {
        let file =
            GatewayFile { gateways: vec!["https://c".to_owned(), "https://d:1".to_owned()], ..Default::default() };
        let got = |arguments: &GatewayArguments| {
            let routes = resolved(arguments, file.clone(), Variables::default()).unwrap();
            routes.into_iter().map(|(address, _)| address).collect::<Vec<_>>()
        };
        assert_eq!(got(&flags(&["https://b:1", " https://a:2"], None)), ["https://b:1", "https://a:2"]);
        assert_eq!(got(&flags(&[], None)), ["https://c", "https://d:1"]);
    }

    #[test]
    fn the_proxy_of_the_settings_is_for_all_and_that_of_the_environment_for_what_is_far() {
        let gateways = ["https://gateway.example:8443", "https://127.0.0.1:8443", "https://10.0.0.7:8443"];
        let proxies = |proxy: Option<&str>, environment: Variables| {
            let routes = resolved(&flags(&gateways, proxy), GatewayFile::default(), environment).unwrap();
            routes.into_iter().map(|(_, proxy)| proxy).collect::<Vec<_>>()
        };
        let (far, near) = (Some("far.example".to_owned()), Some("near.example".to_owned()));
        assert_eq!(proxies(Some("near.example:80"), with_proxy(None)), vec![near; 3]);
        assert_eq!(proxies(None, with_proxy(Some("10.0.0.0/8"))), [far.clone(), None, None]);
        assert_eq!(proxies(None, with_proxy(None)), [far.clone(), None, far]);
        assert_eq!(proxies(Some("none"), with_proxy(None)), [None, None, None]);
        assert_eq!(proxies(None, Variables::default()), [None, None, None]);
    }

    #[test]
    fn a_proxy_s_file_is_read_and_its_password_is_in_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("proxy");
        std::fs::write(&path, "http://site:secret@near.example:3128\n").unwrap();
        let file = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let proxy = ProxyFile { url: None, url_file: Some(path.clone()) };
            let file = GatewayFile { proxy: Some(proxy), ..GatewayFile::default() };
            resolved(&flags(&["https://a"], None), file, with_proxy(None))
        };
        let near = Some("near.example".to_owned());
        assert_eq!(file("http://site:secret@near.example:3128\n"), Ok(vec![("https://a".to_owned(), near)]));
        let error = file("socks5://site:secret@near.example").unwrap_err();
        assert!(error.contains("--proxy-file") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = |arguments: &GatewayArguments, file: GatewayFile, environment| {
            resolved(arguments, file, environment).unwrap_err()
        };
        let none = Variables::default;
        let file = GatewayFile::default;
        assert!(error(&flags(&[], None), file(), none()).contains("--gateway"));
        assert!(error(&flags(&["http://a"], None), file(), none()).contains("https"));
        assert!(error(&flags(&["https://"], None), file(), none()).contains("https://"));
        assert!(error(&flags(&["https://a", "https://a"], None), file(), none()).contains("twice"));
        let both = GatewayFile {
            gateway: Some("https://a".to_owned()),
            gateways: vec!["https://b".to_owned()],
            ..GatewayFile::default()
        };
        assert!(error(&flags(&[], None), both, none()).contains("gateways"));
        let quick = GatewayFile { keep_alive_seconds: Some(1), ..GatewayFile::default() };
        assert!(error(&flags(&["https://a"], None), quick, none()).contains("keepAliveSeconds"));
        let socks = Variables { https_proxy: Some("socks5://u:secret@x".to_owned()), no_proxy: None };
        let told = error(&flags(&["https://a.example"], None), file(), socks);
        assert!(told.contains("HTTPS_PROXY") && !told.contains("secret"), "{told}");
        let many: Vec<String> = (0..17).map(|number| format!("https://g{number}")).collect();
        let many = GatewayFile { gateways: many, ..GatewayFile::default() };
        assert!(error(&flags(&[], None), many, none()).contains("16"));
    }
}
