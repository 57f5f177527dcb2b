//! The generated definitions: committed text, and what must hold of every schema.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it cannot go on")]

use std::{fs, path::Path};

use depin_crds::yaml;
use serde_json::Value;

#[test]
fn committed_definitions_are_what_the_types_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("yaml");
    for (name, text) in yaml::all().unwrap() {
        let committed = fs::read_to_string(folder.join(&name)).unwrap_or_default();
        assert!(committed == text, "crds/yaml/{name} is stale: cargo xtask generate");
    }
    let files = fs::read_dir(&folder).unwrap().count();
    assert_eq!(files, yaml::all().unwrap().len(), "crds/yaml holds files that no type makes");
}

#[test]
fn kinds_carry_their_short_names_and_the_category() {
    let names: Vec<_> = yaml::definitions()
        .into_iter()
        .map(|definition| {
            assert_eq!(definition.spec.group, depin_crds::GROUP);
            assert_eq!(definition.spec.names.categories.as_deref(), Some(&["depin".to_owned()][..]));
            let short = definition.spec.names.short_names.unwrap_or_default().join(",");
            (definition.spec.names.kind, short, definition.spec.scope)
        })
        .collect();
    let expected = [
        ("EdgeDeviceModel", "edm", "Cluster"),
        ("EdgeFleet", "efleet", "Namespaced"),
        ("EdgeAgent", "ea", "Namespaced"),
        ("EdgeDevice", "edev", "Namespaced"),
        ("EdgeEnrollment", "ee", "Namespaced"),
        ("RewardProgram", "rp", "Namespaced"),
        ("RewardEpoch", "re", "Namespaced"),
    ];
    assert_eq!(names.len(), expected.len());
    for ((kind, short, scope), (expected_kind, expected_short, expected_scope)) in names.iter().zip(expected) {
        assert_eq!((kind.as_str(), short.as_str(), scope.as_str()), (expected_kind, expected_short, expected_scope));
    }
}

/// Calls `look` with each schema node and its path.
fn walk(path: &str, node: &Value, look: &mut impl FnMut(&str, &Value)) {
    look(path, node);
    if let Some(properties) = node.get("properties").and_then(Value::as_object) {
        for (name, child) in properties {
            walk(&format!("{path}.{name}"), child, look);
        }
    }
    if let Some(items) = node.get("items") {
        walk(&format!("{path}[]"), items, look);
    }
    if let Some(values) = node.get("additionalProperties") {
        walk(&format!("{path}{{}}"), values, look);
    }
}

fn schemas() -> Vec<(String, Value)> {
    yaml::definitions()
        .into_iter()
        .map(|definition| {
            let schema = definition.spec.versions[0].schema.clone().unwrap().open_api_v3_schema.unwrap();
            (definition.spec.names.kind, serde_json::to_value(schema).unwrap())
        })
        .collect()
}

#[test]
fn no_schema_holds_a_floating_point_number() {
    for (kind, schema) in schemas() {
        walk(&kind, &schema, &mut |path, node| {
            assert_ne!(node.get("type").and_then(Value::as_str), Some("number"), "{path}");
        });
    }
}

#[test]
fn lists_and_strings_are_bounded() {
    for (kind, schema) in schemas() {
        walk(&kind, &schema, &mut |path, node| {
            // Conditions are Kubernetes' own type; the root's strings are bounded by the API server.
            if path.contains(".conditions[]")
                || path.ends_with(".apiVersion")
                || path.ends_with(".kind") && !path.contains("spec")
            {
                return;
            }
            match node.get("type").and_then(Value::as_str) {
                Some("array") => assert!(node.get("maxItems").is_some(), "{path} has no maxItems"),
                Some("string") => assert!(
                    node.get("maxLength").is_some() || node.get("enum").is_some() || node.get("format").is_some(),
                    "{path} has no maxLength"
                ),
                _ => {}
            }
        });
    }
}

#[test]
fn every_status_names_the_generation_it_observed_and_lists_conditions_by_type() {
    for (kind, schema) in schemas() {
        let status = &schema["properties"]["status"]["properties"];
        assert_eq!(status["observedGeneration"]["type"], "integer", "{kind}");
        assert_eq!(status["conditions"]["x-kubernetes-list-type"], "map", "{kind}");
        assert_eq!(status["conditions"]["x-kubernetes-list-map-keys"][0], "type", "{kind}");
    }
}

#[test]
fn every_definition_has_a_status_subresource_and_an_age_column() {
    for definition in yaml::definitions() {
        let version = &definition.spec.versions[0];
        assert!(version.subresources.as_ref().is_some_and(|subresources| subresources.status.is_some()));
        assert!(version.additional_printer_columns.iter().flatten().any(|column| column.name == "Age"));
    }
}

#[test]
fn nothing_is_ready_before_an_operator_has_looked() {
    for (kind, schema) in schemas() {
        let first = &schema["properties"]["status"]["default"]["conditions"][0];
        assert_eq!((&first["type"], &first["status"]), (&"Ready".into(), &"Unknown".into()), "{kind}");
    }
}
