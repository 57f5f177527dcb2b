//! A disk that is really small, so that it is really full.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A tmpfs, unmounted in the end.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Makes one of so many megabytes at `path`. Needs root on Linux; elsewhere it says that the test is skipped.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn mount(path: &Path, megabytes: u32) -> io::Result<Option<Self>> {
        fs::create_dir_all(path)?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"]).arg(path).stderr(Stdio::null());
        let mounted = mount.status().is_ok_and(|status| status.success());
        if !mounted {
            println!("skipped: a small tmpfs cannot be mounted; run as root on Linux");
        }
        Ok(mounted.then(|| Self(path.to_owned())))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a file may still be open where a test failed.
        let unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(std::thread::panicking() || unmounted.is_ok_and(|status| status.success()));
    }
}
