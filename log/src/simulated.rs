//! A fake disk in memory that fails on demand: for tests of the log and of what is built on it.
//!
//! What was written but not synced may, at a crash, be kept, lost, torn or overtaken by later writes; so may creations, renames and
//! removals before their directory is synced. After a failed sync its data can still be read but never becomes durable by a later sync,
//! as on Linux. Every operation that changes the disk is counted, so that a test can crash at each of them in turn.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::storage::{Storage, StorageFile, StorageLock};

#[derive(Clone, Debug)]
enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    Truncate(u64),
}

#[derive(Clone, Debug, Default)]
struct Inode {
    /// What readers see.
    current: Vec<u8>,
    /// What is on the platter.
    durable: Vec<u8>,
    /// Since the last sync.
    pending: Vec<Change>,
}

impl Inode {
    fn change(&mut self, change: Change) {
        apply(&mut self.current, &change);
        self.pending.push(change);
    }
}

#[derive(Clone, Debug)]
enum Entry {
    Create(String, usize),
    Rename(String, String, usize),
    Remove(String),
}

#[derive(Debug, Default)]
struct Disk {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    pending_names: Vec<Entry>,
    locks: BTreeSet<String>,
    operations: u64,
    crash_at: Option<u64>,
    crashed: bool,
    failing_syncs: u32,
    read_only: bool,
    capacity: Option<u64>,
}

/// A fake disk.
#[derive(Clone, Debug, Default)]
pub struct SimulatedStorage {
    disk: Arc<Mutex<Disk>>,
    prefix: String,
}

impl SimulatedStorage {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many operations changed the disk or synced it.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.disk().operations
    }

    /// The operation with this number (from 0) is cut short, and every later one fails.
    pub fn crash_at(&self, operation: u64) {
        self.disk().crash_at = Some(operation);
    }

    /// Whether the crash has come.
    #[must_use]
    pub fn crashed(&self) -> bool {
        self.disk().crashed
    }

    /// The next `count` syncs fail; what they should have synced is never durable.
    pub fn fail_syncs(&self, count: u32) {
        self.disk().failing_syncs = count;
    }

    /// Every change fails, as on a file system that was mounted read-only after an error.
    pub fn set_read_only(&self, read_only: bool) {
        self.disk().read_only = read_only;
    }

    /// How many bytes the disk holds; a write beyond is cut short. `None`: any number.
    pub fn set_capacity(&self, capacity: Option<u64>) {
        self.disk().capacity = capacity;
    }

    /// Bytes in all files.
    #[must_use]
    pub fn used(&self) -> u64 {
        let disk = self.disk();
        disk.names.values().map(|inode| disk.inodes[*inode].current.len() as u64).sum()
    }

    /// The disk after a power failure. `choose(n)` gives a number below `n`, which decides what of the unsynced survives.
    #[must_use]
    pub fn after_power_failure(&self, choose: &mut dyn FnMut(u64) -> u64) -> Self {
        let disk = self.disk();
        let mut names = disk.durable_names.clone();
        for entry in &disk.pending_names {
            if choose(2) == 0 {
                apply_entry(&mut names, entry);
            }
        }
        let inodes = disk.inodes.iter().map(|inode| survive(inode, choose)).collect();
        Self::of(Disk { inodes, durable_names: names.clone(), names, ..Disk::default() })
    }

    /// The disk after the process was killed: nothing is lost, but nothing becomes durable by it either.
    #[must_use]
    pub fn after_kill(&self) -> Self {
        let disk = self.disk();
        Self::of(Disk {
            inodes: disk.inodes.clone(),
            names: disk.names.clone(),
            durable_names: disk.durable_names.clone(),
            pending_names: disk.pending_names.clone(),
            ..Disk::default()
        })
    }

    fn of(disk: Disk) -> Self {
        Self { disk: Arc::new(Mutex::new(disk)), prefix: String::new() }
    }

    /// Names of all files with their directories.
    #[must_use]
    pub fn files(&self) -> Vec<String> {
        self.disk().names.keys().cloned().collect()
    }

    /// The content of a file, by name with its directory.
    #[must_use]
    pub fn content(&self, file: &str) -> Option<Vec<u8>> {
        let disk = self.disk();
        disk.names.get(file).map(|inode| disk.inodes[*inode].current.clone())
    }

    /// Replaces the content of a file durably, as rot would.
    pub fn set_content(&self, file: &str, content: Vec<u8>) {
        let mut disk = self.disk();
        if let Some(inode) = disk.names.get(file).copied() {
            disk.inodes[inode] = Inode { current: content.clone(), durable: content, pending: Vec::new() };
        }
    }

    fn path(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write { offset, bytes: written } => {
            let (from, to) = (*offset as usize, *offset as usize + written.len());
            if bytes.len() < to {
                bytes.resize(to, 0);
            }
            bytes[from..to].copy_from_slice(written);
        }
        Change::Truncate(length) => bytes.truncate(*length as usize),
    }
}

