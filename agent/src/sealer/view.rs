//! What the sealer knows from the configuration: whose a serial's readings are, and how models are called.

use std::collections::HashMap;

use depin_domain::{
    ids::{DeviceId, Digest},
    time::Timestamp,
};

/// A device that this agent relays for, or once did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relayed {
    /// Its id.
    pub id: DeviceId,
    /// Name of its model.
    pub model: String,
    /// First moment at which it is no longer this agent's; `Timestamp::MAX`: it is.
    pub until: Timestamp,
}

/// What the sealer knows from the configuration.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// By serial, ascending by the end of their time here: what a device left in the spool when it moved is still its own, also
    /// where another one has its serial now.
    devices: HashMap<String, Vec<Relayed>>,
    /// Name and reorder horizon of every model, by digest.
    pub models: HashMap<Digest, (String, i64)>,
}

impl View {
    /// Without devices.
    #[must_use]
    pub fn new(models: HashMap<Digest, (String, i64)>) -> Self {
        Self { devices: HashMap::new(), models }
    }

    /// Adds a device under its serial.
    pub fn insert(&mut self, serial: String, device: Relayed) {
        let known = self.devices.entry(serial).or_default();
        let place = known.partition_point(|other| other.until <= device.until);
        known.insert(place, device);
    }

    /// The device that a reading of this serial and time belongs to.
    #[must_use]
    pub fn device(&self, serial: &str, at: Timestamp) -> Option<&Relayed> {
        self.devices.get(serial)?.iter().find(|device| at < device.until)
    }

    /// Whether the serial is that of a device which this agent relays for now.
    #[must_use]
    pub fn approves(&self, serial: &str) -> bool {
        self.devices.get(serial).is_some_and(|known| known.iter().any(|device| device.until == Timestamp::MAX))
    }

    /// Serials of all devices that this agent relays for now.
    pub fn approved(&self) -> impl Iterator<Item = &String> {
        self.devices.keys().filter(|serial| self.approves(serial))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_names_the_device_that_had_it_then() {
        let relayed = |name: &str, until| Relayed { id: DeviceId::of("ns", name), model: "meter".to_owned(), until };
        let mut view = View::default();
        view.insert("s".to_owned(), relayed("new", Timestamp::MAX));
        view.insert("s".to_owned(), relayed("old", Timestamp(10)));
        view.insert("gone".to_owned(), relayed("gone", Timestamp(20)));
        let device = |serial, at| view.device(serial, Timestamp(at)).map(|device| device.id);
        assert_eq!(device("s", 9), Some(DeviceId::of("ns", "old")));
        assert_eq!(device("s", 10), Some(DeviceId::of("ns", "new")));
        assert_eq!((device("gone", 19), device("gone", 20)), (Some(DeviceId::of("ns", "gone")), None));
        assert!(view.approves("s") && !view.approves("gone") && !view.approves("other"));
        assert_eq!(view.approved().collect::<Vec<_>>(), ["s"]);
    }
}
