//! The two archive formats of a Debian package, written so that the same files give the same bytes: names in order, no times of this
//! machine, no owners of this machine.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

/// A file of a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Without a leading slash.
    pub path: String,
    /// Permissions.
    pub mode: u32,
    /// Content.
    pub content: Vec<u8>,
}

/// A ustar archive of the files and all folders above them, each owned by root and dated `time` (Unix seconds).
///
/// # Errors
/// Where a path is longer than the format's 100 bytes.
pub fn tar(entries: &[Entry], time: u64) -> Result<Vec<u8>> {
    let mut sorted: Vec<&Entry> = entries.iter().collect();
    sorted.sort_by(|a, b| a.path.cmp(&b.path));
    let mut folders: BTreeSet<String> = BTreeSet::new();
    for entry in &sorted {
        let mut folder = String::from("./");
        folders.insert(folder.clone());
        let (above, _) = entry.path.rsplit_once('/').unwrap_or_default();
        for name in above.split('/').filter(|name| !name.is_empty()) {
            folder = format!("{folder}{name}/");
            folders.insert(folder.clone());
        }
    }
    let mut archive = Vec::new();
    for folder in &folders {
        archive.extend(header(folder, 0o755, 0, b'5', time)?);
    }
    for entry in sorted {
        archive.extend(header(&format!("./{}", entry.path), entry.mode, entry.content.len(), b'0', time)?);
        archive.extend(&entry.content);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    // Two empty blocks end it, and GNU tar's habit fills the record.
    archive.resize((archive.len() + 1_024).next_multiple_of(10_240), 0);
    Ok(archive)
}

/// One header block, as POSIX.1-1988 has it.
fn header(name: &str, mode: u32, size: usize, kind: u8, time: u64) -> Result<Vec<u8>> {
    if name.len() > 100 {
        bail!("{name} is longer than 100 bytes: too long for a ustar header");
    }
    let mut block = vec![0; 512];
    let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, &format!("{mode:07o}"));
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{size:011o}"));
    put(136, &format!("{time:011o}"));
    // The checksum counts its own field as blanks.
    put(148, "        ");
    put(257, "ustar");
    put(263, "00");
    put(265, "root");
    put(297, "root");
    block[156] = kind;
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(block)
}

/// An `ar` archive as `dpkg` reads it.
#[must_use]
pub fn ar(members: &[(&str, Vec<u8>)], time: u64) -> Vec<u8> {
    let mut archive = b"!<arch>\n".to_vec();
    for (name, content) in members {
        archive.extend(format!("{name:<16}{time:<12}0     0     100644  {:<10}`\n", content.len()).as_bytes());
        archive.extend(content);
        if content.len() % 2 == 1 {
            archive.push(b'\n');
        }
    }
    archive
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_the_same_in_whatever_order_its_files_are_named() {
        let entry = |path: &str| Entry { path: path.to_owned(), mode: 0o644, content: path.as_bytes().to_vec() };
        let one = tar(&[entry("usr/bin/a"), entry("etc/b")], 7).unwrap();
        assert_eq!(one, tar(&[entry("etc/b"), entry("usr/bin/a")], 7).unwrap());
        assert_eq!(one.len() % 10_240, 0);
        let names: Vec<_> = one
            .chunks(512)
            .filter(|block| block[257..].starts_with(b"ustar"))
            .map(|block| String::from_utf8_lossy(block[..100].split(|byte| *byte == 0).next().unwrap()).into_owned())
            .collect();
        assert_eq!(names, ["./", "./etc/", "./usr/", "./usr/bin/", "./etc/b", "./usr/bin/a"]);
        assert!(tar(&[entry(&"x".repeat(99))], 0).is_err());
    }

    #[test]
    fn members_of_odd_length_are_padded() {
        let archive = ar(&[("debian-binary", b"2.0\n".to_vec()), ("odd", b"abc".to_vec()), ("end", Vec::new())], 0);
        assert_eq!(archive.len(), 8 + 60 + 4 + 60 + 4 + 60);
        assert!(archive[8..].starts_with(b"debian-binary   0           0     0     100644  4         `\n2.0\n"));
    }
}
