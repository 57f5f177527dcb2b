//! The certificate authorities as they lie in a backup: always sealed, and only ever opened by a person who restores them.

use std::fmt;

use bytes::Bytes;
use zeroize::Zeroizing;

use crate::keys::{Identities, Recipients, SealError};

/// Secret `depin-ca` as JSON, with all that the operator keeps in it: certificates and keys of the authority that issues and of the next
/// one, the retired ones, and what they said for each other. The same as `kubectl depin ca export` writes.
#[derive(Clone, PartialEq, Eq)]
pub struct AuthorityBundle(pub Zeroizing<Vec<u8>>);

impl fmt::Debug for AuthorityBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AuthorityBundle").finish_non_exhaustive()
    }
}

impl AuthorityBundle {
    /// Encrypts it.
    ///
    /// # Errors
    /// Where there are no recipients: keys of authorities are never written in clear.
    pub fn seal(&self, recipients: &Recipients) -> Result<Bytes, SealError> {
        if recipients.is_empty() {
            return Err(SealError::Together("there are none, and an authority is never kept in clear".to_owned()));
        }
        recipients.seal(&self.0)
    }

    /// Opens what [`AuthorityBundle::seal`] made; `recipients` for whoever has no identity that fits.
    ///
    /// # Errors
    /// Where no identity fits, or it is something else.
    pub fn open(sealed: &Bytes, recipients: &[String], identities: &Identities) -> Result<Self, SealError> {
        const WHAT: &str = "the certificate authorities";
        let plain = identities.open(WHAT, sealed, recipients)?;
        if !plain.starts_with(b"{") {
            return Err(SealError::Damaged(WHAT.to_owned(), "it is no Secret".to_owned()));
        }
        Ok(Self(plain))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_sealed_or_not_written_at_all_and_never_shown() {
        use age::secrecy::ExposeSecret as _;
        let bundle = AuthorityBundle(Zeroizing::new(b"{\"data\": \"SECRET-KEY\"}".to_vec()));
        assert!(bundle.seal(&Recipients::default()).is_err());
        assert!(!format!("{bundle:?}").contains("83"), "not even its bytes");
        let directory = tempfile::tempdir().unwrap();
        let identity = age::x25519::Identity::generate();
        let file = directory.path().join("identity");
        std::fs::write(&file, identity.to_string().expose_secret()).unwrap();
        let recipients = Recipients::parse(&[identity.to_public().to_string()]).unwrap();
        let sealed = bundle.seal(&recipients).unwrap();
        assert!(!sealed.windows(6).any(|window| window == b"SECRET"));
        let identities = Identities::read(&file).unwrap();
        assert_eq!(AuthorityBundle::open(&sealed, recipients.names(), &identities).unwrap(), bundle);
        let other = recipients.seal(b"something else").unwrap();
        assert!(AuthorityBundle::open(&other, recipients.names(), &identities).is_err());
    }
}
