//! What the gateway told the agent: models, devices, limits. Kept on disk, so that a restart without a connection goes on.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use depin_domain::{
    ids::{DeviceId, Digest},
    model::Model,
    time::Timestamp,
};
use depin_log::{LogError, Storage, checkpoint};
use depin_proto::v1;
use serde::{Deserialize, Serialize};

use crate::sealer::{Relayed, View, assemble::ProofLimits};

const NAME: &str = "configuration";
const TAG: u32 = u32::from_le_bytes(*b"acfg");
/// Superseded models that are kept for readings that still name them.
const KEPT_MODELS: usize = 64;

/// A model in force from a time on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownModel {
    /// SHA-256 of its canonical JSON.
    pub digest: Digest,
    /// The model.
    pub model: Model,
    /// From when on messages are decoded by it.
    pub effective_from: Timestamp,
}

/// A device that this agent relays for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownDevice {
    /// Its id.
    pub id: DeviceId,
    /// Unique in this agent.
    pub serial: String,
    /// Name of its model.
    pub model: String,
    /// A person or a rule suspended it; its readings are still sealed.
    pub suspended: bool,
    /// First moment at which it is no longer this agent's; absent: it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// Everything that the gateway told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// Of the ledger whose registry this is.
    pub registry_incarnation: u64,
    /// Newest version that is applied.
    pub registry_version: u64,
    /// Models by digest; of each name the one with the latest start that has begun is in use.
    pub models: Vec<KnownModel>,
    /// Names that are in use.
    pub names: Vec<String>,
    /// Devices by id.
    pub devices: BTreeMap<DeviceId, KnownDevice>,
    /// The gateway's limits: bytes, sections and readings of a proof, clock skew in milliseconds; 0: not told.
    pub limits: (u32, u32, u32, i64),
}

/// A message of the gateway cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    /// A part of it.
    #[error("configuration from the gateway: {field}: {what}")]
    Malformed {
        /// Which part.
        field: String,
        /// What is wrong.
        what: String,
    },
    /// It cannot be kept.
    #[error("configuration on disk: {0}")]
    Disk(#[from] LogError),
    /// What is on disk is not readable.
    #[error("configuration on disk: {0}; it will be asked for anew")]
    Unreadable(#[from] serde_json::Error),
}

fn malformed(field: String, what: impl ToString) -> ConfigurationError {
    ConfigurationError::Malformed { field, what: what.to_string() }
}

impl Configuration {
    /// What was kept.
    pub fn load(storage: &dyn Storage) -> Result<Option<Self>, ConfigurationError> {
        let loaded = checkpoint::load(storage, NAME, TAG)?;
        Ok(loaded.newest.map(|(_, bytes)| serde_json::from_slice(&bytes)).transpose()?)
    }

    /// Keeps it; on disk when this returns.
    pub fn keep(&self, storage: &dyn Storage) -> Result<(), ConfigurationError> {
        checkpoint::write(storage, NAME, TAG, &serde_json::to_vec(self)?)?;
        Ok(())
    }

    /// Takes an update. After an error nothing changed.
    pub fn apply(&mut self, update: &v1::ConfigurationUpdate) -> Result<(), ConfigurationError> {
        let mut next = if update.snapshot {
            // Old models stay known for what is spooled.
            Self { models: self.models.clone(), ..Self::default() }
        } else {
            self.clone()
        };
        next.registry_incarnation = update.registry_incarnation;
        next.registry_version = update.registry_version;
        for (index, model) in update.models.iter().enumerate() {
            let at = |part: &str| format!("models[{index}].{part}");
            let digest = Digest::of(&model.canonical);
            if model.digest != digest.0.as_slice() {
                return Err(malformed(at("digest"), "is not the SHA-256 of the canonical form"));
            }
            let parsed: Model =
                serde_json::from_slice(&model.canonical).map_err(|error| malformed(at("canonical"), error))?;
            next.models.retain(|known| known.digest != digest);
            next.models.push(KnownModel { digest, model: parsed, effective_from: Timestamp(model.effective_from) });
            if !next.names.contains(&model.name) {
                next.names.push(model.name.clone());
            }
        }
        next.names.retain(|name| !update.removed_models.contains(name));
        for (index, device) in update.devices.iter().enumerate() {
            let id = DeviceId::from_slice(&device.device_id)
                .ok_or_else(|| malformed(format!("devices[{index}].device_id"), "is not 16 bytes"))?;
            let (serial, model) = (device.serial.clone(), device.model.clone());
            let until = (device.until > 0).then_some(Timestamp(device.until));
            next.devices.insert(id, KnownDevice { id, serial, model, suspended: device.suspended, until });
        }
        for removed in &update.removed_devices {
            if let Some(id) = DeviceId::from_slice(removed) {
                next.devices.remove(&id);
            }
        }
        if let Some(limits) = &update.limits {
            next.limits = (limits.max_proof_bytes, limits.max_sections, limits.max_readings, limits.max_clock_skew_ms);
        } else if update.snapshot {
            next.limits = self.limits;
        }
        let surplus = next.models.len().saturating_sub(KEPT_MODELS);
        next.models.drain(..surplus);
        *self = next;
        Ok(())
    }

    /// The model of each name that is in force at `now`, by digest.
    #[must_use]
    pub fn in_force(&self, now: Timestamp) -> Vec<(Digest, Model)> {
        let mut names: HashMap<&str, &KnownModel> = HashMap::new();
        for known in &self.models {
            let name = known.model.name.as_str();
            if !self.names.iter().any(|used| used == name) {
                continue;
            }
            let better = |other: &&KnownModel| {
                // Where none has begun yet, the one that begins first.
                let begun = |model: &KnownModel| model.effective_from <= now;
                match (begun(known), begun(other)) {
                    (true, true) => known.effective_from >= other.effective_from,
                    (false, false) => known.effective_from < other.effective_from,
                    (mine, _) => mine,
                }
            };
            if names.get(name).is_none_or(better) {
                names.insert(name, known);
            }
        }
        let mut models: Vec<_> = names.into_values().map(|known| (known.digest, known.model.clone())).collect();
        models.sort_by(|a, b| a.1.name.cmp(&b.1.name));
        models
    }

    /// The next moment at which another model comes into force.
    #[must_use]
    pub fn next_change(&self, now: Timestamp) -> Option<Timestamp> {
        self.models.iter().map(|known| known.effective_from).filter(|from| *from > now).min()
    }

    /// What the sealer needs.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        let models =
            self.models.iter().map(|known| (known.digest, (known.model.name.clone(), known.model.reorder_horizon_ms)));
        let mut view = View::new(models.collect());
        for device in self.devices.values() {
            let (model, until) = (device.model.clone(), device.until.unwrap_or(Timestamp::MAX));
            view.insert(device.serial.clone(), Relayed { id: device.id, model, until });
        }
        Arc::new(view)
    }

    /// The gateway's limits of a proof, with ours where it told none.
    #[must_use]
    pub fn proof_limits(&self) -> ProofLimits {
        let own = ProofLimits::default();
        let smaller = |told: u32, own: usize| match usize::try_from(told) {
            Ok(told) if told > 0 => told.min(own),
            _ => own,
        };
        ProofLimits {
            bytes: smaller(self.limits.0, own.bytes),
            sections: smaller(self.limits.1, own.sections),
            readings: smaller(self.limits.2, own.readings),
        }
    }

    /// How far the agent's clock may be from the gateway's.
    #[must_use]
    pub fn max_skew_ms(&self) -> i64 {
        if self.limits.3 > 0 { self.limits.3 } else { 60_000 }
    }
}
