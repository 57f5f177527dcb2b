//! Both ports with their services, from start to drain.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use depin_ledger::{Board, GatewayId, Ledger};
use depin_proto::v1::{
    configuration_server::ConfigurationServer, enrollment_server::EnrollmentServer, ledger_server::LedgerServer,
    proofs_server::ProofsServer,
};
use prometheus_client::registry::Registry;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use crate::{
    backup::Backups,
    clock::Clock,
    configuration::ConfigurationService,
    enrollment::EnrollmentService,
    limits::Limits,
    listener::{self, Terms},
    metrics::Metrics,
    presence::{self, Presence},
    proofs::{Parts, ProofsService, ReceiptSigner, Verifier},
    record::LedgerService,
    tls_files::{self, Directories, Identity},
};

/// Half-open connections are found by pings that nobody answers for so long.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// An agent's call must be whole and its answer begin within this time; streams go on.
const CALL: Duration = Duration::from_secs(30);
/// Who keeps an old connection after its streams ended is told to leave it.
const AFTER_AGE: Duration = Duration::from_secs(10);
/// gRPC streams of one connection.
const CONNECTION_STREAMS: u32 = 64;
/// Unread bytes of a stream, and of a connection.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 512 << 10;
/// Largest message of the operator: a page of a million lines comes in many.
const OPERATOR_MESSAGE: usize = 64 << 20;
/// For how long a drain waits for agents to take their last answers.
const DRAIN: Duration = Duration::from_secs(20);

/// Where the gateway listens and what it reads.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Agents' port.
    pub listen: SocketAddr,
    /// Operator's and viewers' port.
    pub ledger_listen: SocketAddr,
    /// Holds `tls.crt`, `tls.key`, and `ca.crt` unless that lies in `ca_dir`.
    pub tls_dir: PathBuf,
    /// Holds `ca.crt` and what else is told of the authorities, where somebody else than the operator keeps `tls_dir`.
    pub ca_dir: Option<PathBuf>,
    /// How much it takes.
    pub limits: Limits,
}

