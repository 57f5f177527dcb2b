//! What went wrong, what to do about it, and the exit code that says it to a script.

/// Something failed.
pub(crate) const FAILED: u8 = 1;
/// Flags that do not go together.
pub(crate) const USAGE: u8 = 2;
/// What was asked for does not exist.
pub(crate) const NOT_FOUND: u8 = 3;
/// What was examined is not right.
pub(crate) const NOT_RIGHT: u8 = 4;
/// Nobody is there in whose name the ledger could be asked.
pub(crate) const NO_VIEWER: u8 = 5;

/// A command's failure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}; {remedy}")]
pub(crate) struct Fault {
    pub(crate) message: String,
    pub(crate) remedy: String,
    pub(crate) code: u8,
}

impl Fault {
    pub(crate) fn failed(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { message: message.into(), remedy: remedy.into(), code: FAILED }
    }

    pub(crate) fn not_found(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { code: NOT_FOUND, ..Self::failed(message, remedy) }
    }

    pub(crate) fn no_viewer(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { code: NO_VIEWER, ..Self::failed(message, remedy) }
    }

    pub(crate) fn usage(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { code: USAGE, ..Self::failed(message, remedy) }
    }

    /// A file cannot be read or does not hold what it should.
    pub(crate) fn file(path: &std::path::Path, error: impl std::fmt::Display) -> Self {
        Self::failed(format!("{}: {error}", path.display()), "check the path and its contents")
    }
}

impl From<kube::Error> for Fault {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.code == 404 => {
                Self::not_found(status.message, "check name and namespace (-n), and that the CRDs are installed")
            }
            kube::Error::Api(status) if status.code == 403 => {
                Self::failed(status.message, "ask for a role that allows it: RBAC decides")
            }
            kube::Error::Api(status) => Self::failed(status.message, "correct what the API server refuses"),
            other => {
                Self::failed(format!("API server: {other}"), "check --context, --kubeconfig and that the server runs")
            }
        }
    }
}

impl From<tonic::Status> for Fault {
    fn from(status: tonic::Status) -> Self {
        let message = format!("ledger: {}", status.message());
        match status.code() {
            tonic::Code::NotFound => Self::not_found(message, "list what there is: kubectl depin epochs"),
            tonic::Code::Unavailable => {
                Self::failed(message, "check --ledger or --query, and that gateway and operator run")
            }
            tonic::Code::Unauthenticated | tonic::Code::PermissionDenied => Self::failed(
                message,
                "ask as a viewer who may: --viewer, -n NAMESPACE or -A; with --ledger: --cert and --key",
            ),
            tonic::Code::DeadlineExceeded | tonic::Code::Cancelled => {
                Self::failed(message, "give a longer --request-timeout, or check that the gateway answers")
            }
            _ => Self::failed(message, "see the gateway's log"),
        }
    }
}
