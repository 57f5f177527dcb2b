//! From what the ledger says to what the agent gets, and to what is counted.

use depin_domain::{
    ids::{Digest, KeyId},
    proofs::{Reason, Rejection, Section},
};
use depin_identity::SigningKey;
use depin_ledger::Outcome;
use depin_proto::{
    convert::{id_bytes, verdict_to_proto},
    envelope::{EnvelopeError, OpenedProof, ReceiptBody, encode_receipt, verdict_digest},
    v1::{self, outcome::Result as Answer},
};

use super::screen::Subject;

/// An outcome for a subject.
pub(super) fn outcome(subject: Subject, answer: Answer) -> v1::Outcome {
    v1::Outcome {
        key_id: subject.key,
        incarnation: subject.incarnation,
        sequence: subject.sequence,
        digest: id_bytes(subject.digest),
        result: Some(answer),
    }
}

/// Not now; how soon to try again depends on what must change first.
pub(super) fn deferred(reason: Reason, message: String) -> Answer {
    let retry_after_ms = match reason {
        // The agent opens the chain anew; waiting helps nothing.
        Reason::SequenceGap => 0,
        Reason::KeyNotYetRegistered | Reason::LedgerUnavailable => 5_000,
        _ => 1_000,
    };
    Answer::Deferred(v1::Deferred { reason: reason.code().into(), message, retry_after_ms })
}

/// Never.
pub(super) fn refused(reason: Reason, message: String) -> Answer {
    Answer::Refused(v1::Refused { reason: reason.code().into(), message })
}

/// The ledger's outcome as the agent gets it, receipt included.
pub(super) fn from_ledger(outcome: &Outcome, proof: &OpenedProof, key: &SigningKey) -> Result<Answer, EnvelopeError> {
    match outcome {
        Outcome::Refused { reason, message } => Ok(refused(*reason, message.clone())),
        Outcome::Deferred { reason, message } => Ok(deferred(*reason, message.clone())),
        Outcome::Judged { ledger_incarnation, position, received_at, verdict, rejected, repeated, archived } => {
            let body = encode_receipt(&ReceiptBody {
                gateway: key.id(),
                key: proof.header.key,
                incarnation: proof.header.incarnation,
                sequence: proof.header.sequence,
                digest: proof.digest,
                ledger_incarnation: *ledger_incarnation,
                position: *position,
                received_at: *received_at,
                accepted: verdict.accepted,
                rejected: *rejected,
                verdict: verdict_digest(verdict)?,
                durable: true,
                archived: *archived,
            });
            Ok(Answer::Judged(v1::Judged {
                receipt: Some(super::receipts::sign(key, body)),
                verdict: Some(verdict_to_proto(verdict)),
                repeated: *repeated,
            }))
        }
    }
}

/// How many readings of `section` a rejection takes away.
pub(crate) fn rejected_by(section: &Section, rejection: &Rejection) -> u64 {
    let count = match rejection.series {
        None => section.series.iter().map(|series| series.readings.len()).sum(),
        Some(_) if !rejection.readings.is_empty() => rejection.readings.len(),
        Some(index) => section.series.get(index as usize).map_or(0, |series| series.readings.len()),
    };
    count as u64
}

/// The subject of a proof whose header was read.
pub(super) fn subject_of(key: KeyId, proof: &OpenedProof) -> Subject {
    let digest: Digest = proof.digest;
    Subject { key: id_bytes(key), incarnation: proof.header.incarnation, sequence: proof.header.sequence, digest }
}
