//! The test vectors of the envelope: made here from fixed keys and seeds, kept in `proto/vectors/envelope.json`, and checked
//! by a second implementation in Python. `DEPIN_WRITE_VECTORS=1` writes the file anew.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod samples;

use std::{path::PathBuf, process::Command};

use depin_domain::{
    ids::{Algorithm, DeviceId, Digest, PublicKey},
    model::Attestation,
    proofs::{Drop, DropReason, Header, Reading, Reason, Rejection, Section, Series, Verdict},
    time::{Timestamp, Window},
};
use depin_proto::envelope::{
    ReceiptBody, body_root, decode_header, decode_receipt, decode_section, decode_verdict, encode_header,
    encode_receipt, encode_section, encode_verdict, proof_signing_input, receipt_signing_input, section_path,
    verdict_digest,
};
use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::{Value, json};

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors").join(name)
}

fn key(seed: u8) -> (SigningKey, PublicKey) {
    let key = SigningKey::from_bytes(&[seed; 32]);
    let bytes = key.verifying_key().to_bytes().to_vec();
    (key, PublicKey { algorithm: Algorithm::Ed25519, bytes })
}

fn sections() -> Vec<Section> {
    let series = |metric: &str, readings: &[(i64, i64)]| Series {
        metric: metric.to_owned(),
        readings: readings.iter().map(|&(at, value)| Reading { at: Timestamp(at), value }).collect(),
    };
    let section = |name: &str, attestation, series| Section {
        device: DeviceId::of("grid", name),
        model: Digest::of(b"model"),
        attestation,
        series,
    };
    vec![
        section("meter-1", Attestation::Agent, vec![series("power", &[(1_767_225_600_000, 1500)])]),
        section(
            "meter-2",
            Attestation::Device,
            vec![
                series("Energy_1", &[(1_767_225_600_000, 0), (1_767_225_600_001, -1), (1_767_225_660_000, 64)]),
                series("power", &[(1_767_225_600_000, i64::MAX), (1_767_225_601_000, i64::MIN)]),
            ],
        ),
        section("meter-3", Attestation::Hardware, vec![series("a", &[(-1, -300), (1_767_225_600_000, 300)])]),
    ]
}

fn header_json(header: &Header, name: &str) -> Value {
    let drop = |drop: &Drop| {
        json!({"reason": drop.reason as u8, "count": drop.count.to_string(), "first": drop.first.0.to_string(),
               "last": drop.last.0.to_string(), "ordinal": drop.ordinal})
    };
    json!({
        "name": name, "chainKey": header.key, "incarnation": header.incarnation.to_string(),
        "sequence": header.sequence.to_string(), "previous": header.previous,
        "registryIncarnation": header.registry_incarnation.to_string(),
        "registryVersion": header.registry_version.to_string(), "sealedAt": header.sealed_at.0.to_string(),
        "windowStart": header.window.start.0.to_string(), "windowEnd": header.window.end.0.to_string(),
        "drops": header.drops.iter().map(drop).collect::<Vec<_>>(), "sections": header.sections, "body": header.body,
        "bytes": hex::encode(encode_header(header).unwrap()),
        "digest": Digest::of(&encode_header(header).unwrap()),
    })
}

fn section_json(section: &Section) -> Value {
    let series = |series: &Series| {
        let readings: Vec<_> =
            series.readings.iter().map(|r| json!([r.at.0.to_string(), r.value.to_string()])).collect();
        json!({"metric": series.metric, "readings": readings})
    };
    json!({
        "device": section.device, "model": section.model, "attestation": section.attestation as u8,
        "series": section.series.iter().map(series).collect::<Vec<_>>(),
        "bytes": hex::encode(encode_section(section).unwrap()),
    })
}

fn headers(sections: &[Section]) -> Vec<(&'static str, Header)> {
    let encoded: Vec<_> = sections.iter().map(|section| encode_section(section).unwrap()).collect();
    let first = Header {
        key: key(1).1.id(),
        incarnation: 1,
        sequence: 1,
        previous: Digest::default(),
        registry_incarnation: 1,
        registry_version: 7,
        sealed_at: Timestamp(1_767_225_700_000),
        window: Window { start: Timestamp(-1), end: Timestamp(1_767_225_660_001) },
        drops: Vec::new(),
        sections: sections.len() as u32,
        body: body_root(&encoded),
    };
    let drop = |reason, count, first, last, ordinal| Drop {
        reason,
        count,
        first: Timestamp(first),
        last: Timestamp(last),
        ordinal,
    };
    let second = Header {
        sequence: 2,
        previous: Digest::of(&encode_header(&first).unwrap()),
        window: Window::default(),
        drops: vec![
            drop(DropReason::LimitReached, 12, 1_767_225_000_000, 1_767_225_011_000, 0),
            drop(DropReason::NeverApproved, u64::MAX, i64::MIN, i64::MAX, 1),
        ],
        sections: 0,
        body: Digest::default(),
        ..first.clone()
    };
    vec![("three sections", first), ("drops without sections", second)]
}

