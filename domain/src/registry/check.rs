//! What may be appended: each change is checked against the registry as it is.
//!
//! A refusal names the field, the reason and the remedy. What an older version of these rules let in stays in: the fold
//! does not ask them again.

use std::collections::BTreeSet;

use super::{AgentEntry, Change, DeviceEntry, FleetEntry, Holder, InvitationEntry, ModelEntry, ProgramEntry, Registry};
use crate::{
    ids::{AgentId, Algorithm, DeviceId, Digest, KeyId, PublicKey},
    model::{Metric, Model},
    proofs::checks,
};

/// Most cadence slots that a grain may have.
pub const MAX_SLOTS: i64 = 86_400;

const MAX_GRAIN_MS: i64 = 366 * 24 * 3_600_000;
const MAX_NAME: usize = 253;
const MAX_SERIAL: usize = 128;
const MAX_METRICS: usize = 128;
const MAX_SOURCES: usize = 64;
const MAX_FLEETS: usize = 256;
const MAX_SHARES: usize = 64;
const MAX_HORIZON_MS: i64 = 24 * 3_600_000;
const MAX_SCALE: u8 = 9;
const MAX_SPEC: usize = 256 * 1024;
const BASIS_POINTS: u64 = 10_000;

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
        "serial: {serial:?} is device {holder} at this agent already; correct the serial, or remove the other device first"
    )]
    DuplicateSerial {
        /// The serial.
        serial: String,
        /// Whose it is, `namespace/name`.
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
    /// A check of the model.
    #[error(transparent)]
    Check(checks::CheckError),
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
        if let Some(chain) = self.model_chain(&model.name) {
            for old in chain.entries().iter().flat_map(|old| &old.model.metrics) {
                if let Some(new) = model.metric(&old.name) {
                    check_same_metric(old, new)?;
                }
            }
        }
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
        Ok(())
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
            return Err(ChangeError::DuplicateSerial { serial: entry.serial.clone(), holder: self.device_name(other) });
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
        })
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

fn check_shape(model: &Model) -> Checked {
    check_name("name", &model.name)?;
    require(!model.metrics.is_empty() && model.metrics.len() <= MAX_METRICS, || {
        invalid("metrics", format!("{} are not from 1 to {MAX_METRICS}", model.metrics.len()), "split the model")
    })?;
    require(model.sources.len() <= MAX_SOURCES, || {
        invalid("sources", format!("{} are more than {MAX_SOURCES}", model.sources.len()), "split the model")
    })?;
    require((1..=MAX_GRAIN_MS).contains(&model.cadence_ms), || {
        invalid(
            "cadenceMs",
            format!("{} is not from 1 to {MAX_GRAIN_MS}", model.cadence_ms),
            "give the expected distance of readings",
        )
    })?;
    require((0..=MAX_HORIZON_MS).contains(&model.reorder_horizon_ms), || {
        let reason = format!("{} is not from 0 to {MAX_HORIZON_MS}", model.reorder_horizon_ms);
        invalid("reorderHorizonMs", reason, "a few seconds suffice for most networks")
    })?;
    require(model.metrics.is_sorted_by(|a, b| a.name < b.name), || {
        invalid("metrics", "names are not strictly ascending", "sort them and name each once")
    })?;
    model.metrics.iter().try_for_each(check_metric)?;
    checks::validate(model).map_err(ChangeError::Check)?;
    for (source, index) in model.sources.iter().zip(0..) {
        for (field, place) in source.fields.iter().zip(0..) {
            require(model.metric(&field.metric).is_some(), || {
                let field_path = format!("sources/{index}/fields/{place}/metric");
                invalid(
                    field_path,
                    format!("the model has no metric {:?}", field.metric),
                    "add the metric or correct the name",
                )
            })?;
        }
    }
    Ok(())
}

fn check_metric(metric: &Metric) -> Checked {
    let field = |part: &str| format!("metrics/{}/{part}", metric.name.chars().take(80).collect::<String>());
    require(is_metric_name(&metric.name), || {
        invalid(
            field("name"),
            "is not a metric name",
            "use a letter and then at most 63 letters, digits and underscores",
        )
    })?;
    require(metric.scale <= MAX_SCALE, || {
        invalid(field("scale"), format!("{} is more than {MAX_SCALE}", metric.scale), "use a larger unit")
    })?;
    if let (Some(min), Some(max)) = (metric.min, metric.max) {
        require(min <= max, || invalid(field("min"), format!("{min} is more than max {max}"), "exchange them"))?;
    }
    require(metric.max_rate.is_none_or(|rate| rate > 0), || {
        invalid(field("maxRate"), "is not positive", "leave it out where any change is plausible")
    })
}

