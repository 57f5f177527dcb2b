//! Public keys decoded once, not once a proof.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use depin_domain::ids::{KeyId, PublicKey};
use depin_identity::{VerifyingKey, keys::KeyError};

/// More keys than this are decoded again; a decoded key takes about 300 bytes.
const CAPACITY: usize = 200_000;

/// Decoded keys by id. A key id is a digest of the key, so an entry never becomes wrong.
#[derive(Debug, Default)]
pub(crate) struct KeyCache {
    keys: RwLock<HashMap<KeyId, Arc<VerifyingKey>>>,
}

impl KeyCache {
    /// The decoded key.
    pub(crate) fn get(&self, public: &PublicKey, id: KeyId) -> Result<Arc<VerifyingKey>, KeyError> {
        if let Some(key) = self.keys.read().unwrap_or_else(PoisonError::into_inner).get(&id) {
            return Ok(Arc::clone(key));
        }
        let key = Arc::new(VerifyingKey::new(public)?);
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        if keys.len() >= CAPACITY {
            keys.clear();
        }
        keys.insert(id, Arc::clone(&key));
        Ok(key)
    }
}