fn proof_json(sections: &[Section], name: &str, header: &Header, public: &PublicKey, signature: &[u8]) -> Value {
    json!({
        "name": name, "header": header_json(header, name), "algorithm": public.algorithm.code(),
        "publicKey": hex::encode(&public.bytes), "keyId": public.id(), "signature": hex::encode(signature),
        "sections": if header.sections == 0 { vec![] } else { sections.iter().map(section_json).collect() },
    })
}

fn proofs_json(sections: &[Section]) -> Vec<Value> {
    let (signer, public) = key(1);
    let headers = headers(sections);
    let mut proofs: Vec<Value> = headers
        .iter()
        .map(|(name, header)| {
            let signature = signer.sign(&proof_signing_input(&encode_header(header).unwrap())).to_bytes();
            proof_json(sections, name, header, &public, &signature)
        })
        .collect();
    // As a secure element signs.
    let signer = p256::ecdsa::SigningKey::from_slice(&[3; 32]).unwrap();
    let point = signer.verifying_key().to_sec1_point(true);
    let public = PublicKey { algorithm: Algorithm::P256, bytes: point.as_bytes().to_vec() };
    let header = Header { key: public.id(), ..headers[0].1.clone() };
    let signature: p256::ecdsa::Signature = signer.sign(&proof_signing_input(&encode_header(&header).unwrap()));
    proofs.push(proof_json(sections, "a secure element's", &header, &public, &signature.to_bytes()));
    proofs
}

/// Bodies of every size up to nine, with the path of every section.
fn bodies_json() -> Vec<Value> {
    (1..=9_u8)
        .map(|count| {
            let sections: Vec<Vec<u8>> = (0..count).map(|index| vec![index; usize::from(index) + 1]).collect();
            let path = |index| section_path(&sections, index).unwrap().siblings;
            json!({
                "sections": sections.iter().map(hex::encode).collect::<Vec<_>>(), "root": body_root(&sections),
                "paths": (0..u32::from(count)).map(path).collect::<Vec<_>>(),
            })
        })
        .collect()
}

fn verdicts() -> Vec<Verdict> {
    let rejection = |section, series, readings: &[u32], reason, detail: &str| Rejection {
        section,
        series,
        readings: readings.to_vec(),
        reason,
        detail: detail.to_owned(),
    };
    vec![
        Verdict { accepted: 8, rejections: Vec::new() },
        Verdict {
            accepted: 3,
            rejections: vec![
                rejection(0, None, &[], Reason::NotApproved, ""),
                rejection(1, Some(0), &[], Reason::UnknownMetric, "Energy_1"),
                rejection(1, Some(1), &[0, 1], Reason::CheckFailed, "Plausible"),
            ],
        },
    ]
}

fn verdict_json(verdict: &Verdict) -> Value {
    let rejection = |it: &Rejection| {
        json!({"section": it.section, "series": it.series, "readings": it.readings, "reason": it.reason.code(),
               "detail": it.detail})
    };
    json!({
        "accepted": verdict.accepted.to_string(),
        "rejections": verdict.rejections.iter().map(rejection).collect::<Vec<_>>(),
        "bytes": hex::encode(encode_verdict(verdict).unwrap()), "digest": verdict_digest(verdict).unwrap(),
    })
}

fn receipt_json(sections: &[Section]) -> Value {
    let (signer, public) = key(2);
    let (_, header) = &headers(sections)[0];
    let receipt = ReceiptBody {
        gateway: public.id(),
        key: header.key,
        incarnation: header.incarnation,
        sequence: header.sequence,
        digest: Digest::of(&encode_header(header).unwrap()),
        ledger_incarnation: 1,
        position: 42,
        received_at: Timestamp(1_767_225_700_100),
        accepted: 8,
        rejected: 0,
        verdict: verdict_digest(&verdicts()[0]).unwrap(),
        durable: true,
        archived: false,
    };
    let body = encode_receipt(&receipt);
    json!({
        "gatewayKey": receipt.gateway, "publicKey": hex::encode(&public.bytes), "chainKey": receipt.key,
        "incarnation": "1", "sequence": "1", "headerDigest": receipt.digest, "ledgerIncarnation": "1",
        "ledgerPosition": "42", "receivedAt": receipt.received_at.0.to_string(), "accepted": "8", "rejected": "0",
        "verdictDigest": receipt.verdict, "durable": 1, "archived": 0, "bytes": hex::encode(&body),
        "signature": hex::encode(signer.sign(&receipt_signing_input(&body)).to_bytes()),
    })
}