/// Whether `name` is a letter and then at most 63 letters, digits and underscores.
fn is_metric_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    name.len() <= 64
        && bytes.next().is_some_and(|first| first.is_ascii_alphabetic())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn check_same_metric(old: &Metric, new: &Metric) -> Checked {
    let changed = |part: &str, value: String| ChangeError::Immutable {
        field: format!("metrics/{}/{part}", old.name),
        reason: "earlier readings of the metric are in it".into(),
        old: value,
        remedy: "give the new metric another name".into(),
    };
    require(old.unit == new.unit, || changed("unit", old.unit.clone()))?;
    require(old.kind == new.kind, || changed("kind", format!("{:?}", old.kind)))?;
    require(old.scale == new.scale, || changed("scale", old.scale.to_string()))
}

fn check_slots(field: &str, cadence: i64, grain: i64, of: &str) -> Checked {
    require(cadence > 0 && grain % cadence == 0, || {
        let reason = format!("cadence {cadence} ms does not divide grain {grain} ms of {of}");
        invalid(field, reason, "choose a cadence that divides the grain")
    })?;
    require(grain / cadence <= MAX_SLOTS, || {
        let reason =
            format!("grain {grain} ms has {} slots of {cadence} ms with {of}, more than {MAX_SLOTS}", grain / cadence);
        invalid(field, reason, "choose a longer cadence or a shorter grain")
    })
}

fn check_named(namespace: &str, name: &str) -> Checked {
    check_name("namespace", namespace)?;
    check_name("name", name)
}

fn check_id(field: &str, id: &str) -> Checked {
    let parts = id.split_once('/').filter(|(_, name)| !name.contains('/'));
    let (namespace, name) = parts.ok_or_else(|| {
        invalid(field, format!("{:?} is not namespace/name", clip(id)), "give both, joined by a slash")
    })?;
    check_name(field, namespace)?;
    check_name(field, name)
}

fn check_name(field: &str, name: &str) -> Checked {
    let good = (1..=MAX_NAME).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.');
    require(good, || {
        let reason = format!("{:?} is not a Kubernetes name", clip(name));
        invalid(field, reason, "use at most 253 lower-case letters, digits, dashes and dots")
    })
}

fn check_serial(serial: &str) -> Checked {
    let good = (1..=MAX_SERIAL).contains(&serial.len()) && !serial.chars().any(char::is_control);
    require(good, || {
        invalid(
            "serial",
            format!("{:?} is not a serial", clip(serial)),
            "use 1 to 128 bytes without control characters",
        )
    })
}

fn check_key(field: &str, key: &PublicKey) -> Checked {
    let expected = match key.algorithm {
        Algorithm::Ed25519 => 32,
        Algorithm::P256 => 33,
    };
    require(key.bytes.len() == expected, || {
        let reason = format!("{} bytes are not a {:?} key", key.bytes.len(), key.algorithm);
        invalid(field, reason, format!("give the {expected} bytes of the encoded point"))
    })
}

fn check_shares(entry: &DeviceEntry) -> Checked {
    let shares = &entry.shares;
    require(shares.len() <= MAX_SHARES, || {
        invalid("shares", format!("{} are more than {MAX_SHARES}", shares.len()), "pay a contract that splits further")
    })?;
    let mut accounts = BTreeSet::new();
    for (share, index) in shares.iter().zip(0..) {
        let digits = share.account.strip_prefix("0x").unwrap_or_default();
        let good = digits.len() == 40 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        require(good, || {
            let reason = format!("{:?} is not an account", clip(&share.account));
            invalid(format!("shares/{index}/account"), reason, "use 0x and 40 lower-case hexadecimal digits")
        })?;
        require(accounts.insert(&share.account), || {
            invalid(format!("shares/{index}/account"), "stands twice", "add the two parts")
        })?;
    }
    let sum: u64 = shares.iter().map(|share| u64::from(share.basis_points)).sum();
    require(shares.is_empty() || sum == BASIS_POINTS, || {
        invalid("shares", format!("basis points sum to {sum}"), "let them sum to 10000, or give no share")
    })
}

fn check_location(entry: &DeviceEntry) -> Checked {
    let Some(location) = &entry.location else { return Ok(()) };
    let good =
        location.latitude_e7.unsigned_abs() <= 900_000_000 && location.longitude_e7.unsigned_abs() <= 1_800_000_000;
    require(good, || {
        let reason = format!("{}, {} is no place", location.latitude_e7, location.longitude_e7);
        invalid("location", reason, "give degrees times 10^7, latitude to ±90 and longitude to ±180")
    })?;
    require(location.cells.len() == 16, || {
        invalid(
            "location/cells",
            format!("{} are not 16", location.cells.len()),
            "give the cells of resolutions 0 to 15",
        )
    })
}

fn clip(text: &str) -> String {
    text.chars().take(80).collect()
}
