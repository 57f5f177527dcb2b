//! A gateway that starts without its volume, beside a backup.

use std::{ffi::OsString, fs, path::Path, process::Command};

use depin_backup::{AuthorityBundle, Generation, Identities, unseal_authority};
use depin_domain::time::Timestamp;
use depin_operator::{
    authority_backup,
    certificates::{authorities::Authorities, kept},
};
use depin_proto::v1::{GetInfoRequest, LedgerInfo};
use depin_sealing::Recipients;
use depin_tests::{Center, Stack, now_ms, programs};
use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::{
    identity,
    server::{BUCKET, Server},
};

/// The center's side: a gateway that backs up to the server, and whoever asks it.
struct Place {
    stack: Stack,
    center: Center,
    runtime: Runtime,
}

impl Place {
    fn start(dir: &Path, arguments: Vec<OsString>) -> Self {
        let runtime = Runtime::new().unwrap();
        let mut stack = Stack::new(&dir.join("stack"), &programs().unwrap()).unwrap();
        stack.gateway_arguments = arguments;
        let center = runtime.block_on(Center::start(&mut stack)).unwrap();
        center.certify_client(&dir.join("client")).unwrap();
        Self { stack, center, runtime }
    }

    fn info(&self) -> LedgerInfo {
        let ask = async { self.center.ledger().client().get_info(GetInfoRequest {}).await };
        self.runtime.block_on(ask).unwrap().into_inner()
    }

    /// What the plugin prints, and its exit code.
    fn ask(&self, dir: &Path, arguments: &[&str]) -> (Option<i32>, Value) {
        let client = dir.join("client");
        let run = Command::new(self.stack.programs().join("kubectl-depin"))
            .args(["-o", "json", "--ledger", &self.stack.ledger(), "--cert"])
            .arg(client.join("client.crt"))
            .arg("--key")
            .arg(client.join("client.key"))
            .arg("--ca")
            .arg(client.join("ca.crt"))
            .args(arguments)
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&run.stdout).into_owned();
        let json = serde_json::from_str(&told).unwrap_or(Value::Null);
        assert!(json != Value::Null, "{told}{}", String::from_utf8_lossy(&run.stderr));
        (run.status.code(), json)
    }

    fn lose_the_volume(&mut self) {
        self.stack.gateway.take().unwrap().kill();
        fs::remove_dir_all(self.stack.dir.join("ledger")).unwrap();
    }
}

fn arguments(server: &Server, recipient: &str) -> Vec<OsString> {
    let file = |name: &str| server.file(name).into_os_string();
    vec![
        "--backup-s3".into(),
        server.url(BUCKET).into(),
        "--backup-s3-credentials-dir".into(),
        file("credentials"),
        "--backup-s3-ca".into(),
        file("ca.crt"),
        "--backup-every".into(),
        "1h".into(),
        "--backup-recipient".into(),
        recipient.into(),
    ]
}

#[test]
fn a_gateway_without_its_volume_refuses_to_begin_anew_and_restores_when_told_to() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path();
    let Some(server) = Server::start(&dir.join("store")) else { return };
    let (recipient, file) = identity(dir);
    let mut place = Place::start(dir, arguments(&server, &recipient));

    // The operator hands the authority over, encrypted to whom it was told, and it is in the next backup.
    let recipients = Recipients::parse(std::slice::from_ref(&recipient)).unwrap();
    let authorities = Authorities::of(place.center.authority().unwrap());
    let keep = async { authority_backup::keep(place.center.ledger(), &authorities, &recipients).await.unwrap() };
    assert!(place.runtime.block_on(keep));
    let (code, told) = place.ask(dir, &["backup", "now", "--wait"]);
    assert_eq!((code, &told["authority"], &told["failure"]), (Some(0), &true.into(), &"".into()), "{told}");
    assert_eq!(told["recipients"], serde_json::json!([recipient]));
    let (code, list) = place.ask(dir, &["backup", "list"]);
    assert!(code == Some(0) && !list.as_array().unwrap().is_empty());
    let before = place.info();

    // The volume is gone. An empty one beside a backup is no new network.
    place.lose_the_volume();
    let refused = place.stack.start_gateway().unwrap_err().to_string();
    assert!(refused.contains("--restore-if-empty") && refused.contains("mount"), "{refused}");
    assert!(
        !place
            .stack
            .dir
            .join("ledger/log")
            .read_dir()
            .unwrap()
            .any(|file| { file.unwrap().file_name().to_string_lossy().ends_with(".seg") })
    );

    // Told to restore, but without the key: it says what it wants.
    place.stack.gateway_arguments.push("--restore-if-empty".into());
    let refused = place.stack.start_gateway().unwrap_err().to_string();
    assert!(refused.contains("--identity") && refused.contains(&recipient), "{refused}");

    place.stack.gateway_arguments.extend(["--restore-identity".into(), file.clone().into_os_string()]);
    place.stack.start_gateway().unwrap();
    let after = place.info();
    assert!(after.incarnation > before.incarnation && after.writer_token == before.writer_token, "{after:?}");
    // It goes on in the same place, and a start with its volume restores nothing.
    let (_, told) = place.ask(dir, &["backup", "now", "--wait"]);
    assert_eq!((&told["failure"], &told["authority"]), (&"".into(), &true.into()), "{told}");
    place.stack.gateway.take().unwrap().kill();
    place.stack.start_gateway().unwrap();
    assert_eq!(place.info().incarnation, after.incarnation);

    // The authority comes out with the key, as the operator had it.
    let identities = Identities::read(&file).unwrap();
    let opened: AuthorityBundle = place.runtime.block_on(async {
        let store = server.store();
        let newest = Generation::list(&*store).await.unwrap().pop().unwrap();
        unseal_authority(&*store, newest, &identities).await.unwrap()
    });
    let secret: Secret = serde_json::from_slice(&opened.0).unwrap();
    let opened = kept::read(&secret, Timestamp(now_ms())).unwrap();
    assert_eq!(opened.bundle(), authorities.bundle());
    assert_eq!(*opened.issuing.key_pem(), *authorities.issuing.key_pem());
    let log = fs::read_to_string(place.stack.dir.join("logs/depin-gateway.log")).unwrap();
    for secret in [crate::server::SECRET_KEY, "AGE-SECRET-KEY", "X-Amz-Signature", "PRIVATE KEY"] {
        assert!(!log.contains(secret), "{secret} is in the gateway's log");
    }
}
