//! Fetches what a report holds.

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ApiResource, DynamicObject, ListParams, LogParams},
    core::GroupVersionKind,
};
use serde_json::{Value, json};

use super::bundle::Bundle;
use crate::{cluster::Cluster, commands::check::metrics};

/// What is fetched of the programs' namespaces: group, version, kind.
const OBJECTS: [(&str, &str, &str); 10] = [
    ("apps", "v1", "Deployment"),
    ("apps", "v1", "StatefulSet"),
    ("apps", "v1", "DaemonSet"),
    ("", "v1", "Pod"),
    ("", "v1", "Service"),
    ("", "v1", "PersistentVolumeClaim"),
    ("", "v1", "Event"),
    ("coordination.k8s.io", "v1", "Lease"),
    ("policy", "v1", "PodDisruptionBudget"),
    ("networking.k8s.io", "v1", "NetworkPolicy"),
];
/// Of which only names, types and ages are asked for.
const TABLES: [&str; 2] = ["secrets", "configmaps"];
/// Objects of one answer.
const PAGE: u32 = 500;
/// Objects of a kind; a network may have a hundred thousand devices.
const MOST: usize = 5_000;

/// Fetches into a bundle.
pub(super) struct Collector<'a> {
    cluster: &'a Cluster,
    pub(super) bundle: Bundle,
    missing: Vec<Value>,
}

impl<'a> Collector<'a> {
    pub(super) fn new(cluster: &'a Cluster, bundle: Bundle) -> Self {
        Self { cluster, bundle, missing: Vec::new() }
    }

    pub(super) fn missing(&mut self, what: &str, why: &str) {
        self.missing.push(json!({"what": what, "why": why}));
    }

    /// The bundle with its own description, and what is not in it.
    pub(super) fn finish(mut self, now: jiff::Timestamp) -> (Bundle, Vec<Value>) {
        let files: Vec<String> = self.bundle.names().into_iter().map(str::to_owned).collect();
        self.bundle.json("index.json", json!({"made": now.to_string(), "files": files, "missing": self.missing}));
        (self.bundle, self.missing)
    }

    fn client(&self) -> Client {
        self.cluster.client.clone()
    }

    pub(super) async fn versions(&mut self) {
        match self.cluster.client.apiserver_version().await {
            Ok(version) => {
                let version = json!({"program": env!("CARGO_PKG_VERSION"), "apiServer": version.git_version, "platform": version.platform});
                self.bundle.json("versions.json", version);
            }
            Err(error) => self.missing("versions", &error.to_string()),
        }
    }

    /// The programs' own objects, logs and metrics.
    pub(super) async fn namespace(&mut self, namespace: &str, tail: i64) {
        for (group, version, kind) in OBJECTS {
            let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
            let api = Api::namespaced_with(self.client(), namespace, &resource);
            self.list(&format!("{namespace}/{}.json", resource.plural), &api).await;
        }
        for resource in TABLES {
            self.table(namespace, resource).await;
        }
        let pods: Api<Pod> = Api::namespaced(self.client(), namespace);
        let list = match pods.list(&ListParams::default().labels("app.kubernetes.io/part-of=depin")).await {
            Ok(list) => list,
            Err(error) => return self.missing(&format!("{namespace}/logs"), &error.to_string()),
        };
        for pod in &list.items {
            self.logs(&pods, namespace, pod, tail).await;
            match metrics(&self.client(), namespace, &pod.name_any()).await {
                Ok(text) => self.bundle.text(&format!("{namespace}/metrics/{}.txt", pod.name_any()), &text),
                Err(error) => self.missing(&format!("{namespace}/metrics/{}", pod.name_any()), &error.to_string()),
            }
        }
    }

