//! The ledger as a viewer sees it: through the operator with a token, or itself with a certificate.

use depin_domain::{
    ids::{Algorithm, DeviceId, PublicKey},
    registry::{Change, Device, DeviceEntry, Record, Registry},
    rewards::{EpochSummary, Line, ProgramState},
    time::Timestamp,
};
use depin_identity::{ServerKey, client_config, connect_lazy};
use depin_proto::v1::{
    BackupStatus, ClosingHold, EpochPage, FileChunk, FinalizeRequest, GetInfoRequest, LedgerInfo, ListEpochsRequest,
    PresencePage, ProofRecord, ReadBackupsRequest, ReadEpochRequest, ReadExportRequest, ReadHoldRequest,
    ReadPresenceRequest, ReadProofsRequest, ReadRegistryRequest, ReleaseHoldRequest, RequestBackupRequest, WriterToken,
    epoch_page, ledger_client::LedgerClient,
};
use tonic::transport::Channel;

use crate::{
    args::{Arguments, Timeout},
    credentials::{self, Credentials},
    fault::Fault,
    query::{self, Session},
};

/// Largest message that is taken.
const MAX_MESSAGE: usize = 64 << 20;

/// A connection to the ledger.
pub(crate) struct Ledger {
    client: LedgerClient<Channel>,
    /// Of the gateway on the other end; none where an operator is between.
    server: Option<ServerKey>,
    session: Option<Session>,
    timeout: Timeout,
}

/// An epoch that was computed.
pub(crate) struct Computed {
    pub(crate) summary: EpochSummary,
}

impl Ledger {
    /// Connects: with a certificate to `--ledger` where it is given, else through the operator.
    pub(crate) async fn connect(arguments: &Arguments) -> Result<Self, Fault> {
        match &arguments.ledger.ledger {
            Some(address) => Self::with_certificate(arguments, address).await,
            None => {
                let session = query::open(arguments).await?;
                let client = LedgerClient::new(session.channel.clone()).max_decoding_message_size(MAX_MESSAGE);
                let timeout = arguments.cluster.request_timeout;
                Ok(Self { client, server: None, session: Some(session), timeout })
            }
        }
    }

    /// Connects for what is also worth showing without: nobody said where the ledger is, and no operator leads to it, then why.
    pub(crate) async fn optional(arguments: &Arguments) -> Result<Result<Self, Fault>, Fault> {
        let meant = arguments.ledger.ledger.is_some() || arguments.ledger.query.is_some();
        let reached = match Self::connect(arguments).await {
            Ok(ledger) => ledger.info().await.map(|_| ledger),
            Err(fault) => Err(fault),
        };
        match reached {
            Err(fault) if meant => Err(fault),
            reached => Ok(reached),
        }
    }

    async fn with_certificate(arguments: &Arguments, address: &str) -> Result<Self, Fault> {
        let Credentials { identity, trust } = credentials::find(arguments).await?;
        let config = client_config(&trust, Some(&identity))
            .map_err(|error| Fault::failed(error.to_string(), "check that --cert and --key belong together"))?;
        let (channel, server) = connect_lazy(address, config)
            .map_err(|error| Fault::failed(error.to_string(), "write --ledger as https://host:port"))?;
        let client = LedgerClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        let timeout = arguments.cluster.request_timeout;
        Ok(Self { client, server: Some(server), session: None, timeout })
    }

