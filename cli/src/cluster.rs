//! The API server, by kubectl's own rules.

use kube::{
    Api, Client, Config, Resource,
    config::{KubeConfigOptions, Kubeconfig},
    core::NamespaceResourceScope,
};

use crate::{args::ClusterFlags, fault::Fault};

/// A cluster and the namespace that is meant.
pub(crate) struct Cluster {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    all: bool,
}

impl Cluster {
    pub(crate) async fn connect(flags: &ClusterFlags) -> Result<Self, Fault> {
        let unusable = |error: &dyn std::fmt::Display| {
            Fault::failed(
                format!("kubeconfig: {error}"),
                "set KUBECONFIG or --kubeconfig, and --context where it has several",
            )
        };
        let options = KubeConfigOptions { context: flags.context.clone(), ..KubeConfigOptions::default() };
        let config = match &flags.kubeconfig {
            Some(path) => {
                let file = Kubeconfig::read_from(path).map_err(|error| unusable(&error))?;
                Config::from_custom_kubeconfig(file, &options).await.map_err(|error| unusable(&error))?
            }
            None if flags.context.is_some() => {
                Config::from_kubeconfig(&options).await.map_err(|error| unusable(&error))?
            }
            None => Config::infer().await.map_err(|error| unusable(&error))?,
        };
        let namespace = flags.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|error| unusable(&error))?;
        Ok(Self { client, namespace, all: flags.all_namespaces })
    }

    /// Objects of the namespace.
    pub(crate) fn own<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Objects of the namespace, or of all with `-A`.
    pub(crate) fn wide<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        if self.all { Api::all(self.client.clone()) } else { self.own() }
    }
}
