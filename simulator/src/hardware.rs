//! What devices measure. Pure functions of (seed, device, world time); world time is Unix milliseconds that may run faster
//! than the clock.

use std::f64::consts::TAU;

use crate::{
    chance::{drift, fraction, swing},
    decimal::Decimal,
};

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
/// Power is constant over one slot, so that its integral, the counter, is exact.
const SLOT: i64 = 60_000;
/// Where the region lies, in degrees north; its clock is the sun's.
const LATITUDE: f64 = 48.0;
/// The Earth's tilt in degrees.
const TILT: f64 = 23.44;

/// Kinds of virtual devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Smart meters: `energy/meters/SERIAL/telemetry`, JSON.
    Meters,
    /// PV inverters: `energy/pv/SERIAL/senml`, SenML in JSON.
    Pv,
    /// Weather stations: `weather/SERIAL/observation`, JSON.
    Weather,
}

/// How a payload is laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Shape {
    /// `{"ts":…,"NAME":…}`
    #[default]
    Flat,
    /// `{"ts":…,"observation":{"NAME":…}}`
    Observation,
    /// SenML (RFC 8428) in JSON, the serial in the base name.
    Senml,
}

/// One measured value in a payload.
#[derive(Clone, Copy, Debug)]
pub struct Field<'a> {
    /// What it is called there.
    pub name: &'a str,
    /// SenML's unit; other shapes have none.
    pub unit: &'a str,
    /// Its digits.
    pub value: Decimal,
}

impl Kind {
    fn shape(self) -> Shape {
        match self {
            Self::Meters => Shape::Flat,
            Self::Pv => Shape::Senml,
            Self::Weather => Shape::Observation,
        }
    }
}

impl Shape {
    /// The payload's text.
    #[must_use]
    pub fn encode(self, serial: &str, fields: &[Field<'_>], timestamp: i64) -> String {
        let members =
            || fields.iter().map(|field| format!("\"{}\":{}", field.name, field.value)).collect::<Vec<_>>().join(",");
        match self {
            Self::Flat => format!("{{\"ts\":{timestamp},{}}}", members()),
            Self::Observation => format!("{{\"ts\":{timestamp},\"observation\":{{{}}}}}", members()),
            Self::Senml => {
                let base = format!("\"bn\":\"{serial}/\",\"bt\":{},", Decimal::new(timestamp, 3));
                let records: Vec<String> = fields
                    .iter()
                    .enumerate()
                    .map(|(index, Field { name, unit, value })| {
                        let base = if index == 0 { base.as_str() } else { "" };
                        format!("{{{base}\"n\":\"{name}\",\"u\":\"{unit}\",\"v\":{value}}}")
                    })
                    .collect();
                format!("[{}]", records.join(","))
            }
        }
    }
}

fn unit(name: &str) -> &'static str {
    if name == "energy" { "kWh" } else { "W" }
}

