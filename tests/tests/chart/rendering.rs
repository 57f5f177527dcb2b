//! Whatever the values, the rendering is sound, always the same, and agrees with what the tree has already.

use std::{collections::BTreeSet, fs};

use depin_tests::workspace;
use serde_json::Value;

use crate::helm::{AGENTS, Helm, NAMESPACE, RELEASE, documents, folder, name, values, values_of, yaml};

#[test]
fn it_lints_and_renders_the_same_bytes_again_with_all_values() {
    let Some(helm) = Helm::find() else { return };
    for file in values() {
        helm.run(&["lint", "--strict", ".", "-f", &file]);
        let rendered = helm.template(&["-f", &file]);
        assert!(!documents(&rendered).is_empty());
        assert_eq!(rendered, helm.template(&["-f", &file]), "{file}");
    }
}

#[test]
fn it_packages_without_what_is_for_tests() {
    let Some(helm) = Helm::find() else { return };
    let target = tempfile::tempdir().unwrap();
    let directory = target.path().display().to_string();
    helm.run(&["package", ".", "-d", &directory]);
    let archive = format!("depin-operator-{}.tgz", env!("CARGO_PKG_VERSION"));
    let package = target.path().join(archive).display().to_string();
    let listed = std::process::Command::new("tar").args(["-tzf", &package]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    for wanted in
        ["values.schema.json", "README.md", "generated/crds/depin.dev_edgedevices.yaml", "dashboards/overview.json"]
    {
        assert!(listed.lines().any(|file| file == format!("depin-operator/{wanted}")), "{wanted} is missing: {listed}");
    }
    assert!(!listed.contains("/ci/"), "{listed}");
    // A package renders as its folder does.
    let packaged = helm.run(&["template", RELEASE, &package, "-n", NAMESPACE]);
    assert_eq!(packaged, helm.template(&[]));
}

#[test]
fn unknown_values_are_refused_at_every_level() {
    let Some(helm) = Helm::find() else { return };
    let schema: Value =
        serde_json::from_str(&fs::read_to_string(folder().join("values.schema.json")).unwrap()).unwrap();
    let mut open = Vec::new();
    open_objects("", &schema, &mut open);
    // global is shared with the charts beside this one; the rest are maps from a person's keys to texts, or Kubernetes' own objects.
    let known = ["/definitions/labels", "/definitions/objects/items", "/properties/global"];
    let known =
        |path: &String| !known.contains(&path.as_str()) && !path.starts_with("/definitions/resources/properties/");
    open.retain(known);
    open.retain(|path| {
        !path.starts_with("/definitions/affinity/properties/") && path != "/properties/extraObjects/items"
    });
    assert_eq!(open, Vec::<String>::new());
    for (wrong, where_) in [
        ("unknown=1", "unknown"),
        ("operator.replica=3", "/operator"),
        ("agent.settings.gateway=https://elsewhere:1", "/agent/settings"),
        ("agent.settings.listener.port=1883", "/agent/settings/listener"),
        ("gateway.resources.memory=1Gi", "/gateway/resources"),
        ("log.format=xml", "/log/format"),
        ("gateway.persistence.size=lots", "/gateway/persistence/size"),
    ] {
        let refusal = helm.refusal(&["template", RELEASE, ".", "--set", wrong]);
        assert!(refusal.contains(where_), "{wrong}: {refusal}");
    }
}

/// Paths of all objects in a schema that take any key.
fn open_objects(path: &str, schema: &Value, open: &mut Vec<String>) {
    let object =
        schema["type"] == "object" || schema["type"].as_array().is_some_and(|kinds| kinds.contains(&"object".into()));
    if object && schema["additionalProperties"] != false {
        open.push(path.to_owned());
    }
    for (key, inner) in schema.as_object().into_iter().flatten() {
        if inner.is_object() {
            open_objects(&format!("{path}/{key}"), inner, open);
        }
    }
}

#[test]
fn what_cannot_work_is_refused_with_its_remedy() {
    let Some(helm) = Helm::find() else { return };
    for (wrong, remedy) in [
        ("agent.only=true", "agent.gateway is missing"),
        ("agent.listener.enabled=false", "there is nothing to take telemetry from"),
        ("gateway.external.enabled=true", "gateway.external.extraSANs is empty"),
    ] {
        let refusal = helm.refusal(&["template", RELEASE, ".", "--set", wrong]);
        assert!(refusal.contains(remedy), "{wrong}: {refusal}");
    }
}

#[test]
fn the_definitions_are_those_of_the_tree_and_stay_when_the_release_goes() {
    let Some(helm) = Helm::find() else { return };
    let rendered = helm.objects(&[]);
    let mut count = 0;
    for entry in fs::read_dir(workspace().join("crds/yaml")).unwrap() {
        let definition = yaml(entry.unwrap().path());
        let shown = rendered.get("CustomResourceDefinition", name(&definition));
        assert!(same(&shown["spec"], &definition["spec"]), "{} differs", name(&definition));
        assert_eq!(shown["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
        count += 1;
    }
    assert_eq!(rendered.of("CustomResourceDefinition").len(), count);
    let forgotten = helm.objects(&["--set", "crds.keep=false"]);
    for definition in forgotten.of("CustomResourceDefinition") {
        assert!(definition["metadata"]["annotations"]["helm.sh/resource-policy"].is_null());
    }
    assert!(helm.objects(&["--set", "crds.enabled=false"]).of("CustomResourceDefinition").is_empty());
}

/// Equal, whether a number is written with a fraction or without.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(key, value)| other.get(key).is_some_and(|other| same(value, other)))
        }
        _ => one == other,
    }
}

