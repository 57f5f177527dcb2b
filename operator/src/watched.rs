//! Which namespaces the operator watches and writes to: all, or those that it was told; then Roles in these are enough.

use std::sync::Arc;

use kube::{
    Api, Client, Resource,
    core::NamespaceResourceScope,
    runtime::reflector::{Lookup, ObjectRef, Store, store::WriterDropped},
};

/// The namespaces; none: all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watched(Option<Vec<String>>);

impl Watched {
    /// These, or all where none is named.
    #[must_use]
    pub fn of(names: &[String]) -> Self {
        let mut names: Vec<_> =
            names.iter().map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect();
        names.sort_unstable();
        names.dedup();
        Self((!names.is_empty()).then_some(names))
    }

    /// One API for all namespaces, or one for each.
    #[must_use]
    pub fn apis<K>(&self, client: &Client) -> Vec<Api<K>>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        match &self.0 {
            None => vec![Api::all(client.clone())],
            Some(names) => names.iter().map(|name| Api::namespaced(client.clone(), name)).collect(),
        }
    }

    /// How many APIs there are of a kind.
    #[must_use]
    pub fn parts(&self) -> usize {
        self.0.as_ref().map_or(1, Vec::len)
    }

    /// How the ids (`namespace/name`) of one API's objects begin; none: they are all of them.
    #[must_use]
    pub fn prefix(&self, part: usize) -> Option<String> {
        self.0.as_ref().and_then(|names| names.get(part)).map(|name| format!("{name}/"))
    }

    /// Whether `namespace/name` is watched. What lies in no namespace (`/name`) is.
    #[must_use]
    pub fn has(&self, id: &str) -> bool {
        let namespace = id.split_once('/').map_or(id, |(namespace, _)| namespace);
        namespace.is_empty() || self.has_namespace(namespace)
    }

    /// Whether this namespace is watched.
    #[must_use]
    pub fn has_namespace(&self, namespace: &str) -> bool {
        self.0.as_ref().is_none_or(|names| names.iter().any(|name| name == namespace))
    }
}

/// The objects of one kind as the API server last told them, of all namespaces that are watched.
#[derive(Clone)]
pub struct View<K: Lookup + Clone + 'static>(Vec<Store<K>>)
where
    K::DynamicType: std::hash::Hash + Eq + Clone;

impl<K> View<K>
where
    K: Lookup<DynamicType = ()> + Clone + 'static,
{
    /// Over these stores.
    #[must_use]
    pub fn over(stores: Vec<Store<K>>) -> Self {
        Self(stores)
    }

    /// All of them.
    #[must_use]
    pub fn state(&self) -> Vec<Arc<K>> {
        match self.0.as_slice() {
            [one] => one.state(),
            stores => stores.iter().flat_map(Store::state).collect(),
        }
    }

    /// One by its name.
    #[must_use]
    pub fn get(&self, key: &ObjectRef<K>) -> Option<Arc<K>> {
        self.0.iter().find_map(|store| store.get(key))
    }

    /// The first that fits.
    #[must_use]
    pub fn find(&self, wanted: impl Fn(&K) -> bool) -> Option<Arc<K>> {
        self.0.iter().find_map(|store| store.find(&wanted))
    }

    /// Waits until all were listed once.
    ///
    /// # Errors
    /// When a watch ended for good.
    pub async fn wait_until_ready(&self) -> Result<(), WriterDropped> {
        for store in &self.0 {
            store.wait_until_ready().await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_name_all_namespaces_are_watched_and_with_names_these() {
        let all = Watched::of(&[]);
        assert!(all.has("town/m1") && all.has("/meter") && all.parts() == 1 && all.prefix(0).is_none());
        assert_eq!(Watched::of(&[String::new()]), all, "an empty variable names none");
        let two = Watched::of(&["town".into(), " city".into(), "town".into()]);
        assert_eq!((two.parts(), two.prefix(0), two.prefix(1)), (2, Some("city/".into()), Some("town/".into())));
        assert!(two.has("town/m1") && two.has("/meter") && two.has_namespace("city"));
        assert!(!two.has("towns/m1") && !two.has_namespace("depin-system"));
    }
}
