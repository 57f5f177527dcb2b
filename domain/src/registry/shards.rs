//! An ordered map that is cheap to copy as a whole: readers hold a snapshot while the writer goes on.
//!
//! Entries are spread over a fixed number of ordered maps by the leading bits of the key, which is a digest. A copy shares all
//! of them; a write after a copy duplicates one shard, some hundred pointers at 100,000 entries. Iteration is in key order.

use std::{collections::BTreeMap, sync::Arc};

use crate::ids::{AgentId, DeviceId, Digest, KeyId};

const SHARD_BITS: u32 = 10;

/// A key whose leading bits are spread evenly.
pub(super) trait Spread: Ord + Clone {
    /// Its first two bytes.
    fn lead(&self) -> [u8; 2];
}

impl Spread for DeviceId {
    fn lead(&self) -> [u8; 2] {
        [self.0[0], self.0[1]]
    }
}

impl Spread for AgentId {
    fn lead(&self) -> [u8; 2] {
        [self.0[0], self.0[1]]
    }
}

impl Spread for KeyId {
    fn lead(&self) -> [u8; 2] {
        [self.0[0], self.0[1]]
    }
}

impl Spread for Digest {
    fn lead(&self) -> [u8; 2] {
        [self.0[0], self.0[1]]
    }
}

/// The map.
#[derive(Clone, Debug)]
pub(super) struct Shards<K, V> {
    /// Shard i holds the keys whose first bits are i.
    shards: Arc<[Arc<BTreeMap<K, V>>]>,
    length: usize,
}

impl<K: Spread, V: Clone> Default for Shards<K, V> {
    fn default() -> Self {
        let empty = Arc::new(BTreeMap::new());
        Self { shards: (0..1_usize << SHARD_BITS).map(|_| Arc::clone(&empty)).collect(), length: 0 }
    }
}

impl<K: Spread, V: Clone> Shards<K, V> {
    fn shard(key: &K) -> usize {
        usize::from(u16::from_be_bytes(key.lead()) >> (u16::BITS - SHARD_BITS))
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.shards.get(Self::shard(key)).and_then(|shard| shard.get(key))
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// All entries in key order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.shards.iter().flat_map(|shard| shard.iter())
    }

    /// The entry of `key`, to be changed; made by `V::default()` where there is none.
    pub(super) fn entry(&mut self, key: K) -> &mut V
    where
        V: Default,
    {
        let index = Self::shard(&key);
        let shard = Arc::make_mut(&mut Arc::make_mut(&mut self.shards)[index]);
        match shard.entry(key) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                self.length += 1;
                entry.insert(V::default())
            }
        }
    }

    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let index = Self::shard(&key);
        let old = Arc::make_mut(&mut Arc::make_mut(&mut self.shards)[index]).insert(key, value);
        self.length += usize::from(old.is_none());
        old
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        self.get(key)?;
        let old = Arc::make_mut(&mut Arc::make_mut(&mut self.shards)[Self::shard(key)]).remove(key);
        self.length -= usize::from(old.is_some());
        old
    }
}
