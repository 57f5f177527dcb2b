//! The authorities as Secret depin-ca keeps them. Pure.

use std::{collections::BTreeMap, sync::Arc};

use depin_domain::{ids::Digest, time::Timestamp};
use depin_identity::{CertificateAuthority, certificates::certificates};
use depin_sealing::AuthorityBundle;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{ResourceExt as _, api::ObjectMeta};
use zeroize::Zeroizing;

use super::{
    CA, CertificatesError,
    authorities::{Authorities, Next, Retired, Word},
    text,
};
use crate::annotations::{CA_INTRODUCED, CA_RETIRE, CA_RETIRED, CA_ROTATE, MANAGED_BY, OPERATOR};

/// Fields beside `tls.crt` and `tls.key`, which are of the authority that issues.
const NEXT_CRT: &str = "next.crt";
const NEXT_KEY: &str = "next.key";
const RETIRED: &str = "retired.crt";
const VOUCHERS: &str = "vouchers.crt";
const BUNDLE: &str = "ca.crt";

/// What a person asks for by annotations of the Secret.
#[must_use]
pub fn word(secret: &Secret) -> Word {
    let has = |name: &str| secret.annotations().contains_key(name);
    Word { rotate: has(CA_ROTATE), retire: has(CA_RETIRE) }
}

/// Reads the authorities.
///
/// # Errors
/// Where a field is missing or damaged.
pub fn read(secret: &Secret, now: Timestamp) -> Result<Authorities, CertificatesError> {
    let failed = CertificatesError::certificate;
    let authority = |crt: &'static str, key: &'static str| {
        CertificateAuthority::from_pem(&text(secret, CA, crt)?, &text(secret, CA, key)?)
            .map_err(failed("Secret depin-ca"))
    };
    let optional = |field: &'static str| match text(secret, CA, field) {
        Ok(pem) if !pem.is_empty() => certificates(&pem).map_err(failed("Secret depin-ca")),
        _ => Ok(Vec::new()),
    };
    let mut authorities = Authorities::of(authority("tls.crt", "tls.key")?);
    let has_next = secret.data.as_ref().is_some_and(|data| data.contains_key(NEXT_CRT));
    if has_next {
        let introduced = secret.annotations().get(CA_INTRODUCED).and_then(|text| moment(text));
        authorities.next = Some(Next { authority: Arc::new(authority(NEXT_CRT, NEXT_KEY)?), introduced });
    }
    let since = retirements(secret);
    let retired = optional(RETIRED)?.into_iter().map(|certificate| {
        // Whose time is not known begins anew: rather longer than too short.
        let since = since.get(&Digest::of(&certificate)).copied().unwrap_or(now);
        Retired { certificate, since }
    });
    authorities.retired = retired.collect();
    authorities.vouchers = optional(VOUCHERS)?;
    Ok(authorities)
}

fn retirements(secret: &Secret) -> BTreeMap<Digest, Timestamp> {
    let text = secret.annotations().get(CA_RETIRED).map(String::as_str).unwrap_or_default();
    text.split(',')
        .filter_map(|part| part.split_once('='))
        .filter_map(|(hash, at)| Some((hash.parse().ok()?, moment(at)?)))
        .collect()
}

fn moment(text: &str) -> Option<Timestamp> {
    text.parse::<jiff::Timestamp>().ok().map(|at| Timestamp(at.as_millisecond()))
}

fn written(at: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(at.0).unwrap_or_default().to_string()
}

/// The Secret as it is exported: what names it and what it keeps, nothing of the cluster that it comes from.
#[must_use]
pub fn exported(secret: &Secret) -> Secret {
    let ours = secret.annotations().iter().filter(|(name, _)| name.starts_with("depin.dev/"));
    let metadata = ObjectMeta {
        name: Some(CA.to_owned()),
        labels: secret.metadata.labels.clone(),
        annotations: Some(ours.map(|(name, value)| (name.clone(), value.clone())).collect()),
        ..ObjectMeta::default()
    };
    Secret { metadata, type_: secret.type_.clone(), data: secret.data.clone(), ..Secret::default() }
}

/// The same of authorities that are in memory, with a digest that tells what is public of them.
///
/// # Errors
/// Where it cannot be written as JSON.
pub fn bundle(authorities: &Authorities) -> Result<(AuthorityBundle, Digest), serde_json::Error> {
    let mut secret = exported(&write(super::tls_secret(CA), authorities));
    let whole = AuthorityBundle(Zeroizing::new(serde_json::to_vec(&secret)?));
    secret.data.iter_mut().for_each(|data| data.retain(|field, _| !field.ends_with(".key")));
    Ok((whole, Digest::of(&serde_json::to_vec(&secret)?)))
}

