//! Programs that come as Debian packages: installed where that needs no question, else named with what is skipped without them.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A program, the package that has it, and what is missed without it.
#[derive(Clone, Copy, Debug)]
pub struct Package {
    /// The program's file name.
    pub program: &'static str,
    /// The package's name.
    pub package: &'static str,
    /// What is skipped without it.
    pub without: &'static str,
    /// Arguments with which it must succeed: parts of it may come in packages of their own.
    pub proof: &'static [&'static str],
    /// A service that the package starts by itself, and nobody here asked for.
    pub service: Option<&'static str>,
}

/// The MQTT broker of demo and tests.
pub const MOSQUITTO: Package = Package {
    program: "mosquitto",
    package: "mosquitto",
    without: "what needs a broker is skipped",
    proof: &[],
    service: Some("mosquitto"),
};
/// What the second implementations are written in.
pub const PYTHON: Package = Package {
    program: "python3",
    package: "python3",
    without: "the second implementations are skipped",
    proof: &["-c", "import hashlib, json, re, struct"],
    service: None,
};
/// What the fuzz targets' engine is built with.
pub const COMPILER: Package =
    Package { program: "c++", package: "g++", without: "the fuzz targets are skipped", proof: &[], service: None };

/// What kube-proxy and the CNI plugins write rules with.
pub const NFT: Package = Package {
    program: "nft",
    package: "nftables",
    without: "the real cluster is skipped",
    proof: &[],
    service: Some("nftables"),
};
/// What starts the real cluster's containers. Built from its Go module it would need libseccomp's headers: a package as well.
pub const RUNC: Package = Package {
    program: "runc",
    package: "runc",
    without: "the real cluster is skipped",
    proof: &["features"],
    service: None,
};
/// What makes the real cluster's links.
pub const IP: Package =
    Package { program: "ip", package: "iproute2", without: "the real cluster is skipped", proof: &[], service: None };
/// The database server that the tests of the PostgreSQL ledger run. Debian keeps its programs in a directory of their version.
pub const POSTGRESQL: Package = Package {
    program: "initdb",
    package: "postgresql",
    without: "the tests of the ledger in PostgreSQL are skipped",
    proof: &[],
    service: Some("postgresql"),
};

impl Package {
    /// The program, if this machine has it whole.
    #[must_use]
    pub fn find(&self) -> Option<PathBuf> {
        self.locate().filter(|path| self.proof.is_empty() || succeeds(Command::new(path).args(self.proof)))
    }

    fn locate(&self) -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        std::env::split_paths(&path)
            .chain(versions.map(|version| version.path().join("bin")))
            .chain(["/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin"].map(PathBuf::from))
            .map(|directory| directory.join(self.program))
            .find(|candidate| candidate.is_file())
    }

    /// What to do about it where it is missing.
    #[must_use]
    pub fn remedy(&self) -> String {
        let missing = if self.locate().is_some() { "is not whole" } else { "is missing" };
        format!("{} {missing}: install the package `{}`; until then {}", self.program, self.package, self.without)
    }

    /// The program; installed first if it is missing and nobody has to be asked.
    pub fn prepare(&self) -> Option<PathBuf> {
        if let Some(path) = self.find() {
            return Some(path);
        }
        if !rustix::process::geteuid().is_root() {
            eprintln!("{}", self.remedy());
            return None;
        }
        let package = ["install", "-y", "--no-install-recommends", self.package];
        if !apt_get(&package) {
            apt_get(&["update"]);
            apt_get(&package);
        }
        if let Some(service) = self.service
            && Path::new("/run/systemd/system").is_dir()
        {
            succeeds(Command::new("systemctl").args(["disable", "--now", service]));
        }
        let found = self.find();
        eprintln!("{}", found.as_ref().map_or_else(|| self.remedy(), |_| format!("{} installed", self.package)));
        found
    }
}

fn apt_get(arguments: &[&str]) -> bool {
    let mut command = Command::new("apt-get");
    succeeds(command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive"))
}

fn succeeds(command: &mut Command) -> bool {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told_with_its_remedy() {
        let odd = Package {
            program: "no-such-program",
            package: "odd",
            without: "nothing is skipped",
            proof: &[],
            service: None,
        };
        assert_eq!(odd.find(), None);
        assert_eq!(
            odd.remedy(),
            "no-such-program is missing: install the package `odd`; until then nothing is skipped"
        );
    }

    #[test]
    fn a_program_that_lacks_parts_of_itself_is_not_there() {
        let proof: &[&str] = &["-c", "exit 0"];
        let whole = Package { program: "sh", package: "whole", without: "nothing is skipped", proof, service: None };
        assert!(whole.find().is_some());
        let half = Package { proof: &["-c", "exit 1"], ..whole };
        assert_eq!(half.find(), None);
        assert!(half.remedy().starts_with("sh is not whole: install the package `whole`"), "{}", half.remedy());
    }
}
