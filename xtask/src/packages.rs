//! Programs that come as Debian packages: installed where that needs no question, else named with what is skipped without them.

use std::{
    path::PathBuf,
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
}

/// The MQTT broker of demo and tests.
pub const MOSQUITTO: Package =
    Package { program: "mosquitto", package: "mosquitto", without: "what needs a broker is skipped" };
/// What the second implementations are written in.
pub const PYTHON: Package =
    Package { program: "python3", package: "python3-minimal", without: "the second implementations are skipped" };
/// What the fuzz targets' engine is built with.
pub const COMPILER: Package = Package { program: "c++", package: "g++", without: "the fuzz targets are skipped" };

impl Package {
    /// The program, if this machine has it.
    #[must_use]
    pub fn find(&self) -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .chain(["/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin"].map(PathBuf::from))
            .map(|directory| directory.join(self.program))
            .find(|candidate| candidate.is_file())
    }

    /// What to do about it where it is missing.
    #[must_use]
    pub fn remedy(&self) -> String {
        format!("{} is missing: install the package `{}`; until then {}", self.program, self.package, self.without)
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
        let found = self.find();
        eprintln!("{}", found.as_ref().map_or_else(|| self.remedy(), |_| format!("{} installed", self.package)));
        found
    }
}

fn apt_get(arguments: &[&str]) -> bool {
    let mut command = Command::new("apt-get");
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told_with_its_remedy() {
        let odd = Package { program: "no-such-program", package: "odd", without: "nothing is skipped" };
        assert_eq!(odd.find(), None);
        assert_eq!(
            odd.remedy(),
            "no-such-program is missing: install the package `odd`; until then nothing is skipped"
        );
    }
}
