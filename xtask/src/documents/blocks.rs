//! Commands in documents: each fenced block of them says where it is run, and something runs it there.
//!
//! A block begins with three backticks, `sh`, and a place. Who reads a document copies what is in it; a command that nobody ran is
//! a promise that nobody keeps.

use std::path::Path;

use anyhow::{Context as _, Result};

/// Where blocks are run, and by what.
pub const PLACES: [(&str, &str); 5] = [
    ("xtask", "each line is a command of the project that parses; CI runs them by itself"),
    ("stack", "tests/tests/documents.rs: beside a real API server, operator, gateway and agents on this machine"),
    ("box", "tests/tests/package.rs: as root in a copy of this machine's system"),
    ("box-archive", "tests/tests/package.rs: in another one"),
    ("cluster", "the cluster test: against a real cluster, with this repository as the working directory"),
];

/// Languages in which people write commands for a terminal.
const SHELLS: [&str; 5] = ["bash", "shell", "console", "zsh", "terminal"];
/// What begins a line of commands in a block that names no language.
const COMMANDS: [&str; 10] =
    ["cargo", "kubectl", "helm", "sudo", "systemctl", "docker", "npm", "apt-get", "curl", "depin-gateway"];

/// A block of commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The document, from the workspace's root.
    pub document: String,
    /// The first line of its commands.
    pub line: usize,
    /// Where it is run.
    pub place: String,
    /// The commands.
    pub text: String,
}

/// All blocks that are run at `place`, document by document, in their order.
///
/// # Errors
/// When documents cannot be listed or read.
pub fn blocks(workspace: &Path, place: &str) -> Result<Vec<Block>> {
    let mut found = Vec::new();
    for document in super::listed(workspace)? {
        let path = workspace.join(&document);
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        found.extend(
            fenced(&document, &text).into_iter().filter_map(Fenced::block).filter(|block| block.place == place),
        );
    }
    Ok(found)
}

/// What is wrong with a document's blocks, each with its line.
pub(super) fn wrong(document: &str, text: &str) -> Vec<String> {
    fenced(document, text).iter().filter_map(Fenced::wrong).collect()
}

/// A fenced block of any language.
struct Fenced {
    document: String,
    line: usize,
    language: String,
    place: String,
    text: String,
}

impl Fenced {
    fn block(self) -> Option<Block> {
        let Self { document, line, language, place, text } = self;
        (language == "sh").then_some(Block { document, line, place, text })
    }

    fn wrong(&self) -> Option<String> {
        let line = self.line;
        let places = || PLACES.map(|(place, _)| place).join(", ");
        let language = self.language.as_str();
        if language == "sh" && !PLACES.iter().any(|(place, _)| *place == self.place) {
            return Some(format!("line {line}: commands that nobody runs: write sh and one of {}", places()));
        }
        let commands =
            || self.text.lines().any(|line| COMMANDS.iter().any(|name| line.split(' ').next() == Some(*name)));
        if SHELLS.contains(&language) || (language.is_empty() && commands()) {
            return Some(format!("line {line}: a block of commands is marked as sh, and one of {}", places()));
        }
        None
    }
}

/// A document's fenced blocks.
fn fenced(document: &str, text: &str) -> Vec<Fenced> {
    let mut found = Vec::new();
    let mut open: Option<Fenced> = None;
    for (number, line) in text.lines().enumerate() {
        let Some(info) = line.trim_start().strip_prefix("```") else {
            if let Some(open) = &mut open {
                open.text.push_str(line);
                open.text.push('\n');
            }
            continue;
        };
        match open.take() {
            Some(block) => found.push(block),
            None => {
                let (language, place) = info.trim().split_once(' ').unwrap_or((info.trim(), ""));
                open = Some(Fenced {
                    document: document.to_owned(),
                    line: number + 2,
                    language: language.to_owned(),
                    place: place.trim().to_owned(),
                    text: String::new(),
                });
            }
        }
    }
    found.extend(open);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "# A\n```sh stack\nkubectl get ea\nkubectl depin status\n```\n```yaml\na: 1\n```\n```sh\nls\n```\n";

    #[test]
    fn commands_without_a_place_are_found() {
        let told = |text: &str| wrong("a.md", text);
        let unmarked = told(TEXT);
        assert_eq!(unmarked.len(), 1);
        assert!(unmarked[0].starts_with("line 10: ") && unmarked[0].contains("box-archive"), "{unmarked:?}");
        assert_eq!(told("```sh moon\nls\n```\n").len(), 1);
        assert_eq!(told("```bash\nls\n```\n").len(), 1);
        assert_eq!(told("```\nkubectl get pods\n```\n").len(), 1);
        assert_eq!(told("```\n hardware --> agent\n```\n```text\nkubectl\n```\n").len(), 0);
    }

    #[test]
    fn blocks_have_their_place_line_and_commands() {
        let found: Vec<_> = fenced("a.md", TEXT).into_iter().filter_map(Fenced::block).collect();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].place.as_str(), found[0].line), ("stack", 3));
        assert_eq!(found[0].text, "kubectl get ea\nkubectl depin status\n");
    }
}
