//! Figures of several runs: medians and spread.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// All runs by the measurement's name, each a flat object of figures.
#[derive(Clone, Debug, Default)]
pub struct Runs {
    all: BTreeMap<String, Vec<Map<String, Value>>>,
    /// What is written beside the figures of every new run: which code, and when.
    stamp: Map<String, Value>,
}

/// Figures that say which code a run was of, and when.
pub const STAMP: [&str; 2] = ["commit", "date"];

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
        self.all.remove(name);
    }

    /// From now on, runs are of this code and day; those before, where they do not say it, of `earlier`.
    pub fn stamp(&mut self, facts: &Map<String, Value>, earlier: &Map<String, Value>) {
        let of = |facts: &Map<String, Value>| -> Map<String, Value> {
            STAMP.iter().filter_map(|name| Some(((*name).to_owned(), facts.get(*name)?.clone()))).collect()
        };
        for run in self.all.values_mut().flatten() {
            for (name, value) in of(earlier) {
                run.entry(name).or_insert(value);
            }
        }
        self.stamp = of(facts);
    }

    /// One more run.
    pub fn add(&mut self, name: &str, mut figures: Map<String, Value>) {
        figures.extend(self.stamp.clone());
        self.all.entry(name.to_owned()).or_default().push(figures);
    }

    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Names that begin so, in order.
    pub fn names<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        self.all.keys().map(String::as_str).filter(move |name| name.starts_with(prefix))
    }

    /// One figure of all runs of a measurement.
    #[must_use]
    pub fn spread(&self, name: &str, figure: &str) -> Option<Spread> {
        Spread::of(self.all.get(name)?.iter().filter_map(|run| run.get(figure)?.as_f64()).collect())
    }

    /// The sum of one figure over several measurements, each run of one with the same run of the others.
    #[must_use]
    pub fn sum(&self, names: &[&str], figure: &str) -> Option<Spread> {
        let of = |name: &&str| -> Option<Vec<f64>> {
            Some(self.all.get(*name)?.iter().filter_map(|run| run.get(figure)?.as_f64()).collect())
        };
        let all = names.iter().map(of).collect::<Option<Vec<_>>>()?;
        let runs = all.iter().map(Vec::len).min()?;
        Spread::of((0..runs).map(|run| all.iter().filter_map(|values| values.get(run)).sum()).collect())
    }

    /// A figure's text of the first run that has it.
    #[must_use]
    pub fn text(&self, name: &str, figure: &str) -> Option<String> {
        let value = self.all.get(name)?.iter().find_map(|run| run.get(figure))?;
        Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    }

    /// As JSON, every run with every figure.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!(self.all)
    }

    /// Back from JSON; what is no run is left out.
    #[must_use]
    pub fn from_json(value: &Value) -> Self {
        let of =
            |runs: &Value| runs.as_array().into_iter().flatten().filter_map(|run| run.as_object().cloned()).collect();
        let all = value.as_object().into_iter().flatten().map(|(name, runs)| (name.clone(), of(runs))).collect();
        Self { all, stamp: Map::new() }
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
    fn several_steps_are_summed_run_by_run() {
        let mut runs = Runs::default();
        for (name, seconds) in [("scan", 3.0), ("scan", 1.0), ("compute", 10.0), ("compute", 20.0), ("compute", 99.0)] {
            runs.add(name, json!({ "seconds": seconds }).as_object().cloned().unwrap_or_default());
        }
        let sum = runs.sum(&["scan", "compute"], "seconds");
        assert_eq!(sum, Some(Spread { least: 13.0, median: 17.0, greatest: 21.0, runs: 2 }));
        assert_eq!(runs.sum(&["scan", "none"], "seconds"), None);
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
