//! What the chart tells the programs is what they understand: its flags and files go through their own parsers.

use clap::Parser as _;
use serde_json::Value;

use crate::helm::{Helm, Objects, RELEASE, values, values_of};

/// A command line as the kubelet would complete it.
fn line(program: &str, flags: Vec<String>) -> Vec<String> {
    let complete = |flag: String| flag.replace("$(POD_NAME)", "depin-operator-0").replace("$(NODE_NAME)", "edge-1");
    std::iter::once(program.to_owned()).chain(flags.into_iter().map(complete)).collect()
}

fn operator(rendered: &Objects) -> depin_operator::Options {
    depin_operator::Options::try_parse_from(line("depin-operator", rendered.flags("Deployment", "operator"))).unwrap()
}

fn agent(rendered: &Objects) -> depin_agent::Arguments {
    depin_agent::Arguments::try_parse_from(line("depin-agent", rendered.flags("DaemonSet", "agent"))).unwrap()
}

#[test]
fn every_flag_is_one_of_its_program() {
    let Some(helm) = Helm::find() else { return };
    for file in values() {
        let rendered = helm.objects(&["-f", &file]);
        assert_eq!(agent(&rendered).name.as_deref(), Some("edge-1"));
        if rendered.of("Deployment").is_empty() {
            continue;
        }
        let operator = operator(&rendered);
        assert!(operator.leader_elect);
        assert_eq!(operator.namespace, "depin-system");
        assert_eq!(operator.telemetry.admin_listen.to_string(), "0.0.0.0:9100");
        // With a database gateways are a Deployment.
        let kind = if rendered.find("StatefulSet", "depin-gateway").is_some() { "StatefulSet" } else { "Deployment" };
        let gateway = line("depin-gateway", rendered.flags(kind, "gateway"));
        let gateway = depin_gateway::Options::try_parse_from(gateway).unwrap();
        assert_eq!((gateway.listen.port(), gateway.ledger_listen.port()), (8443, 8444));
    }
    let rendered = helm.objects(&["--set", "global.bindAddress=[::]"]);
    assert_eq!(operator(&rendered).telemetry.admin_listen.to_string(), "[::]:9100");
}

#[test]
fn the_gateways_certificate_has_every_name_under_which_it_is_reached() {
    let Some(helm) = Helm::find() else { return };
    let rendered = helm.objects(&["-f", &values_of("everything")]);
    let names = operator(&rendered).gateway_name;
    for outside in ["gateway.example", "192.0.2.7", "agents.example"] {
        assert!(names.iter().any(|name| name == outside), "{outside}: {names:?}");
    }
    for url in std::iter::once(operator(&rendered).ledger).chain(agent(&rendered).gateways.gateway) {
        let host = url.trim_start_matches("https://").split(':').next().unwrap().to_owned();
        assert!(names.contains(&host), "{host}: {names:?}");
        let service = rendered.get("Service", host.split('.').next().unwrap());
        let port: i64 = url.rsplit(':').next().unwrap().parse().unwrap();
        let ports = service["spec"]["ports"].as_array().unwrap();
        assert!(ports.iter().any(|known| known["port"] == port), "{url}: {ports:?}");
    }
    // From outside agents reach their own port alone.
    let outside = &rendered.get("Service", "depin-gateway-external")["spec"];
    assert_eq!(outside["ports"].as_array().unwrap().len(), 1);
    assert_eq!((&outside["ports"][0]["targetPort"], &outside["type"]), (&"agents".into(), &"LoadBalancer".into()));
}

#[test]
fn the_agents_settings_file_is_one_that_agents_read() {
    let Some(helm) = Helm::find() else { return };
    let rendered = helm.objects(&["-f", &values_of("everything")]);
    let text = rendered.get("ConfigMap", "depin-agent")["data"]["agent.yaml"].as_str().unwrap();
    let _settings: depin_agent::settings::File = serde_saphyr::from_str(text).unwrap();
    let arguments = agent(&rendered);
    assert_eq!(arguments.spool_limit, Some(4_294_967_296));
    assert_eq!(arguments.mqtt_broker.as_deref(), Some("mqtt://depin-broker.depin-system.svc:1883"));
    assert_eq!(arguments.join_token_file.unwrap().display().to_string(), "/etc/depin/join-token/edge-1");
    // Other settings are another Pod: they are read at its start.
    let digest = |more: &[&str]| {
        let rendered = helm.objects(&[&["-f", &values_of("everything")], more].concat());
        let pod = &rendered.get("DaemonSet", "depin-agent")["spec"]["template"];
        pod["metadata"]["annotations"]["depin.dev/settings"].clone()
    };
    assert_ne!(digest(&[]), digest(&["--set", "agent.settings.unapproved.readings=1"]));
    assert!(matches!(digest(&[]), Value::String(_)));
}

