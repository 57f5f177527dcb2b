//! The chart under test, rendered by the real helm.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use depin_tests::{
    tools::{HELM_HOMES, Tools},
    workspace,
};
use serde_json::Value;

/// Release and namespace under which the chart's names are those that the programs' documents use.
pub(crate) const RELEASE: &str = "depin";
pub(crate) const NAMESPACE: &str = "depin-system";
/// The agents'.
pub(crate) const AGENTS: &str = "depin-agents";

pub(crate) fn folder() -> PathBuf {
    workspace().join("charts/depin-operator")
}

/// helm, with nothing of whoever runs the tests.
pub(crate) struct Helm {
    program: PathBuf,
    home: tempfile::TempDir,
    kubeconfig: PathBuf,
}

impl Helm {
    /// Without the built tools there is none, and the test says that it is skipped.
    pub(crate) fn find() -> Option<Self> {
        match Tools::find() {
            Ok(tools) => {
                Some(Self { program: tools.helm, home: tempfile::tempdir().unwrap(), kubeconfig: "/none".into() })
            }
            Err(missing) => {
                println!("skipped: {missing}");
                None
            }
        }
    }

    pub(crate) fn on(mut self, kubeconfig: PathBuf) -> Self {
        self.kubeconfig = kubeconfig;
        self
    }

    pub(crate) fn output(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(&self.program);
        command.args(arguments).current_dir(folder()).env("KUBECONFIG", &self.kubeconfig);
        command.envs(HELM_HOMES.map(|name| (name, self.home.path())));
        command.output().unwrap()
    }

    /// What it prints; a failure is the test's.
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert!(output.status.success(), "helm {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Why it refuses.
    pub(crate) fn refusal(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert!(!output.status.success(), "helm {arguments:?} succeeds");
        String::from_utf8(output.stderr).unwrap()
    }

    pub(crate) fn template(&self, arguments: &[&str]) -> String {
        self.run(&[&["template", RELEASE, ".", "-n", NAMESPACE], arguments].concat())
    }

    /// The rendered objects.
    pub(crate) fn objects(&self, arguments: &[&str]) -> Objects {
        Objects(documents(&self.template(arguments)))
    }
}

/// Every file of values in `ci/`, by its path.
pub(crate) fn values() -> Vec<String> {
    let mut files: Vec<String> =
        fs::read_dir(folder().join("ci")).unwrap().map(|entry| entry.unwrap().path().display().to_string()).collect();
    files.sort();
    assert!(files.len() >= 5, "{files:?}");
    files
}

/// One file of values.
pub(crate) fn values_of(name: &str) -> String {
    folder().join(format!("ci/{name}-values.yaml")).display().to_string()
}

pub(crate) fn documents(text: &str) -> Vec<Value> {
    let parse =
        |text: &str| -> Value { serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}")) };
    let written = |text: &&str| text.lines().any(|line| !line.is_empty() && !line.starts_with('#'));
    format!("\n{text}").split("\n---").filter(written).map(parse).collect()
}

pub(crate) fn yaml(path: impl AsRef<Path>) -> Value {
    serde_saphyr::from_str(&fs::read_to_string(path.as_ref()).unwrap()).unwrap()
}

/// What a rendering consists of.
pub(crate) struct Objects(pub(crate) Vec<Value>);

impl Objects {
    pub(crate) fn of(&self, kind: &str) -> Vec<&Value> {
        self.0.iter().filter(|object| object["kind"] == kind).collect()
    }

    pub(crate) fn find(&self, kind: &str, name: &str) -> Option<&Value> {
        self.of(kind).into_iter().find(|object| object["metadata"]["name"] == name)
    }

    pub(crate) fn get(&self, kind: &str, name: &str) -> &Value {
        self.find(kind, name).unwrap_or_else(|| panic!("there is no {kind} {name}"))
    }

    /// Name and spec of each Pod that the objects make.
    pub(crate) fn pods(&self) -> Vec<(&str, &Value)> {
        let spec = |object: &'_ Value| match object["kind"].as_str() {
            Some("Deployment" | "StatefulSet" | "DaemonSet") => Some("/spec/template/spec"),
            Some("Pod") => Some("/spec"),
            _ => None,
        };
        let pod = |object| Some((name(object), Value::pointer(object, spec(object)?)?));
        self.0.iter().filter_map(pod).collect()
    }

    /// The flags of a component's program.
    pub(crate) fn flags(&self, kind: &str, component: &str) -> Vec<String> {
        let object = self.get(kind, &format!("{RELEASE}-{component}"));
        let arguments = object.pointer("/spec/template/spec/containers/0/args").unwrap();
        arguments.as_array().unwrap().iter().map(|flag| flag.as_str().unwrap().to_owned()).collect()
    }
}

pub(crate) fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

pub(crate) fn texts(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}
