//! `verify`: proofs in a file, judged by nothing but mathematics: signatures, sections, chain, receipts.

use std::{collections::BTreeMap, path::Path};

use depin_domain::{
    ids::{Digest, KeyId},
    proofs::Header,
};
use depin_identity::VerifyingKey;
use depin_proto::{
    convert::{path_from_proto, verdict_from_proto},
    envelope::{PROOF_DOMAIN, RECEIPT_DOMAIN, decode_header, decode_receipt, open_proof, verdict_digest},
    proof_file::{FORMAT, Head},
    v1::{ProofRecord, Receipt, SignedProof, Verdict},
};
use prost::Message as _;
use serde_json::json;

use crate::{
    fault::Fault,
    output::{Report, Table},
};

/// What was found in a file.
#[derive(Debug, Default)]
struct Findings {
    proofs: u64,
    sections: u64,
    receipts: u64,
    gaps: u64,
    /// Position of the proof, and what is wrong.
    faults: Vec<(u64, String)>,
}

/// `trusted`: the only keys that may sign; none: any key that the file brings.
pub(super) fn run(path: &Path, trusted: &[KeyId]) -> Result<Report, Fault> {
    let text = std::fs::read_to_string(path).map_err(|error| Fault::file(path, error))?;
    let (keys, records) = parse(path, &text)?;
    let mut findings = examine(&keys, &records);
    let signers = signers(&records);
    if !trusted.is_empty() {
        let strange = signers.iter().filter(|(key, _)| !trusted.contains(key));
        findings.faults.extend(strange.map(|(key, first)| (*first, format!("{key} is none of the trusted keys"))));
    }
    let mut table = Table::new(["POSITION", "FAULT"]);
    for (position, fault) in &findings.faults {
        table.row([position.to_string(), fault.clone()]);
    }
    let mut text = format!(
        "{} proofs, {} sections, {} receipts, {} keys; {} gaps in what the file holds of its chains\n{}\n",
        findings.proofs,
        findings.sections,
        findings.receipts,
        signers.len(),
        findings.gaps,
        table.or("All signatures, sections, chains and receipts are right.")
    );
    if trusted.is_empty() {
        let names: Vec<String> = signers.keys().map(KeyId::to_string).collect();
        text.push_str(&format!(
            "not checked: whose keys these are. Compare them with those that you know, or give --trusted:\n{}\n",
            names.join("\n")
        ));
    }
    let faults: Vec<_> =
        findings.faults.iter().map(|(position, fault)| json!({"position": position, "fault": fault})).collect();
    let right = faults.is_empty();
    let value = json!({
        "proofs": findings.proofs, "sections": findings.sections, "receipts": findings.receipts, "gaps": findings.gaps, "faults": faults,
        "keys": signers.keys().collect::<Vec<_>>(), "keysTrusted": !trusted.is_empty(),
    });
    Ok(Report { right, ..Report::new(value, text) })
}

/// Every key that signed a proof or a receipt, and the position of the first.
fn signers(records: &[ProofRecord]) -> BTreeMap<KeyId, u64> {
    let mut signers = BTreeMap::new();
    for record in records {
        let proof = record.proof.as_ref().and_then(|proof| KeyId::from_slice(&proof.key_id));
        let receipt = record.receipt.as_ref().and_then(|receipt| decode_receipt(&receipt.body).ok());
        for key in proof.into_iter().chain(receipt.map(|receipt| receipt.gateway)) {
            signers.entry(key).or_insert(record.position);
        }
    }
    signers
}

type Keys = BTreeMap<KeyId, VerifyingKey>;

