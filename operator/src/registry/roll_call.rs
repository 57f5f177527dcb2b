//! Roll calls: as of which version of the registry the cluster's store held every registered object of a kind.
//!
//! The word is kept in that very store, so that it is lost with it: an object that was there at a roll call and is absent from the same
//! store now was deleted while nobody watched. A store that was lost and is filled again says nothing until everything that is registered
//! was there once. Each write is guarded by the resourceVersion that was read, so no word of one store gets into another.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};

use crate::annotations::{MANAGED_BY, OPERATOR};

const INCARNATION: &str = "ledgerIncarnation";
const VERSION: &str = "registryVersion";

/// The registry as of a roll call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsOf {
    /// The ledger's incarnation: versions of another one name other changes.
    pub incarnation: u64,
    /// The registry's version.
    pub version: u64,
}

/// The word of one kind, as this store has it.
pub struct RollCall {
    maps: Api<ConfigMap>,
    name: String,
    /// What was read or written last; none where the store has none.
    known: Option<ConfigMap>,
}

impl RollCall {
    /// Reads what the store says of `kind`.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn read(client: Client, namespace: &str, kind: &str) -> Result<Self, kube::Error> {
        let maps: Api<ConfigMap> = Api::namespaced(client, namespace);
        let name = name(kind);
        let known = maps.get_opt(&name).await?;
        Ok(Self { maps, name, known })
    }

    /// The last roll call; none where there was none, or somebody edited it.
    #[must_use]
    pub fn last(&self) -> Option<AsOf> {
        self.known.as_ref().and_then(told)
    }

    /// Whether this store was never called.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.known.is_none()
    }

    /// Notes that everything registered as of `as_of` is there; false if the store is not as it was read: then nothing was written.
    ///
    /// # Errors
    /// When the API server refuses or does not answer.
    pub async fn note(&mut self, as_of: AsOf) -> Result<bool, kube::Error> {
        let written = match &self.known {
            Some(known) => {
                let map = ConfigMap { data: Some(data(as_of)), ..known.clone() };
                self.maps.replace(&self.name, &PostParams::default(), &map).await
            }
            None => {
                let metadata = ObjectMeta {
                    name: Some(self.name.clone()),
                    labels: Some(BTreeMap::from([(MANAGED_BY.to_owned(), OPERATOR.to_owned())])),
                    ..ObjectMeta::default()
                };
                let map = ConfigMap { metadata, data: Some(data(as_of)), ..ConfigMap::default() };
                self.maps.create(&PostParams::default(), &map).await
            }
        };
        match written {
            Ok(map) => {
                self.known = Some(map);
                Ok(true)
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Name of the ConfigMap of a kind.
#[must_use]
pub fn name(kind: &str) -> String {
    format!("depin-roll-call-{}", kind.to_ascii_lowercase())
}

fn data(as_of: AsOf) -> BTreeMap<String, String> {
    BTreeMap::from([
        (INCARNATION.to_owned(), as_of.incarnation.to_string()),
        (VERSION.to_owned(), as_of.version.to_string()),
    ])
}

fn told(map: &ConfigMap) -> Option<AsOf> {
    let number = |field: &str| map.data.as_ref()?.get(field)?.parse().ok();
    Some(AsOf { incarnation: number(INCARNATION)?, version: number(VERSION)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_read_again_and_what_was_edited_says_nothing() {
        let as_of = AsOf { incarnation: 3, version: 71 };
        let mut map = ConfigMap { data: Some(data(as_of)), ..ConfigMap::default() };
        assert_eq!(told(&map), Some(as_of));
        if let Some(data) = &mut map.data {
            data.insert(VERSION.to_owned(), "many".to_owned());
        }
        assert_eq!(told(&map), None);
        assert_eq!(told(&ConfigMap::default()), None);
        assert_eq!(name("EdgeDevice"), "depin-roll-call-edgedevice");
    }
}
