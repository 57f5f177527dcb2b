//! One connection is one file descriptor.

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::limits::Limits;

/// Takes as many descriptors as the administrator grants: the soft limit, often 1,024, is there for programs that cannot deal with more.
/// Says so where that is less than the connections that the settings allow.
pub(crate) fn take(limits: &Limits) {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files cannot be raised");
        limit = getrlimit(Resource::Nofile);
    }
    let wanted = wanted(limits);
    if let Some(granted) = limit.current.filter(|granted| *granted < wanted) {
        tracing::warn!(
            granted,
            wanted,
            "fewer open files than connections are allowed: raise the limit (LimitNOFILE=, ulimit -n)"
        );
    }
}

/// For both ports; what is left over is for the ledger's files.
fn wanted(limits: &Limits) -> u64 {
    let port = limits.connections.saturating_add(limits.stranger_connections);
    u64::try_from(port.saturating_mul(2)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_granted_is_taken() {
        take(&Limits::default());
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
        assert_eq!(wanted(&Limits { connections: 10, stranger_connections: 5, ..Limits::default() }), 30);
    }
}
