//! The agent's package: the same bytes each time, what Debian's own tools say of it, and its installation as the documents describe it, in a
//! copy of this machine's system.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it cannot go on")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use depin_tests::{programs, workspace};
use xtask::{
    documents::{Block, blocks},
    package,
};

fn package(folder: &Path) -> [PathBuf; 2] {
    package::write(&programs().unwrap().join("depin-agent"), folder).unwrap()
}

/// What a program prints; it must end well. None: this machine does not have it.
fn run(command: &mut Command) -> Option<String> {
    let output = match command.stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("skipped: {} is missing", command.get_program().display());
            return None;
        }
        Err(error) => panic!("{error}"),
    };
    let told = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{command:?}: {told}");
    Some(told)
}

#[test]
fn a_package_is_the_same_each_time_and_debian_s_tools_read_it() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ([deb, archive], again) = (package(one.path()), package(other.path()));
    for (first, second) in [&deb, &archive].into_iter().zip(&again) {
        assert!(fs::read(first).unwrap() == fs::read(second).unwrap(), "{} differs", first.display());
    }
    let Some(information) = run(Command::new("dpkg-deb").arg("--info").arg(&deb)) else { return };
    for line in ["Package: depin-agent", "Depends: ", "systemd (>= 247)", "conffiles", "postinst", "prerm"] {
        assert!(information.contains(line), "{line}: {information}");
    }
    let contents = run(Command::new("dpkg-deb").arg("--contents").arg(&deb)).unwrap();
    for line in contents.lines() {
        assert!(line.contains(" root/root "), "{line}");
        let private = line.contains("./etc/depin-agent/") && line.starts_with('-');
        assert_eq!(line.starts_with("-rw-r-----"), private, "{line}");
    }
    // What dpkg unpacks is what the archive for everybody else has.
    let (unpacked, extracted) = (one.path().join("unpacked"), one.path().join("extracted"));
    run(Command::new("dpkg-deb").arg("--extract").arg(&deb).arg(&unpacked)).unwrap();
    fs::create_dir(&extracted).unwrap();
    run(Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(&extracted)).unwrap();
    run(Command::new("diff").arg("-r").arg(&unpacked).arg(&extracted)).unwrap();
}

#[test]
fn the_unit_is_valid_and_closed() {
    let folder = tempfile::tempdir().unwrap();
    let [deb, _] = package(folder.path());
    let root = folder.path().join("root");
    if run(Command::new("dpkg-deb").arg("--extract").arg(&deb).arg(&root)).is_none() {
        return;
    }
    let unit = workspace().join("packaging/agent/depin-agent.service");
    // 0.0 is a unit that may do nothing, 10.0 one that may do everything.
    let closed = ["security", "--offline=true", "--threshold=15", "--no-pager"];
    let Some(told) = run(Command::new("systemd-analyze").args(closed).arg(&unit)) else { return };
    println!("{}", told.lines().last().unwrap_or_default());
    // With the program where the unit looks for it.
    let text = fs::read_to_string(&unit).unwrap().replace("/usr/bin/", &format!("{}/usr/bin/", root.display()));
    let text = text.replace("file:///usr", &format!("file://{}/usr", root.display()));
    let moved = folder.path().join("depin-agent.service");
    fs::write(&moved, text).unwrap();
    let told = run(Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&moved)).unwrap();
    assert!(!told.contains("depin-agent.service"), "{told}");
}

/// Makes a root directory like this machine's, of which nothing that is written there reaches the machine (an overlay in a mount namespace of
/// its own, with a loopback of its own), and runs `$SCRIPT` in it, in a directory with what lies in `$SHARED`.
const IN_A_COPY: &str = r#"
    set -e
    mount --make-rprivate /
    ip link set lo up
    mount -t tmpfs tmpfs "$COPY"
    mkdir "$COPY/work" "$COPY/upper" "$COPY/root"
    mount -t overlay overlay -o "lowerdir=/,upperdir=$COPY/upper,workdir=$COPY/work" "$COPY/root"
    mount -t proc proc "$COPY/root/proc"
    mount --rbind /dev "$COPY/root/dev"
    mkdir -p "$COPY/root/var/tmp/packages"
    mount --bind "$SHARED" "$COPY/root/var/tmp/packages"
    test -n "$SCRIPT" || exit 0
    # Not as the namespace's first process: systemctl knows by that one's root that it starts nothing here.
    status=0
    chroot "$COPY/root" sh -euxc "cd /var/tmp/packages; $SCRIPT" || status=$?
    exit $status
