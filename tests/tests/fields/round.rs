//! One field after another: each of its values is given, what follows is awaited, and it is taken back.

use depin_domain::ids::AgentId;
use serde_json::{Map, Value};

use crate::{
    edit::set,
    site::{NAMESPACE, Patience, Site, by_type},
    table::{Changes, Field, Fresh, Table, Valid, Wrong},
};

/// Status writes that one value may cost, there and back.
const MOST_WRITES: f64 = 12.0;

/// An object, with the generation that its status must have seen.
struct Target {
    kind: String,
    name: String,
    generation: i64,
}

/// How a value gets into the system and out of it again.
struct Way<'a> {
    table: &'a Table,
    field: &'a Field,
    new: bool,
    /// The value, with what its placeholders stand for.
    set: Changes,
    fresh: Fresh,
}

impl Way<'_> {
    fn name(&self) -> String {
        if self.new {
            return self.fresh.text("probe-$N");
        }
        self.field.live.as_ref().unwrap_or(&self.table.live).clone()
    }

    fn told(&self) -> String {
        format!("{} {} {:?}", self.table.kind, self.field.field, self.set)
    }

    /// The spec that `spec` becomes.
    fn changed(&self, mut spec: Value) -> Value {
        for (pointer, value) in &self.set {
            set(&mut spec, pointer, value.clone());
        }
        spec
    }

    fn base(&self) -> Value {
        self.fresh.value(self.field.base.as_ref().unwrap_or(&self.table.base))
    }
}

impl Site {
    /// All values of one field.
    pub(crate) async fn field(&mut self, table: &Table, field: &Field) {
        for valid in &field.valid {
            let fresh = self.fresh();
            let way = Way { table, field, new: valid.new, set: fresh.changes(&valid.set), fresh };
            self.valid(&way, valid).await;
        }
        for wrong in &field.wrong {
            let fresh = self.fresh();
            let way = Way { table, field, new: wrong.new, set: fresh.changes(&wrong.set), fresh };
            match &wrong.refused {
                Some(words) => self.refused(&way, words).await,
                None => self.told(&way, wrong).await,
            }
        }
    }

    /// A value that the field may have: the state follows there and back, and nothing is left.
    async fn valid(&mut self, way: &Way<'_>, valid: &Valid) {
        let told = way.told();
        let (before, counted) = (self.picture().await, self.counted());
        let version = self.ledger.version();
        let (target, spec) = self.give(way).await;
        self.until_followed(way, &target, valid).await;
        if way.table.confirmed && !way.new && !valid.registry.is_empty() {
            self.until_confirmed(version, &told).await;
        }
        if let Some(heard) = &valid.heard {
            self.until_heard(&way.fresh.text(&heard.serial), &heard.becomes).await;
        }
        if let Some(account) = &valid.admits {
            self.until_admitted(&way.fresh.text(account), &way.fresh.text("roof-$N")).await;
        }
        if !valid.goes {
            self.take_back(way, &target, spec).await;
        }
        self.until_as(&before, &told).await;
        self.end(&counted, &told).await;
    }

    /// A value that the operator speaks against: its word names the field, and what was registered stays.
    async fn told(&mut self, way: &Way<'_>, wrong: &Wrong) {
        let (path, status) = match (&wrong.told, &wrong.waits) {
            (Some(path), None) => (path, "False"),
            (None, Some(path)) => (path, "Unknown"),
            _ => panic!("{}: told or waits", way.told()),
        };
        let told = way.told();
        let (before, counted) = (self.picture().await, self.counted());
        let (target, spec) = self.give(way).await;
        let patience = Patience::for_(format!("the word on {told}"));
        loop {
            let lack = self.ready_lacks(&target, status, path).await;
            let Some(lack) = lack else { break };
            self.check();
            patience.more(&lack).await;
        }
        let registered = |picture: &Map<String, Value>| -> Map<String, Value> {
            let entries = picture.iter().filter(|(name, _)| name.starts_with("registry: "));
            entries.map(|(name, entry)| (name.clone(), entry.clone())).collect()
        };
        assert_eq!(registered(&self.picture().await), registered(&before), "{told} is registered");
        self.take_back(way, &target, spec).await;
        self.until_as(&before, &told).await;
        self.end(&counted, &told).await;
    }

    /// A value that the API server speaks against.
    async fn refused(&mut self, way: &Way<'_>, words: &str) {
        let (kind, name) = (&way.table.kind, way.name());
        let answer = if way.new {
            self.create(kind, &name, &way.changed(way.base())).await
        } else {
            let spec = self.get(kind, &name).await.data["spec"].clone();
            self.change(kind, &name, &spec, &way.changed(spec.clone())).await
        };
        match answer {
            Err(kube::Error::Api(status)) => {
                assert_eq!(status.code, 422, "{}: {}", way.told(), status.message);
                assert!(status.message.contains(words), "{}: no {words:?} in {}", way.told(), status.message);
            }
            other => panic!("{} was taken: {other:?}", way.told()),
        }
    }

