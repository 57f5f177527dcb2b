//! `depin-agent prepare`: gives a new state directory to the user that the agent runs as.
//!
//! A kubelet makes directories of its node as root, and an agent is nobody's root. This runs as root with the one capability CHOWN before
//! the agent starts, and takes nothing away from anyone: only an empty directory changes hands.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use clap::Parser;

/// Give an empty state directory to the agent's user; what holds files and belongs to another is refused
#[derive(Parser, Clone, Debug)]
#[command(name = "depin-agent prepare", version)]
pub struct PrepareOptions {
    /// The agent's directory for key, certificate, spool and journal
    #[arg(long, env = "DEPIN_STATE_DIR", value_name = "DIR")]
    pub state_dir: PathBuf,
    /// Number of the user and of its group
    #[arg(long, value_name = "UID")]
    pub owner: u32,
}

/// Does it, or finds it done.
///
/// # Errors
/// Where the directory is missing, is no directory, holds files of another user, or may not be changed.
pub fn run_prepare(options: &PrepareOptions) -> anyhow::Result<()> {
    let directory = options.state_dir.as_path();
    prepare(directory, options.owner).with_context(|| format!("--state-dir {}", directory.display()))
}

fn prepare(directory: &Path, owner: u32) -> anyhow::Result<()> {
    let found = fs::symlink_metadata(directory).context("make the directory first")?;
    if !found.is_dir() {
        bail!("is no directory; name the directory itself, not a link to it");
    }
    if found.uid() == owner {
        return Ok(());
    }
    if fs::read_dir(directory)?.next().is_some() {
        bail!(
            "holds files and belongs to user {}, not {owner}; if they are an agent's, run chown -R {owner}:{owner} on it, else name another directory",
            found.uid()
        );
    }
    // Before it changes hands: root without further capabilities may change only what is its own.
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).context("cannot close it to others")?;
    chown(directory, Some(owner), Some(owner)).context("cannot give it away; that needs root or the capability CHOWN")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mine() -> u32 {
        fs::metadata("/proc/self").unwrap().uid()
    }

    #[test]
    fn a_directory_of_the_owner_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("agent.key"), "k").unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o750)).unwrap();
        prepare(folder.path(), mine()).unwrap();
        assert_eq!(fs::metadata(folder.path()).unwrap().mode() & 0o777, 0o750);
    }

    #[test]
    fn what_holds_files_of_another_or_is_no_directory_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(folder.path(), &link).unwrap();
        let error = |path: &Path| format!("{:#}", prepare(path, mine() + 1).unwrap_err());
        assert!(error(folder.path()).contains("chown -R"), "{}", error(folder.path()));
        assert!(error(&file).contains("is no directory"));
        assert!(error(&link).contains("not a link"));
        assert!(error(&folder.path().join("gone")).contains("make the directory first"));
        assert_eq!(fs::metadata(folder.path()).unwrap().uid(), mine());
    }

    #[test]
    fn an_empty_directory_changes_hands_where_that_is_allowed() {
        let folder = tempfile::tempdir().unwrap();
        let outcome = prepare(folder.path(), 65_532);
        let found = fs::metadata(folder.path()).unwrap();
        if mine() == 0 {
            outcome.unwrap();
            assert_eq!((found.uid(), found.gid(), found.mode() & 0o777), (65_532, 65_532, 0o700));
        } else {
            assert!(format!("{:#}", outcome.unwrap_err()).contains("CHOWN"));
            assert_eq!(found.uid(), mine());
        }
    }
}
