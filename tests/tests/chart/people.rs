//! Who may do what, asked of a real API server: the roles for people, and the policy for what lets something in or says who is paid.

use depin_tests::ControlPlane;

use crate::helm::{AGENTS, Helm, NAMESPACE, RELEASE};

const DEVICE: &str = "
apiVersion: depin.dev/v1alpha1
kind: EdgeDevice
metadata: {name: meter-1, namespace: energy}
spec: {fleet: meters, agent: barn, serial: s1, owner: '0x0101010101010101010101010101010101010101'}
";
const AGENT: &str = "
apiVersion: depin.dev/v1alpha1
kind: EdgeAgent
metadata: {name: barn, namespace: energy}
spec: {fleets: [meters]}
";
const INVITATION: &str = "
apiVersion: depin.dev/v1alpha1
kind: EdgeEnrollment
metadata: {name: invitation, namespace: energy}
spec:
  token:
    sha256: '0101010101010101010101010101010101010101010101010101010101010101'
    expiresAt: '2100-01-01T00:00:00Z'
    fleets: [meters]
";
const REQUEST: &str = "
apiVersion: depin.dev/v1alpha1
kind: EdgeEnrollment
metadata: {name: request, namespace: energy}
spec: {request: {kind: Device, serial: s2, agent: barn}}
";
const FLEET: &str = "
apiVersion: depin.dev/v1alpha1
kind: EdgeFleet
metadata: {name: meters, namespace: energy}
spec: {modelRef: {name: meter}, owner: '0x0101010101010101010101010101010101010101'}
";
const OWNER: &str = r#"{"spec":{"owner":"0x0202020202020202020202020202020202020202"}}"#;

/// A cluster with the chart, and in namespace `energy` a viewer, an editor, and an administrator. What a cluster's own controller would add to the
/// roles `view`, `edit` and `admin` is bound here by itself.
struct World {
    plane: ControlPlane,
}

impl World {
    fn start(helm: Helm) -> Self {
        let plane = ControlPlane::start().unwrap();
        let helm = helm.on(plane.kubeconfig());
        for namespace in [NAMESPACE, AGENTS, "energy"] {
            plane.run_kubectl(&["create", "namespace", namespace]).unwrap();
        }
        helm.run(&["install", RELEASE, ".", "-n", NAMESPACE, "--set", "agent.createNamespace=false"]);
        let world = Self { plane };
        for (person, roles) in [
            ("viewer", &["depin-view"][..]),
            ("editor", &["depin-view", "depin-edit"]),
            ("admin-of-energy", &["depin-view", "depin-edit", "depin-approve"]),
        ] {
            for role in roles {
                let (binding, role, user) =
                    (format!("{person}-{role}"), format!("--clusterrole={role}"), format!("--user={person}"));
                world.plane.run_kubectl(&["create", "rolebinding", &binding, &role, &user, "-n", "energy"]).unwrap();
            }
        }
        world
    }

