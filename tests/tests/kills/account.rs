//! What hardware was promised against what the ledger holds, reading by reading.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::PathBuf,
};

use depin_domain::ids::DeviceId;
use depin_tests::observer::Accepted;
use serde_json::Value;

/// Device, metric and time: what makes a reading one.
type Identity = (DeviceId, &'static str, i64);

/// The metric, its namespace and the digits that the model keeps of what payloads call NAME.
const NAMES: [(&str, &str, &str, u8); 8] = [
    ("power_w", "energy", "power", 0),
    ("energy_kwh", "energy", "energy", 6),
    ("power", "energy", "power", 0),
    ("energy", "energy", "energy", 6),
    ("temperature_c", "weather", "temperature", 2),
    ("humidity_pct", "weather", "humidity", 1),
    ("pressure_hpa", "weather", "pressure", 1),
    ("wind_ms", "weather", "wind", 1),
];

/// Both sides of the account.
pub(crate) struct Account {
    journals: Vec<(PathBuf, u64)>,
    /// Acknowledged and not yet found in the ledger, with their values.
    open: HashMap<Identity, i64>,
    /// In the ledger and not yet seen acknowledged.
    early: HashMap<Identity, i64>,
    /// All that the ledger holds.
    held: HashSet<Identity>,
    sums: BTreeMap<(DeviceId, &'static str), (u64, i128)>,
    position: u64,
    promised: u64,
}

impl Account {
    pub(crate) fn new(journals: impl IntoIterator<Item = PathBuf>) -> Self {
        Self {
            journals: journals.into_iter().map(|path| (path, 0)).collect(),
            open: HashMap::new(),
            early: HashMap::new(),
            held: HashSet::new(),
            sums: BTreeMap::new(),
            position: 0,
            promised: 0,
        }
    }

    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Readings that the ledger holds.
    pub(crate) fn held(&self) -> u64 {
        self.held.len() as u64
    }

    pub(crate) fn told(&self) -> String {
        format!("{} readings acknowledged, {} in the ledger", self.promised, self.held.len())
    }

    /// Takes what was acknowledged since the last time.
    pub(crate) fn read_promises(&mut self) {
        for index in 0..self.journals.len() {
            let (path, offset) = self.journals[index].clone();
            let mut file = File::open(&path).unwrap();
            file.seek(SeekFrom::Start(offset)).unwrap();
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            // The last line may be half written.
            let whole = text.rfind('\n').map_or(0, |end| end + 1);
            self.journals[index].1 += whole as u64;
            text[..whole].lines().for_each(|line| self.promise(&serde_json::from_str(line).unwrap()));
        }
    }

    fn promise(&mut self, line: &Value) {
        let (serial, at) = (line["serial"].as_str().unwrap(), line["at"].as_i64().unwrap());
        for (name, value) in line["values"].as_object().unwrap() {
            let (identity, value) = (identity(serial, name, at), kept(name, value));
            self.promised += 1;
            if let Some(held) = self.early.remove(&identity) {
                assert_eq!(held, value, "{serial} {name} at {at}");
            } else {
                assert_eq!(self.open.insert(identity, value), None, "{serial} {name} at {at} is acknowledged once");
            }
        }
    }

    /// Takes what the ledger holds up to `position`.
    pub(crate) fn enter(&mut self, position: u64, accepted: &[Accepted]) {
        self.position = position;
        for Accepted { device, metric, reading } in accepted {
            let metric = NAMES.iter().find(|name| name.2 == metric).map(|name| name.2).expect("a known metric");
            let identity = (*device, metric, reading.at.0);
            assert!(self.held.insert(identity), "{identity:?} counts twice");
            let sum = self.sums.entry((*device, metric)).or_default();
            *sum = (sum.0 + 1, sum.1 + i128::from(reading.value));
            match self.open.remove(&identity) {
                Some(promised) => assert_eq!(reading.value, promised, "{identity:?}"),
                None => assert_eq!(self.early.insert(identity, reading.value), None),
            }
        }
    }

    /// Whether all that was acknowledged is in the ledger.
    pub(crate) fn is_settled(&self) -> bool {
        self.open.is_empty()
    }

    /// At the end, when hardware is silent and nothing is under way: the sums of the reports are the ledger's.
    pub(crate) fn compare(&self, reports: &[Value]) {
        assert!(self.early.is_empty(), "{} readings in the ledger were never acknowledged", self.early.len());
        let mut promised = BTreeMap::new();
        for (serial, device) in reports.iter().flat_map(|report| report["devices"].as_object().unwrap()) {
            for (name, sum) in device["metrics"].as_object().unwrap() {
                let (device, metric, _) = identity(serial, name, 0);
                let total: i128 = sum["sum"].as_str().unwrap().parse().unwrap();
                assert_eq!(sum["scale"].as_u64().unwrap(), u64::from(digits(name)), "{name}");
                promised.insert((device, metric), (sum["count"].as_u64().unwrap(), total));
            }
        }
        assert!(self.promised > 0, "hardware was promised something");
        assert_eq!(self.sums, promised);
    }
}

fn identity(serial: &str, name: &str, at: i64) -> Identity {
    let (_, namespace, metric, _) = NAMES.iter().find(|known| known.0 == name).expect("a known name");
    (DeviceId::of(namespace, serial), metric, at)
}

fn digits(name: &str) -> u8 {
    NAMES.iter().find(|known| known.0 == name).expect("a known name").3
}

/// A value as the model keeps it: hardware sends exactly those digits.
fn kept(name: &str, value: &Value) -> i64 {
    assert_eq!(value[1].as_u64().unwrap(), u64::from(digits(name)), "{name}");
    value[0].as_i64().unwrap()
}
