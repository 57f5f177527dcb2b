//! What the Helm chart holds of things that have their source elsewhere in the tree, or in its own values.yaml.

use std::{
    collections::BTreeMap,
    error::Error,
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{
    dashboards,
    values::{self, Node},
};

/// The chart's folder in the tree.
const CHART: &str = "charts/depin-operator";
/// Between these lines the README's table of values is written.
const TABLE: [&str; 2] =
    ["<!-- Values: generated from values.yaml by `cargo xtask generate`. -->\n", "<!-- End of values. -->\n"];

/// Where the chart keeps its copy of the CRDs.
pub(crate) fn definitions() -> PathBuf {
    Path::new(CHART).join("generated/crds")
}

/// Path in the tree and text of each of the chart's generated files but the CRDs.
pub(crate) fn files(root: &Path) -> Result<BTreeMap<PathBuf, String>, Box<dyn Error>> {
    let chart = Path::new(CHART);
    let read = |path: PathBuf| fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()));
    let values = values::parse(&read(root.join(chart).join("values.yaml"))?)?;
    let about: Value = serde_saphyr::from_str(&read(root.join(chart).join("Chart.yaml"))?)?;
    let version = about["appVersion"].as_str().ok_or("Chart.yaml has no appVersion")?;
    let settings = every_setting(&read(root.join("agent/agent.example.yaml"))?)?;
    let readme = read(root.join(chart).join("README.md"))?;
    let mut files = BTreeMap::from([
        (chart.join("generated/operator-rbac.yaml"), read(root.join("operator/rbac.yaml"))?),
        (chart.join("values.schema.json"), values.schema(&settings)?),
        (chart.join("README.md"), with_table(&readme, &values.table()?)?),
        (chart.join("images.txt"), images(&values, version)?),
    ]);
    for (name, text) in dashboards::all(&root.join("charts/dashboards"))? {
        files.insert(chart.join("dashboards").join(name + ".json"), text);
    }
    Ok(files)
}

/// An agent's settings file with the lines that stand behind a `#`.
fn every_setting(example: &str) -> Result<Value, Box<dyn Error>> {
    let all: String = example.lines().map(|line| format!("{}\n", line.strip_prefix('#').unwrap_or(line))).collect();
    Ok(serde_saphyr::from_str(&all)?)
}

fn with_table(readme: &str, table: &str) -> Result<String, Box<dyn Error>> {
    let [begin, end] = TABLE;
    let (head, rest) = readme.split_once(begin).ok_or("the chart's README lacks the line before its values")?;
    let (_, tail) = rest.split_once(end).ok_or("the chart's README lacks the line after its values")?;
    Ok(format!("{head}{begin}\n{table}\n{end}{tail}"))
}

/// Every image that the chart may run, one a line: what a registry without the internet must hold.
fn images(values: &Node, version: &str) -> Result<String, Box<dyn Error>> {
    let registry = values.at(&["global", "imageRegistry"]).ok_or("values.yaml has no global.imageRegistry")?;
    let mut lines = Vec::new();
    for (component, image) in values.images() {
        let text = |field: &str| image[field].as_str().filter(|text| !text.is_empty());
        let registry = text("registry").or(registry.as_str()).ok_or("global.imageRegistry is no text")?;
        let repository = text("repository").ok_or_else(|| format!("{component}.image.repository is missing"))?;
        lines.push(match text("digest") {
            Some(digest) => format!("{registry}/{repository}@{digest}\n"),
            None => format!("{registry}/{repository}:{}\n", text("tag").unwrap_or(version)),
        });
    }
    lines.sort();
    Ok(lines.concat())
}
