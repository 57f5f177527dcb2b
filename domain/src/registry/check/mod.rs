//! What may be appended: each change is checked against the registry as it is.
//!
//! A refusal names the field, the reason and the remedy. What an older version of these rules let in stays in: the fold
//! does not ask them again.

mod form;
mod meaning;
mod shape;

use form::{check_id, check_key, check_location, check_name, check_named, check_serial, check_shares};
use shape::{check_shape, check_slots};

use super::{AgentEntry, Change, DeviceEntry, FleetEntry, Holder, InvitationEntry, ModelEntry, ProgramEntry, Registry};
use crate::ids::{AgentId, DeviceId, Digest, KeyId};

/// Most cadence slots that a grain may have.
pub const MAX_SLOTS: i64 = 86_400;

const MAX_GRAIN_MS: i64 = 366 * 24 * 3_600_000;
const MAX_FLEETS: usize = 256;
const MAX_SPEC: usize = 256 * 1024;

/// The change may not be appended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// A field's value is not of its form or within its bounds.
    #[error("{field}: {reason}; {remedy}")]
    Invalid {
        /// The field, as a path.
        field: String,
        /// What is wrong.
        reason: String,
        /// What to do.
        remedy: String,
    },
    /// A key is bound already.
    #[error(
        "{field}: DuplicateKey: key {key} is bound to {holder}; give this object a key of its own, or remove the other first"
    )]
    DuplicateKey {
        /// The field.
        field: String,
        /// The key.
        key: KeyId,
        /// Whose it is.
        holder: String,
    },
    /// The key was this agent's and was revoked.
    #[error(
        "{field}: KeyRevoked: key {key} was revoked when the agent was removed or took another one; enroll the agent anew with a new key, or say that this one is to be trusted again"
    )]
    KeyRevoked {
        /// The field.
        field: String,
        /// The key.
        key: KeyId,
    },
    /// Two devices of an agent have one serial.
    #[error(
        "{field}: {serial:?} is {holder} at this agent already; correct the serial, or remove the other device first"
    )]
    DuplicateSerial {
        /// The field.
        field: String,
        /// The serial.
        serial: String,
        /// Whose it is.
        holder: String,
    },
    /// A field that never changes would.
    #[error("{field}: {reason}: it is {old} and never changes; {remedy}")]
    Immutable {
        /// The field.
        field: String,
        /// What rests on it.
        reason: String,
        /// Its value.
        old: String,
        /// What to do.
        remedy: String,
    },
    /// It refers to something that the registry does not have.
    #[error("{field}: {target} is not in the registry; apply it first or correct the name")]
    Missing {
        /// The field.
        field: String,
        /// What it names.
        target: String,
    },
}

type Checked = Result<(), ChangeError>;

fn invalid(field: impl Into<String>, reason: impl Into<String>, remedy: impl Into<String>) -> ChangeError {
    ChangeError::Invalid { field: field.into(), reason: reason.into(), remedy: remedy.into() }
}

fn require(holds: bool, error: impl FnOnce() -> ChangeError) -> Checked {
    if holds { Ok(()) } else { Err(error()) }
}

impl Registry {
    /// Whether `change` may be appended now. Removals of what is not there may: they change nothing.
    pub fn check(&self, change: &Change) -> Result<(), ChangeError> {
        match change {
            Change::Model(entry) => self.check_model(entry),
            Change::Fleet(entry) => self.check_fleet(entry),
            Change::Agent(entry) => self.check_agent(entry),
            Change::Device(entry) => self.check_device(entry),
            Change::Program(entry) => self.check_program(entry),
            Change::Invitation(entry) => check_invitation(entry),
            Change::ModelRetired { .. }
            | Change::FleetRemoved { .. }
            | Change::AgentRemoved { .. }
            | Change::DeviceRemoved { .. }
            | Change::ProgramRemoved { .. }
            | Change::InvitationRemoved { .. } => Ok(()),
        }
    }

    fn check_model(&self, entry: &ModelEntry) -> Checked {
        let model = &entry.model;
        check_shape(model)?;
        let digest = model.digest().map_err(|error| {
            invalid("model", error.to_string(), "use integers at the metric's scale for all limits")
        })?;
        require(digest == entry.digest, || {
            invalid(
                "digest",
                format!("is {}, but the model's is {digest}", entry.digest),
                "digest the model's canonical JSON",
            )
        })?;
        self.check_model_meaning(entry)?;
        for (id, fleet) in self.fleets() {
            if let Some(fleet) = fleet.current().filter(|fleet| fleet.model == model.name) {
                check_slots("cadenceMs", model.cadence_ms, fleet.grain_ms, &format!("fleet {id}"))?;
            }
        }
        Ok(())
    }

