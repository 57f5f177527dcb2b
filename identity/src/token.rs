//! Join tokens: what a stranger shows to be let in once, and how it knows whom it talks to.

use std::{fmt, str::FromStr};

use depin_domain::ids::Digest;
use zeroize::Zeroizing;

const VERSION: &str = "depin1";

/// `depin1.<secret, 32 hex>.<SHA-256 of the CA certificate's DER, 64 hex>`
#[derive(Clone)]
pub struct JoinToken {
    secret: Zeroizing<[u8; 16]>,
    ca: Digest,
}

/// The text is no join token. It is not repeated: it may hold a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a join token (depin1.<32 hex digits>.<64 hex digits>); make one with `kubectl depin token create`")]
pub struct InvalidToken;

impl JoinToken {
    /// A token of these 16 random bytes, for the authority with this hash.
    #[must_use]
    pub fn new(secret: [u8; 16], ca: Digest) -> Self {
        Self { secret: Zeroizing::new(secret), ca }
    }

    /// A new token.
    ///
    /// # Errors
    /// Where the system gives no random numbers.
    pub fn generate(ca: Digest) -> Result<Self, crate::keys::KeyError> {
        let mut secret = [0; 16];
        getrandom::fill(&mut secret).map_err(crate::keys::KeyError::Random)?;
        Ok(Self::new(secret, ca))
    }

    /// The secret part, for the enrollment request.
    #[must_use]
    pub fn secret(&self) -> &[u8; 16] {
        &self.secret
    }

    /// SHA-256 of the CA's certificate: whom the agent believes on first contact.
    #[must_use]
    pub fn ca(&self) -> Digest {
        self.ca
    }

    /// What an EdgeEnrollment and the registry hold: SHA-256 of the 16 bytes of the secret.
    #[must_use]
    pub fn hash(&self) -> Digest {
        Digest::of(self.secret.as_slice())
    }

    /// The token's text, which is a secret.
    #[must_use]
    pub fn text(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{VERSION}.{}.{}", hex::encode(self.secret.as_slice()), self.ca))
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken(hash {})", self.hash())
    }
}

impl FromStr for JoinToken {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.trim().split('.').collect();
        let [VERSION, secret, ca] = parts.as_slice() else { return Err(InvalidToken) };
        let mut bytes = [0; 16];
        hex::decode_to_slice(secret, &mut bytes).map_err(|_| InvalidToken)?;
        Ok(Self::new(bytes, ca.parse().map_err(|_| InvalidToken)?))
    }
}
