//! How trust moves from one authority to the next: by the word of one that is trusted already. Pure.
//!
//! The word is a certificate for the new authority's name and key, issued by the one before (`CertificateAuthority::vouch`). It serves twice:
//! whoever was dark and trusts the old one alone verifies with it what the new one issued, and whoever is told of a new one takes it for
//! nothing but such a word, so that a gateway cannot slip in an authority of its own.

use depin_domain::time::Timestamp;
use rustls_pki_types::CertificateDer;

use crate::certificates::{is_same_authority, is_signed_by, parse, validity};

/// What somebody who trusts `trusted` takes of the CAs `offered`: those that it trusts already, and those that one of these vouches for, at
/// first hand or at a further one. What was trusted and is not offered any more is dropped; nothing at all of what is offered may be known,
/// and then nothing is to be taken.
#[must_use]
pub fn adopt(
    trusted: &[CertificateDer<'static>],
    offered: &[CertificateDer<'static>],
    vouchers: &[CertificateDer<'static>],
    now: Timestamp,
) -> Vec<CertificateDer<'static>> {
    let mut believed = trusted.to_vec();
    loop {
        let news: Vec<_> = offered
            .iter()
            .filter(|offer| !believed.contains(offer))
            .filter(|offer| vouchers.iter().any(|voucher| vouches(voucher, offer, &believed, now)))
            .cloned()
            .collect();
        if news.is_empty() {
            return offered.iter().filter(|offer| believed.contains(offer)).cloned().collect();
        }
        believed.extend(news);
    }
}

/// Those of `vouchers` that one of `trusted` issued.
#[must_use]
pub fn good_vouchers(
    vouchers: &[CertificateDer<'static>],
    trusted: &[CertificateDer<'static>],
) -> Vec<CertificateDer<'static>> {
    let issued = |voucher: &&CertificateDer<'static>| trusted.iter().any(|issuer| is_signed_by(voucher, issuer));
    vouchers.iter().filter(issued).cloned().collect()
}

fn vouches(voucher: &[u8], offer: &[u8], believed: &[CertificateDer<'static>], now: Timestamp) -> bool {
    // A certificate that may not sign others is nobody's word, whatever name it has.
    let Ok(read) = parse(voucher) else { return false };
    let may = matches!(read.basic_constraints(), Ok(Some(extension)) if extension.value.ca);
    may && now < validity(&read).end
        && is_same_authority(voucher, offer)
        && believed.iter().any(|issuer| is_signed_by(voucher, issuer))
}

#[cfg(test)]
mod tests {
    use depin_domain::time::Window;

    use super::*;
    use crate::{CertificateAuthority, CertificateRequest, PeerIdentity, SigningKey, certificates::certificates};

    const NOW: Timestamp = Timestamp(1_800_000_000_000);

    fn authority() -> CertificateAuthority {
        CertificateAuthority::create(Window { start: NOW.plus(-1_000), end: NOW.plus(1_000_000) }).unwrap()
    }

    fn word(by: &CertificateAuthority, of: &CertificateAuthority) -> CertificateDer<'static> {
        certificates(&by.vouch(of).unwrap()).unwrap().remove(0)
    }

    #[test]
    fn a_new_authority_is_taken_on_the_word_of_a_trusted_one_alone() {
        let [first, second, third] = [authority(), authority(), authority()];
        let der = |authority: &CertificateAuthority| authority.certificate().clone();
        let (one, two, three) = (der(&first), der(&second), der(&third));
        let (to_two, to_three) = (word(&first, &second), word(&second, &third));
        let offered = [two.clone(), one.clone()];
        let trusted = [one.clone()];
        assert_eq!(adopt(&trusted, &offered, std::slice::from_ref(&to_two), NOW), offered);
        assert_eq!(adopt(&trusted, &offered, &[], NOW), trusted, "nobody vouches");
        assert_eq!(
            adopt(&trusted, &offered, std::slice::from_ref(&to_two), NOW.plus(2_000_000)),
            trusted,
            "the word has ended"
        );
        // Two rotations were slept through.
        let all = [three.clone(), two.clone()];
        assert_eq!(adopt(&trusted, &all, &[to_three.clone(), to_two.clone()], NOW), all, "and the first is dropped");
        assert_eq!(adopt(&trusted, &all, &[to_three], NOW), []);
        // Nothing of it is known: nothing is taken.
        assert_eq!(adopt(&[two], &[one], &[to_two], NOW), []);
    }

    #[test]
    fn neither_a_strangers_word_nor_a_leaf_with_an_authoritys_name_vouches() {
        let [own, stranger, mine] = [authority(), authority(), authority()];
        let trusted = [own.certificate().clone()];
        let offered = [mine.certificate().clone()];
        assert_eq!(adopt(&trusted, &offered, &[word(&stranger, &mine)], NOW), []);
        assert_eq!(adopt(&trusted, &offered, &[word(&own, &stranger)], NOW), []);
        // An agent's certificate is for its own key, and is no authority's.
        let key = SigningKey::generate().unwrap();
        let request = CertificateRequest::from_der(&CertificateRequest::make(&key).unwrap()).unwrap();
        let validity = Window { start: NOW.plus(-1_000), end: NOW.plus(1_000) };
        let leaf = own.issue(&request, &PeerIdentity::Gateway, &[], validity).unwrap();
        let leaf = certificates(&leaf).unwrap().remove(0);
        assert_eq!(adopt(&trusted, std::slice::from_ref(&leaf), std::slice::from_ref(&leaf), NOW), []);
    }
}
