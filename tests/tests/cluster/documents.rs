//! What the documents tell people to type on a cluster, typed: each block of commands that is marked `sh cluster`.

use std::{
    collections::BTreeSet,
    os::unix::fs::symlink,
    process::{Command, Stdio},
};

use depin_tests::{programs, workspace};
use xtask::{
    documents::{Block, blocks},
    nodes::HUB,
};

use crate::installation::Installation;

/// In this order they fit together, beginning without a release: the ones of a document in their own.
const ORDER: [(&str, After); 3] = [
    ("docs/quickstart.md", After::Stays),
    ("docs/upgrade.md", After::IsRemoved),
    ("docs/installation.md", After::RemovedItself),
];

/// What becomes of the release after a document's commands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    Stays,
    IsRemoved,
    RemovedItself,
}

/// Types them all. No release is there, before and after.
pub(crate) fn what_documents_tell_people_to_type_works(installation: &Installation) {
    let blocks = blocks(&workspace(), "cluster").unwrap();
    let documents: BTreeSet<&str> = blocks.iter().map(|block| block.document.as_str()).collect();
    assert_eq!(documents, ORDER.iter().map(|(document, _)| *document).collect());
    for (document, after) in ORDER {
        for block in blocks.iter().filter(|block| block.document == document) {
            run(installation, block);
        }
        if after == After::IsRemoved {
            installation.uninstall();
        }
    }
}

fn run(installation: &Installation, block: &Block) {
    let bin = installation.dir.path().join("bin");
    if !bin.is_dir() {
        std::fs::create_dir(&bin).unwrap();
        for tool in ["kubectl", "helm"] {
            symlink(installation.nodes.tool(tool).unwrap(), bin.join(tool)).unwrap();
        }
    }
    let outer = std::env::var_os("PATH").unwrap();
    let path = [bin, programs().unwrap()].into_iter().chain(std::env::split_paths(&outer));
    let home = installation.dir.path().join("home");
    let mut shell: Command = installation.nodes.command(HUB, "sh".as_ref()).unwrap();
    shell.args(["-eu", "-c", &block.text]).current_dir(workspace()).env("HOME", home).stdin(Stdio::null());
    let output = shell.env("PATH", std::env::join_paths(path).unwrap()).output().unwrap();
    assert!(
        output.status.success(),
        "{}:{}: {}\n{}{}{}",
        block.document,
        block.line,
        output.status,
        block.text,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
