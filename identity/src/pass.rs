//! What an agent in the cluster shows in place of a join token: the token of its ServiceAccount, sealed to the operator and bound to the
//! request that it goes with. Whoever carries or stores the request can neither read the token nor use it for another key.

use zeroize::Zeroizing;

use crate::seal::{SealError, SealingKey, binding, seal};

const PURPOSE: &[u8] = b"depin.dev service account pass v1";

/// The request that a token goes with.
#[derive(Clone, Copy, Debug)]
pub struct Pass<'a> {
    /// PKCS#10 in DER.
    pub csr: &'a [u8],
    /// Wanted name of the EdgeAgent; may be empty.
    pub name: &'a str,
    /// Of the fleets.
    pub namespace: &'a str,
    /// Names of the fleets, as they are asked for.
    pub fleets: &'a [String],
}

impl Pass<'_> {
    fn binding(&self) -> Vec<u8> {
        let mut fields = vec![self.csr, self.name.as_bytes(), self.namespace.as_bytes()];
        fields.extend(self.fleets.iter().map(String::as_bytes));
        binding(&fields)
    }

    /// Seals `token` to the operator's public key.
    ///
    /// # Errors
    /// Where the key is none or the system gives no random numbers.
    pub fn seal(&self, key: &[u8], token: &str) -> Result<Vec<u8>, SealError> {
        seal(key, PURPOSE, &self.binding(), token.as_bytes())
    }

    /// The token, which is a secret.
    ///
    /// # Errors
    /// Where it was sealed to another key or for another request, or is no text.
    pub fn open(&self, key: &SealingKey, sealed: &[u8]) -> Result<Zeroizing<String>, SealError> {
        let text = key.open(PURPOSE, &self.binding(), sealed)?;
        std::str::from_utf8(&text).map(|text| Zeroizing::new(text.to_owned())).map_err(|_| SealError::NotForUs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_is_good_for_its_own_request_alone() {
        let key = SealingKey::derive(b"key");
        let fleets = ["homes".to_owned(), "roofs".to_owned()];
        let pass = Pass { csr: b"csr", name: "n1", namespace: "town", fleets: &fleets };
        let sealed = pass.seal(&key.public(), "token").unwrap();
        assert_eq!(pass.open(&key, &sealed).unwrap().as_str(), "token");
        let one = ["homes".to_owned()];
        for other in [
            Pass { csr: b"other", ..pass },
            Pass { name: "n2", ..pass },
            Pass { namespace: "city", ..pass },
            Pass { fleets: &one, ..pass },
        ] {
            assert!(other.open(&key, &sealed).is_err(), "{other:?}");
        }
    }
}
