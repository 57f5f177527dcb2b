//! What every cluster has beside its nodes: the pause image, DNS, labels, and volumes on the hub.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::{EDGE_LABEL, EDGES, HUB, RealCluster, node};
use crate::{images, pins::cache_dir};

/// How long nodes may take to become Ready, and DNS after them; 15 s on two idle cores.
const READY_LIMIT: &str = "--timeout=300s";
/// Volumes that can be claimed.
const VOLUMES: usize = 6;

/// Installs all of it and waits until nodes and DNS are ready.
pub(super) fn install(cluster: &RealCluster) -> Result<()> {
    let dir = cluster.dir().join("addons");
    fs::create_dir_all(&dir)?;
    let pause = archive(&dir, node::PAUSE, &pause()?)?;
    let dns = archive(&dir, "registry.depin.dev/test/coredns:1", &cluster.programs.coredns)?;
    cluster.load_image(&pause)?;
    cluster.load_image(&dns)?;
    let handle = cluster.handle()?;
    for name in std::iter::once(HUB).chain(EDGES) {
        // A kubelet registers itself within a second or two of its start.
        handle.kubectl(&["wait", "--for=create", &format!("node/{name}"), READY_LIMIT])?;
    }
    handle.kubectl(&["label", "node", HUB, "node-role.kubernetes.io/control-plane="])?;
    for edge in EDGES {
        handle.kubectl(&["label", "node", edge, EDGE_LABEL])?;
    }
    handle.apply(include_str!("dns.yaml"))?;
    handle.apply(&volumes(cluster.dir())?)?;
    handle.kubectl(&["wait", "--for=condition=Ready", "node", "--all", READY_LIMIT])?;
    handle.kubectl(&["rollout", "status", "deployment/coredns", "-n", "kube-system", READY_LIMIT]).map(drop)
}

fn archive(dir: &Path, reference: &str, program: &Path) -> Result<PathBuf> {
    let image = images::single(reference, program)?;
    let path = dir.join(format!("{}.tar", image.file_stem()));
    image.write(&path)?;
    Ok(path)
}

/// The program of the pause image, compiled once.
fn pause() -> Result<PathBuf> {
    let program = cache_dir()?.join("tools/pause-1/pause");
    if program.is_file() {
        return Ok(program);
    }
    let dir = program.parent().context("no folder")?;
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let source = dir.join("pause.c");
    fs::write(&source, include_str!("pause.c"))?;
    let temporary = dir.join(format!(".pause.{}", std::process::id()));
    let status = Command::new("cc").args(["-Os", "-static", "-s", "-o"]).arg(&temporary).arg(&source).status();
    ensure!(status.context("cannot run cc: install a C compiler")?.success(), "the pause program does not compile");
    fs::rename(&temporary, &program)?;
    Ok(program)
}

/// Folders of the hub as volumes. Everybody may write: their Pods are nobody.
fn volumes(dir: &Path) -> Result<String> {
    use std::os::unix::fs::PermissionsExt as _;
    let mut manifests = include_str!("storage.yaml").to_owned();
    for number in 0..VOLUMES {
        // Both kinds of claim are served; one volume cannot serve both.
        let mode = if number % 2 == 0 { "ReadWriteOncePod" } else { "ReadWriteOnce" };
        let path = dir.join(HUB).join(format!("var/lib/volumes/{number}"));
        fs::create_dir_all(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777))?;
        write!(
            manifests,
            "---\napiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: hub-{number}}}\nspec:\n  capacity: {{storage: 100Gi}}\n  \
             accessModes: [{mode}]\n  persistentVolumeReclaimPolicy: Retain\n  storageClassName: hub\n  \
             local: {{path: /var/lib/volumes/{number}}}\n  nodeAffinity:\n    required:\n      nodeSelectorTerms:\n      \
             - matchExpressions: [{{key: kubernetes.io/hostname, operator: In, values: [{HUB}]}}]\n"
        )?;
    }
    Ok(manifests)
}