#[test]
fn the_broker_loses_nothing_that_check_would_warn_of() {
    let Some(helm) = Helm::find() else { return };
    let rendered = helm.objects(&["-f", &values_of("everything")]);
    let text = rendered.get("ConfigMap", "depin-broker")["data"]["mosquitto.conf"].as_str().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mosquitto.conf");
    std::fs::write(&file, text).unwrap();
    let mut check = std::process::Command::new(depin_tests::programs().unwrap().join("kubectl-depin"));
    check
        .args(["check", "-o", "json", "--broker-config"])
        .arg(&file)
        .env("KUBECONFIG", "/none")
        .env_remove("DEPIN_LEDGER");
    let output = check.output().unwrap();
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let broker: Vec<&Value> = found["sections"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|section| section["checks"].as_array().unwrap())
        .filter(|check| check["what"].as_str().is_some_and(|what| what.starts_with("mosquitto ")))
        .collect();
    assert_eq!(broker.len(), 3, "{found}");
    assert!(broker.iter().all(|check| check["verdict"] == "right"), "{broker:?}");
}

#[test]
fn backups_go_where_the_values_say_and_only_the_operator_seals_the_authorities() {
    let Some(helm) = Helm::find() else { return };
    let gateway = |rendered: &Objects| {
        let flags = line("depin-gateway", rendered.flags("StatefulSet", "gateway"));
        depin_gateway::Options::try_parse_from(flags).unwrap()
    };
    let rendered = helm.objects(&["-f", &values_of("everything")]);
    let (backup, restore) = (gateway(&rendered).backup, gateway(&rendered).recovery);
    assert_eq!(backup.store.backup_s3.unwrap().as_str(), "https://s3.example:9000/bucket/site");
    assert_eq!((backup.backup_every.as_secs(), backup.backup_keep.as_secs()), (3_600, 30 * 86_400));
    assert_eq!(backup.backup_recipient, operator(&rendered).backup_recipient, "the same people open both");
    assert_eq!(backup.backup_recipient.len(), 1);
    assert!(restore.restore_if_empty && restore.restore_at.is_some());
    // What the flags name is mounted.
    let pod = rendered.get("StatefulSet", "depin-gateway").pointer("/spec/template/spec").unwrap();
    let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
    let under = |path: &std::path::Path| {
        let inside = |mount: &&Value| path.starts_with(mount["mountPath"].as_str().unwrap());
        let mount = mounts.iter().find(inside).unwrap_or_else(|| panic!("nothing is mounted at {}", path.display()));
        let named = |volume: &&Value| volume["name"] == mount["name"];
        pod["volumes"].as_array().unwrap().iter().find(named).unwrap().clone()
    };
    let credentials = under(&backup.store.backup_s3_credentials_dir.unwrap());
    assert_eq!(credentials["secret"]["secretName"], "backup-credentials");
    assert_eq!(under(&backup.store.backup_s3_ca.unwrap())["configMap"]["name"], "backup-ca");
    assert_eq!(under(&restore.restore_identity.unwrap())["secret"]["secretName"], "backup-identity");
    let policy = rendered.get("NetworkPolicy", "depin-gateway").to_string();
    assert!(policy.contains("9000"), "the bucket's port is open: {policy}");

    let rendered = helm.objects(&["-f", &values_of("namespaced")]);
    let directory = gateway(&rendered).backup.store.backup_dir.unwrap();
    let pod = rendered.get("StatefulSet", "depin-gateway").to_string();
    assert!(pod.contains(&format!("\"mountPath\":\"{}\"", directory.display())), "{pod}");
    assert!(pod.contains("\"claimName\":\"backup\""), "{pod}");
    assert!(!helm.objects(&[]).get("StatefulSet", "depin-gateway").to_string().contains("backup"));
}

#[test]
fn backups_that_cannot_be_are_refused_with_the_value_to_correct() {
    let Some(helm) = Helm::find() else { return };
    let bucket = ["--set", "gateway.backup.s3.url=https://s3.example/bucket"];
    let claim = ["--set", "gateway.backup.existingClaim=backup"];
    let credentials = ["--set", "gateway.backup.s3.credentialsSecret=keys"];
    let database = ["--set", "ledger.postgresql.enabled=true,ledger.postgresql.urlSecret=url"];
    for (values, told) in [
        ([&bucket[..], &claim, &credentials].concat(), "not both"),
        ([&bucket[..], &credentials].concat(), "caConfigMap"),
        ([&bucket[..], &["--set", "gateway.backup.s3.caConfigMap=ca"]].concat(), "credentialsSecret"),
        ([&claim[..], &database].concat(), "pg_dump"),
        (vec!["--set", "gateway.backup.recipients={age1abc}"], "need a place"),
        (vec!["--set", "gateway.restore.enabled=true"], "need a place"),
        (vec!["--set", "gateway.backup.every=soon"], "every"),
        (vec!["--set", "gateway.backup.s3.url=https://s3.example"], "url"),
    ] {
        let refused = helm.refusal(&[&["template", RELEASE, "."], &values[..]].concat());
        assert!(refused.contains(told), "{values:?}: {refused}");
    }
}
