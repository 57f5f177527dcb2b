//! The ledger's registry as JSON, and what the agent has confirmed of it.

use depin_domain::{
    ids::AgentId,
    registry::{Record, Registry},
    time::Timestamp,
};
use depin_proto::v1::{ReadPresenceRequest, ReadRegistryRequest, ledger_client::LedgerClient};
use depin_tests::{Observer, Stack};
use serde_json::{Map, Value, json};
use tonic::transport::Channel;

/// A connection to the ledger, and the registry as it was last read.
pub(crate) struct Ledger {
    client: LedgerClient<Channel>,
    registry: Registry,
}

impl Ledger {
    /// Connects under a certificate of the stack's authority.
    pub(crate) fn connect(stack: &Stack) -> Self {
        Self { client: Observer::of(stack).unwrap().into_client(), registry: Registry::default() }
    }

    /// Version of the newest record that was read.
    pub(crate) fn version(&self) -> u64 {
        self.registry.version()
    }

    /// Everything that is registered now: by kind, then by `NAMESPACE/NAME`, a model by its name.
    pub(crate) async fn read(&mut self) -> Value {
        let request = ReadRegistryRequest { after_version: self.version(), until_version: 0, follow: false };
        let mut records = self.client.read_registry(request).await.unwrap().into_inner();
        while let Some(raw) = records.message().await.unwrap() {
            let change = serde_json::from_slice(&raw.change).unwrap();
            self.registry.apply(Record { version: raw.version, at: Timestamp(raw.at), change }).unwrap();
        }
        self.told()
    }

    fn told(&self) -> Value {
        let registry = &self.registry;
        let models = registry.model_chains().filter(|(_, chain)| !chain.is_retired()).filter_map(|(name, chain)| {
            let newest = chain.newest()?;
            let mut told = json!(newest.model);
            told["effectiveFrom"] = json!(newest.effective_from);
            Some((name.clone(), told))
        });
        let fleets = registry.fleets().filter_map(|(id, fleet)| Some((id.clone(), json!(fleet.current()?.as_ref()))));
        let agents =
            registry.agents().map(|agent| (format!("{}/{}", agent.namespace, agent.name), json!(agent.as_ref())));
        let devices = registry.devices().filter_map(|(_, device)| {
            let now = device.current()?;
            Some((format!("{}/{}", now.namespace, now.name), json!(now.as_ref())))
        });
        let programs = registry.programs().filter(|(_, program)| !program.is_removed()).filter_map(|(id, program)| {
            Some((id.clone(), serde_json::from_str::<Value>(&program.newest()?.spec).unwrap()))
        });
        let invitations = registry.invitations().map(|entry| (entry.token.to_string(), json!(entry.as_ref())));
        json!({
            "EdgeDeviceModel": models.collect::<Map<_, _>>(),
            "EdgeFleet": fleets.collect::<Map<_, _>>(),
            "EdgeAgent": agents.collect::<Map<_, _>>(),
            "EdgeDevice": devices.collect::<Map<_, _>>(),
            "RewardProgram": programs.collect::<Map<_, _>>(),
            "EdgeEnrollment": invitations.collect::<Map<_, _>>(),
        })
    }

    /// The newest version that the agent says it goes by.
    pub(crate) async fn confirmed(&mut self, agent: AgentId) -> u64 {
        let mut pages = self.client.read_presence(ReadPresenceRequest {}).await.unwrap().into_inner();
        let mut confirmed = 0;
        while let Some(page) = pages.message().await.unwrap() {
            let agents = page.agents.iter().filter(|presence| presence.agent_id.as_ref() == agent.0.as_slice());
            confirmed = agents.map(|presence| presence.confirmed_registry_version).fold(confirmed, u64::max);
        }
        confirmed
    }
}
