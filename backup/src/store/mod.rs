//! Where objects are kept: a directory, or an S3-compatible object store.
//!
//! An object appears whole or not at all, and a key that was answered is durable. Keys are `folder/name`, both of `[A-Za-z0-9._-]`.

pub mod directory;
pub mod faulty;
pub mod s3;

use std::{fmt::Debug, future::Future, pin::Pin};

use bytes::Bytes;

/// What a store's method resolves to.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// The store refuses or fails. Each message says what a person can do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It is not there.
    #[error("{0} is not in the backup's store")]
    NotFound(String),
    /// Something stands there already.
    #[error("{0} is in the backup's store already")]
    Exists(String),
    /// It will not work however often it is tried: credentials, permissions, names, clocks.
    #[error("{0}")]
    Refused(String),
    /// It may work later.
    #[error("{0}")]
    Unavailable(String),
    /// What is there is not what was written.
    #[error("the backup is damaged: {0}; restore another generation (--at)")]
    Damaged(String),
}

/// An object, as a listing tells it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// Its length.
    pub bytes: u64,
}

/// A place for objects.
pub trait Store: Debug + Send + Sync {
    /// What a person calls it; no secret is in it.
    fn describe(&self) -> String;

    /// Writes an object. `anew`: only where nothing has this key, [`StoreError::Exists`] else (a store that cannot tell overwrites).
    fn put<'a>(&'a self, key: &'a str, body: Bytes, anew: bool) -> Answer<'a, ()>;

    /// An object, whole.
    fn get<'a>(&'a self, key: &'a str) -> Answer<'a, Bytes>;

    /// All objects of a folder whose name begins so, in ascending order of their keys: `folder/beginning`.
    fn list<'a>(&'a self, prefix: &'a str) -> Answer<'a, Vec<Listed>>;

    /// Removes an object; one that is not there is removed.
    fn remove<'a>(&'a self, key: &'a str) -> Answer<'a, ()>;
}

/// Splits a key, or says why it is none.
pub(crate) fn split(key: &str) -> Result<(&str, &str), StoreError> {
    let safe = |part: &str| {
        part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) && !part.starts_with('.')
    };
    match key.split_once('/') {
        Some((folder, name)) if !folder.is_empty() && safe(folder) && safe(name) => Ok((folder, name)),
        _ => Err(StoreError::Damaged(format!("{key:?} is no key of an object"))),
    }
}