    fn kubectl(&self, person: &str, arguments: &[&str], input: &str) -> Result<String, String> {
        use std::io::Write as _;
        let mut command = self.plane.kubectl();
        command.args(arguments).args(["--as", person]).stdin(std::process::Stdio::piped());
        let mut child =
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    fn create(&self, person: &str, object: &str) -> Result<String, String> {
        self.kubectl(person, &["create", "-f", "-"], object)
    }

    fn patch(&self, person: &str, what: &str, patch: &str) -> Result<String, String> {
        self.kubectl(person, &["patch", what, "-n", "energy", "--type=merge", "-p", patch], "")
    }

    fn may(&self, person: &str, verb: &str, resource: &str) -> bool {
        let (resource, part) = resource.split_once('/').unwrap_or((resource, ""));
        let (resource, part) = (format!("{resource}.depin.dev"), format!("--subresource={part}"));
        self.kubectl(person, &["auth", "can-i", verb, &resource, &part, "-n", "energy"], "").is_ok()
    }

    /// The API server takes a policy up a moment after it was made.
    fn until_the_policy_holds(&self) {
        let started = std::time::Instant::now();
        while self.kubectl("editor", &["create", "--dry-run=server", "-f", "-"], DEVICE).is_ok() {
            assert!(started.elapsed().as_secs() < 60, "the policy does not hold");
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
    }
}

#[test]
fn people_may_do_what_their_role_says_and_the_verb_approve_decides_who_is_let_in() {
    let Some(helm) = Helm::find() else { return };
    let world = World::start(helm);

    // A viewer sees what a network is made of, not where things stand and who owns them.
    for (resource, sees) in [
        ("rewardprograms", true),
        ("rewardepochs", true),
        ("edgefleets", false),
        ("edgedevices", false),
        ("edgeagents", false),
        ("edgeenrollments", false),
    ] {
        assert_eq!(world.may("viewer", "list", resource), sees, "{resource}");
        assert!(!world.may("viewer", "create", resource), "{resource}");
        assert!(world.may("editor", "list", resource), "{resource}");
    }
    assert!(!world.may("editor", "update", "rewardepochs"));
    assert!(
        !world.may("editor", "patch", "edgedevices/status") && world.may("editor", "patch", "edgeenrollments/status")
    );
    assert!(!world.may("editor", "approve", "edgedevices") && world.may("admin-of-energy", "approve", "edgedevices"));

    world.until_the_policy_holds();
    world.create("editor", FLEET).unwrap();
    for (what, object) in [("edgedevices", DEVICE), ("edgeagents", AGENT), ("edgeenrollments", INVITATION)] {
        let refused = world.create("editor", object).unwrap_err();
        assert!(refused.contains(&format!("needs the verb approve on {what}.depin.dev")), "{refused}");
        world.create("admin-of-energy", object).unwrap();
    }
    // What asks lets nobody in.
    world.create("editor", REQUEST).unwrap();

    for (what, patch, field) in [
        ("edgedevice/meter-1", OWNER, "spec.owner"),
        ("edgedevice/meter-1", r#"{"spec":{"owner":null}}"#, "spec.owner"),
        (
            "edgedevice/meter-1",
            r#"{"spec":{"owner":null,"shares":[{"account":"0x0202020202020202020202020202020202020202","basisPoints":10000}]}}"#,
            "spec.owner, spec.shares",
        ),
        (
            "edgedevice/meter-1",
            r#"{"spec":{"publicKey":{"algorithm":"Ed25519","key":"0101010101010101010101010101010101010101010101010101010101010101"}}}"#,
            "spec.publicKey",
        ),
        ("edgeagent/barn", r#"{"spec":{"fleets":["meters","others"]}}"#, "spec.fleets"),
        ("edgeagent/barn", r#"{"metadata":{"annotations":{"depin.dev/reinstate-key":"00"}}}"#, "reinstate-key"),
        ("edgefleet/meters", OWNER, "spec.owner"),
        ("edgefleet/meters", r#"{"spec":{"enrollment":{"policy":"Token"}}}"#, "spec.enrollment"),
    ] {
        let refused = world.patch("editor", what, patch).unwrap_err();
        assert!(refused.contains("needs the verb approve") && refused.contains(field), "{what} {patch}: {refused}");
    }
    // All else is an editor's.
    world.patch("editor", "edgedevice/meter-1", r#"{"spec":{"suspend":true,"suspendReason":"moved"}}"#).unwrap();
    world.patch("editor", "edgeagent/barn", r#"{"metadata":{"annotations":{"note":"roof"}}}"#).unwrap();
    world.patch("admin-of-energy", "edgedevice/meter-1", OWNER).unwrap();
    // An annotation that was there may stay.
    let reinstate = r#"{"metadata":{"annotations":{"depin.dev/reinstate-key":"00"}}}"#;
    world.patch("admin-of-energy", "edgeagent/barn", reinstate).unwrap();
    world.patch("editor", "edgeagent/barn", r#"{"metadata":{"annotations":{"note":"attic"}}}"#).unwrap();

    // The operator lets in whom a fleet's policy lets in.
    let operator = format!("system:serviceaccount:{NAMESPACE}:depin-operator");
    world.create(&operator, &DEVICE.replace("meter-1", "meter-2").replace("s1", "s2")).unwrap();
    world.create(&operator, &AGENT.replace("barn", "shed")).unwrap();
    let refused = world.create(&operator, &INVITATION.replace("name: invitation", "name: own")).unwrap_err();
    assert!(refused.contains("needs the verb approve"), "it invites nobody: {refused}");
}
