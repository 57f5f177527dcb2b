//! values.yaml as what it says for people and for Helm: the table in the chart's README, and values.schema.json.
//!
//! A comment above a key describes it; a line `@schema` in it, with JSON or the name of one of [`DEFINITIONS`], says more than the default's
//! type does. A value that is a map or a list by itself stands in one line, so that every other line is a key of the chart's.

use std::{error::Error, fmt::Write as _};

use serde_json::{Map, Value, json};

/// What several values are, by the name that `@schema` uses.
const DEFINITIONS: [&str; 6] = ["strings", "labels", "objects", "resources", "affinity", "agentSettings"];
/// Settings of an agent that the chart itself gives, as flags.
const GIVEN: [&str; 8] =
    ["gateway", "gateways", "stateDir", "name", "joinTokenFile", "serviceAccountTokenFile", "fleets", "gatewayCaFile"];

/// One key.
#[derive(Debug)]
pub(crate) struct Node {
    name: String,
    description: String,
    schema: Option<String>,
    /// A leaf's default; `None`: it has keys of its own.
    default: Option<Value>,
    children: Vec<Node>,
}

/// Reads the file: all keys below a nameless root.
pub(crate) fn parse(text: &str) -> Result<Node, Box<dyn Error>> {
    let root =
        Node { name: String::new(), description: String::new(), schema: None, default: None, children: Vec::new() };
    let mut open = vec![root];
    let mut comment: Vec<&str> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let (indent, content) = (line.len() - line.trim_start().len(), line.trim());
        if content.is_empty() {
            comment.clear();
            continue;
        }
        if let Some(words) = content.strip_prefix('#') {
            comment.push(words.trim());
            continue;
        }
        let wrong = |why: &str| format!("values.yaml, line {}: {why}", number + 1);
        let (name, value) =
            content.split_once(':').ok_or_else(|| wrong("is no key; write lists and maps of a value in one line"))?;
        let depth = indent / 2 + 1;
        if indent % 2 != 0 || depth > open.len() {
            return Err(wrong("is indented by other than two spaces").into());
        }
        close(&mut open, depth);
        let default = match value.trim() {
            "" => None,
            value => Some(serde_saphyr::from_str(value).map_err(|error| wrong(&error.to_string()))?),
        };
        let schema = comment.iter().find_map(|line| line.strip_prefix("@schema ")).map(str::to_owned);
        comment.retain(|line| !line.starts_with("@schema "));
        let node =
            Node { name: name.to_owned(), description: comment.join(" "), schema, default, children: Vec::new() };
        comment.clear();
        open.push(node);
    }
    close(&mut open, 1);
    let root = open.pop().ok_or("values.yaml is empty")?;
    let read: Value = serde_saphyr::from_str(text)?;
    if root.value() != read {
        return Err("values.yaml is not understood line by line: write it as its other lines are".into());
    }
    Ok(root)
}

/// Ends all nodes deeper than `depth`.
fn close(open: &mut Vec<Node>, depth: usize) {
    while open.len() > depth {
        let Some(done) = open.pop() else { return };
        if let Some(parent) = open.last_mut() {
            parent.children.push(done);
        }
    }
}

impl Node {
    fn value(&self) -> Value {
        match &self.default {
            Some(value) => value.clone(),
            None => self.children.iter().map(|child| (child.name.clone(), child.value())).collect::<Map<_, _>>().into(),
        }
    }

    /// The value at `path`, if there is one.
    pub(crate) fn at(&self, path: &[&str]) -> Option<Value> {
        path.iter().try_fold(self, |node, name| node.children.iter().find(|child| child.name == *name)).map(Self::value)
    }

    /// All keys that hold an image, with their components.
    pub(crate) fn images(&self) -> Vec<(&str, Value)> {
        self.children.iter().filter_map(|child| Some((child.name.as_str(), child.at(&["image"])?))).collect()
    }

    /// The README's table.
    pub(crate) fn table(&self) -> Result<String, std::fmt::Error> {
        let mut text = "| Value | Default | Meaning |\n|---|---|---|\n".to_owned();
        for child in &self.children {
            child.rows("", &mut text)?;
        }
        Ok(text)
    }