"#;

fn in_a_copy(shared: &Path, script: &str) -> std::io::Result<std::process::Output> {
    let copy = tempfile::tempdir()?;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "sh", "-c", IN_A_COPY]);
    command.env("COPY", copy.path()).env("SHARED", shared).env("SCRIPT", script);
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.env("TOKEN", "depin1.00000000000000000000000000000000.0").env("GATEWAY", "https://127.0.0.1:9");
    command.stdin(Stdio::null()).output()
}

/// Runs the documents' blocks of `place` one after the other in one copy, and `look` before the package is removed again, if it is.
fn install(place: &str, look: &str) {
    let folder = tempfile::tempdir().unwrap();
    package(folder.path());
    match in_a_copy(folder.path(), "") {
        Ok(tried) if tried.status.success() => {}
        Ok(tried) => {
            println!("skipped: needs root, overlays and iproute2: {}", String::from_utf8_lossy(&tried.stderr).trim());
            return;
        }
        Err(error) => {
            println!("skipped: unshare: {error}");
            return;
        }
    }
    let blocks = blocks(&workspace(), place).unwrap();
    assert!(!blocks.is_empty());
    let removing = blocks.iter().position(|block| block.text.contains("--remove")).unwrap_or(blocks.len());
    let text = |blocks: &[Block]| blocks.iter().map(|block| block.text.as_str()).collect::<String>();
    let kept = "test -d /var/lib/depin-agent && test -f /etc/depin-agent/agent.yaml\n";
    let script = [&text(&blocks[..removing]), look, &text(&blocks[removing..]), kept].concat();
    let output = in_a_copy(folder.path(), &script).unwrap();
    let told = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{}: {told}", output.status);
}

/// The user is there, settings are its group's to read, and the program runs as the unit's user does: it listens, though no gateway answers.
const INSTALLED: &str = r#"
    id depin-agent
    test "$(stat -c %U:%G:%a /etc/depin-agent)" = root:depin-agent:750
    test "$(stat -c %U:%G:%a /etc/depin-agent/join-token)" = root:depin-agent:640
    test "$(stat -c %U:%G:%a /etc/depin-agent/agent.yaml)" = root:depin-agent:640
    install -d -o depin-agent -g depin-agent -m 0700 /var/lib/depin-agent
    setpriv --reuid depin-agent --regid depin-agent --init-groups \
        /usr/bin/depin-agent --config /etc/depin-agent/agent.yaml > /tmp/agent.log 2>&1 &
    tries=0
    until grep -q "MQTT listener listens" /tmp/agent.log; do
        tries=$((tries + 1))
        test $tries -lt 600 || { cat /tmp/agent.log; exit 1; }
        sleep 0.1
    done
    # It drains on SIGTERM and ends well.
    kill -TERM $!
    wait $!
    test "$(stat -c %U:%a /var/lib/depin-agent/agent.key)" = depin-agent:600
"#;

#[test]
fn a_box_is_set_up_as_the_documents_say() {
    install("box", &format!("test -L /etc/systemd/system/multi-user.target.wants/depin-agent.service\n{INSTALLED}"));
}

#[test]
fn a_box_without_dpkg_is_set_up_from_the_archive() {
    let settings = "echo \"gateways: [\\\"$GATEWAY\\\"]\" >> /etc/depin-agent/agent.yaml\n\
                    echo \"$TOKEN\" > /etc/depin-agent/join-token\nsystemd-tmpfiles --create depin-agent.conf\n";
    install("box-archive", &format!("{settings}{INSTALLED}"));
}
