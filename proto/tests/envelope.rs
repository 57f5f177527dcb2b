//! The envelope on random values, random bytes, and damaged bytes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod samples;

use std::fmt::Debug;

use depin_domain::ids::Digest;
use depin_proto::{
    convert,
    envelope::{
        self, EnvelopeError, OpenError, body_root, decode_header, decode_receipt, decode_section, decode_verdict,
        encode_header, encode_receipt, encode_section, encode_verdict, open_proof, section_path,
    },
};
use depin_trials::{Rng, RngCore as _, below, one_in, run};

/// What is decoded encodes to the very same bytes: nobody can make two forms of one value.
fn decodes_only_its_own_form<T: Debug + PartialEq>(
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, EnvelopeError>,
    encode: impl Fn(&T) -> Vec<u8>,
) {
    if let Ok(value) = decode(bytes) {
        assert_eq!(encode(&value), bytes, "{value:?}");
    }
}

fn all_decoders(bytes: &[u8]) {
    decodes_only_its_own_form(bytes, decode_header, |header| encode_header(header).unwrap());
    decodes_only_its_own_form(bytes, decode_section, |section| encode_section(section).unwrap());
    decodes_only_its_own_form(bytes, decode_receipt, encode_receipt);
    decodes_only_its_own_form(bytes, decode_verdict, |verdict| encode_verdict(verdict).unwrap());
}

#[test]
fn what_is_encoded_decodes_to_itself() {
    run("envelope round trip", |rng| {
        let section = samples::section(rng);
        assert_eq!(decode_section(&encode_section(&section).unwrap()), Ok(section.clone()));
        let header = samples::header(rng, &[section]);
        assert_eq!(decode_header(&encode_header(&header).unwrap()), Ok(header));
        let verdict = samples::verdict(rng);
        assert_eq!(decode_verdict(&encode_verdict(&verdict).unwrap()), Ok(verdict.clone()));
        assert_eq!(convert::verdict_from_proto(&convert::verdict_to_proto(&verdict)), Ok(verdict));
        let receipt = samples::receipt(rng);
        assert_eq!(decode_receipt(&encode_receipt(&receipt)), Ok(receipt));
    });
}

#[test]
fn damaged_and_random_bytes_never_panic_and_never_decode_to_another_form() {
    run("envelope damage", |rng| {
        let section = samples::section(rng);
        let whole = match below(rng, 5) {
            0 => encode_section(&section).unwrap(),
            1 => encode_header(&samples::header(rng, &[section])).unwrap(),
            2 => encode_verdict(&samples::verdict(rng)).unwrap(),
            3 => encode_receipt(&samples::receipt(rng)),
            _ => random(rng),
        };
        all_decoders(&damage(rng, whole));
    });
}

fn random(rng: &mut Rng) -> Vec<u8> {
    let mut bytes = vec![0; below(rng, 300) as usize];
    rng.fill_bytes(&mut bytes);
    if bytes.len() >= 4 && !one_in(rng, 3) {
        bytes[..4].copy_from_slice(&[*b"DPH1", *b"DPS1", *b"DPR1"][below(rng, 3) as usize]);
    }
    bytes
}

fn damage(rng: &mut Rng, mut bytes: Vec<u8>) -> Vec<u8> {
    for _ in 0..=below(rng, 3) {
        if bytes.is_empty() {
            return bytes;
        }
        let place = below(rng, bytes.len() as u64) as usize;
        match below(rng, 5) {
            0 => bytes[place] ^= 1 << below(rng, 8),
            1 => bytes[place] = [0, 1, 0x7f, 0x80, 0xff][below(rng, 5) as usize],
            2 => bytes.truncate(place),
            3 => bytes.insert(place, rng.next_u64() as u8),
            _ => drop(bytes.remove(place)),
        }
    }
    bytes
}

#[test]
fn any_cut_of_a_section_is_refused() {
    run("envelope cuts", |rng| {
        let bytes = encode_section(&samples::section(rng)).unwrap();
        for length in 0..bytes.len() {
            assert!(decode_section(&bytes[..length]).is_err());
        }
        assert!(decode_section(&[bytes.as_slice(), &[0]].concat()).is_err());
    });
}