    fn ask<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        if let Some(limit) = self.timeout.0 {
            request.set_timeout(limit);
        }
        if let Some(session) = &self.session {
            let metadata = request.metadata_mut();
            metadata.insert("authorization", session.bearer.clone());
            metadata.insert(query::VIEW, session.view.clone());
        }
        request
    }

    /// The gateway's key, which signs receipts: as its certificate shows it, or as it told the operator.
    pub(crate) async fn server_key(&self) -> Result<Option<PublicKey>, Fault> {
        let info = match &self.server {
            Some(server) if server.borrow().is_some() => return Ok(server.borrow().clone()),
            _ => self.info().await?,
        };
        let algorithm = Algorithm::from_code(info.gateway_algorithm);
        let told = algorithm.map(|algorithm| PublicKey { algorithm, bytes: info.gateway_key.to_vec() });
        Ok(told.filter(|key| !key.bytes.is_empty()))
    }

    pub(crate) async fn info(&self) -> Result<LedgerInfo, Fault> {
        Ok(self.client.clone().get_info(self.ask(GetInfoRequest {})).await?.into_inner())
    }

    /// How backups go; with `generations` also which there are.
    pub(crate) async fn backups(&self, generations: bool) -> Result<BackupStatus, Fault> {
        Ok(self.client.clone().read_backups(self.ask(ReadBackupsRequest { generations })).await?.into_inner())
    }

    /// Asks for a backup; with `wait` answers when it is made, however long that takes.
    pub(crate) async fn back_up(&self, wait: bool) -> Result<BackupStatus, Fault> {
        Ok(self.client.clone().request_backup(self.ask(RequestBackupRequest { wait })).await?.into_inner())
    }

    /// What a restore's hold on closing waits for.
    pub(crate) async fn hold(&self) -> Result<ClosingHold, Fault> {
        Ok(self.client.clone().read_hold(self.ask(ReadHoldRequest::default())).await?.into_inner())
    }

    /// Releases it, beside the operator that leads. Answers how many chains were still waited for.
    pub(crate) async fn release_hold(&self) -> Result<u64, Fault> {
        let info = self.info().await?;
        let writer = Some(WriterToken { incarnation: info.incarnation, token: info.writer_token });
        Ok(self.client.clone().release_hold(self.ask(ReleaseHoldRequest { writer })).await?.into_inner().awaited)
    }

    /// Raises the feature level to what the gateway knows, beside the operator that leads. Answers with it.
    pub(crate) async fn finalize(&self) -> Result<u32, Fault> {
        let info = self.info().await?;
        let writer = Some(WriterToken { incarnation: info.incarnation, token: info.writer_token });
        Ok(self.client.clone().finalize(self.ask(FinalizeRequest { writer })).await?.into_inner().feature_level)
    }

    /// The registry, as far as it may be seen: a viewer gets the records of its namespace, so they are counted anew.
    pub(crate) async fn registry(&self) -> Result<Registry, Fault> {
        let request = ReadRegistryRequest { after_version: 0, until_version: 0, follow: false };
        let mut records = self.client.clone().read_registry(self.ask(request)).await?.into_inner();
        let mut registry = Registry::default();
        let unreadable = |error: &dyn std::fmt::Display| {
            Fault::failed(format!("registry: {error}"), "use a kubectl-depin of the same version as the operator")
        };
        while let Some(record) = records.message().await? {
            let change: Change = serde_json::from_slice(&record.change).map_err(|error| unreadable(&error))?;
            let version = registry.version().saturating_add(1);
            let record = Record { version, at: Timestamp(record.at), change };
            registry.apply(record).map_err(|error| unreadable(&error))?;
        }
        Ok(registry)
    }

    /// The computed epochs of a program, ascending.
    pub(crate) async fn epochs(&self, program: &str) -> Result<Vec<Computed>, Fault> {
        let mut computed = Vec::new();
        let mut from_number = 0;
        loop {
            let request = ListEpochsRequest { program: program.to_owned(), from_number, limit: 500 };
            let page = self.client.clone().list_epochs(self.ask(request)).await?.into_inner().epochs;
            let numbers = page.iter().filter_map(|entry| entry.close.as_ref()?.window.map(|window| window.number));
            let next = numbers.max().map(|newest| newest.saturating_add(1)).filter(|next| *next > from_number);
            for entry in page.into_iter().filter(|entry| !entry.summary.is_empty()) {
                let summary = parse("epoch summary", &entry.summary)?;
                computed.push(Computed { summary });
            }
            match next {
                Some(next) => from_number = next,
                None => return Ok(computed),
            }
        }
    }

    /// A device's line of an epoch.
    pub(crate) async fn line(&self, program: &str, number: u64, device: &DeviceId) -> Result<Option<Line>, Fault> {
        let request = ReadEpochRequest {
            program: program.to_owned(),
            number,
            lines: true,
            state: false,
            device_id: device.0.to_vec().into(),
        };
        let mut found = None;
        for page in self.pages(request).await? {
            if let Some(epoch_page::Message::Lines(lines)) = page.message {
                for line in &lines.lines {
                    let line: Line = parse("epoch line", line)?;
                    if line.device == *device {
                        found = Some(line);
                    }
                }
            }
        }
        Ok(found)
    }

    /// The state that an epoch left.
    pub(crate) async fn state(&self, program: &str, number: u64) -> Result<ProgramState, Fault> {
        let program = program.to_owned();
        let request = ReadEpochRequest { program, number, lines: false, state: true, device_id: Vec::new().into() };
        let mut text = Vec::new();
        for page in self.pages(request).await? {
            if let Some(epoch_page::Message::State(state)) = page.message {
                text.extend_from_slice(&state.chunk);
            }
        }
        parse("epoch state", &text)
    }

    async fn pages(&self, request: ReadEpochRequest) -> Result<Vec<EpochPage>, Fault> {
        let mut stream = self.client.clone().read_epoch(self.ask(request)).await?.into_inner();
        let mut pages = Vec::new();
        while let Some(page) = stream.message().await? {
            pages.push(page);
        }
        Ok(pages)
    }

    /// Judged proofs, at most as many as one request may bring; and where to go on, if the log was not read to its end for them.
    pub(crate) async fn proofs(&self, request: ReadProofsRequest) -> Result<(Vec<ProofRecord>, Option<u64>), Fault> {
        let mut stream = self.client.clone().read_proofs(self.ask(request)).await?.into_inner();
        let mut records = Vec::new();
        while let Some(record) = stream.message().await? {
            if record.scanned_to > 0 {
                return Ok((records, Some(record.scanned_to)));
            }
            records.push(record);
        }
        Ok((records, None))
    }

    /// An epoch's export, file by file.
    pub(crate) async fn export(&self, request: ReadExportRequest) -> Result<tonic::Streaming<FileChunk>, Fault> {
        Ok(self.client.clone().read_export(self.ask(request)).await?.into_inner())
    }

    /// Who was heard when.
    pub(crate) async fn presence(&self) -> Result<PresencePage, Fault> {
        let mut stream = self.client.clone().read_presence(self.ask(ReadPresenceRequest {})).await?.into_inner();
        let mut presence = PresencePage::default();
        while let Some(page) = stream.message().await? {
            presence.agents.extend(page.agents);
            presence.devices.extend(page.devices);
        }
        Ok(presence)
    }
}

