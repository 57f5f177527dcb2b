//! Annotations and labels that the operator reads or writes.

/// On an EdgeDevice: RFC 3339 time of its first sighting, from which on it counts. `kubectl depin approve` copies it from the
/// enrollment's `spec.request.firstSeen`.
pub const FIRST_SEEN: &str = "depin.dev/first-seen";
/// Label of an EdgeAgent that a join token made: the first 40 digits of the token's SHA-256, so that a token admits one agent.
pub const ENROLLED_BY: &str = "depin.dev/enrolled-by";
/// On an EdgeAgent that a ServiceAccount's token made: `namespace/name` of the ServiceAccount.
pub const SERVICE_ACCOUNT: &str = "depin.dev/service-account";
/// On Secret depin-ca: a person asks for a new authority, and that retired ones are not trusted any more. Taken off when it is done.
pub const CA_ROTATE: &str = "depin.dev/rotate";
/// See [`CA_ROTATE`].
pub const CA_RETIRE: &str = "depin.dev/retire";
/// On Secret depin-ca: since when the next authority is made known.
pub const CA_INTRODUCED: &str = "depin.dev/introduced";
/// On Secret depin-ca: since when each retired authority issues no more, `<SHA-256>=<RFC 3339>`, separated by commas.
pub const CA_RETIRED: &str = "depin.dev/retired";
/// On objects that the operator created.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY`].
pub const OPERATOR: &str = "depin-operator";
/// On Secret depin-gateway-tls: the names that the certificate is for.
pub const HOSTS: &str = "depin.dev/hosts";
/// On RewardEpochs: their program, for selection.
pub const PROGRAM: &str = "depin.dev/program";
/// On a RewardProgram: why a person suspended it.
pub const SUSPEND_REASON: &str = "depin.dev/suspend-reason";
/// On an EdgeAgent: the id of its revoked key, by which a person says that this very key may be used again.
pub const REINSTATE_KEY: &str = "depin.dev/reinstate-key";