fn apply_entry(names: &mut BTreeMap<String, usize>, entry: &Entry) {
    match entry {
        Entry::Create(name, inode) => {
            names.insert(name.clone(), *inode);
        }
        Entry::Rename(from, to, inode) => {
            if names.get(from) == Some(inode) {
                names.remove(from);
            }
            names.insert(to.clone(), *inode);
        }
        Entry::Remove(name) => {
            names.remove(name);
        }
    }
}

/// Each unsynced write is kept, lost, or kept up to some byte, independently of the others.
fn survive(inode: &Inode, choose: &mut dyn FnMut(u64) -> u64) -> Inode {
    let mut bytes = inode.durable.clone();
    for change in &inode.pending {
        match choose(3) {
            0 => {}
            1 => apply(&mut bytes, change),
            _ => match change {
                Change::Write { offset, bytes: written } => {
                    let kept = choose(written.len() as u64 + 1) as usize;
                    apply(&mut bytes, &Change::Write { offset: *offset, bytes: written[..kept].to_vec() });
                }
                Change::Truncate(_) => {}
            },
        }
    }
    Inode { current: bytes.clone(), durable: bytes, pending: Vec::new() }
}

impl Disk {
    /// Counts an operation. `Ok(true)`: the crash comes in the midst of it.
    fn begin(&mut self) -> io::Result<bool> {
        if self.crashed {
            return Err(io::Error::other("simulated crash"));
        }
        if self.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        let now = self.operations;
        self.operations += 1;
        self.crashed = self.crash_at == Some(now);
        Ok(self.crashed)
    }

    fn end(&self) -> io::Result<()> {
        if self.crashed { Err(io::Error::other("simulated crash")) } else { Ok(()) }
    }

    fn free(&self) -> u64 {
        let used: u64 = self.names.values().map(|inode| self.inodes[*inode].current.len() as u64).sum();
        self.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(used))
    }
}

#[derive(Debug)]
struct SimulatedFile {
    disk: SimulatedStorage,
    inode: usize,
}

impl StorageFile for SimulatedFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.disk.disk();
        disk.begin()?;
        let kept = bytes.len().min(usize::try_from(disk.free()).unwrap_or(usize::MAX));
        let inode = &mut disk.inodes[self.inode];
        let offset = inode.current.len() as u64;
        inode.change(Change::Write { offset, bytes: bytes[..kept].to_vec() });
        disk.end()?;
        if kept < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn rewrite(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.disk.disk();
        disk.begin()?;
        disk.inodes[self.inode].change(Change::Write { offset, bytes: bytes.to_vec() });
        disk.end()
    }

    fn sync_data(&mut self) -> io::Result<()> {
        let mut disk = self.disk.disk();
        if disk.begin()? {
            return disk.end();
        }
        if disk.failing_syncs > 0 {
            disk.failing_syncs -= 1;
            // Marked clean without having been written: a later sync does not write them.
            disk.inodes[self.inode].pending.clear();
            return Err(io::Error::other("simulated failure of fsync"));
        }
        let inode = &mut disk.inodes[self.inode];
        for change in std::mem::take(&mut inode.pending) {
            apply(&mut inode.durable, &change);
        }
        Ok(())
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        let mut disk = self.disk.disk();
        disk.begin()?;
        disk.inodes[self.inode].change(Change::Truncate(length));
        disk.end()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let disk = self.disk.disk();
        let bytes = &disk.inodes[self.inode].current;
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let read = buffer.len().min(bytes.len() - from);
        buffer[..read].copy_from_slice(&bytes[from..from + read]);
        Ok(read)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.disk.disk().inodes[self.inode].current.len() as u64)
    }
}