/// The gateway does not start or does not go on.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A port cannot be bound.
    #[error("listen on {0}: {1}")]
    Bind(SocketAddr, io::Error),
    /// The thread that verifies signatures cannot be started.
    #[error("start the thread that verifies signatures: {0}")]
    Verifier(io::Error),
    /// The system gives no random bytes.
    #[error("draw a name for this gateway: {0}")]
    Random(getrandom::Error),
    /// A server ended with an error.
    #[error("serve: {0}")]
    Serve(#[from] tonic::transport::Error),
    /// A server's task panicked.
    #[error("a server's task ended: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// A gateway that is ready to start.
#[derive(Debug)]
pub struct Gateway {
    settings: Settings,
    ledger: Arc<dyn Ledger>,
    clock: Clock,
    metrics: Arc<Metrics>,
    board: Option<Board>,
    backups: Backups,
}

/// A gateway that serves.
#[derive(Debug)]
pub struct Running {
    /// Where agents reach it.
    pub agents: SocketAddr,
    /// Where the operator reaches it.
    pub ledger: SocketAddr,
    servers: JoinSet<Result<(), tonic::transport::Error>>,
    stop: CancellationToken,
}

impl Gateway {
    /// A gateway over this ledger; its metrics go to `registry`.
    pub fn new(settings: Settings, ledger: Arc<dyn Ledger>, clock: Clock, registry: &mut Registry) -> Self {
        let metrics = Arc::new(Metrics::register(registry));
        Self { settings, ledger, clock, metrics, board: None, backups: Backups::None }
    }

    /// It tells the other gateways of its ledger who was heard, and answers for them.
    #[must_use]
    pub fn sharing(mut self, board: Option<Board>) -> Self {
        self.board = board;
        self
    }

    /// Tells of backups, and takes requests for them.
    #[must_use]
    pub fn with_backups(mut self, backups: Backups) -> Self {
        self.backups = backups;
        self
    }

    /// Waits for the certificates, then serves until `stop`. None: stopped before the certificates came.
    ///
    /// # Errors
    /// Where a port cannot be bound.
    pub async fn start(self, stop: CancellationToken) -> Result<Option<Running>, ServerError> {
        let agents = bind(self.settings.listen).await?;
        let ledger = bind(self.settings.ledger_listen).await?;
        let tls = self.settings.tls_dir.clone();
        let ca = self.settings.ca_dir.clone().unwrap_or_else(|| tls.clone());
        let Some(identity) = tls_files::load(Directories { tls, ca }, stop.clone()).await else {
            return Ok(None);
        };
        let addresses = (address(&agents, self.settings.listen)?, address(&ledger, self.settings.ledger_listen)?);
        let mut servers = JoinSet::new();
        let presence = self.presence(&stop)?;
        self.serve_agents(agents, &identity, &presence, &stop, &mut servers)?;
        self.serve_ledger(ledger, identity, presence, &stop, &mut servers);
        self.ledger.serve(true);
        let (served, ending) = (Arc::clone(&self.ledger), stop.clone());
        // Streams are turned away once it stops: what is left of its life is no time in which proofs were taken.
        servers.spawn(async move {
            ending.cancelled().await;
            served.serve(false);
            Ok(())
        });
        tracing::info!(agents = %addresses.0, ledger = %addresses.1, "the gateway serves");
        Ok(Some(Running { agents: addresses.0, ledger: addresses.1, servers, stop }))
    }

    fn presence(&self, stop: &CancellationToken) -> Result<Arc<Presence>, ServerError> {
        let Some(board) = self.board.clone() else { return Ok(Arc::default()) };
        let mut own = GatewayId::default();
        getrandom::fill(&mut own).map_err(ServerError::Random)?;
        let presence = Arc::new(Presence::shared());
        let failures = self.metrics.presence_failures.clone();
        tokio::spawn(presence::share(Arc::clone(&presence), board, own, failures, stop.clone()));
        Ok(presence)
    }

    fn serve_agents(
        &self,
        listener: TcpListener,
        identity: &Identity,
        presence: &Arc<Presence>,
        stop: &CancellationToken,
        servers: &mut JoinSet<Result<(), tonic::transport::Error>>,
    ) -> Result<(), ServerError> {
        let limits = Arc::new(self.settings.limits.clone());
        let proofs = ProofsService::new(Parts {
            ledger: Arc::clone(&self.ledger),
            limits: Arc::clone(&limits),
            clock: self.clock.clone(),
            metrics: Arc::clone(&self.metrics),
            presence: Arc::clone(presence),
            verifier: Verifier::start(Arc::clone(&self.metrics)).map_err(ServerError::Verifier)?,
            stop: stop.clone(),
        });
        let configuration = ConfigurationService {
            ledger: Arc::clone(&self.ledger),
            limits: Arc::clone(&limits),
            clock: self.clock.clone(),
            metrics: Arc::clone(&self.metrics),
            presence: Arc::clone(presence),
            stop: stop.clone(),
            sightings: Arc::default(),
            trusted: identity.trusted.clone(),
        };
        let enrollment = EnrollmentService::new(
            Arc::clone(&self.ledger),
            self.clock.clone(),
            Arc::clone(&self.metrics),
            limits.enrollments_per_second,
            identity.sealing.clone(),
        );
        let size = limits.max_message_bytes;
        let mut server = server(&limits).timeout(CALL);
        if let Some(oldest) = listener::oldest(limits.max_connection_age) {
            server = server.max_connection_age(oldest + AFTER_AGE);
        }
        let router = server
            .add_service(
                ProofsServer::new(proofs).max_decoding_message_size(size).max_encoding_message_size(usize::MAX),
            )
            .add_service(ConfigurationServer::new(configuration).max_encoding_message_size(usize::MAX))
            .add_service(EnrollmentServer::new(enrollment).max_decoding_message_size(64 << 10));
        let terms = Terms { connections: limits.agent_connections, max_age: limits.max_connection_age };
        let metrics = Arc::clone(&self.metrics);
        let incoming = listener::accept(listener, identity.agents.clone(), &limits, terms, metrics, stop.clone());
        servers.spawn(router.serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned()));
        Ok(())
    }

    fn serve_ledger(
        &self,
        listener: TcpListener,
        identity: Identity,
        presence: Arc<Presence>,
        stop: &CancellationToken,
        servers: &mut JoinSet<Result<(), tonic::transport::Error>>,
    ) {
        let service = LedgerService {
            ledger: Arc::clone(&self.ledger),
            clock: self.clock.clone(),
            metrics: Arc::clone(&self.metrics),
            presence,
            receipts: ReceiptSigner::new(identity.key),
            stop: stop.clone(),
            backups: self.backups.clone(),
        };
        let service = LedgerServer::new(service)
            .max_decoding_message_size(OPERATOR_MESSAGE)
            .max_encoding_message_size(usize::MAX);
        let limits = &self.settings.limits;
        // One identity is many people here: viewers of a namespace.
        let terms = Terms { connections: limits.connections, max_age: Duration::ZERO };
        let metrics = Arc::clone(&self.metrics);
        let incoming = listener::accept(listener, identity.ledger, limits, terms, metrics, stop.clone());
        let router = server(limits).add_service(service);
        servers.spawn(router.serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned()));
    }
}

impl Running {
    /// Serves until asked to stop, then until what is under way is answered, or the drain takes too long.
    ///
    /// # Errors
    /// Where a server ends with an error; the other one is stopped then.
    pub async fn finished(mut self) -> Result<(), ServerError> {
        let mut first = Ok(());
        let stop = self.stop.clone();
        let drained = async {
            stop.cancelled().await;
            tokio::time::sleep(DRAIN).await;
        };
        tokio::pin!(drained);
        loop {
            let ended = tokio::select! {
                () = &mut drained => {
                    tracing::warn!("agents did not take their last answers in time; they will be sent again");
                    return first;
                }
                ended = self.servers.join_next() => ended,
            };
            let Some(ended) = ended else { return first };
            self.stop.cancel();
            let result = ended.map_err(ServerError::from).and_then(|served| served.map_err(ServerError::from));
            if first.is_ok() {
                first = result;
            }
        }
    }
}

fn server(limits: &Limits) -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(limits.keep_alive))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .max_concurrent_streams(CONNECTION_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
}

async fn bind(address: SocketAddr) -> Result<TcpListener, ServerError> {
    TcpListener::bind(address).await.map_err(|error| ServerError::Bind(address, error))
}

fn address(listener: &TcpListener, asked: SocketAddr) -> Result<SocketAddr, ServerError> {
    listener.local_addr().map_err(|error| ServerError::Bind(asked, error))
}
