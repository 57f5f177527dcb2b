//! The control plane that other tests stand on: it comes up, asks for its token, survives its own restart, and forgets
//! everything when etcd is lost.

use depin_tests::{ControlPlane, tools::Tools, workspace};

#[test]
fn a_control_plane_starts_restarts_and_forgets() {
    if let Err(missing) = Tools::find() {
        println!("skipped: {missing}");
        return;
    }
    let mut plane = ControlPlane::start().unwrap();
    plane.run_kubectl(&["create", "configmap", "kept", "--from-literal=a=b"]).unwrap();

    let stranger = plane.run_kubectl(&["get", "configmaps", "--token=wrong"]).unwrap_err();
    assert!(stranger.to_string().contains("logged in"), "{stranger}");
    let nobody = plane.run_kubectl(&["auth", "can-i", "get", "secrets", "--as=nobody"]).unwrap_err();
    assert!(nobody.to_string().contains("can-i"), "RBAC grants nothing by default: {nobody}");

    plane.restart_api_server().unwrap();
    let kept = plane.run_kubectl(&["get", "configmap", "kept", "-o", "jsonpath={.data.a}"]).unwrap();
    assert_eq!(kept, "b");

    plane.lose_etcd().unwrap();
    let lost = plane.run_kubectl(&["get", "configmap", "kept"]).unwrap_err();
    assert!(lost.to_string().contains("NotFound"), "{lost}");
}

#[test]
fn the_definitions_and_every_example_are_accepted() {
    if let Err(missing) = Tools::find() {
        println!("skipped: {missing}");
        return;
    }
    let plane = ControlPlane::start().unwrap();
    plane.apply_crds().unwrap();
    for network in std::fs::read_dir(workspace().join("examples/networks")).unwrap() {
        let folder = network.unwrap().path();
        let name = folder.file_name().unwrap().to_str().unwrap();
        plane.run_kubectl(&["create", "namespace", name]).unwrap();
        plane.apply(&folder).unwrap();
    }
    let devices = plane.run_kubectl(&["get", "edgedevices", "-A", "-o", "name"]).unwrap();
    assert_eq!(devices.lines().count(), 5);

    let regrain = r#"{"spec":{"grain":"10s"}}"#;
    let refused = plane.run_kubectl(&["patch", "efleet", "meters", "-n", "energy", "--type=merge", "-p", regrain]);
    assert!(refused.unwrap_err().to_string().contains("grain is immutable"));
}