    fn check_fleet(&self, entry: &FleetEntry) -> Checked {
        check_id("id", &entry.id)?;
        require((1..=MAX_GRAIN_MS).contains(&entry.grain_ms), || {
            invalid(
                "grainMs",
                format!("{} is not from 1 to {MAX_GRAIN_MS}", entry.grain_ms),
                "use one hour or another positive width",
            )
        })?;
        let known = self.fleet(&entry.id);
        if let Some(old) = known.and_then(super::Fleet::grain_ms) {
            require(old == entry.grain_ms, || ChangeError::Immutable {
                field: "grainMs".into(),
                reason: "the fleet's statistics are made of it".into(),
                old: old.to_string(),
                remedy: "make a fleet of another name for another grain".into(),
            })?;
        }
        let missing =
            || ChangeError::Missing { field: "model".into(), target: format!("EdgeDeviceModel {}", entry.model) };
        let chain = self.model_chain(&entry.model).ok_or_else(missing)?;
        let uses_it = known.and_then(super::Fleet::current).is_some_and(|fleet| fleet.model == entry.model);
        require(uses_it || !chain.is_retired(), || {
            invalid("model", format!("{} is retired", entry.model), "apply the model again, or use another")
        })?;
        for model in chain.at(self.updated_at()).into_iter().chain(chain.newest()) {
            check_slots("grainMs", model.model.cadence_ms, entry.grain_ms, &format!("model {}", entry.model))?;
        }
        self.check_fleet_meaning(entry)
    }

    fn check_agent(&self, entry: &AgentEntry) -> Checked {
        check_named(&entry.namespace, &entry.name)?;
        require(entry.id == AgentId::of(&entry.namespace, &entry.name), || {
            invalid("id", "does not derive from namespace and name", "derive it as docs/envelope.md says")
        })?;
        check_key("key", &entry.key)?;
        require(entry.fleets.len() <= MAX_FLEETS, || {
            invalid("fleets", format!("{} are more than {MAX_FLEETS}", entry.fleets.len()), "split the agent")
        })?;
        for (index, fleet) in entry.fleets.iter().enumerate() {
            check_name(&format!("fleets/{index}"), fleet)?;
        }
        let key = entry.key.id();
        let holder = match self.signer(&key).map(|signer| &signer.holder) {
            Some(Holder::Agent(id) | Holder::Revoked(id)) if *id != entry.id => self
                .agent(id)
                .map_or_else(|| format!("agent {id}"), |agent| format!("agent {}/{}", agent.namespace, agent.name)),
            Some(Holder::Devices(devices)) => devices.last().map_or_else(String::new, |id| self.device_name(id)),
            Some(Holder::Revoked(_)) if !entry.reinstate_key => {
                return Err(ChangeError::KeyRevoked { field: "key".into(), key });
            }
            Some(Holder::Agent(_) | Holder::Revoked(_)) | None => return Ok(()),
        };
        Err(ChangeError::DuplicateKey { field: "key".into(), key, holder })
    }

    fn check_device(&self, entry: &DeviceEntry) -> Checked {
        check_named(&entry.namespace, &entry.name)?;
        require(entry.id == DeviceId::of(&entry.namespace, &entry.name), || {
            invalid("id", "does not derive from namespace and name", "derive it as docs/envelope.md says")
        })?;
        check_serial(&entry.serial)?;
        check_shares(entry)?;
        check_location(entry)?;
        require(self.agent(&entry.agent).is_some(), || ChangeError::Missing {
            field: "agent".into(),
            target: format!("EdgeAgent {}", entry.agent),
        })?;
        if let Some(other) = self.device_by_serial(&entry.agent, &entry.serial).filter(|other| **other != entry.id) {
            return Err(ChangeError::DuplicateSerial {
                field: "serial".into(),
                serial: entry.serial.clone(),
                holder: self.device_name(other),
            });
        }
        self.check_device_key(entry)?;
        self.check_device_fleet(entry)
    }