    /// Gives the value to the object, or makes one with it. With the spec that the object had.
    async fn give(&mut self, way: &Way<'_>) -> (Target, Option<Value>) {
        let (kind, name) = (way.table.kind.clone(), way.name());
        let told = way.told();
        let failed = |error| panic!("{told}: {error}");
        if way.new {
            let generation = self.create(&kind, &name, &way.changed(way.base())).await.unwrap_or_else(failed);
            return (Target { kind, name, generation }, None);
        }
        let spec = self.get(&kind, &name).await.data["spec"].clone();
        let generation = self.change(&kind, &name, &spec, &way.changed(spec.clone())).await.unwrap_or_else(failed);
        (Target { kind, name, generation }, Some(spec))
    }

    async fn take_back(&mut self, way: &Way<'_>, target: &Target, spec: Option<Value>) {
        let Some(spec) = spec else { return self.delete(&target.kind, &target.name).await };
        let now = self.get(&target.kind, &target.name).await.data["spec"].clone();
        let generation = self.change(&target.kind, &target.name, &now, &spec).await;
        let generation = generation.unwrap_or_else(|error| panic!("{} cannot be taken back: {error}", way.told()));
        let patience = Patience::for_(format!("the end of {}", way.told()));
        loop {
            let status = self.get(&target.kind, &target.name).await.data["status"].clone();
            if status["observedGeneration"].as_i64() >= Some(generation) {
                return;
            }
            self.check();
            patience.more(&status.to_string()).await;
        }
    }

    /// Processes live, nothing more is written, and what was written is little.
    async fn end(&mut self, before: &crate::site::Counted, told: &str) {
        self.rest().await;
        self.check();
        let writes = self.counted().writes_since(before);
        assert!(writes <= MOST_WRITES, "{told}: {writes} status writes");
    }

    async fn until_followed(&mut self, way: &Way<'_>, target: &Target, valid: &Valid) {
        let patience = Patience::for_(way.told());
        loop {
            let Some(lack) = self.lacks(way, target, valid).await else { return };
            self.check();
            patience.more(&lack).await;
        }
    }

    /// What has not followed yet.
    async fn lacks(&mut self, way: &Way<'_>, target: &Target, valid: &Valid) -> Option<String> {
        if valid.goes {
            let there = self.api(&target.kind).get_opt(&target.name).await.unwrap();
            return there.map(|object| format!("it is there still: {}", object.data["status"]));
        }
        let status = valid.ready.as_deref().unwrap_or("True");
        let lack = self.ready_lacks(target, status, "").await;
        if lack.is_some() {
            return lack;
        }
        for (pointer, wanted) in way.fresh.changes(&valid.status) {
            let (kind, name, pointer) = place(&pointer, target);
            let status = by_type(self.get(&kind, &name).await.data["status"].clone());
            let found = status.pointer(&pointer).cloned().unwrap_or_default();
            if found != wanted {
                return Some(format!("{kind} {name} {pointer} is {found}, not {wanted}: {status}"));
            }
        }
        for (condition, words) in &valid.says {
            let status = by_type(self.get(&target.kind, &target.name).await.data["status"].clone());
            let message = status["conditions"][condition]["message"].as_str().unwrap_or_default();
            if !message.contains(&way.fresh.text(words)) {
                return Some(format!("{condition} says {message:?}, not {words:?}"));
            }
        }
        let registry = if valid.registry.is_empty() { Value::Null } else { self.ledger.read().await };
        for (pointer, wanted) in way.fresh.changes(&valid.registry) {
            let (kind, name, pointer) = place(&pointer, target);
            let name = match kind.as_str() {
                "EdgeDeviceModel" => name,
                // The registry knows it by the hash of its token.
                "EdgeEnrollment" => way.fresh.text("$DIGEST"),
                _ => format!("{NAMESPACE}/{name}"),
            };
            let found = registry[&kind][&name].pointer(&pointer).cloned().unwrap_or_default();
            if found != wanted {
                return Some(format!("registry: {kind} {name} {pointer} is {found}, not {wanted}"));
            }
        }
        None
    }

    /// Whether the operator has seen the spec, and its condition `Ready` is so and names `path`.
    async fn ready_lacks(&self, target: &Target, wanted: &str, path: &str) -> Option<String> {
        let status = by_type(self.get(&target.kind, &target.name).await.data["status"].clone());
        let ready = &status["conditions"]["Ready"];
        let seen = status["observedGeneration"].as_i64() >= Some(target.generation);
        let names = ready["message"].as_str().unwrap_or_default().contains(path);
        let good = seen && ready["status"] == wanted && names;
        (!good).then(|| format!("generation {}, Ready {wanted} naming {path:?}: {status}", target.generation))
    }

    /// The agent goes by something newer than `version`.
    async fn until_confirmed(&mut self, version: u64, told: &str) {
        let patience = Patience::for_(format!("the agent's word on {told}"));
        loop {
            let confirmed = self.ledger.confirmed(AgentId::of(NAMESPACE, "home")).await;
            if confirmed > version {
                return;
            }
            self.check();
            patience.more(&format!("it goes by {confirmed}, not by more than {version}")).await;
        }
    }
}

/// `KIND/NAME:POINTER`, or a pointer in the target itself.
fn place(text: &str, target: &Target) -> (String, String, String) {
    match text.split_once(':') {
        Some((object, pointer)) if !text.starts_with('/') => {
            let (kind, name) = object.split_once('/').unwrap_or_else(|| panic!("{text}: KIND/NAME:POINTER"));
            (kind.to_owned(), name.to_owned(), pointer.to_owned())
        }
        _ => (target.kind.clone(), target.name.clone(), text.to_owned()),
    }
}
