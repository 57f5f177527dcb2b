//! Figures of several runs: medians and spread.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// All runs by the measurement's name, each a flat object of figures.
#[derive(Clone, Debug, Default)]
pub struct Runs(BTreeMap<String, Vec<Map<String, Value>>>);

/// Least, median and greatest of one figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Least.
    pub least: f64,
    /// Median: of an even number the mean of the two in the middle.
    pub median: f64,
    /// Greatest.
    pub greatest: f64,
    /// How many runs.
    pub runs: usize,
}

impl Spread {
    /// Of these values; none without one.
    #[must_use]
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (least, greatest) = (*values.first()?, *values.last()?);
        let middle = values.get((values.len() - 1) / 2)? + values.get(values.len() / 2)?;
        Some(Self { least, median: middle / 2.0, greatest, runs: values.len() })
    }
}

impl Runs {
    /// Forgets what this measurement had before.
    pub fn begin(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// One more run.
    pub fn add(&mut self, name: &str, figures: Map<String, Value>) {
        self.0.entry(name.to_owned()).or_default().push(figures);
    }

    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names that begin so, in order.
    pub fn names<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.keys().map(String::as_str).filter(move |name| name.starts_with(prefix))
    }

    /// One figure of all runs of a measurement.
    #[must_use]
    pub fn spread(&self, name: &str, figure: &str) -> Option<Spread> {
        Spread::of(self.0.get(name)?.iter().filter_map(|run| run.get(figure)?.as_f64()).collect())
    }

    /// A figure's text of the first run that has it.
    #[must_use]
    pub fn text(&self, name: &str, figure: &str) -> Option<String> {
        let value = self.0.get(name)?.iter().find_map(|run| run.get(figure))?;
        Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    }

    /// As JSON, every run with every figure.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!(self.0)
    }

    /// Back from JSON; what is no run is left out.
    #[must_use]
    pub fn from_json(value: &Value) -> Self {
        let of =
            |runs: &Value| runs.as_array().into_iter().flatten().filter_map(|run| run.as_object().cloned()).collect();
        Self(value.as_object().into_iter().flatten().map(|(name, runs)| (name.clone(), of(runs))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(Spread::of(vec![]), None);
        assert_eq!(Spread::of(vec![3.0, 1.0, 2.0]), Some(Spread { least: 1.0, median: 2.0, greatest: 3.0, runs: 3 }));
        assert_eq!(Spread::of(vec![4.0, 1.0]).map(|spread| spread.median), Some(2.5));
    }

    #[test]
    fn runs_survive_json() {
        let mut runs = Runs::default();
        for rate in [1, 5, 3] {
            let figures = json!({ "rate": rate, "what": "x" });
            runs.add("a", figures.as_object().cloned().unwrap_or_default());
        }
        let again = Runs::from_json(&runs.to_json());
        assert_eq!(again.spread("a", "rate").map(|spread| (spread.median, spread.runs)), Some((3.0, 3)));
        assert_eq!(again.text("a", "what").as_deref(), Some("x"));
        assert_eq!(again.spread("a", "none"), None);
    }
}