/// Bytes that must be refused, with the field that is wrong.
fn invalid_json(sections: &[Section]) -> Vec<Value> {
    let (_, good) = &headers(sections)[0];
    let header = encode_header(good).unwrap();
    let section = encode_section(&sections[0]).unwrap();
    let receipt = hex::decode(receipt_json(sections)["bytes"].as_str().unwrap()).unwrap();
    let verdict = encode_verdict(&verdicts()[1]).unwrap();
    let with = |bytes: &[u8], place: usize, new: &[u8]| {
        let mut bytes = bytes.to_vec();
        bytes.splice(place..place + new.len(), new.iter().copied());
        bytes
    };
    let more = |bytes: &[u8]| [bytes, &[0]].concat();
    // Offsets as in docs/envelope.md.
    let cases: Vec<(&str, &str, Vec<u8>)> = vec![
        ("header", "wrong magic", with(&header, 0, b"DPH2")),
        ("header", "trailing byte", more(&header)),
        ("header", "cut", header[..header.len() - 1].to_vec()),
        ("header", "incarnation 0", with(&header, 36, &[0; 8])),
        ("header", "sequence 0", with(&header, 44, &[0; 8])),
        ("header", "previous before the first", with(&header, 52, &[1])),
        ("header", "drops beyond the bytes", with(&header, 124, &[0, 1])),
        ("header", "too many drops", with(&header, 124, &[0xff, 0xff])),
        ("header", "too many sections", with(&header, 126, &[0, 1, 0, 1])),
        ("header", "no sections but a window", with(&header, 126, &[0; 4])),
        ("header", "empty window", with(&header, 116, &(-1_i64).to_be_bytes())),
        ("section", "wrong magic", with(&section, 0, b"DPS0")),
        ("section", "unknown kind", with(&section, 4, &[2])),
        ("section", "unknown attestation", with(&section, 53, &[3])),
        ("section", "no series", with(&section, 54, &[0, 0])),
        ("section", "name begins with a digit", with(&section, 57, b"9")),
        ("section", "no readings", with(&section, 62, &[0; 4])),
        ("section", "trailing byte", more(&section)),
        ("section", "longer varint than needed", [&section[..section.len() - 2], &[0xb8, 0x97, 0x00]].concat()),
        ("section", "varint beyond 64 bits", [&section[..section.len() - 2], &[0xff; 9], &[0x02]].concat()),
        ("section", "timestamps do not ascend", [&with(&section, 62, &[0, 0, 0, 2])[..], &[0, 0]].concat()),
        ("receipt", "flag 2", with(&receipt, receipt.len() - 1, &[2])),
        ("receipt", "trailing byte", more(&receipt)),
        ("verdict", "unknown reason", with(&verdict, 24, &[0xff, 0xff])),
        ("verdict", "trailing byte", more(&verdict)),
        ("verdict", "whole section with indexes", with(&verdict, 20, &[0, 0, 0, 1])),
    ];
    cases.into_iter().map(|(kind, name, bytes)| invalid_case(kind, name, &bytes)).collect()
}

fn invalid_case(kind: &str, name: &str, bytes: &[u8]) -> Value {
    let error = match kind {
        "header" => decode_header(bytes).map(drop),
        "section" => decode_section(bytes).map(drop),
        "receipt" => decode_receipt(bytes).map(drop),
        _ => decode_verdict(bytes).map(drop),
    }
    .expect_err(name);
    json!({"kind": kind, "name": name, "bytes": hex::encode(bytes), "field": error.field, "error": error.to_string()})
}

#[test]
fn vectors_are_as_recorded_and_a_second_implementation_agrees() {
    let sections = sections();
    let vectors = json!({
        "proofs": proofs_json(&sections),
        "bodies": bodies_json(),
        "verdicts": verdicts().iter().map(verdict_json).collect::<Vec<_>>(),
        "receipt": receipt_json(&sections),
        "invalid": invalid_json(&sections),
    });
    let text = format!("{vectors:#}\n");
    if std::env::var_os("DEPIN_WRITE_VECTORS").is_some() {
        std::fs::write(file("envelope.json"), &text).unwrap();
    }
    let recorded: Value = serde_json::from_str(&std::fs::read_to_string(file("envelope.json")).unwrap()).unwrap();
    assert_eq!(recorded, vectors, "the envelope's bytes changed; they are a promise to every deployed agent");

    match Command::new("python3").arg(file("check.py")).arg(file("envelope.json")).output() {
        Err(error) => println!("skipped: the check in Python: python3 does not start ({error}); install python3"),
        Ok(output) => {
            let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert!(output.status.success(), "{out}{err}");
            assert!(out.starts_with("checked"), "{out}");
        }
    }
}
