//! Receipts: signed by the gateway's key, which its certificate shows. On an agent's connection it is the key that the agent was shown, so that
//! a new certificate ends no stream; whoever reads the record later gets them by the newest one.

use std::sync::Arc;

use bytes::Bytes;
use depin_identity::SigningKey;
use depin_proto::{convert::id_bytes, envelope::receipt_signing_input, v1};
use tokio::sync::watch;

/// The newest key; rotated with the certificate.
#[derive(Clone, Debug)]
pub(crate) struct ReceiptSigner {
    key: watch::Receiver<Arc<SigningKey>>,
}

impl ReceiptSigner {
    pub(crate) fn new(key: watch::Receiver<Arc<SigningKey>>) -> Self {
        Self { key }
    }

    pub(crate) fn key(&self) -> Arc<SigningKey> {
        Arc::clone(&self.key.borrow())
    }
}

/// Signs a receipt's body.
pub(crate) fn sign(key: &SigningKey, body: Vec<u8>) -> v1::Receipt {
    let signature = key.sign(&receipt_signing_input(&body));
    v1::Receipt {
        body: Bytes::from(body),
        signature: Bytes::copy_from_slice(&signature),
        gateway_key_id: id_bytes(key.id()),
    }
}
