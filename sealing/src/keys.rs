//! Encryption to recipients, in the format of age (age-encryption.org/v1): what writes backups holds no key that opens them.

use std::{fmt, io::Read as _, io::Write as _, path::Path, sync::Arc};

use age::{Decryptor, Encryptor, IdentityFile, Recipient};
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// Something cannot be sealed or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Not a recipient.
    #[error("recipient {0:?} is none: write what age-keygen prints as public key, age1…")]
    Recipient(String),
    /// Recipients that do not go together.
    #[error("these recipients cannot be used together: {0}; give only age1… keys of one kind")]
    Together(String),
    /// The file with identities cannot be used.
    #[error("--identity {file}: {why}; give the file that age-keygen wrote, with AGE-SECRET-KEY-1…")]
    Identity {
        /// Which.
        file: String,
        /// Why not.
        why: String,
    },
    /// It is encrypted and nobody gave an identity.
    #[error("the backup is encrypted to {0}: give --identity FILE with one of their secret keys")]
    NeedsIdentity(String),
    /// None of the identities fits.
    #[error("none of the keys in --identity opens the backup; it is encrypted to {0}")]
    WrongIdentity(String),
    /// The bytes are not what was sealed.
    #[error("{0} cannot be decrypted: {1}; it was changed since it was written")]
    Damaged(String, String),
    /// Something that cannot happen with bytes in memory.
    #[error("encrypt: {0}")]
    Failed(String),
}

/// To whom backups are encrypted; none: they are not.
#[derive(Clone, Default)]
pub struct Recipients {
    names: Vec<String>,
    keys: Vec<Arc<dyn Recipient + Send + Sync>>,
}

impl fmt::Debug for Recipients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.names).finish()
    }
}

impl Recipients {
    /// `age1…` keys.
    ///
    /// # Errors
    /// Where one is none, or they cannot be used together.
    pub fn parse(names: &[String]) -> Result<Self, SealError> {
        let mut names: Vec<String> = names.iter().map(|name| name.trim().to_owned()).collect();
        names.sort();
        names.dedup();
        let keys = names.iter().map(|name| recipient(name)).collect::<Result<_, _>>()?;
        let recipients = Self { names, keys };
        if !recipients.is_empty() {
            recipients.seal(b"").map_err(|error| SealError::Together(error.to_string()))?;
        }
        Ok(recipients)
    }

    /// Whether nothing is encrypted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Their public keys, ascending.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Tells sets of recipients apart in objects' names: `plain` without any.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        if self.is_empty() {
            return "plain".to_owned();
        }
        let mut hash = Sha256::new();
        for name in &self.names {
            hash.update(name.as_bytes());
            hash.update([0]);
        }
        hex::encode(&hash.finalize()[..6])
    }

    /// Encrypts; without recipients the bytes stay as they are.
    ///
    /// # Errors
    /// Where the recipients cannot be used together.
    pub fn seal(&self, plain: &[u8]) -> Result<Bytes, SealError> {
        if self.is_empty() {
            return Ok(Bytes::copy_from_slice(plain));
        }
        let keys = self.keys.iter().map(|key| &**key as &dyn Recipient);
        let encryptor = Encryptor::with_recipients(keys).map_err(|error| SealError::Together(error.to_string()))?;
        let failed = |error: std::io::Error| SealError::Failed(error.to_string());
        let mut sealed = Vec::with_capacity(plain.len() + 1_024 + plain.len() / 4_096);
        let mut writer = encryptor.wrap_output(&mut sealed).map_err(failed)?;
        writer.write_all(plain).map_err(failed)?;
        writer.finish().map_err(failed)?;
        Ok(sealed.into())
    }
}

/// Whether these bytes are an age file.
#[must_use]
pub fn is_sealed(bytes: &[u8]) -> bool {
    bytes.starts_with(b"age-encryption.org/v1\n")
}

fn recipient(name: &str) -> Result<Arc<dyn Recipient + Send + Sync>, SealError> {
    if let Ok(key) = name.parse::<age::x25519::Recipient>() {
        return Ok(Arc::new(key));
    }
    // Keys in hardware.
    match name.parse::<age::tag::Recipient>() {
        Ok(key) => Ok(Arc::new(key)),
        Err(_) => Err(SealError::Recipient(name.chars().take(100).collect())),
    }
}

/// Secret keys that open backups; only a restore has them.
#[derive(Clone, Default)]
pub struct Identities(Option<Arc<Vec<Box<dyn age::Identity + Send + Sync>>>>);

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Identities" } else { "no identities" })
    }
}

