//! A fake object store in memory that fails on demand: for tests of the protocol at each of its steps.
//!
//! A real store is in the tests too; it cannot be stopped exactly before or after it took a request.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

use super::{Answer, Listed, Store, StoreError, split};

#[derive(Debug, Default)]
struct Objects {
    objects: BTreeMap<String, Bytes>,
    /// Changes so far.
    changes: u64,
    /// The change with this number fails, as do all requests after it; true: it takes effect nevertheless.
    fail_at: Option<(u64, bool)>,
}

/// A fake store; clones share what it holds.
#[derive(Debug, Clone, Default)]
pub struct FaultyStore(Arc<Mutex<Objects>>);

impl FaultyStore {
    fn objects(&self) -> MutexGuard<'_, Objects> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many requests changed it or tried to.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.objects().changes
    }

    /// The change with this number (from 0) and everything after it is not answered. `done`: that change takes effect all the same, as
    /// when only the answer is lost.
    pub fn fail_at(&self, change: u64, done: bool) {
        self.objects().fail_at = Some((change, done));
    }

    /// It works again.
    pub fn mend(&self) {
        self.objects().fail_at = None;
    }

    /// All keys, ascending.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        self.objects().objects.keys().cloned().collect()
    }

    /// An object.
    #[must_use]
    pub fn content(&self, key: &str) -> Option<Bytes> {
        self.objects().objects.get(key).cloned()
    }

    /// Puts something else in an object's place; none: nothing.
    pub fn set_content(&self, key: &str, content: Option<Bytes>) {
        let mut objects = self.objects();
        match content {
            Some(content) => objects.objects.insert(key.to_owned(), content),
            None => objects.objects.remove(key),
        };
    }

    /// A store of its own with what this one holds now.
    #[must_use]
    pub fn copy(&self) -> Self {
        let objects = self.objects().objects.clone();
        Self(Arc::new(Mutex::new(Objects { objects, ..Objects::default() })))
    }

    fn lost() -> StoreError {
        StoreError::Unavailable("the fake store does not answer".to_owned())
    }

    fn read<T>(&self, read: impl FnOnce(&Objects) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let objects = self.objects();
        match objects.fail_at {
            Some((at, _)) if objects.changes > at => Err(Self::lost()),
            _ => read(&objects),
        }
    }

    fn change(&self, change: impl FnOnce(&mut Objects) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let mut objects = self.objects();
        let number = objects.changes;
        objects.changes += 1;
        match objects.fail_at {
            Some((at, done)) if number >= at => {
                if done && number == at {
                    change(&mut objects)?;
                }
                Err(Self::lost())
            }
            _ => change(&mut objects),
        }
    }
}

impl Store for FaultyStore {
    fn describe(&self) -> String {
        "the fake store".to_owned()
    }

    fn put<'a>(&'a self, key: &'a str, body: Bytes, anew: bool) -> Answer<'a, ()> {
        Box::pin(async move {
            split(key)?;
            self.change(|objects| {
                if anew && objects.objects.contains_key(key) {
                    return Err(StoreError::Exists(key.to_owned()));
                }
                objects.objects.insert(key.to_owned(), body);
                Ok(())
            })
        })
    }

    fn get<'a>(&'a self, key: &'a str) -> Answer<'a, Bytes> {
        Box::pin(async move {
            self.read(|objects| objects.objects.get(key).cloned().ok_or_else(|| StoreError::NotFound(key.to_owned())))
        })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> Answer<'a, Vec<Listed>> {
        Box::pin(async move {
            self.read(|objects| {
                let found = objects.objects.iter().filter(|(key, _)| key.starts_with(prefix));
                Ok(found.map(|(key, body)| Listed { key: key.clone(), bytes: body.len() as u64 }).collect())
            })
        })
    }

    fn remove<'a>(&'a self, key: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            self.change(|objects| {
                objects.objects.remove(key);
                Ok(())
            })
        })
    }
}
