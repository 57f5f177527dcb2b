//! Declared dependencies that nothing in their package names.
//!
//! A dependency counts as used when its crate name stands as a word in one of the package's Rust files. That misses what
//! is named only in a comment, and needs no compiler.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{cargo::Cargo, stages::Outcome};

/// Named by code that a derive or a build script of another crate writes, never by ours.
const NAMED_BY_GENERATED_CODE: [&str; 3] = ["prost", "serde", "tonic_prost"];

/// Checks all packages of the workspace.
///
/// # Errors
/// When cargo or a file cannot be read.
pub fn check(cargo: &Cargo) -> Result<Outcome> {
    let output = cargo.command(&["metadata", "--no-deps", "--format-version", "1", "--offline"]).output()?;
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata printed no JSON")?;
    let mut outcome = Outcome::default();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let unused = unused(package)?;
        for name in &unused {
            println!("{} declares {name} and does not use it; remove it from its Cargo.toml", package["name"]);
        }
        outcome.passed += u64::from(unused.is_empty());
        outcome.failed += u64::from(!unused.is_empty());
    }
    Ok(outcome)
}

fn unused(package: &Value) -> Result<Vec<String>> {
    let manifest = Path::new(package["manifest_path"].as_str().unwrap_or_default());
    let mut text = String::new();
    for file in rust_files(manifest.parent().context("a manifest without a folder")?)? {
        text.push_str(&fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?);
    }
    let dependencies = package["dependencies"].as_array().into_iter().flatten();
    let names = dependencies.filter_map(|dependency| {
        let name = dependency["rename"].as_str().or(dependency["name"].as_str())?;
        Some(name.replace('-', "_"))
    });
    Ok(names.filter(|name| !NAMED_BY_GENERATED_CODE.contains(&name.as_str()) && !names_word(&text, name)).collect())
}

fn names_word(text: &str, word: &str) -> bool {
    let part =
        |character: Option<char>| character.is_some_and(|character| character.is_alphanumeric() || character == '_');
    text.match_indices(word).any(|(at, _)| {
        let before = text.get(..at).and_then(|text| text.chars().next_back());
        let after = text.get(at + word.len()..).and_then(|text| text.chars().next());
        !part(before) && !part(after)
    })
}

fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            // A nested package answers for itself.
            if !path.join("Cargo.toml").exists() && !path.ends_with("target") {
                found.extend(rust_files(&path)?);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_words_count() {
        assert!(names_word("use hex::encode;", "hex"));
        assert!(!names_word("use hexagon::encode;", "hex"));
        assert!(!names_word("let my_hex = 1;", "hex"));
        assert!(names_word("use serde_json::Value;", "serde_json"));
        assert!(!names_word("use serde_json::Value;", "serde"));
    }
}