    async fn logs(&mut self, pods: &Api<Pod>, namespace: &str, pod: &Pod, tail: i64) {
        let name = pod.name_any();
        let statuses = pod.status.iter().flat_map(|status| {
            let own = status.container_statuses.iter().flatten();
            own.chain(status.init_container_statuses.iter().flatten())
        });
        for status in statuses {
            for previous in [false, true] {
                // Nothing came before the first start.
                if previous && status.restart_count == 0 {
                    continue;
                }
                let parameters = LogParams {
                    container: Some(status.name.clone()),
                    tail_lines: Some(tail),
                    timestamps: true,
                    previous,
                    ..LogParams::default()
                };
                let path =
                    format!("{namespace}/logs/{name}-{}{}.log", status.name, if previous { "-previous" } else { "" });
                match pods.logs(&name, &parameters).await {
                    Ok(text) => self.bundle.text(&path, &text),
                    Err(error) => self.missing(&path, &error.to_string()),
                }
            }
        }
    }

    /// What is said of nodes that matters here.
    pub(super) async fn nodes(&mut self) {
        match Api::<Node>::all(self.client()).list(&ListParams::default()).await {
            Ok(list) => {
                let node = |node: &Node| {
                    let status = node.status.clone().unwrap_or_default();
                    json!({"name": node.name_any(), "labels": node.labels(), "conditions": status.conditions, "info": status.node_info})
                };
                self.bundle.json("nodes.json", list.items.iter().map(node).collect());
            }
            Err(error) => self.missing("nodes", &error.to_string()),
        }
    }

    /// Our own kinds, of the namespace that was named or of all, with their definitions' versions and Events.
    pub(super) async fn resources(&mut self) {
        for definition in depin_crds::yaml::definitions() {
            let spec = definition.spec;
            let resource = ApiResource::from_gvk_with_plural(
                &GroupVersionKind::gvk(&spec.group, "v1alpha1", &spec.names.kind),
                &spec.names.plural,
            );
            let path = format!("resources/{}.json", spec.names.plural);
            let api: Api<DynamicObject> = match self.cluster.named() {
                Some(namespace) if spec.scope == "Namespaced" => {
                    Api::namespaced_with(self.client(), namespace, &resource)
                }
                _ => Api::all_with(self.client(), &resource),
            };
            self.list(&path, &api).await;
        }
        let events = ApiResource::from_gvk(&GroupVersionKind::gvk("events.k8s.io", "v1", "Event"));
        let api = match self.cluster.named() {
            Some(namespace) => Api::namespaced_with(self.client(), namespace, &events),
            None => Api::all_with(self.client(), &events),
        };
        self.list("resources/events.json", &api).await;
    }

    async fn list(&mut self, path: &str, api: &Api<DynamicObject>) {
        let mut objects: Vec<Value> = Vec::new();
        let mut page = ListParams::default().limit(PAGE);
        loop {
            let list = match api.list(&page).await {
                Ok(list) => list,
                Err(error) => return self.missing(path, &error.to_string()),
            };
            objects.extend(list.items.iter().filter_map(|object| serde_json::to_value(object).ok()));
            match list.metadata.continue_.filter(|next| !next.is_empty()) {
                Some(next) if objects.len() < MOST => page = page.continue_token(&next),
                Some(_) => {
                    self.missing(path, &format!("only the first {} are here", objects.len()));
                    break;
                }
                None => break,
            }
        }
        self.bundle.json(path, objects.into());
    }

    /// Names, types and ages, and nothing else: the API server makes the table without the objects.
    async fn table(&mut self, namespace: &str, resource: &str) {
        let path = format!("{namespace}/{resource}.json");
        let request = http::Request::get(format!("/api/v1/namespaces/{namespace}/{resource}?includeObject=None"))
            .header(http::header::ACCEPT, "application/json;as=Table;v=v1;g=meta.k8s.io")
            .body(Vec::new());
        let answer = match request {
            Ok(request) => self.cluster.client.request::<Value>(request).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match answer {
            // Anything else than a table may hold more than names.
            Ok(table) if table["kind"] == "Table" => {
                let columns: Vec<&Value> =
                    table["columnDefinitions"].as_array().into_iter().flatten().map(|column| &column["name"]).collect();
                let rows: Vec<&Value> =
                    table["rows"].as_array().into_iter().flatten().map(|row| &row["cells"]).collect();
                self.bundle.json(&path, json!({"columns": columns, "rows": rows}));
            }
            Ok(_) => self.missing(&path, "the API server made no table"),
            Err(why) => self.missing(&path, &why),
        }
    }
}
