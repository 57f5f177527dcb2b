//! An operator that watches some namespaces, with no more permissions than that needs; and the CA where agents mount it.

use depin_crds::{EdgeAgent, EdgeDevice, EdgeFleet};
use depin_operator::clock::Clock;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, ResourceExt as _, api::DeleteParams};

use crate::{
    objects::{FLEET, MODEL, agent, device},
    world::{World, eventually, registered},
};

/// What the operator has in one namespace that it watches.
const ROLES: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: depin-operator, namespace: town}
rules:
- {apiGroups: [depin.dev], resources: [edgefleets, rewardprograms], verbs: [get, list, watch]}
- {apiGroups: [depin.dev], resources: [edgeagents, edgedevices], verbs: [get, list, watch, create]}
- {apiGroups: [depin.dev], resources: [edgeenrollments], verbs: [get, list, watch, create, delete]}
- {apiGroups: [depin.dev], resources: [rewardepochs], verbs: [get, list, watch, create, patch, delete]}
- apiGroups: [depin.dev]
  resources: [edgefleets/status, edgeagents/status, edgedevices/status, edgeenrollments/status, rewardprograms/status, rewardepochs/status]
  verbs: [patch]
- {apiGroups: [events.k8s.io], resources: [events], verbs: [create, patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: depin-operator, namespace: town}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: depin-operator}
subjects: [{kind: ServiceAccount, name: depin-operator, namespace: depin-system}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: depin-operator-ca, namespace: edge}
rules:
- {apiGroups: [''], resources: [configmaps], resourceNames: [depin-ca], verbs: [get, create, patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: depin-operator-ca, namespace: edge}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: depin-operator-ca}
subjects: [{kind: ServiceAccount, name: depin-operator, namespace: depin-system}]
";

/// Models lie in no namespace.
const MODELS: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: depin-operator-models}
rules:
- {apiGroups: [depin.dev], resources: [edgedevicemodels], verbs: [get, list, watch]}
- {apiGroups: [depin.dev], resources: [edgedevicemodels/status], verbs: [patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: depin-operator-models}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: depin-operator-models}
subjects: [{kind: ServiceAccount, name: depin-operator, namespace: depin-system}]
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_roles_in_its_namespaces_alone_it_works_there_and_nowhere_else() {
    let world = World::new().await;
    let kubectl = |arguments: &[&str]| tokio::task::block_in_place(|| world.plane.run_kubectl(arguments).unwrap());
    kubectl(&["delete", "clusterrolebinding", "depin-operator"]);
    kubectl(&["create", "namespace", "edge"]);
    kubectl(&["create", "namespace", "city"]);
    world.apply(ROLES).unwrap();
    let flags = ["--watch-namespace", "town", "--publish-ca-namespace", "edge,nowhere"];
    let operator = world.start_with("one", Clock::system(), &flags);
    // Without the models' ClusterRole it says what it lacks.
    let told = eventually("readiness that tells", || async {
        operator.ask("/readyz").await.filter(|answer| answer.contains("EdgeDeviceModels cannot be listed"))
    })
    .await;
    assert!(told.contains("503") && told.contains("ClusterRole"), "{told}");
    world.apply(MODELS).unwrap();
    eventually("readiness", || async {
        operator.ask("/readyz").await.filter(|answer| answer.contains("HTTP/1.1 200"))
    })
    .await;

    world.apply(MODEL).unwrap();
    for yaml in [FLEET.to_owned(), agent("roof-1", 1), device("m1", "roof-1", "")] {
        world.apply(&yaml).unwrap();
        world.apply(&yaml.replace("town", "city").replace("seed", "")).unwrap();
    }
    condition!(world, EdgeFleet, "homes", "Ready", "True");
    condition!(world, EdgeAgent, "roof-1", "Ready", "True");
    condition!(world, EdgeDevice, "m1", "Eligible", "True");
    let registry = world.ledger.registry();
    assert!(registry.fleet("town/homes").is_some() && registry.fleet("city/homes").is_none());
    let elsewhere: Api<EdgeFleet> = Api::namespaced(world.client.clone(), "city");
    let status = elsewhere.get("homes").await.unwrap().status.unwrap_or_default();
    assert_eq!(status.observed_generation, None, "nobody looked at it");
    // A deletion is heard.
    let devices: Api<EdgeDevice> = world.api();
    devices.delete("m1", &DeleteParams::default()).await.unwrap();
    registered(&world, "the removal", |registry| registry.devices().all(|(_, device)| device.current().is_none()))
        .await;

    // The CA is where agents mount it, and comes back; a namespace that is not there holds up nothing.
    let published: Api<ConfigMap> = Api::namespaced(world.client.clone(), "edge");
    let own: Api<ConfigMap> = Api::namespaced(world.client.clone(), "depin-system");
    let map = eventually("the CA", || async { published.get_opt("depin-ca").await.unwrap() }).await;
    assert_eq!(map.data, own.get("depin-ca").await.unwrap().data);
    assert!(map.data.as_ref().unwrap()["ca.crt"].contains("BEGIN CERTIFICATE"));
    published.delete("depin-ca", &DeleteParams::default()).await.unwrap();
    let again = eventually("the CA again", || async { published.get_opt("depin-ca").await.unwrap() }).await;
    assert_ne!(again.uid(), map.uid());
    eventually("the failure in a metric", || async {
        operator.metric("depin_operator_certificate_failures_total{what=\"publish\"}").await.filter(|count| *count > 0)
    })
    .await;
    operator.stop().await;
}