/// `secret` as it keeps `authorities`. What a person asked for is done by then, and what others put there stays.
#[must_use]
pub fn write(mut secret: Secret, authorities: &Authorities) -> Secret {
    let own = secret.labels().get(MANAGED_BY).map(String::as_str) == Some(OPERATOR);
    let next = authorities.next.as_ref();
    let stored = text(&secret, CA, "tls.crt").ok().and_then(|pem| certificates(&pem).ok()?.into_iter().next());
    // One that somebody brought is left as he wrote it.
    let issuing = (stored.as_ref() != Some(authorities.issuing.certificate())).then_some(&authorities.issuing);
    let fields = [
        (NEXT_CRT, next.map(|next| next.authority.chain_pem())),
        (NEXT_KEY, next.map(|next| next.authority.key_pem().to_string())),
        (RETIRED, Some(super::authorities::text(&authorities.retired_certificates())).filter(|text| !text.is_empty())),
        (VOUCHERS, Some(authorities.vouchers_text()).filter(|text| !text.is_empty())),
    ];
    let data = secret.data.get_or_insert_default();
    let mut put = |field: &str, text: Option<String>| match text {
        Some(text) => drop(data.insert(field.to_owned(), ByteString(text.into_bytes()))),
        None => drop(data.remove(field)),
    };
    for (field, text) in fields {
        put(field, text);
    }
    if let Some(issuing) = issuing {
        put("tls.crt", Some(issuing.chain_pem()));
        put("tls.key", Some(issuing.key_pem().to_string()));
    }
    if own {
        put(BUNDLE, Some(authorities.bundle()));
    }
    let retired: Vec<_> =
        authorities.retirements().iter().map(|(hash, since)| format!("{hash}={}", written(*since))).collect();
    let marks = [
        (CA_INTRODUCED, next.and_then(|next| next.introduced).map(written)),
        (CA_RETIRED, Some(retired.join(",")).filter(|text| !text.is_empty())),
        (CA_ROTATE, None),
        (CA_RETIRE, None),
    ];
    let annotations = secret.annotations_mut();
    for (name, value) in marks {
        match value {
            Some(value) => drop(annotations.insert(name.to_owned(), value)),
            None => drop(annotations.remove(name)),
        }
    }
    // As the API server tells that there are none: what did not change is equal, and is not written again.
    secret.metadata.annotations.take_if(|annotations| annotations.is_empty());
    secret
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificates::{authorities::Terms, validity};

    #[test]
    fn what_goes_into_a_backup_is_all_that_the_secret_keeps_and_its_digest_knows_no_key() {
        let now = Timestamp(1_800_000_000_000);
        let make = || CertificateAuthority::create(validity::authority(now)).unwrap();
        let mut all = Authorities::of(make());
        all.next = Some(Next { authority: Arc::new(make()), introduced: Some(now) });
        all.retired = vec![Retired { certificate: make().certificate().clone(), since: now }];
        let (whole, digest) = bundle(&all).unwrap();
        assert_eq!(bundle(&all).unwrap(), (whole.clone(), digest), "the same ones are told to be the same");
        let secret: Secret = serde_json::from_slice(&whole.0).unwrap();
        let again = read(&secret, now.plus(1)).unwrap();
        assert_eq!((again.bundle(), again.retirements()), (all.bundle(), all.retirements()));
        assert_eq!(again.issuing.key_pem(), all.issuing.key_pem());
        assert_eq!(again.next.unwrap().authority.key_pem(), all.next.as_ref().unwrap().authority.key_pem());
        all.retired.clear();
        assert_ne!(bundle(&all).unwrap().1, digest);
    }

    #[test]
    fn what_did_not_change_is_equal_when_it_comes_back_from_the_api_server() {
        let now = Timestamp(1_800_000_000_000);
        let authorities = Authorities::of(CertificateAuthority::create(validity::authority(now)).unwrap());
        let kept = write(super::super::tls_secret(CA), &authorities);
        // It leaves out what is empty.
        assert_eq!(kept.metadata.annotations, None);
        assert_eq!(write(kept.clone(), &read(&kept, now).unwrap()), kept);
    }

    #[test]
    fn what_is_written_is_read_again_and_a_persons_word_is_taken_once() {
        let now = Timestamp(1_800_000_000_000);
        let terms = Terms { introduction_ms: 0, overlap_ms: 1_000_000 };
        let start = Authorities::of(CertificateAuthority::create(validity::authority(now)).unwrap());
        let mut secret = write(Secret::default(), &start);
        secret.annotations_mut().insert(CA_ROTATE.into(), String::new());
        secret.annotations_mut().insert("a-persons/own".into(), "kept".into());
        let mut state = read(&secret, now).unwrap();
        let mut all = vec![state.clone()];
        let mut word = word(&secret);
        assert_eq!(word, Word { rotate: true, retire: false });
        while let Some((after, _)) = state.step(word, terms, now, CertificateAuthority::create).unwrap() {
            word = Word::default();
            state = after;
            all.push(state.clone());
        }
        assert_eq!(all.len(), 3, "told, and switched");
        for state in all {
            secret = write(secret, &state);
            assert_eq!(super::word(&secret), Word::default());
            let again = read(&secret, now.plus(5)).unwrap();
            assert_eq!((again.bundle(), again.vouchers_text()), (state.bundle(), state.vouchers_text()));
            assert_eq!(again.retirements(), state.retirements());
            assert_eq!(
                again.next.as_ref().map(|next| (next.authority.hash(), next.introduced)),
                state.next.as_ref().map(|next| (next.authority.hash(), next.introduced))
            );
            assert_eq!(write(secret.clone(), &again), secret, "nothing is written twice");
        }
        assert_eq!(secret.annotations()["a-persons/own"], "kept");
        let bare = exported(&secret);
        assert!(!bare.annotations().contains_key("a-persons/own"), "it is of that cluster");
        assert_eq!(read(&bare, now).unwrap().bundle(), read(&secret, now).unwrap().bundle());
        assert!(!secret.data.unwrap().contains_key(NEXT_KEY));
    }
}