    fn check_device_key(&self, entry: &DeviceEntry) -> Checked {
        let Some(own) = &entry.key else {
            return require(!entry.hardware_key, || {
                invalid("hardwareKey", "is set without a key", "give publicKey too, or unset it")
            });
        };
        check_key("key", own)?;
        let key = own.id();
        let holder = match self.signer(&key).map(|signer| &signer.holder) {
            None => return Ok(()),
            Some(Holder::Agent(id) | Holder::Revoked(id)) => format!("agent {id}"),
            Some(Holder::Devices(devices)) => {
                let bound = |id: &&DeviceId| {
                    let now = self.device(id).and_then(|device| device.current());
                    **id != entry.id && now.is_some_and(|now| now.key.as_ref() == Some(own))
                };
                match devices.iter().find(bound) {
                    Some(other) => self.device_name(other),
                    None => return Ok(()),
                }
            }
        };
        Err(ChangeError::DuplicateKey { field: "key".into(), key, holder })
    }

    fn check_device_fleet(&self, entry: &DeviceEntry) -> Checked {
        let missing = || ChangeError::Missing { field: "fleet".into(), target: format!("EdgeFleet {}", entry.fleet) };
        let fleet = self.fleet(&entry.fleet).and_then(super::Fleet::current).ok_or_else(missing)?;
        let known = self.device(&entry.id).and_then(|device| device.newest());
        let Some(grain) = known.and_then(|old| self.fleet(&old.fleet)).and_then(super::Fleet::grain_ms) else {
            return Ok(());
        };
        require(grain == fleet.grain_ms, || ChangeError::Immutable {
            field: "fleet".into(),
            reason: format!("{} has grain {} ms; the device's statistics have another", entry.fleet, fleet.grain_ms),
            old: format!("{grain} ms"),
            remedy: "move it to a fleet of equal grain, or make a device of another name".into(),
        })?;
        self.check_device_meaning(entry)
    }

    fn check_program(&self, entry: &ProgramEntry) -> Checked {
        check_id("id", &entry.id)?;
        require(entry.spec.len() <= MAX_SPEC, || {
            invalid("spec", format!("{} bytes are more than {MAX_SPEC}", entry.spec.len()), "shorten it")
        })?;
        let digest = Digest::of(entry.spec.as_bytes());
        require(digest == entry.digest, || {
            invalid(
                "digest",
                format!("is {}, but the spec's is {digest}", entry.digest),
                "digest the spec's canonical JSON",
            )
        })?;
        let known = self.program(&entry.id).and_then(super::Program::newest);
        if let Some(known) = known {
            check_same_money(known, entry)?;
        }
        let newest = known.map_or(0, |newest| newest.from_epoch);
        require(entry.from_epoch >= newest, || {
            invalid(
                "fromEpoch",
                format!("{} lies before {newest}, from which the newest spec rules", entry.from_epoch),
                "let it rule from the next epoch",
            )
        })
    }

    fn device_name(&self, id: &DeviceId) -> String {
        let entry = self.device(id).and_then(|device| device.newest());
        entry.map_or_else(|| format!("device {id}"), |entry| format!("device {}/{}", entry.namespace, entry.name))
    }
}

/// Token and grid of a program never change under its name, nor does a chain once set: what was paid is added up over all its epochs.
fn check_same_money(old: &ProgramEntry, new: &ProgramEntry) -> Checked {
    let read = |entry: &ProgramEntry| serde_json::from_str::<serde_json::Value>(&entry.spec).ok();
    // One that cannot be read paid nothing.
    let Some(old) = read(old) else { return Ok(()) };
    let new = read(new).ok_or_else(|| invalid("spec", "is not JSON", "write the spec's canonical JSON"))?;
    let reasons = [
        ("token", "cumulative amounts of earlier epochs are in it"),
        ("epoch", "epochs that were paid cannot be cut anew"),
        ("chain", "claims were published there"),
    ];
    for (field, reason) in reasons {
        let Some(before) = old.get(field).filter(|before| !before.is_null()) else { continue };
        require(new.get(field) == Some(before), || ChangeError::Immutable {
            field: field.into(),
            reason: reason.into(),
            old: before.to_string(),
            remedy: "keep it, also where the program was deleted and made again, or make a program of another name"
                .into(),
        })?;
    }
    Ok(())
}

fn check_invitation(entry: &InvitationEntry) -> Checked {
    check_name("namespace", &entry.namespace)
}