    fn rows(&self, prefix: &str, text: &mut String) -> std::fmt::Result {
        let path = format!("{prefix}{}", self.name);
        let meaning = self.description.replace('|', "\\|");
        match &self.default {
            Some(default) => {
                writeln!(text, "| `{path}` | `{}` | {meaning} |", default.to_string().replace('|', "\\|"))?
            }
            None if meaning.is_empty() => {}
            None => writeln!(text, "| `{path}` | | {meaning} |")?,
        }
        self.children.iter().try_for_each(|child| child.rows(&format!("{path}."), text))
    }

    /// values.schema.json, which knows every key and no other. `settings` is an agent's settings file with everything in it.
    pub(crate) fn schema(&self, settings: &Value) -> Result<String, Box<dyn Error>> {
        let mut schema = self.described("")?;
        schema["$schema"] = "http://json-schema.org/draft-07/schema#".into();
        schema["title"] = "Values of the chart depin-operator".into();
        schema["definitions"] = definitions(settings);
        // Helm shares these with all charts that are installed together: others' keys are none of our business.
        schema["properties"]["global"]["additionalProperties"] = true.into();
        Ok(serde_json::to_string_pretty(&schema)? + "\n")
    }

    fn described(&self, path: &str) -> Result<Value, Box<dyn Error>> {
        let mut schema = match &self.default {
            Some(default) => self.leaf(path, default)?,
            None => {
                let mut properties = Map::new();
                for child in &self.children {
                    properties.insert(child.name.clone(), child.described(&format!("{path}.{}", child.name))?);
                }
                json!({"type": "object", "additionalProperties": false, "properties": properties})
            }
        };
        // Beside a reference draft 7 reads nothing else.
        if !self.description.is_empty() && schema.get("$ref").is_none() {
            schema["description"] = self.description.clone().into();
        }
        Ok(schema)
    }

    fn leaf(&self, path: &str, default: &Value) -> Result<Value, Box<dyn Error>> {
        let kind = match default {
            Value::Null => return Err(format!("{path}: has no default").into()),
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.is_f64() => "number",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let mut schema = json!({"type": kind});
        match self.schema.as_deref() {
            None if matches!(default, Value::Array(_) | Value::Object(_)) => {
                return Err(format!("{path}: say with @schema what it may hold, one of {DEFINITIONS:?} or JSON").into());
            }
            None => {}
            Some(name) if DEFINITIONS.contains(&name) => return Ok(json!({"$ref": format!("#/definitions/{name}")})),
            Some(text) => {
                let more: Map<String, Value> =
                    serde_json::from_str(text).map_err(|error| format!("{path}: @schema: {error}"))?;
                more.into_iter().for_each(|(key, value)| schema[key] = value);
            }
        }
        Ok(schema)
    }
}

fn definitions(settings: &Value) -> Value {
    let quantities = json!({"type": "object", "additionalProperties": {"type": ["string", "number"]}});
    let object = json!({"type": "object"});
    let mut agent = shape(settings);
    if let Some(properties) = agent["properties"].as_object_mut() {
        properties.retain(|name, _| !GIVEN.contains(&name.as_str()));
    }
    json!({
        "strings": {"type": "array", "items": {"type": "string", "minLength": 1}},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "objects": {"type": "array", "items": object},
        "resources": {
            "type": "object", "additionalProperties": false,
            "properties": {"requests": quantities, "limits": quantities, "claims": {"type": "array", "items": object}},
        },
        "affinity": {
            "type": "object", "additionalProperties": false,
            "properties": {"nodeAffinity": object, "podAffinity": object, "podAntiAffinity": object},
        },
        "agentSettings": agent,
    })
}

/// The schema of values that look like this one and have no key that it lacks.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let properties: Map<_, _> = fields.iter().map(|(name, field)| (name.clone(), shape(field))).collect();
            json!({"type": "object", "additionalProperties": false, "properties": properties})
        }
        Value::Array(items) => json!({"type": "array", "items": items.first().map_or(json!({}), shape)}),
        Value::Number(_) => json!({"type": "integer"}),
        Value::Bool(_) => json!({"type": "boolean"}),
        Value::String(_) | Value::Null => json!({"type": "string"}),
    }
}
