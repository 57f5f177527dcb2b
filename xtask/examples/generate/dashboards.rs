//! Grafana dashboards from what `charts/dashboards` says of them: titles and queries, in the order in which they stand.

use std::{collections::BTreeMap, error::Error, fs, path::Path};

use serde_json::{Value, json};

/// Of Grafana's grid, which is 24 wide.
const WIDTH: usize = 12;
const HEIGHT: usize = 8;
/// The schema of dashboards that this writes.
const SCHEMA: u32 = 39;

/// Each dashboard's name and JSON.
pub(crate) fn all(folder: &Path) -> Result<BTreeMap<String, String>, Box<dyn Error>> {
    let mut dashboards = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|name| name.to_str()).ok_or("a dashboard has no name")?;
        let said: Value = serde_saphyr::from_str(&fs::read_to_string(&path)?)?;
        let dashboard =
            dashboard(name, &said).ok_or_else(|| format!("{}: title or panels are missing", path.display()))?;
        dashboards.insert(name.to_owned(), serde_json::to_string_pretty(&dashboard)? + "\n");
    }
    Ok(dashboards)
}

fn dashboard(name: &str, said: &Value) -> Option<Value> {
    let (mut panels, mut column, mut line) = (Vec::new(), 0, 0);
    for panel in said["panels"].as_array()? {
        let id = panels.len() + 1;
        if let Some(title) = panel["row"].as_str() {
            line += if column == 0 { 0 } else { HEIGHT };
            column = 0;
            panels.push(json!({
                "id": id, "type": "row", "title": title, "collapsed": false, "panels": [],
                "gridPos": {"h": 1, "w": 2 * WIDTH, "x": 0, "y": line},
            }));
            line += 1;
            continue;
        }
        panels.push(graph(id, panel, column, line)?);
        (column, line) = if column == 0 { (WIDTH, line) } else { (0, line + HEIGHT) };
    }
    Some(json!({
        "uid": format!("depin-{name}"), "title": said["title"].as_str()?, "tags": ["depin"], "schemaVersion": SCHEMA, "version": 1,
        "editable": true, "graphTooltip": 1, "refresh": "30s", "time": {"from": "now-6h", "to": "now"}, "timezone": "browser",
        "templating": {"list": [{
            "name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source", "hide": 0, "refresh": 1,
        }]},
        "panels": panels,
    }))
}

fn graph(id: usize, panel: &Value, column: usize, line: usize) -> Option<Value> {
    let source = json!({"type": "prometheus", "uid": "${datasource}"});
    let mut targets = Vec::new();
    for (letter, (legend, query)) in ('A'..='Z').zip(panel["queries"].as_object()?) {
        targets.push(json!({
            "refId": letter, "datasource": source, "expr": query.as_str()?, "legendFormat": legend, "range": true,
        }));
    }
    Some(json!({
        "id": id, "type": "timeseries", "title": panel["title"].as_str()?, "datasource": source, "targets": targets,
        "gridPos": {"h": HEIGHT, "w": WIDTH, "x": column, "y": line},
        "fieldConfig": {"defaults": {"unit": panel["unit"].as_str()?, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}},
    }))
}
