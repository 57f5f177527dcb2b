//! Every manifest passes kube-score, warnings too; what is an exception says why where it stands.

use std::{
    fs,
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use depin_tests::tools::Tools;

use crate::helm::{Helm, folder, values_of};

#[test]
fn every_manifest_passes_kube_score() {
    let Some(helm) = Helm::find() else { return };
    let program = Tools::find().unwrap().kube_score;
    for values in ["everything", "satellite"] {
        let manifests = helm.template(&["-f", &values_of(values)]);
        let mut command = Command::new(&program);
        command.args(["score", "--output-format", "ci", "--kubernetes-version", "v1.36", "--exit-one-on-warning"]);
        // Signatures come in bursts: a limit would delay receipts just when many agents come back, and requests keep the share of others.
        command.args(["--ignore-container-cpu-limit", "-"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(manifests.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let told = String::from_utf8(output.stdout).unwrap();
        let faults: Vec<&str> =
            told.lines().filter(|line| line.starts_with("[CRITICAL]") || line.starts_with("[WARNING]")).collect();
        assert!(faults.is_empty(), "{values}: {faults:#?}");
        assert!(output.status.success(), "{values}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(told.lines().filter(|line| line.starts_with("[OK]")).count() > 10, "{told}");
    }
}

#[test]
fn every_exception_says_why() {
    let mut folders = vec![folder().join("templates")];
    let mut exceptions = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let lines: Vec<&str> = text.lines().collect();
            for (before, line) in lines.iter().zip(lines.iter().skip(1)) {
                if line.contains("kube-score/ignore") {
                    assert!(before.trim_start().starts_with("# kube-score: "), "{}: {line}", path.display());
                    exceptions += 1;
                }
            }
        }
    }
    assert!(exceptions >= 4, "{exceptions}");
}
