//! Keys, certificates, tokens and kubeconfigs of the cluster's own parts.
//!
//! Everybody but the API server shows a bearer token; certificates are made where Kubernetes takes nothing else.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

use super::{EDGES, HUB, wiring};
use crate::{
    control_plane::{kubeconfig, write_account_keys},
    write_private,
};

/// The API server's port on the hub.
const PORT: u16 = 6443;
/// The first address of the range of Services is the API server's.
const SERVICE_ADDRESS: &str = "10.96.0.1";

/// Where everything is.
#[derive(Clone, Debug)]
pub(super) struct Credentials {
    dir: PathBuf,
}

impl Credentials {
    /// Makes them all, in `dir`.
    pub(super) fn make(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let made = Self { dir: dir.to_path_buf() };
        made.certificates().context("cannot make certificates")?;
        write_account_keys(dir)?;
        let server = format!("https://{}:{PORT}", wiring::address(0));
        let mut tokens = String::new();
        let nodes = std::iter::once(HUB)
            .chain(EDGES)
            .map(|node| (node.to_owned(), format!("system:node:{node}"), "system:nodes"));
        let others = [
            ("admin", "admin", "system:masters"),
            ("kube-controller-manager", "system:kube-controller-manager", ""),
            ("kube-scheduler", "system:kube-scheduler", ""),
            ("kube-proxy", "system:kube-proxy", ""),
        ];
        let others = others.into_iter().map(|(file, user, group)| (file.to_owned(), user.to_owned(), group));
        for (file, user, group) in others.chain(nodes) {
            let token = hex::encode(crate::random()?);
            tokens.push_str(&format!("{token},{user},{user},{group:?}\n"));
            let config = kubeconfig(&server, &made.file("ca.crt"), &file, &token);
            write_private(&made.kubeconfig(&file), &config)?;
        }
        write_private(&made.file("tokens.csv"), &tokens)?;
        Ok(made)
    }

    /// One of the files.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The kubeconfig of a part.
    pub(super) fn kubeconfig(&self, part: &str) -> PathBuf {
        self.file(&format!("{part}.kubeconfig"))
    }

    fn certificates(&self) -> Result<()> {
        let authority_key = KeyPair::generate()?;
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(DnType::CommonName, "depin test cluster");
        write_private(&self.file("ca.crt"), &authority.self_signed(&authority_key)?.pem())?;
        write_private(&self.file("ca.key"), &authority_key.serialize_pem())?;
        let issuer = Issuer::new(authority, authority_key);
        let names = [
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "localhost",
        ];
        let addresses = [wiring::address(0), SERVICE_ADDRESS.to_owned(), "127.0.0.1".to_owned()];
        let names: Vec<String> = names.iter().map(ToString::to_string).chain(addresses).collect();
        self.issue("apiserver", names, None, ExtendedKeyUsagePurpose::ServerAuth, &issuer)?;
        // With it the API server asks kubelets for logs, and runs commands in Pods.
        self.issue("kubelet-client", Vec::new(), Some("system:masters"), ExtendedKeyUsagePurpose::ClientAuth, &issuer)
    }

    fn issue(
        &self,
        name: &str,
        names: Vec<String>,
        group: Option<&str>,
        usage: ExtendedKeyUsagePurpose,
        issuer: &Issuer<'_, KeyPair>,
    ) -> Result<()> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, name);
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.extended_key_usages = vec![usage];
        write_private(&self.file(&format!("{name}.crt")), &params.signed_by(&key, issuer)?.pem())?;
        write_private(&self.file(&format!("{name}.key")), &key.serialize_pem())
    }
}
