//! What the programs are made of, in SPDX: every crate of the lock file that they link.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::PRODUCT;
use crate::cargo::Cargo;

/// The bill of materials of all programs in the images, as SPDX 2.3 JSON. The same lock file gives the same text.
///
/// # Errors
/// When cargo cannot tell what the workspace depends on.
pub(super) fn write(cargo: &Cargo, target: &str) -> Result<String> {
    let output =
        cargo.command(&["metadata", "--format-version=1", "--locked", "--filter-platform", target]).output()?;
    anyhow::ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim());
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata printed no JSON")?;
    document(&metadata)
}

fn document(metadata: &Value) -> Result<String> {
    let list = |value: &Value, key: &str| value.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let nodes = metadata.get("resolve").map(|resolve| list(resolve, "nodes")).unwrap_or_default();
    let packages = list(metadata, "packages");
    let mut waiting: Vec<String> = packages
        .iter()
        .filter(|package| PRODUCT.iter().any(|(_, program)| text(package, "name") == *program))
        .map(|package| text(package, "id"))
        .collect();
    anyhow::ensure!(waiting.len() == PRODUCT.len(), "the workspace lacks one of {PRODUCT:?}");
    let mut linked = BTreeSet::new();
    while let Some(id) = waiting.pop() {
        if !linked.insert(id.clone()) {
            continue;
        }
        let node = nodes.iter().find(|node| text(node, "id") == id).context("a package without a node")?;
        // What only builds or tests link is in no image.
        let normal = |dependency: &&Value| {
            list(dependency, "dep_kinds").iter().any(|kind| kind.get("kind").is_some_and(Value::is_null))
        };
        waiting.extend(list(node, "deps").iter().filter(normal).map(|dependency| text(dependency, "pkg")));
    }
    let described: Vec<Value> = packages
        .iter()
        .filter(|package| linked.contains(&text(package, "id")))
        .map(|package| {
            let (name, version) = (text(package, "name"), text(package, "version"));
            json!({
                "SPDXID": format!("SPDXRef-{name}-{version}").replace(['_', '+'], "-"),
                "name": name, "versionInfo": version, "downloadLocation": "NOASSERTION", "filesAnalyzed": false,
                "licenseConcluded": "NOASSERTION", "licenseDeclared": text(package, "license").replace('/', " OR "), "copyrightText": "NOASSERTION",
                "externalRefs": [{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": format!("pkg:cargo/{name}@{version}")}],
            })
        })
        .collect();
    let relations: Vec<Value> = described
        .iter()
        .map(|package| json!({"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": package["SPDXID"]}))
        .collect();
    let document = json!({
        "spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT", "name": "depin-operator",
        "documentNamespace": format!("https://depin.dev/spdx/depin-operator-{}", env!("CARGO_PKG_VERSION")),
        "creationInfo": {"created": "1970-01-01T00:00:00Z", "creators": ["Tool: cargo-xtask-images"]},
        "packages": described, "relationships": relations,
    });
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str) -> Value {
        json!({"id": name, "name": name, "version": "1.0.0", "license": "MIT/Apache-2.0"})
    }

    fn node(id: &str, dependencies: &[(&str, Option<&str>)]) -> Value {
        let dependencies: Vec<Value> =
            dependencies.iter().map(|(name, kind)| json!({"pkg": name, "dep_kinds": [{"kind": kind}]})).collect();
        json!({"id": id, "deps": dependencies})
    }

    #[test]
    fn what_is_linked_is_listed_and_nothing_else() {
        let mut packages: Vec<Value> = PRODUCT.iter().map(|(_, program)| package(program)).collect();
        packages.extend(["linked", "deep", "builds", "tests", "stranger"].map(package));
        let mut nodes: Vec<Value> = PRODUCT.iter().map(|(_, program)| node(program, &[("linked", None)])).collect();
        nodes.push(node("linked", &[("deep", None), ("builds", Some("build")), ("tests", Some("dev"))]));
        nodes.extend(["deep", "builds", "tests", "stranger"].map(|name| node(name, &[])));
        let text = document(&json!({"packages": packages, "resolve": {"nodes": nodes}})).unwrap();
        let document: Value = serde_json::from_str(&text).unwrap();
        let names: Vec<&str> =
            document["packages"].as_array().unwrap().iter().map(|package| package["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["depin-operator", "depin-gateway", "depin-agent", "kubectl-depin", "linked", "deep"]);
        assert_eq!(document["packages"][4]["licenseDeclared"], "MIT OR Apache-2.0");
    }
}