fn parse(path: &Path, text: &str) -> Result<(Keys, Vec<ProofRecord>), Fault> {
    let mut lines = text.lines();
    let head: Head = serde_json::from_str(lines.next().unwrap_or_default()).map_err(|_| {
        Fault::file(
            path,
            format!("is no {FORMAT} file; kubectl depin proofs --out and depin-agent receipts write them"),
        )
    })?;
    if head.format != FORMAT {
        return Err(Fault::file(path, format!("has the format {:?}, this program reads {FORMAT}", head.format)));
    }
    let mut keys = Keys::new();
    for key in &head.keys {
        let key = VerifyingKey::new(key).map_err(|error| Fault::file(path, error))?;
        keys.insert(key.id(), key);
    }
    let mut records = Vec::new();
    for (number, line) in lines.enumerate().filter(|(_, line)| !line.is_empty()) {
        let unreadable = |error: &dyn std::fmt::Display| Fault::file(path, format!("line {}: {error}", number + 2));
        let bytes = hex::decode(line).map_err(|error| unreadable(&error))?;
        records.push(ProofRecord::decode(bytes.as_slice()).map_err(|error| unreadable(&error))?);
    }
    Ok((keys, records))
}

fn examine(keys: &Keys, records: &[ProofRecord]) -> Findings {
    let mut findings = Findings::default();
    let mut chains: BTreeMap<(KeyId, u64, u64), (u64, Digest, Digest)> = BTreeMap::new();
    for record in records {
        findings.proofs += 1;
        let Some(proof) = &record.proof else {
            findings.faults.push((record.position, "the record holds no proof".into()));
            continue;
        };
        match signed_header(keys, proof) {
            Err(fault) => findings.faults.push((record.position, fault)),
            Ok(header) => {
                let place = (header.key, header.incarnation, header.sequence);
                let digest = Digest::of(&proof.header);
                let other = chains.insert(place, (record.position, digest, header.previous));
                if other.is_some_and(|(_, other, _)| other != digest) {
                    findings
                        .faults
                        .push((record.position, "another proof stands at this sequence: equivocation".into()));
                }
                findings.sections += proof.sections.len() as u64;
                if let Err(fault) = sections(record, proof, &header) {
                    findings.faults.push((record.position, fault));
                }
            }
        }
        if let Some(receipt) = &record.receipt {
            findings.receipts += 1;
            if let Err(fault) = receipt_of(keys, receipt, proof, record.verdict.as_ref()) {
                findings.faults.push((record.position, fault));
            }
        }
    }
    follow(&chains, &mut findings);
    findings
}

fn signed_header(keys: &Keys, proof: &SignedProof) -> Result<Header, String> {
    let header = decode_header(&proof.header).map_err(|error| error.to_string())?;
    if proof.key_id != header.key.0[..] {
        return Err("the header names another key than the proof".into());
    }
    let key = keys.get(&header.key).ok_or_else(|| format!("the file lacks the key {}", header.key))?;
    if key.verify(PROOF_DOMAIN, &proof.header, &proof.signature) {
        Ok(header)
    } else {
        Err("the signature is wrong".into())
    }
}

fn sections(record: &ProofRecord, proof: &SignedProof, header: &Header) -> Result<(), String> {
    if record.paths.is_empty() {
        return open_proof(&proof.header, &proof.sections).map(|_| ()).map_err(|error| error.to_string());
    }
    if record.paths.len() != proof.sections.len() {
        return Err("not every section has a path".into());
    }
    for (section, path) in proof.sections.iter().zip(&record.paths) {
        let number = path.section;
        let path = path_from_proto(path).map_err(|error| error.to_string())?;
        if path.count != header.sections || !path.verify(section, &header.body) {
            return Err(format!("section {number} does not lead to the header's body"));
        }
    }
    Ok(())
}

