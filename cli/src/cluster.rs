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
    named: Option<String>,
}

impl Cluster {
    pub(crate) async fn connect(flags: &ClusterFlags) -> Result<Self, Fault> {
        let mut config = load(flags).await?;
        adjust(&mut config, flags)?;
        let namespace = flags.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(unusable)?;
        Ok(Self { client, namespace, all: flags.all_namespaces, named: flags.namespace.clone() })
    }

    /// Objects of the namespace.
    pub(crate) fn own<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The namespace that `-n` names, unless `-A` asks for all.
    pub(crate) fn named(&self) -> Option<&str> {
        self.named.as_deref().filter(|_| !self.all)
    }

    /// Objects of the namespace, or of all with `-A`.
    pub(crate) fn wide<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        if self.all { Api::all(self.client.clone()) } else { self.own() }
    }
}

fn unusable(error: impl std::fmt::Display) -> Fault {
    Fault::failed(format!("kubeconfig: {error}"), "set KUBECONFIG or --kubeconfig, and --context where it has several")
}

/// The settings that the flags name; without any, those of the environment, in a cluster the ServiceAccount's.
async fn load(flags: &ClusterFlags) -> Result<Config, Fault> {
    let named = flags.context.is_some() || flags.cluster.is_some() || flags.user.is_some();
    let file = match &flags.kubeconfig {
        Some(path) => Kubeconfig::read_from(path).map_err(unusable)?,
        None if named => Kubeconfig::read().map_err(unusable)?,
        None => return depin_operator::cluster::infer().await.map_err(unusable),
    };
    from_file(file, flags).await
}

async fn from_file(file: Kubeconfig, flags: &ClusterFlags) -> Result<Config, Fault> {
    // An unknown user would be anonymous to the library, which is not what was meant.
    let contexts = file.contexts.iter().map(|known| &known.name);
    check_name("context", flags.context.as_ref(), contexts)?;
    check_name("cluster", flags.cluster.as_ref(), file.clusters.iter().map(|known| &known.name))?;
    check_name("user", flags.user.as_ref(), file.auth_infos.iter().map(|known| &known.name))?;
    let options =
        KubeConfigOptions { context: flags.context.clone(), cluster: flags.cluster.clone(), user: flags.user.clone() };
    Config::from_custom_kubeconfig(file, &options).await.map(depin_operator::cluster::reach).map_err(unusable)
}

fn check_name<'a>(
    what: &str,
    wanted: Option<&String>,
    mut known: impl Iterator<Item = &'a String>,
) -> Result<(), Fault> {
    match wanted {
        Some(wanted) if !known.any(|name| name == wanted) => Err(Fault::failed(
            format!("kubeconfig: there is no {what} {wanted:?}"),
            format!("list them (kubectl config get-{what}s) and correct --{what}"),
        )),
        _ => Ok(()),
    }
}

