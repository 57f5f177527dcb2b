//! Which authorities are trusted, and which of them issues. Pure.
//!
//! A new authority is introduced first: everyone is told to trust it, and it issues nothing. Then it issues, and the one before is retired:
//! trusted still, for what it issued and for agents that were dark meanwhile. It is dropped once nothing that it issued can be renewed any
//! more, or by a person's word. Each vouches for its successor while it can, so that who trusts the old one alone comes back by himself.

use std::sync::Arc;

use depin_domain::{
    ids::Digest,
    time::{Timestamp, Window},
};
use depin_identity::{
    CertificateAuthority, Pass,
    certificates::{CertificateError, certificates, pem},
    trust,
};
use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::validity;

/// The authorities.
#[derive(Clone, Debug)]
pub struct Authorities {
    /// The one that issues.
    pub issuing: Arc<CertificateAuthority>,
    /// The one that will issue next.
    pub next: Option<Next>,
    /// Those that issued before and are trusted still, the newest first.
    pub retired: Vec<Retired>,
    /// What each said for its successor.
    pub vouchers: Vec<CertificateDer<'static>>,
    /// Those whose key this process still has in memory: what was sealed to them on the day of a change is opened.
    former: Vec<Arc<CertificateAuthority>>,
}

/// An authority that is trusted and does not issue yet.
#[derive(Clone, Debug)]
pub struct Next {
    /// Which.
    pub authority: Arc<CertificateAuthority>,
    /// Since when everyone is told; none: nobody was told yet.
    pub introduced: Option<Timestamp>,
}

/// An authority that does not issue any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retired {
    /// Its certificate; its key is gone.
    pub certificate: CertificateDer<'static>,
    /// Since when.
    pub since: Timestamp,
}

/// How long things take.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// From the introduction of an authority to its first certificate: so long the slowest gateway may take to hear of it.
    pub introduction_ms: i64,
    /// How long a retired authority is trusted.
    pub overlap_ms: i64,
}

/// What a person asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Word {
    /// A new authority.
    pub rotate: bool,
    /// No more trust in those that issue no more.
    pub retire: bool,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A new authority is made known.
    Introduced,
    /// It issues from now on.
    Switched,
    /// A retired one is not trusted any more.
    Dropped,
}

impl Authorities {
    /// One authority, which issues.
    #[must_use]
    pub fn of(issuing: CertificateAuthority) -> Self {
        let (next, retired, vouchers, former) = (None, Vec::new(), Vec::new(), Vec::new());
        Self { issuing: Arc::new(issuing), next, retired, vouchers, former }
    }