impl Identities {
    /// From a file as `age-keygen` writes it.
    ///
    /// # Errors
    /// Where it cannot be read, or holds none.
    pub fn read(file: &Path) -> Result<Self, SealError> {
        let failed = |why: String| SealError::Identity { file: file.display().to_string(), why };
        let text = Zeroizing::new(std::fs::read(file).map_err(|error| failed(error.to_string()))?);
        let parsed = IdentityFile::from_buffer(&text[..]).map_err(|error| failed(error.to_string()))?;
        let identities = parsed.into_identities().map_err(|error| failed(error.to_string()))?;
        if identities.is_empty() {
            return Err(failed("holds no secret key".to_owned()));
        }
        Ok(Self(Some(Arc::new(identities))))
    }

    /// Opens what was sealed to `recipients`; without any the bytes are what they are. `what` names it in errors.
    ///
    /// # Errors
    /// Where no identity fits, or the bytes were changed.
    pub fn open(&self, what: &str, sealed: &Bytes, recipients: &[String]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        if recipients.is_empty() {
            return Ok(Zeroizing::new(sealed.to_vec()));
        }
        let Some(identities) = &self.0 else { return Err(SealError::NeedsIdentity(recipients.join(", "))) };
        let failed = |error: age::DecryptError| match error {
            age::DecryptError::NoMatchingKeys => SealError::WrongIdentity(recipients.join(", ")),
            error => SealError::Damaged(what.to_owned(), error.to_string()),
        };
        let keys = identities.iter().map(|key| &**key as &dyn age::Identity);
        let mut reader = Decryptor::new_buffered(&sealed[..]).map_err(failed)?.decrypt(keys).map_err(failed)?;
        let mut plain = Zeroizing::new(Vec::with_capacity(sealed.len()));
        reader.read_to_end(&mut plain).map_err(|error| SealError::Damaged(what.to_owned(), error.to_string()))?;
        Ok(plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(directory: &Path, name: &str) -> (String, std::path::PathBuf) {
        use age::secrecy::ExposeSecret as _;
        let identity = age::x25519::Identity::generate();
        let file = directory.join(name);
        let text = format!("# created by a test\n{}\n", identity.to_string().expose_secret());
        std::fs::write(&file, text).unwrap();
        (identity.to_public().to_string(), file)
    }

    #[test]
    fn what_is_sealed_to_two_is_opened_by_each_and_by_nobody_else() {
        let directory = tempfile::tempdir().unwrap();
        let (first, first_file) = keys(directory.path(), "first");
        let (second, second_file) = keys(directory.path(), "second");
        let (_, other_file) = keys(directory.path(), "other");
        let recipients = Recipients::parse(&[second.clone(), first.clone(), first]).unwrap();
        assert_eq!(recipients.names().len(), 2);
        let secret = vec![7; 200_000];
        let sealed = recipients.seal(&secret).unwrap();
        assert_ne!(sealed, recipients.seal(&secret).unwrap(), "equal contents do not look equal");
        assert!(!sealed.windows(20).any(|window| window == &secret[..20]));
        for file in [first_file, second_file] {
            let opened = Identities::read(&file).unwrap().open("it", &sealed, recipients.names()).unwrap();
            assert_eq!(*opened, secret);
            let mut changed = sealed.to_vec();
            let middle = changed.len() / 2;
            changed[middle] ^= 1;
            let damaged = Identities::read(&file).unwrap().open("it", &changed.into(), recipients.names());
            assert!(matches!(damaged, Err(SealError::Damaged(..))));
        }
        let wrong = Identities::read(&other_file).unwrap().open("it", &sealed, recipients.names()).unwrap_err();
        assert!(wrong.to_string().contains(&second), "{wrong}");
        let none = Identities::default().open("it", &sealed, recipients.names()).unwrap_err();
        assert!(
            matches!(&none, SealError::NeedsIdentity(to) if to.contains(&second))
                && none.to_string().contains("--identity")
        );
    }

    #[test]
    fn what_is_no_key_is_told_without_showing_it() {
        assert!(matches!(Recipients::parse(&["age1nothing".into()]), Err(SealError::Recipient(_))));
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("identity");
        std::fs::write(&file, "AGE-SECRET-KEY-1BROKEN\n").unwrap();
        let error = Identities::read(&file).unwrap_err().to_string();
        assert!(error.contains("line 1") && !error.contains("BROKEN"), "{error}");
        std::fs::write(&file, "# nothing\n").unwrap();
        assert!(Identities::read(&file).unwrap_err().to_string().contains("no secret key"));
        assert!(Identities::read(&directory.path().join("absent")).is_err());
    }

    #[test]
    fn sets_of_recipients_are_told_apart_whatever_their_order() {
        let directory = tempfile::tempdir().unwrap();
        let (a, b) = (keys(directory.path(), "a").0, keys(directory.path(), "b").0);
        let of = |names: &[&String]| {
            Recipients::parse(&names.iter().map(|name| (*name).clone()).collect::<Vec<_>>()).unwrap().fingerprint()
        };
        assert_eq!(of(&[&a, &b]), of(&[&b, &a]));
        assert_ne!(of(&[&a]), of(&[&a, &b]));
        assert_eq!(of(&[]), "plain");
    }
}