/// The role of the operator where it publishes the CA.
const PUBLISHES: &str = "depin-operator-ca";

/// Kind, namespace, name and rules of each role of the operator's.
fn operators_roles(objects: &[Value]) -> BTreeSet<String> {
    let roles = objects.iter().filter(|object| matches!(object["kind"].as_str(), Some("Role" | "ClusterRole")));
    // What `ca.publishNamespaces` adds depends on values, and is looked at by itself.
    let own = roles.filter(|role| name(role).starts_with("depin-operator") && name(role) != PUBLISHES);
    own.map(|role| {
        let about = &role["metadata"];
        format!("{} {} {} {}", role["kind"], about["namespace"], about["name"], role["rules"])
    })
    .collect()
}

#[test]
fn the_operator_may_do_what_it_may_in_demo_and_tests_and_nothing_else() {
    let Some(helm) = Helm::find() else { return };
    let source = documents(&fs::read_to_string(workspace().join("operator/rbac.yaml")).unwrap());
    let rendered = helm.objects(&[]);
    assert_eq!(operators_roles(&rendered.0), operators_roles(&source));
    let publishes = rendered.get("Role", PUBLISHES);
    let rule = serde_json::json!([
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["depin-ca"], "verbs": ["get", "create", "patch"]}
    ]);
    assert_eq!((&publishes["metadata"]["namespace"], &publishes["rules"]), (&AGENTS.into(), &rule));
    for role in source.iter().filter(|object| matches!(object["kind"].as_str(), Some("Role" | "ClusterRole"))) {
        let kind = format!("{}Binding", role["kind"].as_str().unwrap());
        let binding = rendered.get(&kind, name(role));
        assert_eq!(binding["roleRef"]["name"], role["metadata"]["name"]);
        let subject = &binding["subjects"][0];
        assert_eq!((&subject["name"], &subject["namespace"]), (&"depin-operator".into(), &NAMESPACE.into()));
    }
}

#[test]
fn watched_namespaces_take_the_place_of_the_cluster() {
    let Some(helm) = Helm::find() else { return };
    let rendered = helm.objects(&["-f", &values_of("namespaced")]);
    let whole = helm.objects(&[]);
    let rules = |role: &Value| -> BTreeSet<String> {
        let mut lines = BTreeSet::new();
        for rule in role["rules"].as_array().unwrap() {
            for (resource, verb) in rule["resources"]
                .as_array()
                .unwrap()
                .iter()
                .flat_map(|resource| rule["verbs"].as_array().unwrap().iter().map(move |verb| (resource, verb)))
            {
                lines.insert(format!("{resource} {verb}"));
            }
        }
        lines
    };
    let cluster = rules(rendered.get("ClusterRole", "depin-operator"));
    assert!(
        cluster.iter().all(|line| ["edgedevicemodels", "reviews"].iter().any(|part| line.contains(part))),
        "{cluster:?}"
    );
    let watched: Vec<&Value> =
        rendered.of("Role").into_iter().filter(|role| name(role) == "depin-operator-watch").collect();
    let namespaces: Vec<&str> = watched.iter().filter_map(|role| role["metadata"]["namespace"].as_str()).collect();
    assert_eq!(namespaces, ["energy", "weather"]);
    for role in watched {
        let together: BTreeSet<String> = rules(role).union(&cluster).cloned().collect();
        assert_eq!(together, rules(whole.get("ClusterRole", "depin-operator")));
    }
    // Events of models, which belong to no namespace, have one all the same.
    assert_eq!(rendered.get("Role", "depin-operator-events")["metadata"]["namespace"], "default");
    assert!(whole.find("Role", "depin-operator-events").is_none());
    let policy = rendered.get("ValidatingAdmissionPolicy", "depin-approve");
    let chosen = &policy["spec"]["matchConstraints"]["namespaceSelector"]["matchExpressions"][0]["values"];
    assert_eq!(chosen, &serde_json::json!(["energy", "weather"]));
}