#[derive(Debug)]
struct SimulatedLock {
    disk: SimulatedStorage,
    path: String,
}

impl StorageLock for SimulatedLock {}

impl std::ops::Drop for SimulatedLock {
    fn drop(&mut self) {
        self.disk.disk().locks.remove(&self.path);
    }
}

impl Storage for SimulatedStorage {
    fn list(&self) -> io::Result<Vec<String>> {
        let disk = self.disk();
        let inside = disk.names.keys().filter_map(|name| name.strip_prefix(&self.prefix));
        Ok(inside.filter(|name| !name.contains('/')).map(str::to_owned).collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        let path = self.path(name);
        let mut disk = self.disk();
        if disk.names.contains_key(&path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        disk.begin()?;
        let inode = disk.inodes.len();
        disk.inodes.push(Inode::default());
        disk.names.insert(path.clone(), inode);
        disk.pending_names.push(Entry::Create(path, inode));
        disk.end()?;
        Ok(Box::new(SimulatedFile { disk: self.clone(), inode }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        self.open_read(name)
    }

    fn open_read(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        let inode = self.disk().names.get(&self.path(name)).copied().ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(SimulatedFile { disk: self.clone(), inode }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (self.path(from), self.path(to));
        let mut disk = self.disk();
        let inode = disk.names.get(&from).copied().ok_or(io::ErrorKind::NotFound)?;
        disk.begin()?;
        disk.names.remove(&from);
        disk.names.insert(to.clone(), inode);
        disk.pending_names.push(Entry::Rename(from, to, inode));
        disk.end()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let path = self.path(name);
        let mut disk = self.disk();
        if !disk.names.contains_key(&path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        disk.begin()?;
        disk.names.remove(&path);
        disk.pending_names.push(Entry::Remove(path));
        disk.end()
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut disk = self.disk();
        if disk.begin()? {
            return disk.end();
        }
        if disk.failing_syncs > 0 {
            disk.failing_syncs -= 1;
            return Err(io::Error::other("simulated failure of fsync"));
        }
        // Only this directory's entries.
        let (mine, others) = std::mem::take(&mut disk.pending_names).into_iter().partition(|entry| {
            let (Entry::Create(name, _) | Entry::Rename(name, ..) | Entry::Remove(name)) = entry;
            name.strip_prefix(&self.prefix).is_some_and(|rest| !rest.contains('/'))
        });
        disk.pending_names = others;
        let mine: Vec<Entry> = mine;
        for entry in &mine {
            apply_entry(&mut disk.durable_names, entry);
        }
        Ok(())
    }

    fn available(&self) -> io::Result<u64> {
        Ok(self.disk().free())
    }

    fn lock(&self, name: &str) -> io::Result<Option<Box<dyn StorageLock>>> {
        let path = self.path(name);
        if !self.disk().locks.insert(path.clone()) {
            return Ok(None);
        }
        Ok(Some(Box::new(SimulatedLock { disk: self.clone(), path })))
    }

    fn directory(&self, name: &str) -> io::Result<Arc<dyn Storage>> {
        Ok(Arc::new(Self { disk: Arc::clone(&self.disk), prefix: format!("{}{name}/", self.prefix) }))
    }
}