fn receipt_of(keys: &Keys, receipt: &Receipt, proof: &SignedProof, verdict: Option<&Verdict>) -> Result<(), String> {
    let body = decode_receipt(&receipt.body).map_err(|error| error.to_string())?;
    let key = keys.get(&body.gateway).ok_or_else(|| format!("the file lacks the gateway's key {}", body.gateway))?;
    if !key.verify(RECEIPT_DOMAIN, &receipt.body, &receipt.signature) {
        return Err("the receipt's signature is wrong".into());
    }
    if body.digest != Digest::of(&proof.header) {
        return Err("the receipt is for another proof".into());
    }
    let Some(verdict) = verdict else { return Ok(()) };
    let verdict = verdict_from_proto(verdict).map_err(|error| error.to_string())?;
    let digest = verdict_digest(&verdict).map_err(|error| error.to_string())?;
    if digest == body.verdict { Ok(()) } else { Err("the receipt is for another verdict".into()) }
}

/// Each proof names the one before it, where the file has both.
fn follow(chains: &BTreeMap<(KeyId, u64, u64), (u64, Digest, Digest)>, findings: &mut Findings) {
    let mut before: Option<((KeyId, u64, u64), Digest)> = None;
    for (place, (position, digest, previous)) in chains {
        let same_chain = before.filter(|((key, incarnation, _), _)| (*key, *incarnation) == (place.0, place.1));
        match same_chain {
            Some(((_, _, sequence), _)) if sequence.checked_add(1) != Some(place.2) => findings.gaps += 1,
            Some((_, before)) if before != *previous => {
                findings.faults.push((*position, "it does not name the proof before it".into()));
            }
            Some(_) => {}
            None if place.2 == 1 && *previous != Digest::default() => {
                findings.faults.push((*position, "the first of its chain names one before it".into()));
            }
            None => {}
        }
        before = Some((*place, *digest));
    }
}

#[cfg(test)]
mod tests {
    use depin_domain::{
        ids::DeviceId,
        model::Attestation,
        proofs::{Reading, Section, Series},
        time::{Timestamp, Window},
    };
    use depin_identity::SigningKey;
    use depin_proto::envelope::{ReceiptBody, body_root, encode_header, encode_receipt, encode_section};

    use super::*;

    fn signing(seed: u8) -> SigningKey {
        SigningKey::from_seed(&[seed; 32])
    }

    fn chain(length: u64) -> Vec<ProofRecord> {
        let (agent, gateway) = (signing(1), signing(2));
        let mut previous = Digest::default();
        (1..=length)
            .map(|sequence| {
                let readings = vec![Reading { at: Timestamp(sequence as i64), value: 5 }];
                let section = Section {
                    device: DeviceId([3; 16]),
                    model: Digest::default(),
                    attestation: Attestation::Agent,
                    series: vec![Series { metric: "energy".into(), readings }],
                };
                let sections = vec![encode_section(&section).unwrap()];
                let header = Header {
                    key: agent.id(),
                    incarnation: 1,
                    sequence,
                    previous,
                    registry_incarnation: 1,
                    registry_version: 1,
                    sealed_at: Timestamp(100),
                    window: Window { start: Timestamp(0), end: Timestamp(100) },
                    drops: vec![],
                    sections: 1,
                    body: body_root(&sections),
                };
                let header = encode_header(&header).unwrap();
                previous = Digest::of(&header);
                let verdict = depin_domain::proofs::Verdict { accepted: 1, rejections: vec![] };
                let body = encode_receipt(&ReceiptBody {
                    gateway: gateway.id(),
                    key: agent.id(),
                    incarnation: 1,
                    sequence,
                    digest: previous,
                    ledger_incarnation: 1,
                    position: sequence,
                    received_at: Timestamp(100),
                    accepted: 1,
                    rejected: 0,
                    verdict: verdict_digest(&verdict).unwrap(),
                    durable: true,
                    archived: false,
                });
                let signature = gateway.sign(&[RECEIPT_DOMAIN, &body].concat()).to_vec().into();
                let receipt = Receipt { body: body.into(), signature, gateway_key_id: gateway.id().0.to_vec().into() };
                let proof = SignedProof {
                    signature: agent.sign(&[PROOF_DOMAIN, &header].concat()).to_vec().into(),
                    header: header.into(),
                    algorithm: 1,
                    key_id: agent.id().0.to_vec().into(),
                    sections: sections.into_iter().map(Into::into).collect(),
                    traceparent: String::new(),
                };
                let verdict = depin_proto::convert::verdict_to_proto(&verdict);
                ProofRecord {
                    position: sequence,
                    received_at: 100,
                    proof: Some(proof),
                    verdict: Some(verdict),
                    receipt: Some(receipt),
                    ..ProofRecord::default()
                }
            })
            .collect()
    }

