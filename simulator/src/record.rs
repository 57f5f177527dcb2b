//! What a run keeps of what happened: the counts, and where wanted each acknowledged message, for tests that compare reading by
//! reading.

use std::{
    fs::File,
    io::{self, BufWriter, Write as _},
    path::Path,
};

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::{plan::Message, report::Report};

/// Counts and journal of one run.
#[derive(Debug, Default)]
pub struct Record {
    report: Report,
    journal: Option<BufWriter<File>>,
    /// Why the journal is no longer complete.
    broken: Option<io::Error>,
}

impl Record {
    /// Counts from `report` on; acknowledged messages are appended to the file `journal`.
    ///
    /// # Errors
    /// When the journal cannot be opened.
    pub fn new(report: Report, journal: Option<&Path>) -> Result<Self> {
        let open = |path: &Path| {
            let file = File::options().create(true).append(true).open(path);
            file.with_context(|| format!("cannot append to {}", path.display())).map(BufWriter::new)
        };
        Ok(Self { report, journal: journal.map(open).transpose()?, broken: None })
    }

    /// The counts.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Counts a message that is sent for the first time.
    pub fn published(&mut self, message: &Message) {
        self.report.published(message);
    }

    /// Counts a connection after the first.
    pub fn reconnected(&mut self) {
        self.report.reconnects += 1;
    }

    /// Counts acknowledgements that came together, and has them written before anything else is counted.
    pub fn acknowledged(&mut self, messages: &[Message]) {
        messages.iter().for_each(|message| self.report.acknowledged(message));
        let Some(journal) = &mut self.journal else { return };
        let mut write = || {
            for message in messages.iter().filter(|message| !message.values.is_empty()) {
                writeln!(journal, "{}", line(message))?;
            }
            journal.flush()
        };
        if let Err(error) = write() {
            self.broken.get_or_insert(error);
        }
    }

    /// The end of the run.
    ///
    /// # Errors
    /// When the journal is not complete.
    pub fn check(&self) -> Result<()> {
        self.broken
            .as_ref()
            .map_or(Ok(()), |error| anyhow::bail!("the journal of acknowledgements is incomplete: {error}"))
    }
}

/// `{"serial":"meter-0001","at":1795383000000,"values":{"power_w":[4217,1]}}`, each value as digits and scale.
fn line(message: &Message) -> serde_json::Value {
    let values = message.values.iter();
    let values: serde_json::Map<_, _> =
        values.map(|(name, value)| (name.to_string(), json!([value.mantissa, value.scale]))).collect();
    json!({ "serial": *message.serial, "at": message.timestamp, "values": values })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{decimal::Decimal, faults::Struck};

    #[test]
    fn what_was_acknowledged_and_counts_stands_in_the_journal() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("acknowledged.jsonl");
        let message = |values: &[(&str, Decimal)]| Message {
            due: 0,
            serial: "m-1".into(),
            topic: "t".to_owned(),
            payload: Vec::new(),
            timestamp: 7,
            values: values.iter().map(|(name, value)| ((*name).into(), *value)).collect(),
            struck: Struck::default(),
            copy: values.is_empty(),
        };
        let mut record = Record::new(Report::default(), Some(&path)).unwrap();
        record.acknowledged(&[message(&[("power_w", Decimal::new(-42, 1))]), message(&[])]);
        record.check().unwrap();
        assert_eq!(record.report().acknowledged, 2);
        let text = std::fs::read_to_string(&path).unwrap();
        let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
        assert_eq!(line, json!({"serial": "m-1", "at": 7, "values": {"power_w": [-42, 1]}}));
    }
}
