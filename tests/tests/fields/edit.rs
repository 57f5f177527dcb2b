//! Changes of a spec: a value at a pointer, and the merge patch between two specs.

use serde_json::{Map, Value};

/// Puts `value` at `pointer` and makes what is missing on the way; null takes the member away, or the element of a list.
pub(crate) fn set(spec: &mut Value, pointer: &str, value: Value) {
    let (step, rest) = match pointer.strip_prefix('/').map(|path| path.split_once('/')) {
        Some(Some((step, rest))) => (step, Some(format!("/{rest}"))),
        Some(None) => (&pointer[1..], None),
        None => panic!("{pointer:?} is not a pointer"),
    };
    match (step.parse::<usize>(), rest) {
        (Ok(place), rest) => {
            if !spec.is_array() {
                *spec = Value::Array(Vec::new());
            }
            let Value::Array(items) = spec else { unreachable!("it was made one") };
            assert!(place <= items.len(), "{pointer}: the list has {} elements", items.len());
            match rest {
                None if value.is_null() => drop(items.remove(place)),
                rest => {
                    if place == items.len() {
                        items.push(Value::Null);
                    }
                    put(&mut items[place], rest, value);
                }
            }
        }
        (Err(_), rest) => {
            if !spec.is_object() {
                *spec = Value::Object(Map::new());
            }
            let Value::Object(members) = spec else { unreachable!("it was made one") };
            match rest {
                None if value.is_null() => drop(members.remove(step)),
                rest => put(members.entry(step).or_insert(Value::Null), rest, value),
            }
        }
    }
}

fn put(place: &mut Value, rest: Option<String>, value: Value) {
    match rest {
        Some(rest) => set(place, &rest, value),
        None => *place = value,
    }
}

/// The JSON merge patch (RFC 7396) that makes `to` of `from`.
pub(crate) fn difference(from: &Value, to: &Value) -> Value {
    let (Value::Object(before), Value::Object(after)) = (from, to) else { return to.clone() };
    let gone = before.keys().filter(|name| !after.contains_key(*name)).map(|name| (name.clone(), Value::Null));
    let changed = after.iter().filter(|(name, value)| before.get(*name) != Some(value)).map(|(name, value)| {
        let patch = match before.get(name) {
            Some(old @ Value::Object(_)) => difference(old, value),
            _ => value.clone(),
        };
        (name.clone(), patch)
    });
    Value::Object(gone.chain(changed).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_is_put_where_the_pointer_says_and_taken_away_again() {
        let mut spec = json!({"a": [{"b": 1, "c": 2}]});
        set(&mut spec, "/a/0/b", json!("x"));
        set(&mut spec, "/a/0/c", Value::Null);
        set(&mut spec, "/a/1/d/e", json!(true));
        set(&mut spec, "/f/g/0", json!(7));
        assert_eq!(spec, json!({"a": [{"b": "x"}, {"d": {"e": true}}], "f": {"g": [7]}}));
        set(&mut spec, "/a/0", Value::Null);
        assert_eq!(spec["a"], json!([{"d": {"e": true}}]));
    }

    #[test]
    fn a_merge_patch_leads_from_one_spec_to_the_other() {
        let from = json!({"a": {"b": 1, "c": 2}, "d": [1, 2], "e": 3});
        let to = json!({"a": {"b": 1, "x": 2}, "d": [1]});
        assert_eq!(difference(&from, &to), json!({"a": {"c": null, "x": 2}, "d": [1], "e": null}));
        assert_eq!(difference(&from, &from), json!({}));
    }
}