#[test]
fn a_satellite_has_agents_and_nothing_else() {
    let Some(helm) = Helm::find() else { return };
    let rendered = helm.objects(&["-f", &values_of("satellite")]);
    let kinds: BTreeSet<&str> = rendered.0.iter().filter_map(|object| object["kind"].as_str()).collect();
    assert_eq!(
        kinds.into_iter().collect::<Vec<_>>(),
        ["DaemonSet", "Namespace", "NetworkPolicy", "PriorityClass", "ServiceAccount"]
    );
    assert!(rendered.flags("DaemonSet", "agent").contains(&"--gateway=https://gateway.example:8443".to_owned()));
    // Out to the hub, at any address, by its port.
    let egress = &rendered.get("NetworkPolicy", "depin-agent")["spec"]["egress"];
    assert!(egress.as_array().unwrap().iter().any(|rule| rule["to"].is_null() && rule["ports"][0]["port"] == 8443));
    let several = "agent.gateway=https://one.example\\,https://two.example:9443\\,https://three.example:9443";
    let several = helm.objects(&["-f", &values_of("satellite"), "--set", several]);
    let egress = &several.get("NetworkPolicy", "depin-agent")["spec"]["egress"];
    let hubs = egress.as_array().unwrap().iter().find(|rule| rule["ports"][0]["port"] == 443).unwrap();
    let ports: Vec<&Value> = hubs["ports"].as_array().unwrap().iter().map(|port| &port["port"]).collect();
    assert_eq!(ports, [443, 9443]);
}

#[test]
fn names_follow_the_release() {
    let Some(helm) = Helm::find() else { return };
    let named = |release: &str, more: &[&str]| {
        let rendered = documents(&helm.run(&[&["template", release, ".", "-n", "elsewhere"], more].concat()));
        rendered.iter().find(|object| object["kind"] == "StatefulSet").map(|set| name(set).to_owned()).unwrap()
    };
    assert_eq!(named("depin-operator", &[]), "depin-gateway");
    assert_eq!(named("grid", &[]), "grid-gateway");
    assert_eq!(named("grid", &["--set", "fullnameOverride=net"]), "net-gateway");
}

#[test]
fn the_list_of_images_names_all_that_run() {
    let Some(helm) = Helm::find() else { return };
    let listed: BTreeSet<String> =
        fs::read_to_string(folder().join("images.txt")).unwrap().lines().map(str::to_owned).collect();
    let rendered = helm.objects(&["-f", &values_of("everything")]);
    let mut run = BTreeSet::new();
    for (_, pod) in rendered.pods() {
        for container in ["initContainers", "containers"].iter().flat_map(|list| pod[*list].as_array()).flatten() {
            run.insert(container["image"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(run, listed);
    let about = yaml(folder().join("Chart.yaml"));
    let hub: Value = serde_saphyr::from_str(about["annotations"]["artifacthub.io/images"].as_str().unwrap()).unwrap();
    let hub: BTreeSet<String> =
        hub.as_array().unwrap().iter().map(|image| image["image"].as_str().unwrap().to_owned()).collect();
    assert_eq!(hub, listed);

    let pinned = helm.objects(&["-f", &values_of("digests")]);
    let image = |kind, component| {
        pinned
            .get(kind, component)
            .pointer("/spec/template/spec/containers/0/image")
            .unwrap()
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(
        image("Deployment", "depin-operator"),
        format!("mirror.example/depin/operator@sha256:{}", "1".repeat(64))
    );
    assert_eq!(image("DaemonSet", "depin-agent"), "mirror.example/depin/agent:0.1.0-debug");
}

#[test]
fn the_notes_tell_the_next_commands_and_warn_of_loss() {
    let Some(helm) = Helm::find() else { return };
    let notes = |arguments: &[&str]| {
        let text = helm.run(&[&["install", RELEASE, ".", "-n", NAMESPACE, "--dry-run=client"], arguments].concat());
        text.split_once("NOTES:").unwrap().1.to_owned()
    };
    let usual = notes(&[]);
    assert!(usual.matches("\n     kubectl ").count() >= 3, "{usual}");
    assert!(usual.contains("kubectl label node NODE node-role.kubernetes.io/edge="), "{usual}");
    assert!(!usual.contains("persistence"), "{usual}");
    let trial = notes(&["-f", &values_of("digests")]);
    assert!(trial.contains("WARNING: gateway.persistence.enabled is false"), "{trial}");
}
