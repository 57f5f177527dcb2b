//! A restore's hold on closing: nothing closes until every known chain has reported its head and has resent up to it, or a person says
//! that what is missing will not come.

use depin_domain::{
    ids::{Digest, KeyId},
    proofs,
    registry::Holder,
};
use depin_proto::v1;

use crate::{
    api::{Head, OpenChain},
    core::{Core, Journal},
    error::LedgerError,
    record::{Entry, ReleasedRecord},
};

impl<J: Journal> Core<J> {
    /// Where chains stand; after a restore this is their report.
    pub(crate) fn open_chains(&mut self, chains: &[OpenChain]) -> Result<Vec<Head>, LedgerError> {
        if self.state.held {
            let heads = chains.iter().map(|chain| (chain.key, (chain.incarnation, chain.sealed_sequence)));
            self.reported.extend(heads);
            self.release_if_complete()?;
        }
        let backup = self.settings.backup_configured;
        let heads = chains.iter().map(|open| {
            let chain = self.state.chains.get(&open.key);
            let head = chain.map_or_else(
                || proofs::ChainHead { incarnation: 0, sequence: 0, digest: Digest::default() },
                |chain| chain.head,
            );
            let archived = chain.map_or(0, |chain| if backup { chain.archived } else { chain.head.sequence });
            Head { key: open.key, head, archived_sequence: archived }
        });
        Ok(heads.collect())
    }

    /// Ends a restore's hold on closing once nothing more is known to be missing.
    pub(crate) fn release_if_complete(&mut self) -> Result<(), LedgerError> {
        if self.unreported() == 0 {
            self.put(Entry::Released(ReleasedRecord { at: self.now().0, by_person: false }))?;
        }
        Ok(())
    }

    /// A person says that closing may go on after a restore. Answers how many chains were still waited for.
    pub(crate) fn release_closing(&mut self, writer: Option<&v1::WriterToken>) -> Result<u64, LedgerError> {
        self.check_writer(writer)?;
        self.release_held()
    }

    /// Ends the hold on closing, if there is one. Answers how many chains were still waited for.
    pub(crate) fn release_held(&mut self) -> Result<u64, LedgerError> {
        if !self.state.held {
            return Ok(0);
        }
        let unreported = self.unreported();
        self.put(Entry::Released(ReleasedRecord { at: self.now().0, by_person: true }))?;
        Ok(unreported)
    }

    /// Whether the chain reported and the ledger has everything up to the head that it reported. A higher incarnation has
    /// everything too: its agent sealed anew what the ledger lacked.
    pub(crate) fn is_complete(&self, key: &KeyId) -> bool {
        let head = self.state.chains.head(key).map_or((0, 0), |head| (head.incarnation, head.sequence));
        self.reported.get(key).is_some_and(|reported| head >= *reported)
    }

    /// How many chains of approved agents and devices have not reported since the restore, or have reported proofs that are
    /// still missing.
    pub(crate) fn unreported(&self) -> u64 {
        self.awaited().count() as u64
    }

    fn awaited(&self) -> impl Iterator<Item = &KeyId> {
        let approved = |key: &&KeyId| match self.state.registry.signer(key).map(|signer| &signer.holder) {
            Some(Holder::Agent(_)) => true,
            Some(Holder::Devices(devices)) => devices
                .last()
                .and_then(|device| self.state.registry.device(device))
                .is_some_and(|device| device.current().is_some()),
            Some(Holder::Revoked(_)) | None => false,
        };
        self.state.chains.by_key.keys().filter(approved).filter(|key| !self.is_complete(key))
    }

    /// What closing waits for, at most `limit` chains of it by the name of their holder.
    pub(crate) fn hold(&self, limit: usize) -> v1::ClosingHold {
        let mut hold =
            v1::ClosingHold { held: self.state.held, incarnation: self.state.incarnation, ..Default::default() };
        if !hold.held {
            return hold;
        }
        hold.chains = self.awaited().map(|key| self.awaited_chain(key)).collect();
        hold.awaited = hold.chains.len() as u64;
        hold.chains.sort_by(|a, b| (&a.agent, &a.device, &a.key_id).cmp(&(&b.agent, &b.device, &b.key_id)));
        hold.chains.truncate(limit);
        hold
    }

    fn awaited_chain(&self, key: &KeyId) -> v1::AwaitedChain {
        let registry = &self.state.registry;
        let (mut agent, mut device) = (String::new(), String::new());
        match registry.signer(key).map(|signer| &signer.holder) {
            Some(Holder::Agent(id)) => {
                agent =
                    registry.agent(id).map(|entry| format!("{}/{}", entry.namespace, entry.name)).unwrap_or_default();
            }
            Some(Holder::Devices(devices)) => {
                let entry = devices.last().and_then(|id| registry.device(id)).and_then(|device| device.current());
                device = entry.map(|entry| format!("{}/{}", entry.namespace, entry.name)).unwrap_or_default();
            }
            Some(Holder::Revoked(_)) | None => {}
        }
        let head = self.state.chains.head(key);
        let reported = self.reported.get(key).copied().unwrap_or_default();
        v1::AwaitedChain {
            key_id: key.0.to_vec().into(),
            agent,
            device,
            incarnation: head.map_or(0, |head| head.incarnation),
            sequence: head.map_or(0, |head| head.sequence),
            reported_incarnation: reported.0,
            reported_sequence: reported.1,
        }
    }
}
