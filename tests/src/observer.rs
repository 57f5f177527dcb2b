//! Reads the ledger as an operator would, under a certificate of its own, and tells it as JSON: what the demo shows and what
//! system tests compare.

use std::{
    collections::BTreeMap,
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use depin_domain::{
    ids::DeviceId,
    proofs::{Reading, Reason, Section},
    rewards::Zero,
    time::{Timestamp, Window},
};
use depin_identity::{
    CertificateAuthority, CertificateRequest, KeyAndChain, PeerIdentity, SigningKey, Trust, certificates,
    client_config, connect_lazy,
};
use depin_proto::{
    envelope::decode_section,
    v1::{self, ledger_client::LedgerClient},
};
use serde_json::{Map, Value, json};
use tonic::transport::Channel;

use crate::Stack;

/// The observer's certificate lives as long as a test may.
const VALIDITY_MS: i64 = 24 * 3_600_000;
/// Epochs asked for at once.
const PAGE: u32 = 1_000;
/// More than the default, because an epoch's summary of many accounts is large.
const MAX_MESSAGE: usize = 64 << 20;

/// Count and sum by device id in hex and metric.
pub type Sums = BTreeMap<(String, String), (u64, i128)>;

/// A reading that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Whose.
    pub device: DeviceId,
    /// Of which quantity.
    pub metric: String,
    /// When and what.
    pub reading: Reading,
}

/// A connection to the ledger's port.
#[derive(Clone, Debug)]
pub struct Observer {
    client: LedgerClient<Channel>,
}

impl Observer {
    /// Connects to `https://HOST:PORT` with a certificate that the authority (certificate and key in PEM) issues at `now`.
    ///
    /// # Errors
    /// When the authority or the address is malformed.
    pub fn connect(address: &str, certificate: &str, key: &str, now: Timestamp) -> Result<Self> {
        let authority = CertificateAuthority::from_pem(certificate, key)?;
        let own = SigningKey::generate()?;
        let request = CertificateRequest::from_der(&CertificateRequest::make(&own)?)?;
        let validity = Window { start: Timestamp(now.0 - 60_000), end: Timestamp(now.0 + VALIDITY_MS) };
        let leaf = authority.issue(&request, &PeerIdentity::Operator, &[], validity)?;
        let identity = KeyAndChain { key: own, chain: certificates::certificates(&leaf)? };
        let trust = Trust::Bundle(vec![authority.certificate().clone()]);
        let (channel, _) = connect_lazy(address, client_config(&trust, Some(&identity))?)?;
        Ok(Self { client: LedgerClient::new(channel).max_decoding_message_size(MAX_MESSAGE) })
    }