/// One device's measurements at one moment, in the order in which its payload holds them.
pub type Sample = Vec<(&'static str, Decimal)>;

/// One virtual device.
#[derive(Clone, Debug)]
pub struct Device {
    kind: Kind,
    seed: u64,
    number: u64,
    serial: String,
    counter: Counter,
}

/// The integral of power over slots. It is a cache: the value depends on seed, device and time alone.
#[derive(Clone, Copy, Debug)]
struct Counter {
    origin: i64,
    slot: i64,
    watt_slots: i64,
}

impl Device {
    /// Device `number` of its kind, whose counters start at world time `origin`.
    #[must_use]
    pub fn new(kind: Kind, prefix: &str, number: u64, seed: u64, origin: i64) -> Self {
        let slot = origin.div_euclid(SLOT);
        let serial = format!("{prefix}{number:04}");
        Self { kind, seed, number, serial, counter: Counter { origin: slot, slot, watt_slots: 0 } }
    }

    /// Its serial number.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Its number, which with the seed makes all its chance.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Where it publishes.
    #[must_use]
    pub fn topic(&self) -> String {
        match self.kind {
            Kind::Meters => format!("energy/meters/{}/telemetry", self.serial),
            Kind::Pv => format!("energy/pv/{}/senml", self.serial),
            Kind::Weather => format!("weather/{}/observation", self.serial),
        }
    }

    /// What it measures at world time `at`.
    pub fn measure(&mut self, at: i64) -> Sample {
        match self.kind {
            Kind::Meters => self.power_and_energy(at, "power_w", "energy_kwh", load),
            Kind::Pv => self.power_and_energy(at, "power", "energy", sun_power),
            Kind::Weather => weather(self.seed, self.number, at),
        }
    }

    /// Its payload for a sample taken at `timestamp` (Unix milliseconds by its own clock).
    #[must_use]
    pub fn payload(&self, sample: &Sample, timestamp: i64) -> String {
        let fields: Vec<Field<'_>> =
            sample.iter().map(|(name, value)| Field { name, unit: unit(name), value: *value }).collect();
        self.kind.shape().encode(&self.serial, &fields, timestamp)
    }

    /// Power in W, and the energy since the origin in kWh to six digits.
    fn power_and_energy(
        &mut self,
        at: i64,
        power: &'static str,
        energy: &'static str,
        watts: fn(u64, u64, i64) -> i64,
    ) -> Sample {
        let slot = at.div_euclid(SLOT);
        let Self { seed, number, counter, .. } = self;
        if slot < counter.slot {
            (counter.slot, counter.watt_slots) = (counter.origin, 0);
        }
        while counter.slot < slot {
            counter.watt_slots += watts(*seed, *number, counter.slot * SLOT);
            counter.slot += 1;
        }
        let now = watts(*seed, *number, slot * SLOT);
        let watt_milliseconds = counter.watt_slots * SLOT + now * at.rem_euclid(SLOT);
        // 1 kWh = 3.6e9 W·ms, and six digits after the point make that 3600 W·ms.
        vec![(power, Decimal::new(now, 0)), (energy, Decimal::new(watt_milliseconds.div_euclid(3600), 6))]
    }
}

/// A household's load in W: a base, a morning and an evening peak, and appliances that come and go.
fn load(seed: u64, number: u64, at: i64) -> i64 {
    let hour = at.rem_euclid(DAY) as f64 / HOUR as f64;
    let size = 0.6 + 0.9 * fraction(seed, &[1, number]);
    let peak = |at: f64, width: f64| (-((hour - at) / width).powi(2)).exp();
    let shape = 180.0 + 650.0 * peak(7.5, 1.3) + 1_300.0 * peak(19.0, 2.2) + 250.0 * peak(12.5, 1.5);
    let flicker = 1.0 + 0.25 * swing(seed, &[2, number, at.div_euclid(SLOT) as u64]);
    let quarter = at.div_euclid(15 * SLOT) as u64;
    let kettle = if fraction(seed, &[3, number, quarter]) < 0.06 { 1_900.0 } else { 0.0 };
    (size * shape * flicker + kettle).round() as i64
}

/// A PV plant's power in W: where the sun stands in the region's sky, and the region's clouds.
fn sun_power(seed: u64, number: u64, at: i64) -> i64 {
    let peak = 3_000.0 + 7_000.0 * fraction(seed, &[4, number]);
    let height = sun_height(at).max(0.0);
    let front = drift(seed, 5, at, 3 * HOUR);
    let own = drift(seed, 1_000 + number, at, 10 * SLOT);
    let clear = (0.72 + 0.28 * front + 0.15 * own).clamp(0.08, 1.0);
    (peak * height.powf(1.15) * clear).round() as i64
}

/// The sine of the sun's height over the region's horizon, by season and hour; below 0 at night.
fn sun_height(at: i64) -> f64 {
    let hour = at.rem_euclid(DAY) as f64 / HOUR as f64;
    let day = at.div_euclid(DAY) as f64;
    // The winter solstice lies ten days before the year's, and the epoch's, beginning.
    let declination = -TILT.to_radians() * (TAU * (day + 10.0) / 365.2425).cos();
    let latitude = LATITUDE.to_radians();
    let noon = (TAU * (hour - 12.0) / 24.0).cos();
    latitude.sin() * declination.sin() + latitude.cos() * declination.cos() * noon
}

/// A station's weather: one region's fronts and day, the station's height, and its sensors' noise.
fn weather(seed: u64, number: u64, at: i64) -> Sample {
    let hour = at.rem_euclid(DAY) as f64 / HOUR as f64;
    let front = drift(seed, 10, at, 9 * HOUR);
    let day = (TAU * (hour - 15.0) / 24.0).cos();
    let place = swing(seed, &[11, number]);
    let noise = |stream: u64| swing(seed, &[stream, number, at as u64]);
    let temperature = 14.0 + 6.0 * day + 5.0 * front + 1.5 * place + 0.1 * noise(12);
    let humidity = (65.0 - 18.0 * day - 12.0 * front + 4.0 * place + 0.5 * noise(13)).clamp(5.0, 100.0);
    let pressure = 1_013.0 + 9.0 * drift(seed, 14, at, 18 * HOUR) - 6.0 * place + 0.05 * noise(15);
    let wind = (4.0 + 3.0 * drift(seed, 16, at, 2 * HOUR) + 1.2 * place + 0.6 * noise(17)).max(0.0);
    vec![
        ("temperature_c", Decimal::nearest(temperature, 2)),
        ("humidity_pct", Decimal::nearest(humidity, 1)),
        ("pressure_hpa", Decimal::nearest(pressure, 1)),
        ("wind_ms", Decimal::nearest(wind, 1)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: i64 = 20_000 * DAY + 12 * HOUR;

    fn value(sample: &Sample, name: &str) -> f64 {
        sample.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string().parse().unwrap()).unwrap()
    }

    #[test]
    fn measurements_depend_on_seed_device_and_time_alone() {
        let fresh = |at| Device::new(Kind::Meters, "meter-", 7, 1, NOON).measure(at);
        let mut walking = Device::new(Kind::Meters, "meter-", 7, 1, NOON);
        for minute in [1, 5, 500, 90] {
            assert_eq!(walking.measure(NOON + minute * SLOT + 17), fresh(NOON + minute * SLOT + 17));
        }
    }

    #[test]
    fn a_counter_is_the_integral_of_its_power() {
        let mut meter = Device::new(Kind::Meters, "meter-", 1, 1, NOON);
        let expected: i64 = (0..60).map(|slot| load(1, 1, NOON + slot * SLOT)).sum();
        let energy = meter.measure(NOON + HOUR)[1].1;
        assert_eq!(energy, Decimal::new(expected * SLOT / 3600, 6));
        let mut last = 0;
        for second in 0..7_200 {
            let now = meter.measure(NOON + second * 1000)[1].1.mantissa;
            assert!(now >= last);
            last = now;
        }
    }

    #[test]
    fn the_sun_stands_higher_in_summer_and_not_at_all_at_night() {
        // 21 June and 21 December 2024, in days since 1970.
        let at = |day: i64, hour: i64| sun_height(day * DAY + hour * HOUR).asin().to_degrees();
        let (summer, winter) = (19_895, 20_078);
        // At noon it stands at 90° less the latitude, more or less the Earth's tilt.
        assert!((at(summer, 12) - (90.0 - LATITUDE + TILT)).abs() < 0.5, "{}", at(summer, 12));
        assert!((at(winter, 12) - (90.0 - LATITUDE - TILT)).abs() < 0.5, "{}", at(winter, 12));
        assert!(at(summer, 5) > 0.0 && at(winter, 6) < 0.0 && at(summer, 0) < 0.0);
    }

    #[test]
    fn the_sun_shines_by_day() {
        let mut plant = Device::new(Kind::Pv, "pv-", 1, 1, NOON);
        assert!(value(&plant.measure(NOON), "power") > 200.0);
        assert_eq!(value(&plant.measure(NOON + 12 * HOUR), "power"), 0.0);
    }

    #[test]
    fn neighbours_share_their_weather() {
        let at = |number, hour: i64| {
            value(&Device::new(Kind::Weather, "ws-", number, 1, NOON).measure(NOON + hour * HOUR), "temperature_c")
        };
        let swing: Vec<f64> = (0..48).map(|hour| at(1, hour)).collect();
        let span = swing.iter().copied().fold(f64::MIN, f64::max) - swing.iter().copied().fold(f64::MAX, f64::min);
        let apart = (0..48).map(|hour| (at(1, hour) - at(2, hour)).abs()).fold(0.0, f64::max);
        assert!(span > 5.0 && apart < 4.0, "span {span}, apart {apart}");
    }

    #[test]
    fn payloads_are_json_with_exact_digits() {
        for kind in [Kind::Meters, Kind::Pv, Kind::Weather] {
            let mut device = Device::new(kind, "d-", 3, 1, NOON);
            let sample = device.measure(NOON + HOUR);
            let payload = device.payload(&sample, NOON + HOUR);
            let parsed: serde_json::Value = serde_json::from_str(&payload).unwrap();
            assert!(parsed.is_object() || parsed.is_array(), "{payload}");
            assert!(payload.contains(&sample[1].1.to_string()), "{payload}");
        }
    }
}