/// What the flags set beside a kubeconfig: whom to act as, and how long a request may take.
fn adjust(config: &mut Config, flags: &ClusterFlags) -> Result<(), Fault> {
    let who = &mut config.auth_info;
    if flags.as_user.is_some() {
        // As in kubectl: who acts as another takes nothing of whom the kubeconfig acts as.
        who.impersonate.clone_from(&flags.as_user);
        (who.impersonate_groups, who.impersonate_uid, who.impersonate_user_extra) = (None, None, None);
    }
    if !flags.as_group.is_empty() {
        who.impersonate_groups = Some(flags.as_group.clone());
    }
    if flags.as_uid.is_some() {
        who.impersonate_uid.clone_from(&flags.as_uid);
    }
    let partly = who.impersonate_groups.is_some() || who.impersonate_uid.is_some();
    if partly && who.impersonate.is_none() {
        return Err(Fault::usage(
            "--as-group and --as-uid say how to act as a user, but no user is named",
            "add --as USER",
        ));
    }
    if let Some(limit) = flags.request_timeout.0 {
        config.connect_timeout = Some(config.connect_timeout.map_or(limit, |known| known.min(limit)));
        config.write_timeout = Some(limit);
        config.read_timeout = Some(limit);
        // Counts from the request on, not from when the connection fell silent.
        config.reset_reader_on_write = true;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser as _;

    use super::*;
    use crate::{args::Arguments, fault};

    const FILE: &str = "
apiVersion: v1
kind: Config
current-context: home
clusters:
- {name: near, cluster: {server: 'https://near:6443'}}
- {name: far, cluster: {server: 'https://far:6443'}}
contexts:
- {name: home, context: {cluster: near, user: ann, namespace: town}}
- {name: away, context: {cluster: far, user: bob}}
users:
- {name: ann, user: {username: ann, password: a}}
- {name: bob, user: {username: bob, password: b}}
- {name: acting, user: {username: c, password: c, as: carl, as-groups: [admins], as-uid: '7'}}
";

    fn flags(line: &str) -> ClusterFlags {
        let words = ["kubectl-depin", "devices"].into_iter().chain(line.split_whitespace());
        Arguments::try_parse_from(words).unwrap().cluster
    }

    async fn config(line: &str) -> Result<Config, Fault> {
        let flags = flags(line);
        let mut config = from_file(Kubeconfig::from_yaml(FILE).unwrap(), &flags).await?;
        adjust(&mut config, &flags)?;
        Ok(config)
    }

    fn host(config: &Config) -> &str {
        config.cluster_url.host().unwrap()
    }

    #[tokio::test]
    async fn context_cluster_and_user_are_chosen_apart() {
        let plain = config("").await.unwrap();
        assert_eq!((host(&plain), plain.auth_info.username.as_deref()), ("near", Some("ann")));
        assert_eq!((plain.default_namespace.as_str(), plain.read_timeout), ("town", None));
        let away = config("--context away").await.unwrap();
        assert_eq!((host(&away), away.auth_info.username.as_deref()), ("far", Some("bob")));
        let mixed = config("--cluster far --user bob").await.unwrap();
        assert_eq!((host(&mixed), mixed.auth_info.username.as_deref()), ("far", Some("bob")));
        assert_eq!(mixed.default_namespace, "town", "the context's");
        for what in ["context", "cluster", "user"] {
            let fault = config(&format!("--{what} nowhere")).await.unwrap_err();
            assert!(fault.message.contains("\"nowhere\"") && fault.remedy.contains(&format!("--{what}")), "{fault}");
        }
    }

    #[tokio::test]
    async fn one_acts_as_whom_the_flags_name() {
        let who = config("--as dora --as-group a --as-group b --as-uid 9").await.unwrap().auth_info;
        assert_eq!((who.impersonate.as_deref(), who.impersonate_uid.as_deref()), (Some("dora"), Some("9")));
        assert_eq!(who.impersonate_groups, Some(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(who.username.as_deref(), Some("ann"), "who asks stays who asks");

        let by_file = config("--user acting").await.unwrap().auth_info;
        assert_eq!((by_file.impersonate.as_deref(), by_file.impersonate_uid.as_deref()), (Some("carl"), Some("7")));
        let other = config("--user acting --as dora").await.unwrap().auth_info;
        assert_eq!(
            (other.impersonate.as_deref(), other.impersonate_groups, other.impersonate_uid),
            (Some("dora"), None, None)
        );
        let regrouped = config("--user acting --as-group readers").await.unwrap().auth_info;
        assert_eq!(
            (regrouped.impersonate.as_deref(), regrouped.impersonate_groups),
            (Some("carl"), Some(vec!["readers".to_owned()]))
        );

        for line in ["--as-group a", "--as-uid 9"] {
            let fault = config(line).await.unwrap_err();
            assert_eq!((fault.code, fault.remedy.as_str()), (fault::USAGE, "add --as USER"), "{line}");
        }
    }

    #[tokio::test]
    async fn a_request_may_take_as_long_as_the_flag_says() {
        let limited = config("--request-timeout 1500ms").await.unwrap();
        let limit = Some(Duration::from_millis(1500));
        assert_eq!((limited.connect_timeout, limited.read_timeout, limited.write_timeout), (limit, limit, limit));
        let unlimited = config("--request-timeout 0").await.unwrap();
        assert_eq!(unlimited.read_timeout, None);
        let long = config("--request-timeout 1h").await.unwrap();
        assert!(long.connect_timeout.unwrap() < Duration::from_secs(3600), "the limit for connecting stays");
    }
}
