//! The table of mutations: for each field of each kind, values that it may have and how the state follows, and values that it may not have
//! and who says so.
//!
//! One file a kind, in `table/`. A text may hold `$N` (a number that no other round has), `$KEY` (an Ed25519 key), `$P256` (a key on that
//! curve), `$DIGEST` (64 digits) and `$TOMORROW`: each is made anew for each value, and is the same wherever it stands in it.

use std::{collections::BTreeMap, fs};

use depin_tests::workspace;
use serde::Deserialize;
use serde_json::Value;

/// One kind's part of the table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Table {
    pub(crate) kind: String,
    /// Name of the object that is changed and changed back.
    pub(crate) live: String,
    /// Spec of an object that is made for one value and deleted again.
    #[serde(default)]
    pub(crate) base: Value,
    /// Whether the agent must confirm what the registry has of it.
    #[serde(default)]
    pub(crate) confirmed: bool,
    pub(crate) fields: Vec<Field>,
}

/// One field.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Field {
    pub(crate) field: String,
    /// Another object than the table's.
    pub(crate) live: Option<String>,
    /// Another spec than the table's.
    pub(crate) base: Option<Value>,
    #[serde(default)]
    pub(crate) valid: Vec<Valid>,
    #[serde(default)]
    pub(crate) wrong: Vec<Wrong>,
}

/// Values by pointer below a spec; null takes away.
pub(crate) type Changes = BTreeMap<String, Value>;

/// A value that the field may have, and how the state follows. Always `Ready` follows, and `observedGeneration`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Valid {
    pub(crate) set: Changes,
    /// The value is that of an object that is made with it, since no object that is there may take it.
    pub(crate) new: bool,
    /// What the registry has then: by pointer in the object's entry, or `KIND/NAME:POINTER`. Null: nothing is there.
    pub(crate) registry: Changes,
    /// What a status has then, its conditions by their type.
    pub(crate) status: Changes,
    /// Status of the condition `Ready` that is right then; else True.
    pub(crate) ready: Option<String>,
    /// A part of a condition's message, by the condition's type.
    pub(crate) says: BTreeMap<String, String>,
    /// What becomes of a device that is heard for the first time.
    pub(crate) heard: Option<Heard>,
    /// A ServiceAccount of the namespace by which an agent comes in.
    pub(crate) admits: Option<String>,
    /// The object is let in and goes.
    pub(crate) goes: bool,
}

/// A device that speaks for the first time.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Heard {
    pub(crate) serial: String,
    /// The kind that is made of it.
    pub(crate) becomes: String,
}

/// A value that the field may not have. Exactly one of the answers is expected.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Wrong {
    pub(crate) set: Changes,
    /// See [`Valid::new`].
    pub(crate) new: bool,
    /// The API server refuses it in these words.
    pub(crate) refused: Option<String>,
    /// The condition `Ready` is False and its message names this field.
    pub(crate) told: Option<String>,
    /// The condition `Ready` is Unknown and its message names this field.
    pub(crate) waits: Option<String>,
}

/// The whole table.
pub(crate) fn tables() -> Vec<Table> {
    let files = fs::read_dir(workspace().join("tests/tests/fields/table")).unwrap();
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    let read = |path: &std::path::PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    paths.iter().map(read).collect()
}

/// What the placeholders stand for in one value.
#[derive(Clone, Debug)]
pub(crate) struct Fresh(pub(crate) Vec<(&'static str, String)>);

impl Fresh {
    pub(crate) fn text(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value))
    }

    pub(crate) fn value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.text(text)),
            Value::Array(items) => items.iter().map(|item| self.value(item)).collect(),
            Value::Object(members) => {
                members.iter().map(|(name, member)| (self.text(name), self.value(member))).collect()
            }
            other => other.clone(),
        }
    }

    pub(crate) fn changes(&self, changes: &Changes) -> Changes {
        changes.iter().map(|(pointer, value)| (self.text(pointer), self.value(value))).collect()
    }
}
