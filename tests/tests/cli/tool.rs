//! The program under test, run as a person runs it.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use depin_tests::{Cluster, Stack, programs};
use serde_json::Value;

/// What a run gave.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) errors: String,
}

/// `kubectl-depin` with an environment of its own.
#[derive(Clone, Debug)]
pub(crate) struct Tool {
    program: PathBuf,
    environment: Vec<(String, String)>,
}

impl Tool {
    /// Knows neither cluster nor ledger.
    pub(crate) fn bare() -> Self {
        Self { program: programs().unwrap().join("kubectl-depin"), environment: Vec::new() }
    }

    /// An administrator's: the cluster by KUBECONFIG, the ledger by DEPIN_LEDGER. The proxy answers nobody: as with kubectl, what
    /// listens on loopback is reached without it.
    pub(crate) fn administrator(cluster: &Cluster, stack: &Stack) -> Self {
        let kubeconfig = cluster.kubeconfig().display().to_string();
        let tool = Self::bare().with("KUBECONFIG", &kubeconfig).with("DEPIN_LEDGER", &stack.ledger());
        tool.with("HTTPS_PROXY", "http://127.0.0.1:9").with("NO_PROXY", "")
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs it with the words of `line`.
    pub(crate) fn run(&self, line: &str) -> Run {
        let mut command = Command::new(&self.program);
        command.args(line.split_whitespace());
        self.finish(command)
    }

    /// Runs a line of shell.
    pub(crate) fn shell(&self, line: &str) -> Run {
        let mut command = Command::new("sh");
        command.args(["-c", line]);
        self.finish(command)
    }

    fn finish(&self, mut command: Command) -> Run {
        for name in ["KUBECONFIG", "DEPIN_LEDGER", "KUBERNETES_SERVICE_HOST"] {
            command.env_remove(name);
        }
        // No kubeconfig of whoever runs the test.
        command.env("HOME", "/nonexistent").envs(self.environment.iter().cloned()).stdin(Stdio::null());
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Run { code: output.status.code().unwrap_or(-1), out: text(output.stdout), errors: text(output.stderr) }
    }

    /// What it prints; it must end well.
    #[track_caller]
    pub(crate) fn text(&self, line: &str) -> String {
        let run = self.run(line);
        assert_eq!(run.code, 0, "kubectl depin {line}: {}{}", run.errors, run.out);
        run.out
    }

    /// The same as JSON.
    #[track_caller]
    pub(crate) fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.text(&format!("{line} -o json"))).unwrap()
    }

    /// It must end with `code` and say each of `words`.
    #[track_caller]
    pub(crate) fn fails(&self, line: &str, code: i32, words: &[&str]) {
        let run = self.run(line);
        let said = format!("{}{}", run.out, run.errors);
        assert_eq!(run.code, code, "kubectl depin {line}: {said}");
        for word in words {
            assert!(said.contains(word), "kubectl depin {line} does not say {word:?}: {said}");
        }
    }
}

/// A path as a word of a command line.
pub(crate) fn word(path: &Path) -> &str {
    path.to_str().unwrap()
}
