//! Alerts and dashboards ask only for what the programs tell, and every alert says what to do.

use std::{collections::BTreeSet, fs, path::PathBuf};

use depin_tests::workspace;
use serde_json::Value;

use crate::helm::{Helm, folder, values_of};

/// Names that a query may use without any program of ours telling them: Prometheus' own.
const PROMETHEUS: &str = "up";
/// What the exposition adds to the name of a counter or histogram.
const SUFFIXES: [&str; 4] = ["_total", "_bucket", "_sum", "_count"];

/// Every metric that a source file registers, under its whole name.
fn registered() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut folders: Vec<PathBuf> =
        ["agent/src", "gateway/src", "operator/src"].map(|path| workspace().join(path)).into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                names.extend(registered_in(&fs::read_to_string(path).unwrap()));
            }
        }
    }
    names
}

/// `let X = ….sub_registry_with_prefix("P")` and `Registry::with_prefix("P")` name prefixes; `X.register("N"` a metric.
fn registered_in(source: &str) -> Vec<String> {
    let source = source.split("#[cfg(test)]").next().unwrap();
    let quoted =
        |text: &str| text.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next()).map(str::to_owned);
    let mut names = Vec::new();
    let mut parts = source.split(".register(");
    let mut before = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let variable = before.rsplit(|letter: char| !letter.is_alphanumeric()).next().unwrap_or_default().to_owned();
        if let Some(name) = quoted(part) {
            let declared = before
                .rsplit_once(&format!("let {variable} = "))
                .or_else(|| before.rsplit_once(&format!("let mut {variable} = ")));
            let prefix = declared.and_then(|(_, value)| quoted(value.split(';').next()?.split("with_prefix(").nth(1)?));
            names.push(prefix.map_or_else(|| name.clone(), |prefix| format!("{prefix}_{name}")));
        }
        before.push_str(".register(");
        before.push_str(part);
    }
    names
}

/// Names of metrics in a query: what stands before a `{`. Every query here selects its job, so that other operators' metrics of the same name
/// are left out.
fn queried(query: &str) -> Vec<String> {
    let word = |text: &str| {
        text.rsplit(|letter: char| !(letter.is_alphanumeric() || letter == '_' || letter == ':'))
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    let parts: Vec<&str> = query.split('{').collect();
    parts.iter().take(parts.len() - 1).map(|part| word(part)).collect()
}

fn check(query: &str, known: &BTreeSet<String>) {
    let names = queried(query);
    assert!(!names.is_empty(), "{query}");
    assert_eq!(query.matches("job=\"depin-").count(), names.len(), "each metric selects its job: {query}");
    for name in names {
        let base = SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(&name);
        assert!(name == PROMETHEUS || known.contains(base), "no program tells {name}: {query}");
        // A rate of a gauge says nothing; a counter without its suffix does not exist.
        let counted = ["rate(", "increase("].iter().any(|function| query.contains(&format!("{function}{name}{{")));
        assert_eq!(counted, base != name, "{query}");
    }
}

fn alerts(helm: &Helm) -> Vec<Value> {
    let rendered = helm.objects(&["-f", &values_of("everything")]);
    let groups = rendered.get("PrometheusRule", "depin")["spec"]["groups"].as_array().unwrap().clone();
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

#[test]
fn the_names_are_those_that_the_programs_register() {
    let known = registered();
    for name in ["depin_agent_messages", "depin_ledger_failing", "leader_election_master_status", "workqueue_depth"] {
        assert!(known.contains(name), "{name}: {known:?}");
    }
    for name in ["controller_runtime_reconcile_errors", "depin_operator_epoch_lag_seconds", "depin_backup_failures"] {
        assert!(known.contains(name), "{name}: {known:?}");
    }
}

#[test]
fn every_alert_asks_for_known_metrics_and_has_its_runbook() {
    let Some(helm) = Helm::find() else { return };
    let known = registered();
    let runbooks = workspace().join("docs/runbooks");
    let index = fs::read_to_string(runbooks.join("README.md")).unwrap();
    let mut named = BTreeSet::from(["README.md".to_owned()]);
    for alert in alerts(&helm) {
        let name = alert["alert"].as_str().unwrap();
        check(alert["expr"].as_str().unwrap(), &known);
        let file = format!("{name}.md");
        assert!(alert["annotations"]["runbook_url"].as_str().unwrap().ends_with(&format!("/{file}")));
        let text = fs::read_to_string(runbooks.join(&file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(text.starts_with(&format!("# {name}\n")) && text.contains("**Do.**\n\n1. "), "{file}");
        assert!(index.contains(&format!("({file})")), "{file} is not in the index");
        assert!(!alert["annotations"]["summary"].as_str().unwrap().is_empty());
        assert!(matches!(alert["labels"]["severity"].as_str(), Some("critical" | "warning")));
        named.insert(file);
    }
    // And none is left over.
    let kept: BTreeSet<String> =
        fs::read_dir(runbooks).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(kept, named);
}

#[test]
fn alerts_of_what_is_not_installed_are_left_out() {
    let Some(helm) = Helm::find() else { return };
    let rendered = helm.objects(&["--set", "monitoring.prometheusRule.enabled=true,agent.enabled=false"]);
    let groups = rendered.get("PrometheusRule", "depin")["spec"]["groups"].as_array().unwrap();
    let names: Vec<&str> = groups.iter().filter_map(|group| group["name"].as_str()).collect();
    assert_eq!(names, ["depin-gateway", "depin-operator"]);
    let lag = helm
        .template(&["--set", "monitoring.prometheusRule.enabled=true,monitoring.prometheusRule.epochLagSeconds=90000"]);
    assert!(lag.contains("> 90000"), "{lag}");
}

#[test]
fn every_dashboard_asks_for_known_metrics() {
    let Some(helm) = Helm::find() else { return };
    let known = registered();
    let rendered = helm.objects(&["-f", &values_of("everything")]);
    let mut identities = BTreeSet::new();
    for entry in fs::read_dir(folder().join("dashboards")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(&path).unwrap();
        let shown = rendered.get("ConfigMap", &format!("depin-dashboard-{name}"));
        assert_eq!(shown["data"][format!("depin-{name}.json")].as_str(), Some(text.as_str()));
        assert_eq!(shown["metadata"]["labels"]["grafana_dashboard"], "1");
        let dashboard: Value = serde_json::from_str(&text).unwrap();
        assert!(identities.insert(dashboard["uid"].as_str().unwrap().to_owned()));
        let mut queries = 0;
        for panel in dashboard["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().into_iter().flatten() {
                check(target["expr"].as_str().unwrap(), &known);
                queries += 1;
            }
        }
        assert!(queries > 3, "{name}");
    }
    assert!(identities.len() >= 4);
}

#[test]
fn what_is_scraped_has_the_job_that_queries_select() {
    let Some(helm) = Helm::find() else { return };
    let rendered = helm.objects(&["-f", &values_of("everything")]);
    for component in ["operator", "gateway", "agent"] {
        let monitor = rendered.get("ServiceMonitor", &format!("depin-{component}"));
        assert_eq!(monitor["spec"]["endpoints"][0]["relabelings"][0]["replacement"], format!("depin-{component}"));
        let service = rendered.get("Service", &format!("depin-{component}-metrics"));
        let wanted = monitor["spec"]["selector"]["matchLabels"].as_object().unwrap();
        assert!(wanted.iter().all(|(key, value)| service["metadata"]["labels"][key] == *value), "{wanted:?}");
        assert_eq!(monitor["spec"]["endpoints"][0]["port"], service["spec"]["ports"][0]["name"]);
    }
}