    /// Connects to the ledger of `stack` as its authority admits.
    ///
    /// # Errors
    /// When the authority's files cannot be read.
    pub fn of(stack: &Stack) -> Result<Self> {
        let read = |name: &str| {
            let path = stack.authority().join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
        let now = Timestamp(i64::try_from(now.as_millis())?);
        Self::connect(&stack.ledger(), &read("tls.crt")?, &read("tls.key")?, now)
    }

    /// The connection, for what no observer asks.
    #[must_use]
    pub fn into_client(self) -> LedgerClient<Channel> {
        self.client
    }

    /// `{"accepted":n,"rejected":{REASON:n},"refused":{REASON:n},"proofs":n}` since the ledger was made.
    ///
    /// # Errors
    /// When the ledger does not answer.
    pub async fn readings(&mut self) -> Result<Value> {
        let info = self.client.get_info(v1::GetInfoRequest {}).await?.into_inner();
        Ok(json!({
            "accepted": info.readings_accepted,
            "rejected": by_reason(&info.readings_rejected),
            "refused": by_reason(&info.proofs_refused),
            "proofs": info.proofs,
        }))
    }

    /// The summaries of a program's computed epochs, oldest first.
    ///
    /// # Errors
    /// When the ledger does not answer, or with something that is no summary.
    pub async fn epochs(&mut self, program: &str) -> Result<Vec<Value>> {
        let request = v1::ListEpochsRequest { program: program.to_owned(), from_number: 0, limit: PAGE };
        let entries = self.client.list_epochs(request).await?.into_inner().epochs;
        let computed = entries.iter().filter(|entry| !entry.summary.is_empty());
        computed.map(|entry| serde_json::from_slice(&entry.summary).context("an epoch's summary is not JSON")).collect()
    }

    /// How each epoch of a program was closed, oldest first: also one that is not computed yet.
    ///
    /// # Errors
    /// When the ledger does not answer.
    pub async fn closes(&mut self, program: &str) -> Result<Vec<v1::EpochClose>> {
        let request = v1::ListEpochsRequest { program: program.to_owned(), from_number: 0, limit: PAGE };
        let entries = self.client.list_epochs(request).await?.into_inner().epochs;
        Ok(entries.into_iter().filter_map(|entry| entry.close).collect())
    }

    /// The devices' lines of one epoch; each reason for a zero with its meaning and remedy.
    ///
    /// # Errors
    /// When the ledger does not answer, or with something that is no line.
    pub async fn lines(&mut self, program: &str, number: u64) -> Result<Vec<Value>> {
        let request = v1::ReadEpochRequest {
            program: program.to_owned(),
            number,
            lines: true,
            ..v1::ReadEpochRequest::default()
        };
        let mut pages = self.client.read_epoch(request).await?.into_inner();
        let mut lines = Vec::new();
        while let Some(page) = pages.message().await? {
            if let Some(v1::epoch_page::Message::Lines(page)) = page.message {
                for line in page.lines {
                    lines.push(explained(serde_json::from_slice(&line).context("a device's line is not JSON")?));
                }
            }
        }
        Ok(lines)
    }

    /// Readings that count in an epoch, frozen at its close: count and exact sum by device (id in hex) and metric.
    ///
    /// # Errors
    /// When the ledger does not answer, or with a sum that is no number.
    pub async fn statistics(&mut self, program: &str, number: u64) -> Result<Sums> {
        let request = v1::ReadStatisticsRequest { program: program.to_owned(), number, of_number: number };
        let mut pages = self.client.read_statistics(request).await?.into_inner();
        let mut sums = Sums::new();
        while let Some(page) = pages.message().await? {
            for grain in page.statistics {
                let sum: i128 = grain.sum.parse().context("a grain's sum is no number")?;
                let entry = sums.entry((hex::encode(&grain.device_id), grain.metric)).or_default();
                entry.0 += grain.count;
                entry.1 += sum;
            }
        }
        Ok(sums)
    }

    /// The readings that count of all proofs after a position of the log, in its order, and the newest position.
    ///
    /// # Errors
    /// When the ledger does not answer, or with something that is no proof.
    pub async fn accepted_after(&mut self, position: u64) -> Result<(u64, Vec<Accepted>)> {
        let (mut newest, mut accepted) = (position, Vec::new());
        let mut scanned_to = position;
        loop {
            let request = v1::ReadProofsRequest { after_position: scanned_to, ..v1::ReadProofsRequest::default() };
            let mut records = self.client.read_proofs(request).await?.into_inner();
            let mut ended = true;
            while let Some(record) = records.message().await? {
                if record.scanned_to > 0 {
                    (scanned_to, ended) = (record.scanned_to, false);
                    continue;
                }
                newest = record.position;
                let (proof, verdict) = (record.proof.context("no proof")?, record.verdict.context("no verdict")?);
                let before = accepted.len();
                for (index, section) in proof.sections.iter().enumerate() {
                    accepted_of(index, &decode_section(section)?, &verdict.rejections, &mut accepted);
                }
                ensure!((accepted.len() - before) as u64 == verdict.accepted, "the verdict at {newest} miscounts");
            }
            if ended {
                break;
            }
        }
        Ok((newest, accepted))
    }

    /// When each device was last heard, what was accepted and rejected of it, by device id in hex.
    ///
    /// # Errors
    /// When the ledger does not answer.
    pub async fn presence(&mut self) -> Result<Map<String, Value>> {
        let mut pages = self.client.read_presence(v1::ReadPresenceRequest {}).await?.into_inner();
        let mut devices = Map::new();
        while let Some(page) = pages.message().await? {
            for device in page.devices {
                let presence = json!({
                    "lastReading": device.last_reading, "accepted": device.accepted, "rejected": device.rejected,
                });
                devices.insert(hex::encode(&device.device_id), presence);
            }
        }
        Ok(devices)
    }
}

/// What the verdict leaves of a section.
fn accepted_of(index: usize, section: &Section, rejections: &[v1::Rejection], accepted: &mut Vec<Accepted>) {
    let mine: Vec<_> = rejections.iter().filter(|rejection| rejection.section as usize == index).collect();
    for (number, series) in section.series.iter().enumerate() {
        let rejected = |reading: usize| {
            mine.iter().any(|rejection| {
                rejection.series.is_none_or(|series| series as usize == number)
                    && (rejection.readings.is_empty()
                        || rejection.readings.iter().any(|known| *known as usize == reading))
            })
        };
        let readings = series.readings.iter().enumerate().filter(|(place, _)| !rejected(*place));
        accepted.extend(readings.map(|(_, reading)| Accepted {
            device: section.device,
            metric: series.metric.clone(),
            reading: *reading,
        }));
    }
}

/// Adds to each reason of a line what it means and what to do.
fn explained(mut line: Value) -> Value {
    for reason in line.get_mut("reasons").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Ok(zero) = serde_json::from_value::<Zero>(reason.clone()) {
            reason["text"] = format!("{}: {} {}", zero.label(), zero.reason.meaning(), zero.reason.remedy()).into();
        }
    }
    line
}

fn by_reason(counts: &[v1::DropCount]) -> Map<String, Value> {
    let name = |code: u32| {
        let known = u16::try_from(code).ok().and_then(Reason::from_code);
        known.map_or_else(|| format!("Reason{code}"), |reason| reason.name().to_owned())
    };
    counts.iter().map(|count| (name(count.reason), count.count.into())).collect()
}
