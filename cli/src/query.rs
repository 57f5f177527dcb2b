//! The way to the ledger through the cluster: a port-forward to an operator's Pod, and a token of a viewer's ServiceAccount that lives ten
//! minutes and is good for the operator alone.
//!
//! RBAC decides all of it: who may make the token, who may forward, and what the ServiceAccount may see. Every operator answers, so any
//! Pod that is ready will do.

use std::io;

use depin_operator::query::{AUDIENCE, NAMESPACE_HEADER, PORT};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::{Pod, ServiceAccount},
};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, PostParams},
};
use tonic::{
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint, Uri},
};

use crate::{args::Arguments, cluster::Cluster, fault::Fault};

/// Marks the operator's Pods.
pub(crate) const OPERATOR_PODS: &str = "app.kubernetes.io/component=operator";
/// Least that an API server gives.
const TOKEN_SECONDS: i64 = 600;
const HELP: &str =
    "see docs/cli.md: kubectl depin viewer create; or give --ledger https://host:port with --cert, --key and --ca";

/// What each call carries.
pub(crate) struct Session {
    pub(crate) channel: Channel,
    pub(crate) bearer: MetadataValue<Ascii>,
    pub(crate) view: MetadataValue<Ascii>,
}

/// Where a viewer's ServiceAccount is, and what is asked about with it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Viewer {
    namespace: String,
    /// `*`: everything.
    view: String,
}

/// Opens the way.
pub(crate) async fn open(arguments: &Arguments) -> Result<Session, Fault> {
    let cluster = Cluster::connect(&arguments.cluster).await?;
    let (viewer, token) = token(arguments, &cluster).await?;
    let channel = match &arguments.ledger.query {
        Some(address) => direct(address)?,
        None => forwarded(&cluster, &arguments.cluster.operator_namespace).await?,
    };
    let mut bearer: MetadataValue<Ascii> = format!("Bearer {token}")
        .parse()
        .map_err(|_| Fault::failed("the API server's token is no text", "ask whoever runs the API server"))?;
    bearer.set_sensitive(true);
    let view = viewer
        .view
        .parse()
        .map_err(|_| Fault::failed(format!("namespace {:?} is none", viewer.view), "correct --namespace"))?;
    Ok(Session { channel, bearer, view })
}

/// The viewers that may be used, the best first: what was asked for, and in whose name it can be seen.
fn viewers(arguments: &Arguments, own: &str) -> Vec<Viewer> {
    let wide = Viewer { namespace: arguments.cluster.operator_namespace.clone(), view: "*".into() };
    let narrow = |namespace: &str| Viewer { namespace: namespace.to_owned(), view: namespace.to_owned() };
    match &arguments.cluster.namespace {
        _ if arguments.cluster.all_namespaces => vec![wide],
        Some(named) => vec![narrow(named), wide],
        None => vec![wide, narrow(own)],
    }
}

/// A token of the first viewer that is there for whoever asks.
async fn token(arguments: &Arguments, cluster: &Cluster) -> Result<(Viewer, String), Fault> {
    let name = &arguments.ledger.viewer;
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: Some(vec![AUDIENCE.to_owned()]),
            expiration_seconds: Some(TOKEN_SECONDS),
            bound_object_ref: None,
        }),
        ..TokenRequest::default()
    };
    let mut reasons = Vec::new();
    for viewer in viewers(arguments, &cluster.namespace) {
        let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client.clone(), &viewer.namespace);
        match accounts.create_token_request(name, &PostParams::default(), &request).await {
            Ok(made) => {
                let token = made.status.and_then(|status| status.token).filter(|token| !token.is_empty());
                let token = token.ok_or_else(|| Fault::failed("the API server made an empty token", HELP))?;
                return Ok((viewer, token));
            }
            // Not there, or not for this person: the next one may be.
            Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => {
                reasons.push(format!("{}/{name}: {}", viewer.namespace, status.message));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(Fault::no_viewer(format!("no viewer's token to ask the ledger with: {}", reasons.join("; ")), HELP))
}

fn ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let live = pod.metadata.deletion_timestamp.is_none();
    live && conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// A connection through the API server to an operator that is ready; anew for each time it breaks.
async fn forwarded(cluster: &Cluster, namespace: &str) -> Result<Channel, Fault> {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), namespace);
    let list = pods.list(&ListParams::default().labels(OPERATOR_PODS)).await?;
    let pod = list.items.iter().find(|pod| ready(pod)).map(|pod| pod.name_any()).ok_or_else(|| {
        Fault::failed(
            format!("no operator is ready in namespace {namespace:?} ({} Pods with {OPERATOR_PODS})", list.items.len()),
            format!("name its namespace with --operator-namespace, or look at its Pods; {HELP}"),
        )
    })?;
    // The first stream is opened here, where a refusal can still be told as it is.
    let first = stream(&pods, &pod).await?;
    let first = std::sync::Arc::new(tokio::sync::Mutex::new(Some(first)));
    let connector = tower::service_fn(move |_: Uri| {
        let (pods, pod, first) = (pods.clone(), pod.clone(), std::sync::Arc::clone(&first));
        async move {
            let opened = match first.lock().await.take() {
                Some(opened) => opened,
                None => stream(&pods, &pod).await.map_err(|fault| io::Error::other(fault.message))?,
            };
            Ok::<_, io::Error>(TokioIo::new(opened))
        }
    });
    Ok(Endpoint::from_static("http://depin-operator").connect_with_connector_lazy(connector))
}

