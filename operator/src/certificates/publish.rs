//! ConfigMap depin-ca: what everyone may know of the authorities, in the operator's namespace and in those of agents.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    api::{ObjectMeta, Patch, PatchParams},
};

use super::{BUNDLE, CA, CertificatesError, MANAGER, SEALING, VOUCHERS, authorities::Authorities};
use crate::annotations::{MANAGED_BY, OPERATOR};

/// What is public: the CAs to trust, what they say for each other, to whom secrets are sealed, and the hash that join tokens carry.
#[must_use]
pub fn public(authorities: &Authorities) -> BTreeMap<String, String> {
    BTreeMap::from([
        (BUNDLE.to_owned(), authorities.bundle()),
        (VOUCHERS.to_owned(), authorities.vouchers_text()),
        (SEALING.to_owned(), hex::encode(authorities.issuing.sealing().public())),
        ("sha256".to_owned(), authorities.issuing.hash().to_string()),
    ])
}

/// Publishes it in `namespace`, if it does not stand there yet.
///
/// # Errors
/// When the API server refuses.
pub async fn publish(client: &Client, namespace: &str, authorities: &Authorities) -> Result<(), CertificatesError> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let wanted = public(authorities);
    let stands = maps.get_opt(CA).await.map_err(CertificatesError::api("read ConfigMap depin-ca"))?;
    if stands
        .and_then(|map| map.data)
        .is_some_and(|data| wanted.iter().all(|(name, text)| data.get(name) == Some(text)))
    {
        return Ok(());
    }
    let labels = Some(BTreeMap::from([(MANAGED_BY.to_owned(), OPERATOR.to_owned())]));
    let map = ConfigMap {
        metadata: ObjectMeta { name: Some(CA.to_owned()), labels, ..ObjectMeta::default() },
        data: Some(wanted),
        ..ConfigMap::default()
    };
    maps.patch(CA, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&map))
        .await
        .map(drop)
        .map_err(CertificatesError::api("apply ConfigMap depin-ca"))
}
