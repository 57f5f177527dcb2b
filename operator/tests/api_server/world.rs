//! A control plane with the definitions and the operator's permissions, the ledger in memory, and operators that run against both.

use std::{
    future::Future,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::Mutex,
    time::Duration,
};

use clap::Parser as _;
use depin_domain::registry::Registry;
use depin_identity::{CertificateRequest, JoinToken, SigningKey};
use depin_operator::{Options, clock::Clock, cluster::reach, run};
use depin_proto::v1::{EnrollRequest, enroll_response::Result as Answer, inbox_entry::Entry};
use depin_tests::ControlPlane;
use k8s_openapi::api::events::v1::Event;
use kube::{
    Api, Client, Config,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::oneshot,
};

use crate::ledger::FakeLedger;

/// Far beyond what anything here takes; a machine that also compiles is slow.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

pub(crate) struct World {
    pub(crate) plane: ControlPlane,
    /// The administrator.
    pub(crate) client: Client,
    /// The operator's ServiceAccount, with what operator/rbac.yaml allows.
    pub(crate) operator: Client,
    pub(crate) ledger: FakeLedger,
    pub(crate) address: std::net::SocketAddr,
    pub(crate) scratch: tempfile::TempDir,
}

pub(crate) struct Running {
    pub(crate) stop: oneshot::Sender<()>,
    pub(crate) task: tokio::task::JoinHandle<Result<(), run::OperatorError>>,
    /// Where it tells metrics and health.
    pub(crate) admin: SocketAddr,
    /// Where it takes questions to the ledger.
    pub(crate) query: SocketAddr,
}

impl World {
    pub(crate) async fn new() -> Self {
        let plane = tokio::task::block_in_place(|| ControlPlane::start().unwrap());
        let config = Kubeconfig::read_from(plane.kubeconfig()).unwrap();
        let mut config = reach(Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap());
        let client = Client::try_from(config.clone()).unwrap();
        config.auth_info.impersonate = Some("system:serviceaccount:depin-system:depin-operator".into());
        let operator = Client::try_from(config).unwrap();
        let (ledger, address) = FakeLedger::serve().await;
        let world = Self { client, operator, plane, ledger, address, scratch: tempfile::tempdir().unwrap() };
        world.install();
        world
    }

    /// The Events with this reason about the object. A repeated one is one object with a count.
    pub(crate) async fn events(&self, name: &str, reason: &str) -> Vec<Event> {
        let mut events = self.api::<Event>().list(&ListParams::default()).await.unwrap().items;
        events.retain(|event| {
            let regarding = event.regarding.as_ref().and_then(|regarding| regarding.name.as_deref());
            event.reason.as_deref() == Some(reason) && regarding == Some(name)
        });
        events
    }

    /// Definitions, namespaces and the operator's permissions.
    pub(crate) fn install(&self) {
        tokio::task::block_in_place(|| {
            self.plane.apply_crds().unwrap();
            self.plane.run_kubectl(&["create", "namespace", "depin-system"]).unwrap();
            self.plane.run_kubectl(&["create", "namespace", "town"]).unwrap();
            self.plane.apply(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("rbac.yaml")).unwrap();
        });
    }

    pub(crate) fn start(&self, identity: &str) -> Running {
        self.start_at(identity, Clock::system())
    }

    /// Starts an operator whose clock is `clock`.
    pub(crate) fn start_at(&self, identity: &str, clock: Clock) -> Running {
        self.start_with(identity, clock, &[])
    }

    /// Starts an operator with further flags.
    pub(crate) fn start_with(&self, identity: &str, clock: Clock, flags: &[&str]) -> Running {
        let channel =
            tonic::transport::Endpoint::from_shared(format!("http://{}", self.address)).unwrap().connect_lazy();
        // Free a moment ago; the operator ends if somebody was faster.
        let admin = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let query = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (admin_listen, query_listen) = (admin.to_string(), query.to_string());
        let own = [
            "depin-operator",
            "--ledger",
            "https://unused:1",
            "--identity",
            identity,
            "--leader-elect",
            "--agent-silence",
            "1",
            "--admin-listen",
            &admin_listen,
            "--query-listen",
            &query_listen,
        ];
        let options = Options::parse_from(own.iter().chain(flags));
        let (stop, stopped) = oneshot::channel();
        let stopped = async move { drop(stopped.await) };
        let operator = run::run_with(self.operator.clone(), clock, options, Some(channel), stopped);
        Running { stop, task: tokio::spawn(operator), admin, query }
    }

    /// Applies YAML as a user does; what the API server says if it refuses.
    pub(crate) fn apply(&self, yaml: &str) -> Result<(), String> {
        static COUNT: Mutex<u32> = Mutex::new(0);
        let mut count = COUNT.lock().unwrap();
        *count += 1;
        let path: PathBuf = self.scratch.path().join(format!("{count}.yaml"));
        std::fs::write(&path, yaml).unwrap();
        tokio::task::block_in_place(|| self.plane.apply(&path).map_err(|error| format!("{error:#}")))
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), "town")
    }
}

impl Running {
    /// What the admin server answers, head and body; none while it does not.
    pub(crate) async fn ask(&self, path: &str) -> Option<String> {
        let mut stream = tokio::net::TcpStream::connect(self.admin).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    }

    /// The value of a metric, named with its labels; none while it has none.
    pub(crate) async fn metric(&self, name: &str) -> Option<u64> {
        let text = self.ask("/metrics").await?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned))?;
        line.parse().ok()
    }

    /// Ends it as a power cut does: nothing is given back, nothing is said.
    pub(crate) async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }

    pub(crate) async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap().unwrap();
    }
}

/// Waits until `look` gives something.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let waiting = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    match tokio::time::timeout(LIMIT, waiting).await {
        Ok(found) => found,
        Err(_) => unreachable!("{what} did not come to pass"),
    }
}

pub(crate) async fn enroll(world: &World, token: &JoinToken, key: &SigningKey, name: &str) -> Answer {
    let csr = CertificateRequest::make(key).unwrap();
    let request = EnrollRequest {
        token: token.secret().to_vec().into(),
        csr: csr.into(),
        name: name.into(),
        ..EnrollRequest::default()
    };
    let id = world.ledger.post(Entry::Enroll(request));
    let answer = eventually("an answer", || async { world.ledger.answer(id) }).await;
    answer.unwrap().result.unwrap()
}

pub(crate) async fn registered(world: &World, what: &str, look: impl Fn(&Registry) -> bool) {
    eventually(what, || async { look(&world.ledger.registry()).then_some(()) }).await;
}

macro_rules! condition {
    ($world:expr, $kind:ty, $name:expr, $condition:expr, $status:expr) => {{
        let api: kube::Api<$kind> = $world.api();
        condition!(api $name, $condition, $status)
    }};
    ($api:ident $name:expr, $condition:expr, $status:expr) => {{
        let api = &$api;
        let name: &str = $name;
        $crate::world::eventually(&format!("{} of {name} = {}", $condition, $status), move || async move {
            let object = api.get_opt(name).await.unwrap()?;
            let conditions = object.status.as_ref()?.conditions.clone();
            conditions.into_iter().find(|condition| condition.type_ == $condition && condition.status == $status)
        })
        .await
    }};
}