#[test]
fn a_count_beyond_the_bytes_allocates_nothing() {
    // A series that claims 262,144 readings in a section of 70 bytes.
    let mut bytes = b"DPS1\x01".to_vec();
    bytes.extend([7; 48]);
    bytes.extend([0, 0, 1, 1, b'a', 0, 4, 0, 0]);
    bytes.extend([0; 8]);
    let error = decode_section(&bytes).unwrap_err();
    assert_eq!(error.to_string(), "section.value: the bytes end here");
}

#[test]
fn every_section_has_a_path_and_no_other_bytes_fit_it() {
    run("body paths", |rng| {
        let sections: Vec<Vec<u8>> = (0..=below(rng, 40)).map(|_| random(rng)).collect();
        let root = body_root(&sections);
        let index = below(rng, sections.len() as u64) as u32;
        let path = section_path(&sections, index).unwrap();
        let section = &sections[index as usize];
        assert!(path.verify(section, &root));
        assert!(!path.verify(&[section.as_slice(), &[0]].concat(), &root));
        assert!(!path.verify(section, &Digest([9; 32])));
        let mut longer = path.clone();
        longer.siblings.push(Digest([1; 32]));
        assert!(!longer.verify(section, &root));
        assert_eq!(convert::path_from_proto(&convert::path_to_proto(&path)), Ok(path.clone()));
        let elsewhere = envelope::Path { index: path.index + 1, ..path };
        assert!(!elsewhere.verify(section, &root) || sections.get(index as usize + 1) == Some(section));
        assert_eq!(section_path(&sections, sections.len() as u32), None);
    });
}

#[test]
fn a_proof_opens_only_with_its_own_sections() {
    run("open proof", |rng| {
        let sections: Vec<_> = (0..below(rng, 4)).map(|_| samples::section(rng)).collect();
        let header = samples::header(rng, &sections);
        // A reading at the end of time fits no half-open window.
        let endless = header.sections > 0
            && sections.iter().flat_map(|s| &s.series).flat_map(|s| &s.readings).any(|r| r.at.0 == i64::MAX);
        let Ok(bytes) = encode_header(&header) else { return };
        let mut encoded: Vec<Vec<u8>> = sections.iter().map(|section| encode_section(section).unwrap()).collect();
        let opened = open_proof(&bytes, &encoded);
        if endless {
            assert!(opened.is_err());
            return;
        }
        let opened = opened.unwrap();
        assert_eq!((&opened.header, &opened.sections, opened.digest), (&header, &sections, Digest::of(&bytes)));
        if let Some(first) = encoded.first_mut() {
            let place = below(rng, first.len() as u64) as usize;
            first[place] ^= 1;
            assert!(matches!(open_proof(&bytes, &encoded), Err(OpenError::BodyMismatch { .. })));
            encoded.pop();
            assert!(matches!(open_proof(&bytes, &encoded), Err(OpenError::Malformed(_))));
        }
    });
}

#[test]
fn readings_outside_the_header_s_window_and_doubled_devices_are_refused() {
    run("proof contradictions", |rng| {
        let section = samples::section(rng);
        let mut header = samples::header(rng, std::slice::from_ref(&section));
        let bytes = encode_section(&section).unwrap();
        header.window.start = header.window.start.plus(1);
        if let Ok(shifted) = encode_header(&header) {
            let error = open_proof(&shifted, &[&bytes]).unwrap_err();
            assert_eq!(error.to_string(), "header.window: does not hold every reading");
        }
        let doubled = samples::header(rng, &[section.clone(), section]);
        if let Ok(doubled) = encode_header(&doubled) {
            let error = open_proof(&doubled, &[&bytes, &bytes]).unwrap_err().to_string();
            assert!(error.starts_with("section.device") || error.starts_with("header.window"), "{error}");
        }
    });
}
