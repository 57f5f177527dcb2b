//! A directory, on another disk than the ledger's.

use std::{io, path::Path, sync::Arc};

use bytes::Bytes;
use depin_log::{DiskStorage, Storage};

use super::{Answer, Listed, Store, StoreError, split};

/// Stands in a directory with a single copy of a ledger, as versions before generations made it.
const COPY: &str = "manifest.json";
/// What is not yet an object.
const TEMPORARY: &str = ".tmp";

/// Objects as files of a directory.
#[derive(Debug, Clone)]
pub struct DirectoryStore {
    root: Arc<dyn Storage>,
    name: String,
}

impl DirectoryStore {
    /// Objects in a directory of the machine, which is made where it is not there.
    ///
    /// # Errors
    /// Where it cannot be made or read, or holds a backup of another format.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let name = path.display().to_string();
        let failed = |error: io::Error| StoreError::Unavailable(format!("open the backup's directory {name}: {error}"));
        let root = DiskStorage::open(path).map_err(failed)?;
        if root.list().map_err(failed)?.iter().any(|file| file == COPY) {
            return Err(StoreError::Refused(format!(
                "{name} holds a backup of the format before generations ({COPY}): name another directory for backups, and remove this one when \
                 the first of them is made; to restore from it, use the depin-gateway that wrote it (depin-gateway ledger restore --from {name})"
            )));
        }
        Ok(Self::new(Arc::new(root), name))
    }

    /// Objects in `root`, which people call `name`.
    #[must_use]
    pub fn new(root: Arc<dyn Storage>, name: impl Into<String>) -> Self {
        Self { root, name: name.into() }
    }

    fn blocking<'a, T: Send + 'static>(
        &self,
        what: String,
        work: impl FnOnce(&dyn Storage) -> io::Result<T> + Send + 'static,
        key: &str,
    ) -> Answer<'a, T> {
        let (root, name) = (Arc::clone(&self.root), self.name.clone());
        let folder = split(key).map(|(folder, _)| folder.to_owned());
        let key = key.to_owned();
        Box::pin(async move {
            let folder = folder?;
            let joined = tokio::task::spawn_blocking(move || work(&*root.directory(&folder)?)).await;
            let done = joined.unwrap_or_else(|error| Err(io::Error::other(error)));
            done.map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => StoreError::NotFound(key),
                io::ErrorKind::AlreadyExists => StoreError::Exists(key),
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    StoreError::Refused(format!("{what} in {name}: {error}; give the process the right to"))
                }
                _ => StoreError::Unavailable(format!("{what} in {name}: {error}")),
            })
        })
    }
}

impl Store for DirectoryStore {
    fn describe(&self) -> String {
        self.name.clone()
    }

    fn put<'a>(&'a self, key: &'a str, body: Bytes, anew: bool) -> Answer<'a, ()> {
        let name = key.split_once('/').map_or(key, |(_, name)| name).to_owned();
        let work = move |folder: &dyn Storage| {
            if anew && exists(folder, &name)? {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let temporary = format!("{name}{TEMPORARY}");
            let mut file = match folder.create(&temporary) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    folder.remove(&temporary)?;
                    folder.create(&temporary)?
                }
                created => created?,
            };
            file.append(&body)?;
            file.sync_data()?;
            folder.rename(&temporary, &name)?;
            folder.sync_directory()
        };
        self.blocking(format!("write {key}"), work, key)
    }

    fn get<'a>(&'a self, key: &'a str) -> Answer<'a, Bytes> {
        let name = key.split_once('/').map_or(key, |(_, name)| name).to_owned();
        let work = move |folder: &dyn Storage| {
            let file = folder.open_read(&name)?;
            let mut bytes = vec![0; usize::try_from(file.length()?).map_err(io::Error::other)?];
            let read = file.read_at(0, &mut bytes)?;
            bytes.truncate(read);
            Ok(Bytes::from(bytes))
        };
        self.blocking(format!("read {key}"), work, key)
    }

    fn list<'a>(&'a self, prefix: &'a str) -> Answer<'a, Vec<Listed>> {
        let (folder, beginning) = prefix.split_once('/').unwrap_or((prefix, ""));
        let (folder, beginning) = (folder.to_owned(), beginning.to_owned());
        let key = format!("{folder}/-");
        let work = move |storage: &dyn Storage| {
            let mut found = Vec::new();
            for name in storage.list()? {
                if name.starts_with(&beginning) && !name.ends_with(TEMPORARY) {
                    let bytes = storage.open_read(&name)?.length()?;
                    found.push(Listed { key: format!("{folder}/{name}"), bytes });
                }
            }
            found.sort();
            Ok(found)
        };
        self.blocking(format!("list {prefix}"), work, &key)
    }

    fn remove<'a>(&'a self, key: &'a str) -> Answer<'a, ()> {
        let name = key.split_once('/').map_or(key, |(_, name)| name).to_owned();
        let work = move |folder: &dyn Storage| match folder.remove(&name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        };
        self.blocking(format!("remove {key}"), work, key)
    }
}

fn exists(folder: &dyn Storage, name: &str) -> io::Result<bool> {
    match folder.open_read(name) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_the_format_before_is_refused_with_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        DirectoryStore::open(&directory.path().join("new")).unwrap();
        std::fs::write(directory.path().join(COPY), "{\"format\": \"depin.v1.LedgerBackup\"}").unwrap();
        let refused = DirectoryStore::open(directory.path()).unwrap_err();
        let told = refused.to_string();
        assert!(matches!(refused, StoreError::Refused(_)) && told.contains("another directory"), "{told}");
        assert!(told.contains("ledger restore --from"), "{told}");
    }
}
