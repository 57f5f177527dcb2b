//! What can be said of a proof before its signature is verified. Pure: registry, limits and session in, decision out.

use bytes::Bytes;
use depin_domain::{
    ids::{Algorithm, Digest, KeyId, PublicKey},
    proofs::Reason,
    registry::Holder,
};
use depin_ledger::RegistrySnapshot;
use depin_proto::{
    envelope::{OpenedProof, decode_header, open_proof},
    v1,
};

use crate::{limits::Limits, peer::AgentPeer};

/// Which proof an outcome is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subject {
    pub(super) key: Bytes,
    pub(super) incarnation: u64,
    pub(super) sequence: u64,
    pub(super) digest: Digest,
}

/// What became of it.
#[derive(Debug)]
pub(super) enum Screened {
    /// To be verified with this key.
    Candidate(Box<OpenedProof>, PublicKey),
    /// Not now.
    Deferred(Reason, String),
    /// Never.
    Refused(Reason, String),
}

/// The proof's subject as far as its bytes tell it: an undecodable header is still named by its digest.
pub(super) fn subject(proof: &v1::SignedProof) -> Subject {
    let (incarnation, sequence) =
        decode_header(&proof.header).map_or((0, 0), |header| (header.incarnation, header.sequence));
    Subject { key: proof.key_id.clone(), incarnation, sequence, digest: Digest::of(&proof.header) }
}

/// The bytes that count against limits.
pub(super) fn size(proof: &v1::SignedProof) -> usize {
    proof.header.len() + proof.signature.len() + proof.sections.iter().map(Bytes::len).sum::<usize>()
}

/// Decides what can be decided without the signature.
pub(super) fn screen(
    proof: &v1::SignedProof,
    agent: &AgentPeer,
    snapshot: &RegistrySnapshot,
    limits: &Limits,
) -> Screened {
    let refuse = |reason: Reason, message: String| Screened::Refused(reason, message);
    let bytes = size(proof);
    if bytes > limits.max_proof_bytes {
        return refuse(Reason::Oversize, format!("{bytes} bytes; at most {}", limits.max_proof_bytes));
    }
    if proof.sections.len() > limits.max_sections as usize {
        let count = proof.sections.len();
        return refuse(Reason::Oversize, format!("{count} sections; at most {}", limits.max_sections));
    }
    let Some(key) = KeyId::from_slice(&proof.key_id) else {
        return refuse(Reason::Malformed, "proof.key_id: is not 32 bytes".to_owned());
    };
    let opened = match open_proof(&proof.header, &proof.sections) {
        Ok(opened) => opened,
        Err(error) => return refuse(error.reason(), error.to_string()),
    };
    if opened.readings() > limits.max_readings.into() {
        return refuse(Reason::Oversize, format!("{} readings; at most {}", opened.readings(), limits.max_readings));
    }
    if opened.header.key != key {
        return refuse(Reason::Malformed, "header.chain key: is not the proof's key_id".to_owned());
    }
    if let Some(message) = newer(&opened, snapshot) {
        return Screened::Deferred(Reason::RegistryNewer, message);
    }
    match signer(key, agent, snapshot) {
        Ok(public) if Algorithm::from_code(proof.algorithm) != Some(public.algorithm) => {
            refuse(Reason::Malformed, format!("proof.algorithm: the key is {:?}", public.algorithm))
        }
        Ok(public) => Screened::Candidate(Box::new(opened), public),
        Err(decided) => decided,
    }
}

/// Why the proof must wait for a newer registry. A version of a lost incarnation is judged by the current registry.
fn newer(opened: &OpenedProof, snapshot: &RegistrySnapshot) -> Option<String> {
    let named = (opened.header.registry_incarnation, opened.header.registry_version);
    let known = (snapshot.incarnation, snapshot.registry.version());
    (named > known)
        .then(|| format!("the proof names registry {}/{}, this gateway has {}/{}", named.0, named.1, known.0, known.1))
}

/// The public key, if the registry knows it and this agent may submit what it signed.
fn signer(key: KeyId, agent: &AgentPeer, snapshot: &RegistrySnapshot) -> Result<PublicKey, Screened> {
    let registry = &snapshot.registry;
    let Some(signer) = registry.signer(&key) else {
        return Err(if key == agent.key {
            Screened::Deferred(
                Reason::KeyNotYetRegistered,
                "the certificate is good but the registry lacks its key".to_owned(),
            )
        } else {
            Screened::Refused(Reason::UnknownKey, format!("no agent or device has key {key}"))
        });
    };
    if let Holder::Revoked(_) = signer.holder {
        return Err(Screened::Refused(Reason::KeyRevoked, format!("key {key} was revoked")));
    }
    if !registry.may_relay(&agent.id, &key) {
        let message = format!("agent {}/{} may not submit proofs of key {key}", agent.namespace, agent.name);
        return Err(Screened::Refused(Reason::NotYourKey, message));
    }
    Ok(signer.key.clone())
}
