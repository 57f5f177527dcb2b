//! The two recorded networks: where their data and manifests are, and which columns must become which metrics.

use std::path::PathBuf;

use depin_tests::workspace;

use crate::direct::{Column, File, plain};

/// A namespace with its recordings.
pub(crate) struct Network {
    pub(crate) namespace: &'static str,
    pub(crate) agent: &'static str,
    pub(crate) files: Vec<File>,
}

impl Network {
    /// The folder of mapping and manifests.
    pub(crate) fn folder(&self) -> PathBuf {
        workspace().join("tests/recordings").join(self.namespace)
    }
}

/// A column in another unit than its metric.
fn converted(column: Column, factor: (i128, i128), offset: i128) -> Column {
    Column { factor, offset, ..column }
}

fn file(name: &'static str, device: Option<&'static str>, prefix: &'static str, columns: Vec<Column>) -> File {
    File { name, device, prefix, columns }
}

/// A recorded consumption in kWh that the home's meter counts in W.h, three digits.
fn counter(name: &'static str, metric: &'static str) -> Column {
    Column { accumulate: true, ..converted(plain(name, metric, 3, (0, i64::MAX)), (1_000, 1), 0) }
}

pub(crate) fn energy() -> Network {
    let power = |name| plain(name, "power", 2, (-10_000, 25_000_000));
    let ambient = |name| plain(name, "ambient", 3, (-60_000, 60_000));
    let irradiance = |name| plain(name, "irradiance", 3, (-20_000, 1_500_000));
    let output = |name| plain(name, "output", 9, (0, 1_000_000_000));
    let files = vec![
        file(
            "fontana_17_homes_hourly_8weeks.csv",
            Some("home"),
            "fontana-",
            vec![counter("consumption_kwh", "consumed"), plain("pv_generation_w_per_kw", "yield", 3, (0, 1_000_000))],
        ),
        file(
            "ausgrid_home12_load_pv_30min_2011_2012.csv",
            None,
            "ausgrid-12",
            vec![counter("consumption_kwh", "consumed"), counter("pv_generation_kwh", "generated")],
        ),
        file("pv_nrel_serf_east_15min.csv", None, "serf-east", vec![power("ac_power")]),
        file("pv_system50_15min_2012h1.csv", None, "system-50", vec![power("ac_power_2")]),
        file("pv_nrel_mesa_tracker_15min.csv", None, "mesa", vec![power("ac_power")]),
        file(
            "pv_nrel_serf_west_15min_multichannel.csv",
            None,
            "serf-west",
            vec![power("ac_power__773"), ambient("ambient_temp__780"), irradiance("poa_irradiance__771")],
        ),
        file(
            "pv_nrel_rsf2_15min_multichannel.csv",
            None,
            "rsf2",
            vec![
                converted(power("ac_power_kw_1137"), (1_000, 1), 0),
                ambient("ambient_temp__1053"),
                irradiance("poa_irradiance__1055"),
            ],
        ),
        file("pv_inverter_2173_15min.csv", None, "inverter-2173", vec![output("value_normalized")]),
        file("pv_inverter_7539_15min.csv", None, "inverter-7539", vec![output("value_with_outliers")]),
    ];
    Network { namespace: "energy", agent: "home", files }
}

pub(crate) fn weather() -> Network {
    let celsius = |name, metric| plain(name, metric, 1, (-600, 600));
    let pollutant = |name, metric, max| plain(name, metric, 0, (0, max));
    // From degrees Fahrenheit, two digits.
    let fahrenheit = |name, metric| converted(plain(name, metric, 2, (-6_000, 6_000)), (5, 9), -32);
    let city = vec![
        celsius("temp_c", "temperature"),
        celsius("dewpoint_c", "dewpoint"),
        plain("pressure_hpa", "pressure", 1, (8_500, 10_900)),
        plain("rain_mm", "rain", 1, (0, 4_000)),
        plain("wind_speed_ms", "wind", 1, (0, 1_150)),
        pollutant("pm2_5_ugm3", "pm2_5", 2_000),
        pollutant("pm10_ugm3", "pm10", 5_000),
        pollutant("so2_ugm3", "so2", 2_000),
        pollutant("no2_ugm3", "no2", 2_000),
        pollutant("co_ugm3", "co", 20_000),
        pollutant("o3_ugm3", "o3", 2_000),
    ];
    let airports = vec![
        fahrenheit("temp_f", "temperature"),
        fahrenheit("dewpoint_f", "dewpoint"),
        plain("humidity_pct", "humidity", 2, (0, 10_000)),
        // A mile is 1609.344 m, an hour 3600 s, an inch 25.4 mm.
        converted(plain("wind_speed_mph", "wind", 3, (0, 115_000)), (1_609_344, 3_600_000), 0),
        converted(plain("precip_in", "rain", 2, (0, 40_000)), (254, 10), 0),
        converted(plain("pressure_hpa", "pressure", 0, (85_000, 109_000)), (100, 1), 0),
        converted(plain("visibility_mi", "visibility", 1, (0, 1_000_000)), (1_609_344, 1_000), 0),
    ];
    let files = vec![
        file("beijing_12_stations_hourly_2016-06_07.csv", Some("station"), "beijing-", city),
        file("nyc_3_airports_hourly_2013-01_02.csv", Some("station"), "nyc-", airports),
    ];
    Network { namespace: "weather", agent: "field", files }
}
