//! Random trees: root and every proof are those of OpenZeppelin's own package (`tools/merkle`, installed by `cargo xtask test`).

use std::{
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use depin_domain::rewards::{
    Account, Amount,
    merkle::{StandardTree, to_text},
};
use depin_trials::{RngCore as _, below};

#[test]
fn random_trees_are_openzeppelins() {
    let tool = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tools/merkle");
    if Command::new("node").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("skipped: node is not installed (remedy: apt-get install nodejs npm)");
        return;
    }
    if !tool.join("node_modules/@openzeppelin/merkle-tree").exists() {
        println!("skipped: @openzeppelin/merkle-tree is not installed (remedy: npm ci in tools/merkle)");
        return;
    }
    depin_trials::run("trees against OpenZeppelin's", |rng| {
        let trees: Vec<Vec<(Account, Amount)>> = (0..30)
            .map(|_| {
                let leaves = 1 + below(rng, 80);
                (0..leaves).map(|_| leaf(rng)).collect()
            })
            .collect();
        let text = trees.iter().map(|tree| serde_json::to_string(tree).unwrap() + "\n").collect::<String>();
        let mut node = Command::new("node")
            .arg("tree.mjs")
            .current_dir(&tool)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = node.stdin.take().unwrap();
        let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
        let output = node.wait_with_output().unwrap();
        assert!(output.status.success());
        writer.join().unwrap().unwrap();
        let output = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.lines().count(), trees.len());
        for (leaves, line) in trees.iter().zip(output.lines()) {
            let theirs: serde_json::Value = serde_json::from_str(line).unwrap();
            let tree = StandardTree::new(leaves).unwrap();
            assert_eq!(theirs["root"], to_text(&tree.root()));
            let proof = |index| tree.proof(index).unwrap().iter().map(to_text).collect::<Vec<_>>();
            assert_eq!(theirs["proofs"], serde_json::json!((0..leaves.len()).map(proof).collect::<Vec<_>>()));
        }
    });
}

/// Few accounts and amounts among many, so that equal leaves occur.
fn leaf(rng: &mut depin_trials::Rng) -> (Account, Amount) {
    let mut account = [0; 20];
    if below(rng, 4) > 0 {
        account[..8].copy_from_slice(&rng.next_u64().to_be_bytes());
    }
    let amount = match below(rng, 3) {
        0 => u128::from(below(rng, 3)),
        1 => u128::from(rng.next_u64()),
        _ => u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64()),
    };
    (Account(account), Amount(amount))
}