fn parse<T: serde::de::DeserializeOwned>(what: &str, json: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(json).map_err(|error| {
        Fault::failed(format!("{what}: {error}"), "use a kubectl-depin of the same version as the operator")
    })
}

/// The device that a person means: an id, a DID, `namespace/name`, or a name in `namespace`.
pub(crate) fn find_device<'a>(
    registry: &'a Registry,
    namespace: &str,
    meant: &str,
) -> Result<(DeviceId, &'a Device, &'a DeviceEntry), Fault> {
    let id = meant.strip_prefix("did:depin:").unwrap_or(meant).parse::<DeviceId>();
    let id = id.unwrap_or_else(|_| match meant.split_once('/') {
        Some((namespace, name)) => DeviceId::of(namespace, name),
        None => DeviceId::of(namespace, meant),
    });
    let found = registry.device(&id).and_then(|device| Some((id, device.as_ref(), device.newest()?.as_ref())));
    found.ok_or_else(|| {
        Fault::not_found(
            format!("no device {meant:?} in namespace {namespace:?} was ever approved"),
            "list them: kubectl depin devices -A; or name it namespace/name",
        )
    })
}

/// The programs that a person means: one by name, else all for which `fits` holds.
pub(crate) fn find_programs(
    registry: &Registry,
    namespace: &str,
    meant: Option<&str>,
    fits: impl Fn(&str) -> bool,
) -> Result<Vec<String>, Fault> {
    let Some(meant) = meant else {
        return Ok(registry.programs().map(|(id, _)| id.clone()).filter(|id| fits(id)).collect());
    };
    let id = if meant.contains('/') { meant.to_owned() } else { format!("{namespace}/{meant}") };
    match registry.program(&id) {
        Some(_) => Ok(vec![id]),
        None => Err(Fault::not_found(format!("no program {id:?}"), "list them: kubectl get rewardprograms -A")),
    }
}
