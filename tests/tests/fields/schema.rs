//! The definitions as they are committed: their fields, and values that each field's schema speaks against.

use std::{collections::BTreeSet, fs};

use depin_tests::workspace;
use serde_json::{Value, json};

/// One kind.
#[derive(Clone, Debug)]
pub(crate) struct Definition {
    pub(crate) kind: String,
    pub(crate) plural: String,
    pub(crate) namespaced: bool,
    spec: Value,
}

/// A value that the schema speaks against.
#[derive(Clone, Debug)]
pub(crate) struct Against {
    /// Where it is put, below the spec.
    pub(crate) pointer: String,
    /// How the API server names the field.
    pub(crate) path: String,
    pub(crate) value: Value,
}

/// All kinds of `crds/yaml`.
pub(crate) fn definitions() -> Vec<Definition> {
    let files = fs::read_dir(workspace().join("crds/yaml")).unwrap().map(|file| file.unwrap().path());
    let definitions = files.map(|path| {
        let file: Value = serde_saphyr::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let text = |pointer: &str| file.pointer(pointer).and_then(Value::as_str).unwrap().to_owned();
        let schema = file.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec");
        Definition {
            kind: text("/spec/names/kind"),
            plural: text("/spec/names/plural"),
            namespaced: text("/spec/scope") == "Namespaced",
            spec: schema.unwrap_or_else(|| panic!("{} has no spec", path.display())).clone(),
        }
    });
    definitions.collect()
}

impl Definition {
    /// Paths of all fields that hold a value and no further fields: `spec.sources[].topic`.
    pub(crate) fn fields(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        fields(&self.spec, "spec", &mut found);
        found
    }

    /// Values that the schema of each field speaks against, of those that hold further fields too.
    pub(crate) fn against(&self) -> Vec<Against> {
        let mut found = Vec::new();
        for (name, schema) in members(&self.spec) {
            let required = requires(&self.spec, name);
            against(schema, &format!("/{name}"), &format!("spec.{name}"), required, &mut found);
        }
        found
    }
}

fn members(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema["properties"].as_object().into_iter().flatten()
}

fn requires(schema: &Value, name: &str) -> bool {
    schema["required"].as_array().into_iter().flatten().any(|required| required == name)
}

fn fields(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    match schema["type"].as_str().unwrap_or_else(|| panic!("{path} has no type")) {
        "object" => members(schema).for_each(|(name, member)| fields(member, &format!("{path}.{name}"), found)),
        "array" => fields(&schema["items"], &format!("{path}[]"), found),
        _ => drop(found.insert(path.to_owned())),
    }
}

fn against(schema: &Value, pointer: &str, path: &str, required: bool, found: &mut Vec<Against>) {
    let values = match schema["type"].as_str().unwrap_or_default() {
        "string" => against_text(schema),
        "integer" => against_number(schema),
        "boolean" => vec![json!("perhaps")],
        "array" => against_list(schema),
        _ => vec![json!("a text")],
    };
    let absent = required.then_some(Value::Null);
    found.extend(values.into_iter().chain(absent).map(|value| Against {
        pointer: pointer.to_owned(),
        path: path.to_owned(),
        value,
    }));
    for (name, member) in members(schema) {
        against(member, &format!("{pointer}/{name}"), &format!("{path}.{name}"), requires(schema, name), found);
    }
    if schema["items"].is_object() {
        against(&schema["items"], &format!("{pointer}/0"), &format!("{path}[0]"), false, found);
    }
}

fn against_text(schema: &Value) -> Vec<Value> {
    let mut values = vec![json!(7)];
    if schema["enum"].is_array() || schema["pattern"].is_string() {
        // No pattern and no list of words here has letters beyond ASCII.
        values.push(json!("ünknöwn"));
    }
    if schema["format"] == "date-time" {
        values.push(json!("yesterday"));
    }
    if schema["minLength"].as_u64().is_some_and(|least| least > 0) {
        values.push(json!(""));
    }
    if let Some(most) = schema["maxLength"].as_u64() {
        values.push(json!("a".repeat(usize::try_from(most).unwrap() + 1)));
    }
    values
}

fn against_number(schema: &Value) -> Vec<Value> {
    let bound = |name: &str| schema[name].as_f64().map(|bound| bound as i64);
    let mut values = vec![json!("seven"), json!(1.5)];
    values.extend(bound("minimum").map(|least| json!(least - 1)));
    values.extend(bound("maximum").map(|most| json!(most + 1)));
    values
}

fn against_list(schema: &Value) -> Vec<Value> {
    let mut values = vec![json!("a text")];
    if schema["minItems"].as_u64().is_some_and(|least| least > 0) {
        values.push(json!([]));
    }
    if let Some(most) = schema["maxItems"].as_u64() {
        values.push(Value::Array(vec![json!("x"); usize::try_from(most).unwrap() + 1]));
    }
    values
}
