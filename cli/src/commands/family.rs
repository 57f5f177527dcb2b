//! What hangs together: a program and its fleets, a fleet and its devices, an agent and its devices. Pure; only [`Objects::fetch`] asks.

use depin_crds::{Condition, EdgeAgent, EdgeDevice, EdgeFleet, RewardEpoch, RewardProgram};
use kube::{Api, ResourceExt as _, api::ListParams};

use crate::{cluster::Cluster, fault::Fault};

/// Objects in one answer of the API server.
const PAGE: u32 = 500;
/// Newest epochs that are shown.
const EPOCHS: usize = 3;

/// Kinds that one may name, with their short names; in the order in which a bare name is looked for.
const KINDS: [(&str, &[&str]); 5] = [
    ("RewardProgram", &["rewardprogram", "rewardprograms", "program", "rp"]),
    ("EdgeFleet", &["edgefleet", "edgefleets", "fleet", "efleet"]),
    ("EdgeAgent", &["edgeagent", "edgeagents", "agent", "ea"]),
    ("EdgeDevice", &["edgedevice", "edgedevices", "device", "edev"]),
    ("RewardEpoch", &["rewardepoch", "rewardepochs", "epoch", "re"]),
];

/// An object with what hangs below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) kind: &'static str,
    pub(crate) name: String,
    /// `True`, `False`, `Unknown`.
    pub(crate) ready: String,
    pub(crate) reason: String,
    pub(crate) below: Vec<Member>,
}

/// The objects of a namespace.
#[derive(Clone, Debug, Default)]
pub(crate) struct Objects {
    pub(crate) programs: Vec<RewardProgram>,
    pub(crate) fleets: Vec<EdgeFleet>,
    pub(crate) agents: Vec<EdgeAgent>,
    pub(crate) devices: Vec<EdgeDevice>,
    pub(crate) epochs: Vec<RewardEpoch>,
}

impl Objects {
    /// Of the namespace that is meant: references stay within one.
    pub(crate) async fn fetch(cluster: &Cluster) -> Result<Self, Fault> {
        Ok(Self {
            programs: list(&cluster.own()).await?,
            fleets: list(&cluster.own()).await?,
            agents: list(&cluster.own()).await?,
            devices: list(&cluster.own()).await?,
            epochs: list(&cluster.own()).await?,
        })
    }

    /// The object that `KIND/NAME` or `NAME` means, with what hangs below it.
    pub(crate) fn family(&self, meant: &str) -> Result<Member, Fault> {
        let (kind, name) = match meant.split_once('/') {
            Some((kind, name)) => (Some(kind_of(kind)?), name),
            None => (None, meant),
        };
        let wanted = KINDS.iter().map(|(known, _)| *known).filter(|known| kind.is_none_or(|kind| kind == *known));
        wanted.filter_map(|kind| self.member(kind, name)).next().ok_or_else(|| {
            let what = kind.map_or_else(|| "program, fleet, agent, device or epoch".to_owned(), str::to_owned);
            Fault::not_found(
                format!("no {what} {name:?} in the namespace"),
                "name its namespace with -n; list them: kubectl get depin -A",
            )
        })
    }

    fn member(&self, kind: &'static str, name: &str) -> Option<Member> {
        match kind {
            "RewardProgram" => self.programs.iter().find(|it| it.name_any() == name).map(|it| self.program(it)),
            "EdgeFleet" => self.fleets.iter().find(|it| it.name_any() == name).map(|it| self.fleet(it)),
            "EdgeAgent" => self.agents.iter().find(|it| it.name_any() == name).map(|it| self.agent(it)),
            "EdgeDevice" => self.devices.iter().find(|it| it.name_any() == name).map(device),
            _ => self.epochs.iter().find(|it| it.name_any() == name).map(epoch),
        }
    }

    fn program(&self, program: &RewardProgram) -> Member {
        let conditions = program.status.as_ref().map_or(&[][..], |status| &status.conditions);
        let fleets = program.spec.fleets.iter().map(|name| {
            let fleet = self.fleets.iter().find(|fleet| fleet.name_any() == *name);
            fleet.map_or_else(|| absent("EdgeFleet", name), |fleet| self.fleet(fleet))
        });
        let mut epochs: Vec<&RewardEpoch> =
            self.epochs.iter().filter(|epoch| epoch.spec.program == program.name_any()).collect();
        epochs.sort_by_key(|epoch| std::cmp::Reverse(epoch.spec.number));
        let below = fleets.chain(epochs.into_iter().take(EPOCHS).map(epoch)).collect();
        member("RewardProgram", program.name_any(), conditions, below)
    }

    fn fleet(&self, fleet: &EdgeFleet) -> Member {
        let conditions = fleet.status.as_ref().map_or(&[][..], |status| &status.conditions);
        let devices = self.devices.iter().filter(|device| device.spec.fleet == fleet.name_any());
        member("EdgeFleet", fleet.name_any(), conditions, sorted(devices))
    }

    fn agent(&self, agent: &EdgeAgent) -> Member {
        let conditions = agent.status.as_ref().map_or(&[][..], |status| &status.conditions);
        let devices = self.devices.iter().filter(|device| device.spec.agent == agent.name_any());
        member("EdgeAgent", agent.name_any(), conditions, sorted(devices))
    }
}