    /// All that are trusted, the one that issues first.
    #[must_use]
    pub fn trusted(&self) -> Vec<CertificateDer<'static>> {
        let live = [Some(&self.issuing), self.next.as_ref().map(|next| &next.authority)];
        let live = live.into_iter().flatten().map(|authority| authority.certificate());
        live.chain(self.retired.iter().map(|retired| &retired.certificate)).cloned().collect()
    }

    /// The trusted ones in PEM.
    #[must_use]
    pub fn bundle(&self) -> String {
        text(&self.trusted())
    }

    /// The vouchers in PEM.
    #[must_use]
    pub fn vouchers_text(&self) -> String {
        text(&self.vouchers)
    }

    /// The token that was sealed to one of these authorities.
    #[must_use]
    pub fn open(&self, pass: Pass<'_>, sealed: &[u8]) -> Option<Zeroizing<String>> {
        let next = self.next.as_ref().map(|next| &next.authority);
        let mut all = [Some(&self.issuing), next].into_iter().flatten().chain(&self.former);
        all.find_map(|authority| pass.open(authority.sealing(), sealed).ok())
    }

    /// The next thing that is to be done now, done; none where nothing is. `make` makes an authority.
    ///
    /// # Errors
    /// Where a certificate cannot be made.
    pub fn step(
        &self,
        word: Word,
        terms: Terms,
        now: Timestamp,
        make: impl FnOnce(Window) -> Result<CertificateAuthority, CertificateError>,
    ) -> Result<Option<(Self, Step)>, CertificateError> {
        let mut after = self.clone();
        match &self.next {
            None if word.rotate => {
                let authority = make(validity::authority(now))?;
                after.introduce(Arc::new(authority), now)?;
                return Ok(Some((after, Step::Introduced)));
            }
            Some(next) => match next.introduced {
                None => {
                    after.introduce(Arc::clone(&next.authority), now)?;
                    return Ok(Some((after, Step::Introduced)));
                }
                Some(since) if now.since(since) >= terms.introduction_ms => {
                    after.replace(Arc::clone(&next.authority), now);
                    after.next = None;
                    return Ok(Some((after, Step::Switched)));
                }
                Some(_) => {}
            },
            None => {}
        }
        after.retired.retain(|retired| !word.retire && now.since(retired.since) < terms.overlap_ms);
        if after.retired == self.retired {
            return Ok(None);
        }
        after.tidy();
        Ok(Some((after, Step::Dropped)))
    }

    /// Somebody put another authority in the place of the one that issued: that one is retired, as after a rotation.
    ///
    /// # Errors
    /// Where a certificate cannot be made.
    pub fn succeeded_by(&self, stored: Self, now: Timestamp) -> Result<Self, CertificateError> {
        let mut after = stored;
        after.former.clone_from(&self.former);
        let own = self.issuing.certificate();
        if after.issuing.certificate() == own {
            return Ok(after);
        }
        if !after.trusted().contains(own) {
            after.vouchers.extend(certificates(&self.issuing.vouch(&after.issuing)?)?);
            after.retired.insert(0, Retired { certificate: own.clone(), since: now });
            // What led to the one before leads on.
            after.vouchers.extend(self.vouchers.iter().cloned());
            after.retired.extend(self.retired.iter().cloned());
            after.tidy();
        }
        after.former.insert(0, Arc::clone(&self.issuing));
        Ok(after)
    }

    fn introduce(&mut self, authority: Arc<CertificateAuthority>, now: Timestamp) -> Result<(), CertificateError> {
        let word = certificates(&self.issuing.vouch(&authority)?)?;
        self.vouchers = word.into_iter().chain(std::mem::take(&mut self.vouchers)).collect();
        self.next = Some(Next { authority, introduced: Some(now) });
        Ok(())
    }

    fn replace(&mut self, authority: Arc<CertificateAuthority>, now: Timestamp) {
        let before = std::mem::replace(&mut self.issuing, authority);
        self.retired.insert(0, Retired { certificate: before.certificate().clone(), since: now });
        self.former = vec![before];
    }

    /// Forgets what those said that are not trusted any more, and whom nobody needs twice.
    fn tidy(&mut self) {
        let live = [Some(&self.issuing), self.next.as_ref().map(|next| &next.authority)];
        let live: Vec<_> = live.into_iter().flatten().map(|authority| authority.certificate().clone()).collect();
        self.retired.retain(|retired| !live.contains(&retired.certificate));
        self.retired.dedup_by(|one, other| one.certificate == other.certificate);
        self.vouchers = trust::good_vouchers(&self.vouchers, &self.trusted());
        self.vouchers.dedup();
    }

    /// The retired ones, the newest first.
    #[must_use]
    pub fn retired_certificates(&self) -> Vec<CertificateDer<'static>> {
        self.retired.iter().map(|retired| retired.certificate.clone()).collect()
    }

    /// SHA-256 of each retired certificate with the time of its retirement.
    #[must_use]
    pub fn retirements(&self) -> Vec<(Digest, Timestamp)> {
        self.retired.iter().map(|retired| (Digest::of(&retired.certificate), retired.since)).collect()
    }
}

