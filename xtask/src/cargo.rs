//! How cargo is called from here: in the workspace's root, with build outputs in the cache.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

use crate::{pins::cache_dir, workspace};
use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

/// Other compilers whose build outputs are kept.
const KEPT: usize = 1;

/// Cargo with a target directory that outlives the clone.
///
/// Programs are static where the C library allows it (`.cargo/config.toml`): they run in an otherwise empty image.
#[derive(Clone, Debug)]
pub struct Cargo {
    target: PathBuf,
    triple: String,
    release: bool,
}

impl Cargo {
    /// Chooses the target directory: `CARGO_TARGET_DIR` if set, else one in the cache for this compiler.
    ///
    /// Not keyed by the lock file: cargo tells apart what a changed dependency needs, and rebuilds only that.
    ///
    /// # Errors
    /// When the compiler cannot be asked.
    pub fn find() -> Result<Self> {
        let version = Command::new("rustc").arg("-vV").output().context("cannot run rustc")?;
        let triple = String::from_utf8_lossy(&version.stdout)
            .lines()
            .find_map(|line| line.strip_prefix("host: "))
            .context("rustc -vV names no host")?
            .to_owned();
        if let Some(target) = std::env::var_os("CARGO_TARGET_DIR").filter(|value| !value.is_empty()) {
            return Self { target: workspace().join(target), triple, release: false }.for_clone(&workspace());
        }
        let mut digest = Sha256::new();
        digest.update(&version.stdout);
        let digest = hex::encode(digest.finalize());
        let builds = cache_dir()?.join("build");
        let target = builds.join(digest.get(..16).unwrap_or(&digest));
        prune(&builds, &target);
        Self { target, triple, release: false }.for_clone(&workspace())
    }

    /// With outputs of this clone only: what another one built of the workspace itself is forgotten, compiled dependencies stay.
    ///
    /// Cargo goes by modification times and knows no clone's path: it would take the other one's programs for ours. The target is
    /// named as an argument: from the environment `cargo clean` does not take it, and leaves nearly everything.
    fn for_clone(self, clone: &Path) -> Result<Self> {
        fs::create_dir_all(&self.target).with_context(|| format!("cannot create {}", self.target.display()))?;
        let owner = self.target.join(".clone");
        let clone = clone.to_string_lossy();
        match fs::read_to_string(&owner) {
            Ok(named) if named == clone => return Ok(self),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", owner.display())),
        }
        let clean = ["clean", "--quiet", "--workspace", "--target", &self.triple];
        if !self.command(&clean).status().context("cannot run cargo")?.success() {
            bail!("what another clone built in {} cannot be removed; delete that folder", self.target.display());
        }
        fs::write(&owner, clone.as_bytes()).with_context(|| format!("cannot write {}", owner.display()))?;
        Ok(self)
    }

    /// Where outputs go.
    #[must_use]
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// The same for another machine, like `aarch64-unknown-linux-gnu`.
    #[must_use]
    pub fn target_triple(mut self, triple: &str) -> Self {
        triple.clone_into(&mut self.triple);
        self
    }

    /// The same, optimised.
    #[must_use]
    pub fn optimised(mut self) -> Self {
        self.release = true;
        self
    }

    /// Whether programs are optimised as for a release.
    #[must_use]
    pub fn is_optimised(&self) -> bool {
        self.release
    }

    /// What programs are built for.
    #[must_use]
    pub fn triple(&self) -> &str {
        &self.triple
    }

    /// Where the built programs of the workspace are.
    #[must_use]
    pub fn programs(&self) -> PathBuf {
        self.target.join(&self.triple).join(if self.release { "release" } else { "debug" })
    }

    /// A built program of the workspace.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs().join(name)
    }

    /// `cargo ARGUMENTS…` in the workspace's root.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(arguments).current_dir(workspace()).env("CARGO_TARGET_DIR", &self.target);
        command.env("CARGO_BUILD_TARGET", &self.triple);
        if self.release {
            // No path of this machine gets into what others are to build to the same bytes. Added to the flags of the configuration.
            let flags: Vec<String> = [(Some(workspace()), "/build"), (cargo_home(), "/cargo")]
                .into_iter()
                .filter_map(|(path, shown)| Some(format!("--remap-path-prefix={}={shown}", path?.display())))
                .collect();
            let variable = format!("CARGO_TARGET_{}_RUSTFLAGS", self.triple.to_uppercase().replace('-', "_"));
            command.env(variable, flags.join(" "));
        }
        forget_package(&mut command);
        command
    }

    /// Builds all programs with the features that the whole workspace agrees on, examples included, so that demo and tests share outputs.
    ///
    /// # Errors
    /// When the build fails.
    pub fn build_programs(&self) -> Result<()> {
        self.build(&["--bins", "--examples"])
    }

    /// Builds some programs.
    ///
    /// # Errors
    /// When the build fails.
    pub fn build_some(&self, programs: &[&str]) -> Result<()> {
        let arguments: Vec<&str> = programs.iter().flat_map(|program| ["--bin", program]).collect();
        self.build(&arguments)
    }

    fn build(&self, what: &[&str]) -> Result<()> {
        let mut command = self.command(&["build", "--workspace"]);
        command.args(what);
        if self.release {
            command.arg("--release");
        }
        if !command.status().context("cannot run cargo")?.success() {
            bail!("the programs do not build");
        }
        Ok(())
    }
}

/// `cargo run` describes xtask's own package to its child; build scripts must not see that.
pub(crate) fn forget_package(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
            command.env_remove(name);
        }
    }
}

fn cargo_home() -> Option<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(home)
}

/// Deletes outputs of lock files long gone. Best effort: what is left costs only disk.
fn prune(builds: &Path, current: &Path) {
    let Ok(entries) = fs::read_dir(builds) else { return };
    let mut others: Vec<(SystemTime, PathBuf)> = entries
        .flatten()
        .filter(|entry| entry.path() != current)
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    others.sort();
    others.reverse();
    for (_, path) in others.into_iter().skip(KEPT) {
        if let Err(error) = fs::remove_dir_all(&path) {
            eprintln!("old build outputs in {} stay: {error}", path.display());
        }
    }
}