async fn list<K>(api: &Api<K>) -> Result<Vec<K>, Fault>
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let mut objects = Vec::new();
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let list = api.list(&page).await?;
        objects.extend(list.items);
        match list.metadata.continue_.filter(|next| !next.is_empty()) {
            Some(next) => page = page.continue_token(&next),
            None => return Ok(objects),
        }
    }
}

fn kind_of(text: &str) -> Result<&'static str, Fault> {
    let plain = text.to_ascii_lowercase();
    let known = KINDS.iter().find(|(_, names)| names.contains(&plain.as_str()));
    known.map(|(kind, _)| *kind).ok_or_else(|| {
        Fault::usage(
            format!("{text:?} is no kind that others hang from"),
            "write program/, fleet/, agent/, device/ or epoch/ and a name",
        )
    })
}

/// Those that are not ready first, then by name.
fn sorted<'a>(devices: impl Iterator<Item = &'a EdgeDevice>) -> Vec<Member> {
    let mut members: Vec<Member> = devices.map(device).collect();
    members.sort_by(|a, b| (a.ready == "True", &a.name).cmp(&(b.ready == "True", &b.name)));
    members
}

fn device(device: &EdgeDevice) -> Member {
    let conditions = device.status.as_ref().map_or(&[][..], |status| &status.conditions);
    member("EdgeDevice", device.name_any(), conditions, Vec::new())
}

fn epoch(epoch: &RewardEpoch) -> Member {
    let conditions = epoch.status.as_ref().map_or(&[][..], |status| &status.conditions);
    member("RewardEpoch", epoch.name_any(), conditions, Vec::new())
}

fn absent(kind: &'static str, name: &str) -> Member {
    Member { kind, name: name.to_owned(), ready: "False".into(), reason: "NotFound".into(), below: Vec::new() }
}

/// The reason why it is not ready, or else what else is not as it should be.
fn member(kind: &'static str, name: String, conditions: &[Condition], below: Vec<Member>) -> Member {
    let of = |kind: &str| conditions.iter().find(|condition| condition.type_ == kind);
    let ready = of("Ready").map_or_else(|| "Unknown".to_owned(), |ready| ready.status.clone());
    let unready = of("Ready").filter(|ready| ready.status != "True");
    let other = ["EpochBlocked", "Suspended"].into_iter().filter_map(of).find(|condition| condition.status == "True");
    let lost =
        ["Eligible", "Online", "Confirmed"].into_iter().filter_map(of).find(|condition| condition.status == "False");
    let reason = unready.or(other).or(lost).map_or_else(String::new, |condition| condition.reason.clone());
    Member { kind, name, ready, reason, below }
}

impl Member {
    /// It and all below it, without repetition.
    pub(crate) fn all(&self) -> Vec<&Self> {
        let mut all = vec![self];
        for member in self.below.iter().flat_map(Self::all) {
            if !all.iter().any(|known| (known.kind, &known.name) == (member.kind, &member.name)) {
                all.push(member);
            }
        }
        all
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Two fleets of a program, of which one is missing; three devices of one agent.
    pub(crate) fn objects() -> Objects {
        let yaml = |text: &str| serde_saphyr::from_str::<serde_json::Value>(text).unwrap();
        let device = |name: &str, ready: &str| {
            let conditions = format!(
                "[{{type: Ready, status: '{ready}', reason: R{name}, message: '', lastTransitionTime: '1970-01-01T00:00:00Z'}}]"
            );
            let text = format!(
                "{{apiVersion: depin.dev/v1alpha1, kind: EdgeDevice, metadata: {{name: {name}, namespace: town}}, spec: {{fleet: meters, agent: home, serial: {name}}}, status: {{conditions: {conditions}}}}}"
            );
            serde_json::from_value::<EdgeDevice>(yaml(&text)).unwrap()
        };
        let fleet = "{apiVersion: depin.dev/v1alpha1, kind: EdgeFleet, metadata: {name: meters, namespace: town}, spec: {modelRef: {name: m}}}";
        let agent = "{apiVersion: depin.dev/v1alpha1, kind: EdgeAgent, metadata: {name: home, namespace: town}, spec: {fleets: [meters]}}";
        Objects {
            fleets: vec![serde_json::from_value(yaml(fleet)).unwrap()],
            agents: serde_json::from_value(yaml(agent)).into_iter().collect(),
            devices: vec![device("a", "True"), device("c", "True"), device("b", "False")],
            ..Objects::default()
        }
    }

    #[test]
    fn what_is_not_ready_stands_first_with_its_reason() {
        let family = objects().family("fleet/meters").unwrap();
        let below: Vec<(&str, &str, &str)> =
            family.below.iter().map(|it| (it.name.as_str(), it.ready.as_str(), it.reason.as_str())).collect();
        assert_eq!(below, [("b", "False", "Rb"), ("a", "True", ""), ("c", "True", "")]);
        assert_eq!(family.ready, "Unknown", "nobody has looked at it");
        assert_eq!(family.all().len(), 4);
    }

    #[test]
    fn names_and_kinds_that_are_not_there_are_told() {
        let objects = objects();
        assert_eq!(objects.family("meters").unwrap().kind, "EdgeFleet");
        assert_eq!(objects.family("EDEV/a").unwrap().kind, "EdgeDevice");
        assert_eq!(objects.family("fleet/nothing").unwrap_err().code, crate::fault::NOT_FOUND);
        assert_eq!(objects.family("secret/depin-ca").unwrap_err().code, crate::fault::USAGE);
    }
}