pub(super) fn text(all: &[CertificateDer<'static>]) -> String {
    all.iter().map(|certificate| pem("CERTIFICATE", certificate)).collect()
}

#[cfg(test)]
mod tests {
    use depin_identity::trust::adopt;

    use super::*;

    const TERMS: Terms = Terms { introduction_ms: 1_000, overlap_ms: 10_000 };
    const NO: Word = Word { rotate: false, retire: false };
    const ROTATE: Word = Word { rotate: true, retire: false };
    const RETIRE: Word = Word { rotate: false, retire: true };

    fn start() -> Authorities {
        Authorities::of(CertificateAuthority::create(validity::authority(Timestamp(0))).unwrap())
    }

    fn step(state: &Authorities, word: Word, now: i64) -> Option<(Authorities, Step)> {
        state.step(word, TERMS, Timestamp(now), CertificateAuthority::create).unwrap()
    }

    fn stepped(state: &Authorities, word: Word, now: i64, expected: Step) -> Authorities {
        let (after, done) = step(state, word, now).unwrap();
        assert_eq!(done, expected);
        after
    }

    #[test]
    fn a_rotation_is_told_before_it_is_used_and_ends_when_nothing_needs_the_old_one() {
        let first = start();
        assert!(step(&first, NO, 0).is_none() && step(&first, RETIRE, 0).is_none());
        let told = stepped(&first, ROTATE, 0, Step::Introduced);
        assert_eq!(told.issuing.hash(), first.issuing.hash(), "the old one issues still");
        assert_eq!((told.trusted().len(), told.trusted()[0].clone()), (2, first.issuing.certificate().clone()));
        assert!(step(&told, ROTATE, 999).is_none(), "one at a time");
        let switched = stepped(&told, NO, 1_000, Step::Switched);
        assert_eq!(switched.issuing.hash(), told.next.as_ref().unwrap().authority.hash());
        assert_eq!(switched.retired[0].certificate, *first.issuing.certificate());
        // Who slept meanwhile takes the new one, and keeps the old one as long as it is offered.
        let believed = adopt(&first.trusted(), &switched.trusted(), &switched.vouchers, Timestamp(2_000));
        assert_eq!(believed, switched.trusted());
        assert!(step(&switched, NO, 10_999).is_none());
        let over = stepped(&switched, NO, 11_000, Step::Dropped);
        assert_eq!((over.trusted(), over.vouchers.len()), (vec![switched.issuing.certificate().clone()], 0));
        assert_eq!(stepped(&switched, RETIRE, 1_001, Step::Dropped).trusted().len(), 1, "a person need not wait");
    }

    #[test]
    fn a_second_rotation_within_the_overlap_leads_on_from_the_first_authority() {
        let first = start();
        let second = stepped(&stepped(&first, ROTATE, 0, Step::Introduced), NO, 1_000, Step::Switched);
        let third = stepped(&stepped(&second, ROTATE, 1_500, Step::Introduced), NO, 2_500, Step::Switched);
        assert_eq!(third.trusted().len(), 3);
        for trusted in [first.trusted(), second.trusted()] {
            assert_eq!(adopt(&trusted, &third.trusted(), &third.vouchers, Timestamp(3_000)), third.trusted());
        }
        // The first is dropped before the second.
        let after = stepped(&third, NO, 11_000, Step::Dropped);
        assert_eq!((after.trusted().len(), after.vouchers.len()), (2, 1));
    }

    #[test]
    fn an_authority_that_somebody_put_in_place_retires_the_one_before() {
        let (first, other) = (start(), start());
        let after = first.succeeded_by(other.clone(), Timestamp(5)).unwrap();
        assert_eq!(after.issuing.hash(), other.issuing.hash());
        assert_eq!(after.retirements(), [(first.issuing.hash(), Timestamp(5))]);
        assert_eq!(adopt(&first.trusted(), &after.trusted(), &after.vouchers, Timestamp(6)), after.trusted());
        // What was sealed to the one before is opened still.
        let pass = Pass { csr: b"csr", name: "n", namespace: "town", fleets: &[] };
        let sealed = pass.seal(&first.issuing.sealing().public(), "token").unwrap();
        assert_eq!(after.open(pass, &sealed).unwrap().as_str(), "token");
        assert!(other.open(pass, &sealed).is_none());
        // The same one again changes nothing.
        let same = after.succeeded_by(after.clone(), Timestamp(7)).unwrap();
        assert_eq!((same.trusted(), same.retirements()), (after.trusted(), after.retirements()));
    }
}
