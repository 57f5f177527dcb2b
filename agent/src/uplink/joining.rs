//! How an agent comes in for the first time: what it shows, and whom it believes.

use std::path::PathBuf;

use depin_identity::peer::{is_label, is_subdomain};

use crate::settings::{SettingsError, wrong};

const FLEETS: &str = "fleets (--fleet)";

/// What an agent without a certificate shows, and whom it believes then.
#[derive(Clone, Debug, Default)]
pub struct Joining {
    /// File with the join token.
    pub join_token_file: Option<PathBuf>,
    /// In place of a join token: the token of a ServiceAccount.
    pub service_account: Option<ServiceAccount>,
    /// CAs of which one must have issued the gateway's certificate, in PEM: in place of the join token's hash, and beside the CAs that the
    /// agent was given afterwards.
    pub gateway_ca_file: Option<PathBuf>,
}

/// The token of a ServiceAccount, and what for.
#[derive(Clone, Debug)]
pub struct ServiceAccount {
    /// Read anew each time: the kubelet rotates it.
    pub token_file: PathBuf,
    /// Wanted name of the EdgeAgent; empty: the node's, as the token has it.
    pub name: String,
    /// Namespace of the fleets.
    pub namespace: String,
    /// Their names.
    pub fleets: Vec<String>,
}

impl Joining {
    /// Whether what is there goes together.
    pub(crate) fn check(&self) -> Result<(), SettingsError> {
        if self.service_account.is_none() {
            return Ok(());
        }
        if self.join_token_file.is_some() {
            let setting = "joinTokenFile (--join-token-file), serviceAccountTokenFile (--service-account-token-file)";
            return Err(wrong(setting, "are both there; an agent joins by one of them"));
        }
        if self.gateway_ca_file.is_none() {
            return Err(wrong(
                "gatewayCaFile (--gateway-ca-file)",
                "is missing: a ServiceAccount's token does not tell whom to believe; mount ca.crt of ConfigMap depin-ca",
            ));
        }
        Ok(())
    }
}

impl ServiceAccount {
    /// Joining with the token in the file, if there is one, for `fleets`, each `namespace/name`.
    pub(crate) fn wanted(
        token_file: Option<PathBuf>,
        name: String,
        fleets: &[String],
    ) -> Result<Option<Self>, SettingsError> {
        let Some(token_file) = token_file else {
            return if fleets.is_empty() {
                Ok(None)
            } else {
                Err(wrong(FLEETS, "go with --service-account-token-file; a join token has its fleets in itself"))
            };
        };
        let (mut namespaces, mut names) = (Vec::new(), Vec::new());
        for fleet in fleets {
            let parts = fleet.trim().split_once('/');
            let Some((namespace, name)) = parts.filter(|(namespace, name)| is_label(namespace) && is_subdomain(name))
            else {
                return Err(wrong(FLEETS, format!("{fleet:?} is not NAMESPACE/NAME of an EdgeFleet")));
            };
            namespaces.push(namespace.to_owned());
            names.push(name.to_owned());
        }
        names.sort_unstable();
        names.dedup();
        namespaces.dedup();
        match namespaces.as_slice() {
            [namespace] => Ok(Some(Self { token_file, name, namespace: namespace.clone(), fleets: names })),
            [] => Err(wrong(FLEETS, "are missing: the EdgeFleets that this agent serves, NAMESPACE/NAME")),
            _ => Err(wrong(FLEETS, "lie in several namespaces; an agent serves one: run one agent for each")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fleets_are_of_one_namespace_and_go_with_a_service_account() {
        let wanted = |file: Option<&str>, fleets: &[&str]| {
            let fleets: Vec<_> = fleets.iter().map(|fleet| (*fleet).to_owned()).collect();
            ServiceAccount::wanted(file.map(Into::into), String::new(), &fleets).map_err(|error| error.to_string())
        };
        let account = wanted(Some("token"), &["town/roofs", "town/homes", " town/roofs"]).unwrap().unwrap();
        assert_eq!(
            (account.namespace.as_str(), account.fleets),
            ("town", vec!["homes".to_owned(), "roofs".to_owned()])
        );
        assert!(wanted(None, &[]).unwrap().is_none());
        for (file, fleets, told) in [
            (None, vec!["town/homes"], "--service-account-token-file"),
            (Some("token"), vec![], "are missing"),
            (Some("token"), vec!["homes"], "NAMESPACE/NAME"),
            (Some("token"), vec!["Town/homes"], "NAMESPACE/NAME"),
            (Some("token"), vec!["town/homes", "city/homes"], "several namespaces"),
        ] {
            let error = wanted(file, &fleets).unwrap_err();
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn what_does_not_go_together_is_named() {
        let account = ServiceAccount {
            token_file: "token".into(),
            name: String::new(),
            namespace: "town".into(),
            fleets: vec!["homes".into()],
        };
        let mut joining = Joining { service_account: Some(account), ..Joining::default() };
        assert!(joining.check().unwrap_err().to_string().contains("--gateway-ca-file"));
        joining.gateway_ca_file = Some("ca.crt".into());
        assert!(joining.check().is_ok());
        joining.join_token_file = Some("join".into());
        assert!(joining.check().unwrap_err().to_string().contains("both there"));
    }
}
