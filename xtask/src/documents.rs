//! What the documents say about the tree holds: linked files exist, and `cargo xtask …` lines are commands.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;

use crate::{Arguments, stages::Outcome};

/// Checks every Markdown file that git knows.
///
/// # Errors
/// When git or a file cannot be read.
pub fn check(workspace: &Path) -> Result<Outcome> {
    let listed = Command::new("git").args(["ls-files", "-z", "*.md"]).current_dir(workspace).output();
    let listed = listed.context("cannot run git")?;
    let mut outcome = Outcome::default();
    for name in String::from_utf8_lossy(&listed.stdout).split('\0').filter(|name| !name.is_empty()) {
        let path = workspace.join(name);
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let wrong: Vec<String> = broken_links(&text, path.parent().unwrap_or(workspace))
            .into_iter()
            .map(|link| format!("links to {link}, which does not exist"))
            .chain(unknown_commands(&text).into_iter().map(|line| format!("names `{line}`, which is no command")))
            .collect();
        wrong.iter().for_each(|wrong| println!("{name} {wrong}"));
        outcome.passed += u64::from(wrong.is_empty());
        outcome.failed += u64::from(!wrong.is_empty());
    }
    Ok(outcome)
}

fn broken_links(text: &str, folder: &Path) -> Vec<String> {
    let mut links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect::<Vec<_>>();
    links.retain(|link| !link.contains("://") && !link.starts_with('#') && !link.starts_with("mailto:"));
    // The API reference quotes patterns, in which a bracket may also be followed by a parenthesis.
    links.retain(|link| !link.contains(['\\', '[', '{']));
    let exists = |link: &&str| folder.join(link.split('#').next().unwrap_or(link)).exists();
    links.into_iter().filter(|link| !exists(link)).map(str::to_owned).collect()
}

/// Only lines of fenced code blocks: prose may talk of commands to come.
fn unknown_commands(text: &str) -> Vec<String> {
    let mut fenced = false;
    let mut unknown = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            continue;
        }
        let Some(command) = line.trim().trim_start_matches("$ ").strip_prefix("cargo xtask ").filter(|_| fenced) else {
            continue;
        };
        let command = command.split(" #").next().unwrap_or(command);
        let words = std::iter::once("cargo xtask").chain(command.split_whitespace());
        if let Err(error) = Arguments::command().try_get_matches_from(words)
            && error.use_stderr()
        {
            unknown.push(line.trim().to_owned());
        }
    }
    unknown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_in_code_blocks_must_parse() {
        let text =
            "cargo xtask fly\n```sh\ncargo xtask test # all\ncargo xtask fly\n$ cargo xtask generate --check\n```\n";
        assert_eq!(unknown_commands(text), ["cargo xtask fly"]);
    }

    #[test]
    fn links_must_lead_somewhere() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("there.md"), "").unwrap();
        let text = "[a](there.md#part) [b](gone.md) [c](https://example.org/x) [d](#here)";
        assert_eq!(broken_links(text, folder.path()), ["gone.md"]);
    }
}