async fn stream(
    pods: &Api<Pod>,
    pod: &str,
) -> Result<impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + use<>, Fault> {
    let mut forwarder = pods.portforward(pod, &[PORT]).await.map_err(|error| {
        let fault = Fault::from(error);
        Fault::failed(
            format!("port-forward to Pod {pod}: {}", fault.message),
            format!("ask for get and create on pods/portforward; {HELP}"),
        )
    })?;
    let stream = forwarder.take_stream(PORT);
    stream.ok_or_else(|| Fault::failed(format!("port-forward to Pod {pod} gives no stream"), HELP))
}

/// A connection to an address: somebody forwarded it already, or this runs beside the operator.
fn direct(address: &str) -> Result<Channel, Fault> {
    let wrong = |why: &str| Fault::usage(format!("--query {address:?}: {why}"), "write it like http://127.0.0.1:8445");
    let uri: Uri = address.parse().map_err(|_| wrong("is no URL"))?;
    if uri.scheme_str() != Some("http") {
        return Err(wrong("the scheme is not http"));
    }
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    if host != "localhost" && !host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback()) {
        return Err(wrong("the token would go over the network in the clear; forward a loopback port"));
    }
    let endpoint = Endpoint::from_shared(address.to_owned()).map_err(|_| wrong("is no URL"))?;
    Ok(endpoint.connect_lazy())
}

/// Metadata's name of the namespace.
pub(crate) const VIEW: &str = NAMESPACE_HEADER;

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn of(line: &str) -> Vec<(String, String)> {
        let words = ["kubectl-depin", "status"].into_iter().chain(line.split_whitespace());
        let arguments = Arguments::try_parse_from(words).unwrap();
        viewers(&arguments, "mine").into_iter().map(|viewer| (viewer.namespace, viewer.view)).collect()
    }

    #[test]
    fn the_nearest_viewer_that_shows_what_is_asked_for_comes_first() {
        let pairs = |list: &[(&str, &str)]| -> Vec<(String, String)> {
            list.iter().map(|(namespace, view)| ((*namespace).to_owned(), (*view).to_owned())).collect()
        };
        assert_eq!(of(""), pairs(&[("depin-system", "*"), ("mine", "mine")]));
        assert_eq!(of("-n town"), pairs(&[("town", "town"), ("depin-system", "*")]));
        assert_eq!(of("-A"), pairs(&[("depin-system", "*")]));
        assert_eq!(of("-A --operator-namespace ops"), pairs(&[("ops", "*")]));
    }

    #[tokio::test]
    async fn a_token_goes_to_no_other_machine() {
        for (address, word) in [
            ("http://10.0.0.1:8445", "in the clear"),
            ("http://operator.example:8445", "in the clear"),
            ("https://127.0.0.1:8445", "not http"),
            ("nonsense", "not http"),
        ] {
            let fault = direct(address).err().unwrap();
            assert!(fault.message.contains(word), "{address}: {fault}");
        }
        for address in ["http://127.0.0.1:8445", "http://[::1]:8445", "http://localhost:1"] {
            assert!(direct(address).is_ok(), "{address}");
        }
    }
}