    fn keys() -> Keys {
        [1, 2]
            .map(|seed| VerifyingKey::new(signing(seed).public()).unwrap())
            .into_iter()
            .map(|key| (key.id(), key))
            .collect()
    }

    #[test]
    fn a_whole_chain_is_right_and_a_gap_is_no_fault() {
        let mut records = chain(4);
        assert!(examine(&keys(), &records).faults.is_empty());
        records.remove(1);
        let findings = examine(&keys(), &records);
        assert_eq!((findings.faults.len(), findings.gaps, findings.receipts), (0, 1, 3));
    }

    #[test]
    fn each_change_is_found() {
        let changed = |change: &dyn Fn(&mut ProofRecord)| {
            let mut records = chain(3);
            change(&mut records[1]);
            examine(&keys(), &records).faults.into_iter().map(|(_, fault)| fault).collect::<Vec<_>>()
        };
        let flip = |bytes: &[u8], at: usize| {
            let mut bytes = bytes.to_vec();
            bytes[at] ^= 1;
            bytes
        };
        let proof = |record: &mut ProofRecord| record.proof.clone().unwrap();
        assert!(
            changed(&|record| {
                let mut proof = proof(record);
                proof.signature = flip(&proof.signature, 5).into();
                record.proof = Some(proof);
            })[0]
                .contains("signature is wrong")
        );
        assert!(
            changed(&|record| {
                let mut proof = proof(record);
                let last = proof.sections[0].len() - 1;
                proof.sections[0] = flip(&proof.sections[0], last).into();
                record.proof = Some(proof);
            })[0]
                .contains("hash")
        );
        assert!(changed(&|record| record.verdict.as_mut().unwrap().accepted = 9)[0].contains("another verdict"));
        assert!(
            changed(&|record| record.receipt.as_mut().unwrap().signature = vec![0; 64].into())[0]
                .contains("receipt's signature")
        );
    }

    #[test]
    fn a_file_that_is_whole_but_of_strange_keys_is_told_apart_by_those_that_one_trusts() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let public = [1, 2].map(|seed| signing(seed).public().clone());
        let mut text = depin_proto::proof_file::head_line(public.to_vec()).unwrap();
        text.extend(chain(3).iter().map(depin_proto::proof_file::record_line));
        std::fs::write(file.path(), text).unwrap();
        let ids = [1, 2].map(|seed| signing(seed).id());
        let untold = run(file.path(), &[]).unwrap();
        assert!(untold.right && untold.text.contains("not checked: whose keys"), "{}", untold.text);
        assert!(ids.iter().all(|id| untold.text.contains(&id.to_string())));
        let known = run(file.path(), &ids).unwrap();
        assert!(known.right && !known.text.contains("not checked"), "{}", known.text);
        let strange = run(file.path(), &ids[1..]).unwrap();
        assert!(!strange.right && strange.text.contains(&format!("{} is none of the trusted", ids[0])));
    }

    #[test]
    fn a_file_of_another_kind_is_refused_with_a_remedy() {
        let fault = parse(Path::new("x"), "hello").unwrap_err();
        assert!(fault.message.contains("kubectl depin proofs --out"), "{fault}");
        assert!(parse(Path::new("x"), "{\"format\":\"depin.proofs.v1\",\"keys\":[]}\nzz").is_err());
    }
}
