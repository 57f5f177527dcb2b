//! Looking after a ledger in a database: what a backup holds, what a restore means, whether everything is as it should be.

use depin_domain::{
    ids::{DeviceId, PublicKey},
    statistics::DeviceStatistics,
    time::{Timestamp, Window},
};
use depin_proto::v1;

use super::{
    PostgresqlLedger,
    loading::Need,
    writer::{Mode, Writing},
};
use crate::{
    chains::Chains,
    core::Journal as _,
    error::LedgerError,
    published::blocking,
    record::{BackupRecord, Entry, IncarnationRecord, Records as _},
    verify::{CheckSignature, Verification, scan},
};

/// Any window.
const ALL_TIME: Window = Window { start: Timestamp::MIN, end: Timestamp::MAX };

/// Verifies a proof's signature by its signer's key.
pub type CheckSignatures = Box<dyn FnMut(&v1::SignedProof, &PublicKey) -> bool + Send>;

impl PostgresqlLedger {
    /// Notes that a backup of the database begins: what is committed now is in it once it is complete.
    ///
    /// # Errors
    /// Where the database cannot be written.
    pub async fn begin_backup(&self) -> Result<u64, LedgerError> {
        self.change(|core| {
            let at = core.now().0;
            core.put(Entry::Backup(BackupRecord { position: 0, at }))
        })
        .await
    }

    /// Notes that the backup which began at `position` is complete: agents may drop what it holds.
    ///
    /// # Errors
    /// Where no backup began there, or the database cannot be written.
    pub async fn complete_backup(&self, position: u64) -> Result<(), LedgerError> {
        let begun = self.records().await?;
        let found = blocking(move || {
            let mut found = None;
            begun.read(position, &mut |at, _, entry| {
                let begins = matches!(&entry, Entry::Backup(BackupRecord { position: 0, .. }));
                found = (at == position && begins).then_some(());
                Ok(false)
            })?;
            Ok(found)
        })
        .await?;
        if found.is_none() {
            let message = format!("no backup began at {position}: give the position that its beginning told");
            return Err(LedgerError::Invalid { field: "position", message });
        }
        self.change(move |core| {
            let at = core.now().0;
            core.put(Entry::Backup(BackupRecord { position, at })).map(|_| ())
        })
        .await
    }

    /// Says that the database was restored, or that a standby which lacked something took over: writers are fenced, agents compare heads and
    /// send what is missing, and nothing closes until all have. The new incarnation.
    ///
    /// # Errors
    /// Where the database cannot be written.
    pub async fn declare_restored(&self) -> Result<u64, LedgerError> {
        self.change(|core| {
            let at = core.now().0;
            // The time in seconds makes two restores of one backup differ.
            let incarnation = (core.state.incarnation + 1).max(u64::try_from(at / 1_000).unwrap_or(0));
            core.put(Entry::Incarnation(IncarnationRecord { incarnation, hold: true, at }))?;
            Ok(incarnation)
        })
        .await
    }

    /// A person says that closing may go on after a restore, although not every chain has reported. How many had not.
    ///
    /// # Errors
    /// Where the database cannot be written.
    pub async fn release(&self) -> Result<u64, LedgerError> {
        let need = |_: &Writing| Need { all_chains: true, ..Need::default() };
        self.call(|_| Mode::Exclusive, need, Writing::release_held).await
    }

    /// Scans all records as the embedded ledger's `verify` does, and compares heads, marks and grains with what they come to.
    ///
    /// While gateways append, the comparison finds what came meanwhile: stop them first.
    ///
    /// # Errors
    /// Where the database cannot be read, or a record in it is damaged.
    pub async fn verify(&self, check_signature: Option<CheckSignatures>) -> Result<Verification, LedgerError> {
        let (records, files) = (self.records().await?, self.files());
        let base = self.base().await?;
        let scanned = blocking(move || {
            let mut check = check_signature;
            let check: Option<&mut CheckSignature<'_>> = match &mut check {
                Some(check) => Some(&mut **check),
                None => None,
            };
            scan(&records, files, base, check)
        });
        let mut scan = scanned.await?;
        let need = Need { all_chains: true, all_marks: true, windows: vec![ALL_TIME], ..Need::default() };
        let kept =
            self.look(need, |core| Ok((core.state.chains.clone(), core.state.accounts.clone(), core.journal.end())));
        let (chains, accounts, end) = kept.await?;
        scan.found.end = end;
        let without_steps = |chains: &Chains| {
            let mut heads: Vec<_> =
                chains.by_key.iter().map(|(key, chain)| (*key, chain.head, chain.evidence)).collect();
            heads.sort_unstable_by_key(|(key, ..)| *key);
            heads
        };
        if without_steps(&chains) != without_steps(&scan.state.chains) {
            scan.finding("the heads of chains are others than the records give".into());
        }
        let differs = |(device, account): &(&DeviceId, &DeviceStatistics)| accounts.get(*device) != Some(*account);
        let differing: Vec<DeviceId> = scan.state.accounts.iter().filter(differs).map(|(device, _)| *device).collect();
        for device in differing {
            scan.finding(format!("the statistics of device {device} are others than the records give"));
        }
        Ok(scan.found)
    }
}
