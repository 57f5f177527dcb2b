//! What is looked at, each with its hint. The identifiers are headings of docs/checks.md.

/// A thing that is looked at.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Topic {
    /// Its heading in the documentation; stable, for scripts.
    pub(super) id: &'static str,
    /// What is looked at, as a statement that should hold.
    pub(super) what: &'static str,
    /// What to do where it does not.
    pub(super) hint: &'static str,
}

macro_rules! topics {
    ($($name:ident $id:literal $what:literal $hint:literal)*) => {
        $(pub(super) const $name: Topic = Topic { id: $id, what: $what, hint: $hint };)*
        #[cfg(test)]
        const ALL: &[Topic] = &[$($name),*];
    };
}

topics! {
    API "api-server" "the API server answers" "set KUBECONFIG, --kubeconfig or --context"
    VERSION "api-version" "the API server is new enough" "upgrade the cluster to Kubernetes 1.33 or later"
    CLOCK "clock" "the clocks of this machine and the API server agree" "run NTP on both machines"
    NODE_CLOCKS "node-clocks" "the nodes' clocks agree with the API server's" "run NTP on the node"
    MAY_CREATE "may-create" "may create what the chart creates" "ask an administrator of the cluster for this right, or to install the chart"
    NAMES "names" "no other kind has our names" "where a name collides, write it with its group: edgedevices.depin.dev"
    INSTALLED_BEFORE "installed-before" "nothing of an earlier installation is in the way" "upgrade that release instead, or see docs/operations.md"
    POD_SECURITY "pod-security" "the namespaces admit the chart's Pods" "label the agents' namespace pod-security.kubernetes.io/enforce=privileged: agents keep their state in a directory of the node"
    EDGE_NODES "edge-nodes" "nodes are labelled as edge" "kubectl label node NAME node-role.kubernetes.io/edge=, or set agent.nodeSelector, or agent.enabled=false"
    STORAGE "storage" "there is a default StorageClass for the ledger's volume" "mark one as default, or set gateway.persistence.storageClass"
    DEFINITIONS "definitions" "the kinds are installed" "install the chart with crds.enabled, or kubectl apply --server-side -f crds/yaml"
    DEFINITION_VERSIONS "definition-versions" "the kinds are those of this program's version" "upgrade the chart, or use the kubectl-depin of the installed version"
    MODELS "models" "there are device models" "apply one: examples/networks has some"
    OPERATOR "operator" "the operator is available" "kubectl depin logs operator; kubectl get events -n NAMESPACE"
    OPERATOR_VERSION "operator-version" "the operator is of this program's version" "use the kubectl-depin of the installed version"
    LEADER "leader" "an operator leads" "kubectl depin logs operator: the leader renews Lease depin-operator every few seconds"
    GATEWAY "gateway" "the gateway is ready" "kubectl depin logs gateway; its Pod waits for Secret depin-gateway-tls, which the leading operator makes, and for its volume"
    AUTHORITY "authority" "the network's CA is valid" "see docs/operations.md on the CA: it outlives everything else"
    GATEWAY_CERTIFICATE "gateway-certificate" "the gateway's certificate is valid" "kubectl depin logs operator: the leader renews it after two thirds of its time"
    AGENT_CERTIFICATES "agent-certificates" "the agents' certificates are valid" "see the agent's log; after the renewal grace it needs a new join token"
    AGENTS "agents" "all agents are online" "nothing is lost while their spools have room: look at the site's link, power and agent"
    AGENT_CLOCKS "agent-clocks" "the agents' clocks agree with the gateway's" "run NTP at the site"
    LEDGER "ledger" "the ledger answers" "see docs/cli.md for a viewer; or give --ledger, --cert, --key, --ca"
    GATEWAY_CLOCK "gateway-clock" "the gateway's clock agrees with this machine's" "run NTP on both machines"
    CLOSING "closing" "epochs may close" "wait for all agents to connect; kubectl depin release shows which, and releases it"
    BACKUP "backup" "the ledger's backup is fresh" "kubectl depin backup; see docs/operations/backup.md: without a backup, what is durable counts as archived, and losing the volume loses what it held"
    AGENTS_PORT "agents-port" "agents would be served where they connect" "give --gateway https://host:port, as agents are told it; check that the gateway runs and --gateway-name of the operator"
    BROKER "broker" "the broker loses nothing" "give --broker-config mosquitto.conf of each site: persistence true, max_queued_messages 0, max_inflight_messages 1000"
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_is_documented_under_its_identifier_and_nothing_else_is() {
        let page = include_str!("../../../../docs/checks.md");
        let headings: BTreeSet<&str> = page.lines().filter_map(|line| line.strip_prefix("### ")).collect();
        let known: BTreeSet<&str> = ALL.iter().map(|topic| topic.id).collect();
        assert_eq!(headings, known);
        assert_eq!(known.len(), ALL.len(), "each has its own");
    }
}
