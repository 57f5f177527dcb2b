//! What a call asks for, and which right it takes. Pure.

use depin_identity::peer::is_label;

/// API group of the virtual resource on which the rights are given.
pub const GROUP: &str = "depin.dev";
/// The virtual resource: no API server serves it, RBAC knows it all the same.
pub const RESOURCE: &str = "ledger";
/// Reads; in a namespace what belongs to it, cluster-wide everything. Not `get`: a role for everything readable does not include it.
pub const VERB_QUERY: &str = "query";
/// Releases the hold on closing after a restore; cluster-wide only.
pub const VERB_RELEASE: &str = "release";

/// Says that no older version will come back; cluster-wide only.
pub const VERB_FINALIZE: &str = "finalize";
/// Asks the gateway for a backup now; cluster-wide only.
pub const VERB_BACKUP: &str = "backup";

/// What a caller asks about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum View {
    /// What belongs to a namespace.
    Namespace(String),
    /// Everything.
    All,
}

impl View {
    /// From the value of [`NAMESPACE_HEADER`](super::NAMESPACE_HEADER); none where it names no namespace.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "*" => Some(Self::All),
            name if is_label(name) => Some(Self::Namespace(name.to_owned())),
            _ => None,
        }
    }

    /// The namespace for a review; none for all.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        match self {
            Self::Namespace(name) => Some(name),
            Self::All => None,
        }
    }
}

impl std::fmt::Display for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Namespace(name) => write!(f, "namespace {name}"),
            Self::All => f.write_str("all namespaces"),
        }
    }
}

/// A method that is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Method {
    pub(super) name: &'static str,
    pub(super) verb: &'static str,
    /// Concerns the whole network: not for one namespace.
    pub(super) wide: bool,
}

/// Not here: what only the operator writes, and its inbox, which holds what agents say in confidence.
const METHODS: [Method; 13] = [
    query("GetInfo"),
    query("ReadRegistry"),
    query("ReadStatistics"),
    query("ListEpochs"),
    query("ReadEpoch"),
    query("ReadExport"),
    query("ReadHold"),
    query("ReadProofs"),
    query("ReadPresence"),
    Method { name: "ReadBackups", verb: VERB_QUERY, wide: true },
    Method { name: "RequestBackup", verb: VERB_BACKUP, wide: true },
    Method { name: "ReleaseHold", verb: VERB_RELEASE, wide: true },
    Method { name: "Finalize", verb: VERB_FINALIZE, wide: true },
];

const fn query(name: &'static str) -> Method {
    Method { name, verb: VERB_QUERY, wide: false }
}

/// The method of a request's path, if it is offered.
pub(super) fn method(path: &str) -> Option<Method> {
    let name = path.strip_prefix("/depin.v1.Ledger/")?;
    METHODS.into_iter().find(|method| method.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_the_operator_writes_is_offered() {
        for name in [
            "AcquireWriter",
            "WriteRegistry",
            "CloseEpoch",
            "RecordEpoch",
            "WatchInbox",
            "AnswerInbox",
            "KeepAuthority",
            "",
            "GetInfo/",
        ] {
            assert_eq!(method(&format!("/depin.v1.Ledger/{name}")), None, "{name}");
        }
        assert_eq!(method("/depin.v1.Proofs/GetInfo"), None);
        assert_eq!(method("/depin.v1.Ledger/ReadProofs").map(|method| method.verb), Some(VERB_QUERY));
        for (name, verb) in [("ReleaseHold", VERB_RELEASE), ("RequestBackup", VERB_BACKUP), ("ReadBackups", VERB_QUERY)]
        {
            let found = method(&format!("/depin.v1.Ledger/{name}")).map(|method| (method.verb, method.wide));
            assert_eq!(found, Some((verb, true)), "{name}");
        }
    }

    #[test]
    fn a_view_is_a_namespace_or_all() {
        assert_eq!(View::parse("*"), Some(View::All));
        assert_eq!(View::parse("town"), Some(View::Namespace("town".into())));
        for wrong in ["", "Town", "a/b", "a.b", "**", " town", "town\u{0}"] {
            assert_eq!(View::parse(wrong), None, "{wrong:?}");
        }
    }
}
