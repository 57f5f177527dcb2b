//! What happens right now, in one line that is rewritten on a terminal and repeated elsewhere.

use std::{
    io::IsTerminal as _,
    time::{Duration, Instant},
};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::{networks::PROGRAMS, now_ms};
use crate::{
    admin::{http_get, metric},
    cluster::Cluster,
    stack::Stack,
};

/// Without a terminal, lines come this far apart.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Asking API server and ledger costs more than asking the gateway's metrics.
const SLOW_EVERY: Duration = Duration::from_secs(2);

/// The live view.
#[derive(Debug)]
pub struct View {
    bar: Option<ProgressBar>,
    printed: Option<Instant>,
    asked: Option<Instant>,
    readings: Option<(Instant, f64)>,
    rate: f64,
    online: (usize, usize),
    done: usize,
    epochs: Vec<(String, u64)>,
}

impl View {
    /// A view that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { bar, printed: None, asked: None, readings: None, rate: 0.0, online: (0, 0), done: 0, epochs: Vec::new() }
    }

    /// Looks again and shows it. Gives back how many epochs the slowest program has computed.
    ///
    /// # Errors
    /// When cluster or ledger do not answer.
    pub fn update(&mut self, cluster: &Cluster, stack: &Stack) -> Result<usize> {
        if self.asked.is_none_or(|asked| asked.elapsed() >= SLOW_EVERY) {
            self.asked = Some(Instant::now());
            self.online = online(&cluster.get(&["edgedevices", "-A"])?);
            self.epochs = ends(&cluster.get(&["rewardprograms", "-A"])?);
            self.done = computed(&stack.observe(&PROGRAMS, false)?);
        }
        if let Ok(text) = http_get(&stack.gateway_admin(), "/metrics") {
            self.measure(metric(&text, "depin_readings_total{result=\"accepted\""));
        }
        let now = now_ms()?;
        let countdown: Vec<String> = self
            .epochs
            .iter()
            .map(|(program, end)| format!("{program} {} s", end.saturating_sub(now) / 1000))
            .collect();
        self.show(&format!(
            "devices online {}/{} · readings/s {:.1} · epoch ends in: {} · epochs computed {}",
            self.online.0,
            self.online.1,
            self.rate,
            countdown.join(", "),
            self.done
        ));
        Ok(self.done)
    }

    /// Takes the view off the terminal.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// Accepted readings a second, smoothed over a few looks.
    fn measure(&mut self, total: f64) {
        let now = Instant::now();
        if let Some((then, before)) = self.readings.replace((now, total)) {
            let rate = (total - before) / now.duration_since(then).as_secs_f64().max(0.001);
            self.rate = 0.7 * self.rate + 0.3 * rate;
        }
    }

    fn show(&mut self, line: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(line.to_owned()),
            None if self.printed.is_none_or(|printed| printed.elapsed() >= LINE_EVERY) => {
                self.printed = Some(Instant::now());
                eprintln!("{line}");
            }
            None => {}
        }
    }
}

impl Default for View {
    fn default() -> Self {
        Self::new()
    }
}

/// Devices that are online, and all.
fn online(devices: &Value) -> (usize, usize) {
    let items = devices["items"].as_array().map_or(&[][..], Vec::as_slice);
    (items.iter().filter(|device| condition(device, "Online")).count(), items.len())
}

/// Whether an object's condition is true.
#[must_use]
pub fn condition(object: &Value, name: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == name && condition["status"] == "True")
}

/// Each program's name and the end of its current epoch, in Unix milliseconds.
fn ends(programs: &Value) -> Vec<(String, u64)> {
    let now = now_ms().unwrap_or(0);
    let items = programs["items"].as_array().into_iter().flatten();
    items
        .filter_map(|program| {
            let name = program["metadata"]["name"].as_str()?.to_owned();
            let length = milliseconds(program["spec"]["epoch"]["length"].as_str()?)?;
            let genesis = unix_ms(program["spec"]["epoch"]["genesis"].as_str()?)?;
            let passed = now.saturating_sub(genesis) / length;
            Some((name, genesis + (passed + 1) * length))
        })
        .collect()
}

/// Epochs that the slowest program has computed.
fn computed(observed: &Value) -> usize {
    let of = |program: &str| {
        let epochs = observed["epochs"].as_array().into_iter().flatten();
        epochs.filter(|epoch| epoch["summary"]["program"] == program).count()
    };
    PROGRAMS.iter().map(|program| of(program)).min().unwrap_or(0)
}

/// `1h30m20s` and the like.
fn milliseconds(text: &str) -> Option<u64> {
    let (mut total, mut digits, mut unit) = (0, String::new(), String::new());
    for character in text.chars().chain(['0']) {
        if character.is_ascii_digit() {
            if !unit.is_empty() {
                let factor = match std::mem::take(&mut unit).as_str() {
                    "ms" => 1,
                    "s" => 1_000,
                    "m" => 60_000,
                    "h" => 3_600_000,
                    _ => return None,
                };
                total += std::mem::take(&mut digits).parse::<u64>().ok()? * factor;
            }
            digits.push(character);
        } else {
            unit.push(character);
        }
    }
    (total > 0).then_some(total)
}

/// `YYYY-MM-DDTHH:MM:SSZ` in Unix milliseconds (Howard Hinnant's days_from_civil).
fn unix_ms(text: &str) -> Option<u64> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<u64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year / 400, year % 400);
    let shifted = if month > 2 { month - 3 } else { month + 9 };
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + (153 * shifted + 2) / 5 + day - 1;
    let days = (era * 146_097 + day_of_era).checked_sub(719_468)?;
    let seconds = number(11, 13)? * 3_600 + number(14, 16)? * 60 + number(17, 19)?;
    Some((days * 86_400 + seconds) * 1000)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn durations_and_times_are_read() {
        assert_eq!(milliseconds("20s"), Some(20_000));
        assert_eq!(milliseconds("1h30m"), Some(5_400_000));
        assert_eq!(milliseconds("250ms"), Some(250));
        assert_eq!(milliseconds("soon"), None);
        assert_eq!(unix_ms("2026-11-22T21:30:00Z"), Some(1_795_383_000_000));
        assert_eq!(unix_ms("2000-02-29T00:00:00Z"), Some(951_782_400_000));
    }

    #[test]
    fn online_devices_are_counted() {
        let device = |status: &str| json!({"status": {"conditions": [{"type": "Online", "status": status}]}});
        assert_eq!(online(&json!({"items": [device("True"), device("False"), {}]})), (1, 3));
    }

    #[test]
    fn the_slowest_program_counts() {
        let epoch = |program: &str| json!({"summary": {"program": program}});
        let observed = json!({"epochs": [epoch(PROGRAMS[0]), epoch(PROGRAMS[0]), epoch(PROGRAMS[1])]});
        assert_eq!(computed(&observed), 1);
    }
}
