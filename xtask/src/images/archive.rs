//! One image as an OCI layout in a tar file. Nothing in it depends on when or where it was made.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::USER;

/// What this machine builds; other architectures by their own machine or a cross compiler.
const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
/// The day that every file and image claims to be from.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// A file of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Path in the image, without a leading slash.
    pub path: PathBuf,
    /// Where its content comes from.
    pub from: PathBuf,
    /// Permissions.
    pub mode: u32,
}

/// An image of one layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Registry, name and tag.
    pub reference: String,
    /// What it runs.
    pub entrypoint: Vec<String>,
    /// Its files.
    pub sources: Vec<Source>,
    /// Labels of its configuration.
    pub labels: Vec<(String, String)>,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Digest of the manifest, `sha256:…`: by it a chart pins the image.
    pub digest: String,
    /// Bytes of the layer.
    pub size: u64,
}

impl Image {
    /// Its name without registry and tag.
    #[must_use]
    pub fn file_stem(&self) -> &str {
        let name = self.reference.rsplit('/').next().unwrap_or(&self.reference);
        name.split(':').next().unwrap_or(name)
    }

    /// Writes it.
    ///
    /// # Errors
    /// When a source cannot be read or the archive not be written.
    pub fn write(&self, path: &Path) -> Result<Written> {
        let layer = self.layer()?;
        let layer_digest = digest(&layer);
        let labels: BTreeMap<&str, &str> =
            self.labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let config = json!({
            "architecture": ARCHITECTURE, "os": "linux", "created": CREATED,
            "config": {"Entrypoint": self.entrypoint, "User": format!("{USER}:{USER}"), "WorkingDir": "/", "Labels": labels},
            "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
            "history": [{"created": CREATED, "created_by": "cargo xtask images"}],
        });
        let config = serde_json::to_vec(&config)?;
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
        });
        let manifest = serde_json::to_vec(&manifest)?;
        let mut top = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
        let tag = self.reference.rsplit(':').next().unwrap_or("latest");
        top["annotations"] =
            json!({"io.containerd.image.name": self.reference, "org.opencontainers.image.ref.name": tag});
        top["platform"] = json!({"architecture": ARCHITECTURE, "os": "linux"});
        let index =
            json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [top]});
        let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut archive = tar::Builder::new(BufWriter::new(file));
        append(&mut archive, Path::new("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644)?;
        append(&mut archive, Path::new("index.json"), &serde_json::to_vec(&index)?, 0o644)?;
        for blob in [&config, &layer, &manifest] {
            let name = digest(blob).replace(':', "/");
            append(&mut archive, &Path::new("blobs").join(name), blob, 0o644)?;
        }
        archive
            .into_inner()
            .and_then(|mut file| file.flush())
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Written { digest: digest(&manifest), size: layer.len() as u64 })
    }

    /// The layer: accounts, and the sources in the order of their paths.
    fn layer(&self) -> Result<Vec<u8>> {
        let mut files: BTreeMap<PathBuf, (Vec<u8>, u32)> = BTreeMap::new();
        let account = format!("root:x:0:0:root:/:/sbin/nologin\ndepin:x:{USER}:{USER}:depin:/:/sbin/nologin\n");
        files.insert("etc/passwd".into(), (account.into_bytes(), 0o444));
        files.insert("etc/group".into(), (format!("root:x:0:\ndepin:x:{USER}:\n").into_bytes(), 0o444));
        for Source { path, from, mode } in &self.sources {
            let content = std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
            files.insert(path.clone(), (content, *mode));
        }
        let mut archive = tar::Builder::new(Vec::new());
        let mut folders: Vec<&Path> = files.keys().flat_map(|path| path.ancestors().skip(1)).collect();
        folders.sort_unstable();
        folders.dedup();
        for folder in folders.into_iter().filter(|folder| !folder.as_os_str().is_empty()) {
            let mut header = header(0, 0o755);
            header.set_entry_type(tar::EntryType::Directory);
            archive.append_data(&mut header, folder, std::io::empty())?;
        }
        for (path, (content, mode)) in &files {
            append(&mut archive, path, content, *mode)?;
        }
        Ok(archive.into_inner()?)
    }
}

fn append(archive: &mut tar::Builder<impl std::io::Write>, path: &Path, content: &[u8], mode: u32) -> Result<()> {
    archive
        .append_data(&mut header(content.len() as u64, mode), path, content)
        .with_context(|| format!("cannot archive {}", path.display()))
}

/// Owned by root, from the first day.
fn header(size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn descriptor(kind: &str, blob: &[u8]) -> Value {
    json!({"mediaType": kind, "digest": digest(blob), "size": blob.len()})
}

fn digest(blob: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(blob)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_sources_give_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        std::fs::write(&program, b"content").unwrap();
        let image = Image {
            reference: "registry.example/one/program:3".to_owned(),
            entrypoint: vec!["/program".to_owned()],
            sources: vec![Source { path: "program".into(), from: program.clone(), mode: 0o555 }],
            labels: vec![("title".to_owned(), "program".to_owned())],
        };
        let first = image.write(&dir.path().join("first.tar")).unwrap();
        // Another modification time and other permissions on disk.
        std::fs::remove_file(&program).unwrap();
        crate::write_private(&program, "content").unwrap();
        let second = image.write(&dir.path().join("second.tar")).unwrap();
        assert_eq!(first, second);
        let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
        assert!(read("first.tar") == read("second.tar"));
        assert_eq!(image.file_stem(), "program");
        std::fs::write(&program, b"other").unwrap();
        assert_ne!(image.write(&dir.path().join("third.tar")).unwrap().digest, first.digest);
    }
}
