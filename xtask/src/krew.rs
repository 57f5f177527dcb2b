//! `cargo xtask krew`: archives of the kubectl plugin and the manifest by which krew installs them.
//!
//! A release builds `kubectl-depin` for each platform, gives the programs to this command, puts the archives where `--base-url` says, and hands the
//! manifest to an index. The digests are those of the archives that were written here, so there is nothing to fill in by hand.

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    str::FromStr,
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use sha2::{Digest as _, Sha256};

use crate::workspace;

/// What krew calls the plugin.
const NAME: &str = "depin";
/// The program's name in an archive.
const PROGRAM: &str = "kubectl-depin";

/// What is packed, and where it will be.
#[derive(Args, Debug)]
pub struct Options {
    /// A built program and its platform, like linux/amd64=target/release/kubectl-depin; repeatable
    #[arg(long = "program", required = true, value_name = "OS/ARCH=FILE")]
    pub programs: Vec<Program>,
    /// Address below which the archives will be found
    #[arg(long, value_name = "URL")]
    pub base_url: String,
    /// Directory for archives and manifest
    #[arg(long, default_value = "dist", value_name = "DIR")]
    pub out: PathBuf,
}

/// A program for a platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    os: String,
    arch: String,
    file: PathBuf,
}

impl FromStr for Program {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?}: write it like linux/amd64=path/of/kubectl-depin");
        let (platform, file) = text.split_once('=').ok_or_else(wrong)?;
        let (os, arch) = platform.split_once('/').ok_or_else(wrong)?;
        let known = ["linux", "darwin"].contains(&os) && ["amd64", "arm64"].contains(&arch) && !file.is_empty();
        known.then(|| Self { os: os.into(), arch: arch.into(), file: file.into() }).ok_or_else(wrong)
    }
}

/// An archive that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Archive {
    os: String,
    arch: String,
    name: String,
    sha256: String,
}

/// Packs and describes.
///
/// # Errors
/// When a program cannot be read, or an archive not be written.
pub fn run(options: &Options) -> Result<ExitCode> {
    ensure!(options.base_url.starts_with("https://"), "--base-url: krew fetches over https only");
    fs::create_dir_all(&options.out)?;
    let licence = workspace().join("LICENSE");
    let mut archives = Vec::new();
    for program in &options.programs {
        archives.push(pack(program, &licence, &options.out)?);
    }
    let path = options.out.join(format!("{NAME}.yaml"));
    fs::write(&path, manifest(env!("CARGO_PKG_VERSION"), &options.base_url, &archives))?;
    println!("{} names {} archives; put them below {}", path.display(), archives.len(), options.base_url);
    Ok(ExitCode::SUCCESS)
}

/// One archive, the same bytes for the same program, whoever packs it and when.
fn pack(program: &Program, licence: &Path, out: &Path) -> Result<Archive> {
    let Program { os, arch, file } = program;
    let name = format!("{PROGRAM}-{os}-{arch}.tar.gz");
    let folder = tempfile::tempdir()?;
    for (from, to, mode) in [(file.as_path(), PROGRAM, 0o755), (licence, "LICENSE", 0o644)] {
        let to = folder.path().join(to);
        fs::copy(from, &to).with_context(|| format!("cannot read {}", from.display()))?;
        fs::set_permissions(&to, fs::Permissions::from_mode(mode))?;
    }
    let path = out.join(&name);
    let status = Command::new("tar")
        .args([
            "--format=ustar",
            "--mtime=@0",
            "--owner=0",
            "--group=0",
            "--numeric-owner",
            "--use-compress-program=gzip -n9",
            "-cf",
        ])
        .arg(&path)
        .arg("-C")
        .arg(folder.path())
        .args(["LICENSE", PROGRAM])
        .status()
        .context("cannot run tar")?;
    ensure!(status.success(), "tar could not write {}", path.display());
    let packed = fs::read(&path)?;
    Ok(Archive { os: os.clone(), arch: arch.clone(), name, sha256: hex::encode(Sha256::digest(&packed)) })
}

