//! What a viewer sees: what belongs to its namespace. Pure.

use depin_domain::{
    ids::{AgentId, DeviceId, KeyId},
    registry::{Change, Holder, Registry},
};
use tonic::Status;

use crate::peer::Reader;

/// Everything, or one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sight(Reader);

impl Sight {
    pub(super) fn new(reader: Reader) -> Self {
        Self(reader)
    }

    /// Only the operator writes.
    pub(super) fn must_write(&self) -> Result<(), Status> {
        match &self.0 {
            Reader::Operator => Ok(()),
            Reader::Viewer(_) => Err(Status::permission_denied("a viewer's certificate does not write")),
        }
    }

    /// Only the operator sees it at all.
    pub(super) fn must_see_all(&self) -> Result<(), Status> {
        match &self.0 {
            Reader::Operator => Ok(()),
            Reader::Viewer(_) => Err(Status::permission_denied("only the operator may read this")),
        }
    }

    /// Whether things of `namespace` are seen.
    fn namespace(&self, namespace: &str) -> bool {
        match &self.0 {
            Reader::Operator => true,
            Reader::Viewer(own) => own == namespace,
        }
    }

    /// Whether the object `namespace/name` is seen.
    fn object(&self, id: &str) -> bool {
        self.namespace(id.split_once('/').map_or("", |(namespace, _)| namespace))
    }

    /// The program must be seen.
    pub(super) fn program(&self, id: &str) -> Result<(), Status> {
        if self.object(id) { Ok(()) } else { Err(foreign("program")) }
    }

    /// Whether the device is seen.
    pub(super) fn device(&self, id: &DeviceId, registry: &Registry) -> bool {
        match &self.0 {
            Reader::Operator => true,
            Reader::Viewer(_) => registry
                .device(id)
                .and_then(|device| device.newest())
                .is_some_and(|entry| self.namespace(&entry.namespace)),
        }
    }

    /// Whether the agent is seen.
    pub(super) fn agent(&self, id: &AgentId, registry: &Registry) -> bool {
        match &self.0 {
            Reader::Operator => true,
            Reader::Viewer(_) => registry.agent(id).is_some_and(|entry| self.namespace(&entry.namespace)),
        }
    }

    /// Whether the chain of this key is seen: its agent or any of its devices is.
    fn key(&self, id: &KeyId, registry: &Registry) -> bool {
        match registry.signer(id).map(|signer| &signer.holder) {
            Some(Holder::Agent(agent) | Holder::Revoked(agent)) => self.agent(agent, registry),
            Some(Holder::Devices(devices)) => devices.iter().all(|device| self.device(device, registry)),
            None => false,
        }
    }

    /// A viewer asks for proofs of a device or chain of its namespace.
    pub(super) fn proofs(
        &self,
        device: Option<&DeviceId>,
        key: Option<&KeyId>,
        registry: &Registry,
    ) -> Result<(), Status> {
        if self.0 == Reader::Operator {
            return Ok(());
        }
        if device.is_none() && key.is_none() {
            return Err(Status::permission_denied("device_id or key_id: a viewer names one of its namespace"));
        }
        let seen = device.is_none_or(|id| self.device(id, registry)) && key.is_none_or(|id| self.key(id, registry));
        if seen { Ok(()) } else { Err(foreign("device or chain")) }
    }

    /// Whether a viewer must be shown single sections only: a proof holds neighbours' sections too.
    pub(super) fn sections_only(&self) -> bool {
        self.0 != Reader::Operator
    }

    /// Whether a registry change is seen. Models are everybody's; invitations are the operator's.
    pub(super) fn change(&self, change: &Change, registry: &Registry) -> bool {
        match change {
            Change::Model(_) | Change::ModelRetired { .. } => true,
            Change::Fleet(fleet) => self.object(&fleet.id),
            Change::FleetRemoved { id } | Change::ProgramRemoved { id } => self.object(id),
            Change::Agent(agent) => self.namespace(&agent.namespace),
            Change::AgentRemoved { id } => self.agent(id, registry),
            Change::Device(device) => self.namespace(&device.namespace),
            Change::DeviceRemoved { id } => self.device(id, registry),
            Change::Program(program) => self.object(&program.id),
            Change::Invitation(_) | Change::InvitationRemoved { .. } => self.0 == Reader::Operator,
        }
    }
}

fn foreign(what: &str) -> Status {
    Status::permission_denied(format!("the {what} is not of the viewer's namespace"))
}
