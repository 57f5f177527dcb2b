//! What the documents say about the tree holds: links lead somewhere, `cargo xtask …` lines are commands, and each block of commands says
//! where it is run.

mod blocks;
mod links;

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};
pub use blocks::{Block, PLACES, blocks};
use clap::CommandFactory as _;

use crate::{Arguments, stages::Outcome};

/// Checks every Markdown file that git knows.
///
/// # Errors
/// When git or a file cannot be read.
pub fn check(workspace: &Path) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    for name in listed(workspace)? {
        let path = workspace.join(&name);
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let wrong: Vec<String> = links::broken(&text, path.parent().unwrap_or(workspace))
            .into_iter()
            .map(|link| format!("links to {link}, which does not exist"))
            .chain(blocks::wrong(&name, &text))
            .chain(unknown_commands(&text).into_iter().map(|line| format!("names `{line}`, which is no command")))
            .collect();
        wrong.iter().for_each(|wrong| println!("{name} {wrong}"));
        outcome.passed += u64::from(wrong.is_empty());
        outcome.failed += u64::from(!wrong.is_empty());
    }
    Ok(outcome)
}

/// All Markdown files that git knows or is about to know.
fn listed(workspace: &Path) -> Result<Vec<String>> {
    let arguments = ["ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.md"];
    let listed = Command::new("git").args(arguments).current_dir(workspace).output().context("cannot run git")?;
    let names = String::from_utf8_lossy(&listed.stdout).into_owned();
    Ok(names.split('\0').filter(|name| !name.is_empty() && workspace.join(name).exists()).map(str::to_owned).collect())
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
}
