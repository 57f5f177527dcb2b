//! The ledger as the operator sees it: a gRPC client under the operator's certificate, and the writer token that fences it.

use std::{sync::Arc, time::Duration};

use depin_proto::v1::{AcquireWriterRequest, GetInfoRequest, WriterToken, ledger_client::LedgerClient};
use depin_telemetry::Check;
use tokio::sync::watch;
use tonic::{Status, transport::Channel};

/// Largest message of the ledger's service, either way.
const MAX_MESSAGE: usize = 64 << 20;
/// How often it is looked whether the ledger answers.
const LOOK: Duration = Duration::from_secs(2);
/// How long it may take to.
const PATIENCE: Duration = Duration::from_secs(5);

/// Client of the ledger's service; clones share the connection. The channel may be exchanged when the certificate is renewed.
#[derive(Clone)]
pub struct Ledger {
    channel: watch::Receiver<Channel>,
    writer: Arc<watch::Sender<Option<WriterToken>>>,
}

impl Ledger {
    /// Over `channel`, whose newest value is used for each call.
    #[must_use]
    pub fn new(channel: watch::Receiver<Channel>) -> Self {
        Self { channel, writer: Arc::new(watch::Sender::new(None)) }
    }

    /// A client for one call or stream.
    #[must_use]
    pub fn client(&self) -> LedgerClient<Channel> {
        LedgerClient::new(self.channel.borrow().clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    /// Takes the writer token: from then on the ledger refuses whoever had it before.
    ///
    /// # Errors
    /// What the ledger answers.
    pub async fn acquire_writer(&self, holder: &str) -> Result<WriterToken, Status> {
        let token =
            self.client().acquire_writer(AcquireWriterRequest { holder: holder.to_owned() }).await?.into_inner();
        self.writer.send_replace(Some(token));
        Ok(token)
    }

    /// Tells `reachable` for ever whether the ledger answers.
    pub async fn watch(&self, reachable: &Check) {
        loop {
            tokio::time::sleep(LOOK).await;
            let problem = match tokio::time::timeout(PATIENCE, self.client().get_info(GetInfoRequest {})).await {
                Ok(Ok(_)) => None,
                Ok(Err(status)) => Some(format!("{}: {}", status.code(), status.message())),
                Err(_) => Some("no answer".to_owned()),
            };
            match problem {
                None => reachable.pass(),
                Some(problem) => {
                    tracing::warn!(problem, "the ledger cannot be reached");
                    reachable.fail(format!("{problem}; check that the gateway runs and that --ledger names it"));
                }
            }
        }
    }

    /// The token that was acquired; none before.
    #[must_use]
    pub fn writer(&self) -> Option<WriterToken> {
        *self.writer.borrow()
    }
}

/// Whether the ledger refused because another operator has the writer token: the leadership is lost.
#[must_use]
pub fn is_fenced(status: &Status) -> bool {
    status.code() == tonic::Code::PermissionDenied
}