/// The manifest. Pure.
fn manifest(version: &str, base_url: &str, archives: &[Archive]) -> String {
    let base_url = base_url.trim_end_matches('/');
    let mut text = format!(
        "# Made by `cargo xtask krew`; the digests are those of the archives beside it.\n\
         apiVersion: krew.googlecontainertools.github.com/v1alpha2\n\
         kind: Plugin\n\
         metadata:\n  name: {NAME}\n\
         spec:\n  version: v{version}\n  homepage: {base_url}\n\
         \x20 shortDescription: Look into a DePIN, let devices in, explain and verify payouts\n\
         \x20 description: |\n\
         \x20   Looks into a network of physical devices whose owners are paid for proven work: what is accepted and\n\
         \x20   rejected and why, who earned what by which readings, proofs that can be verified offline. Lets agents and\n\
         \x20   devices in, checks a cluster before and after the installation of depin-operator, and collects reports.\n\
         \x20 caveats: |\n\
         \x20   The cluster needs depin-operator. See `kubectl depin check --pre`.\n\
         \x20 platforms:\n"
    );
    for Archive { os, arch, name, sha256 } in archives {
        // Writing into a String does not fail.
        let _infallible = write!(
            text,
            "  - selector:\n      matchLabels: {{os: {os}, arch: {arch}}}\n    uri: {base_url}/{name}\n    sha256: {sha256}\n    bin: {PROGRAM}\n    \
             files:\n    - {{from: {PROGRAM}, to: .}}\n    - {{from: LICENSE, to: .}}\n"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_names_what_was_packed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("program");
        fs::write(&file, b"a program").unwrap();
        let program = |platform: &str| format!("{platform}={}", file.display()).parse::<Program>().unwrap();
        let out = dir.path().join("dist");
        let programs = vec![program("linux/amd64"), program("darwin/arm64")];
        let options = Options { programs, base_url: "https://releases.example/v1/".into(), out: out.clone() };
        run(&options).unwrap();
        let first = fs::read(out.join("kubectl-depin-linux-amd64.tar.gz")).unwrap();
        run(&options).unwrap();
        let again = fs::read(out.join("kubectl-depin-linux-amd64.tar.gz")).unwrap();
        assert_eq!(first, again, "the same program gives the same bytes");

        let manifest: serde_json::Value =
            serde_saphyr::from_str(&fs::read_to_string(out.join("depin.yaml")).unwrap()).unwrap();
        assert_eq!(manifest["spec"]["version"], format!("v{}", env!("CARGO_PKG_VERSION")));
        let platform = &manifest["spec"]["platforms"][0];
        assert_eq!(platform["sha256"], hex::encode(Sha256::digest(&first)));
        assert_eq!(platform["uri"], "https://releases.example/v1/kubectl-depin-linux-amd64.tar.gz");
        assert_eq!(manifest["spec"]["platforms"][1]["selector"]["matchLabels"]["arch"], "arm64");
        let listed =
            Command::new("tar").arg("-tvzf").arg(out.join("kubectl-depin-linux-amd64.tar.gz")).output().unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        let lines: Vec<&str> = listed.lines().collect();
        assert!(lines[0].starts_with("-rw-r--r--") && lines[0].ends_with(" LICENSE"), "{listed}");
        assert!(lines[1].starts_with("-rwxr-xr-x") && lines[1].ends_with(" kubectl-depin"), "{listed}");
    }

    #[test]
    fn what_krew_does_not_take_is_refused() {
        for wrong in ["linux/amd64", "plan9/amd64=x", "linux/mips=x", "linux/amd64=", "=x"] {
            assert!(wrong.parse::<Program>().is_err(), "{wrong}");
        }
        let options = Options { programs: Vec::new(), base_url: "http://releases.example".into(), out: "dist".into() };
        assert!(run(&options).unwrap_err().to_string().contains("https"));
    }
}
