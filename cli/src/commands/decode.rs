//! `decode`: what an agent would make of a captured message, by a model and without a network.

use std::path::Path;

use depin_agent::codec::{Decoded, Decoder, Limits, Place};
use depin_crds::EdgeDeviceModel;
use depin_domain::{model::Model, time::Timestamp};
use depin_operator::models::validate;
use kube::{Api, ResourceExt as _};
use serde_json::json;

use crate::{
    args::ClusterFlags,
    cluster::Cluster,
    fault::Fault,
    output::{Report, Table, scaled, when},
};

pub(super) async fn run(flags: &ClusterFlags, model: &str, topic: &str, file: &Path) -> Result<Report, Fault> {
    let payload = std::fs::read(file).map_err(|error| Fault::file(file, error))?;
    let resource =
        if Path::new(model).is_file() { from_file(Path::new(model))? } else { from_cluster(flags, model).await? };
    let name = resource.name_any();
    let invalid =
        |error: &dyn std::fmt::Display| Fault::failed(format!("model {name}: {error}"), "correct the EdgeDeviceModel");
    let model = validate::model(&name, &resource.spec).map_err(|error| invalid(&error))?;
    decode(&model, topic, &payload, Timestamp(jiff::Timestamp::now().as_millisecond())).map_err(|error| invalid(&error))
}

fn from_file(path: &Path) -> Result<EdgeDeviceModel, Fault> {
    let text = std::fs::read_to_string(path).map_err(|error| Fault::file(path, error))?;
    // A file may hold a whole network: the first model counts.
    let mut fault = Fault::file(path, "holds no EdgeDeviceModel");
    for document in text.split("\n---") {
        match serde_saphyr::from_str::<EdgeDeviceModel>(document) {
            Ok(model) => return Ok(model),
            Err(error) if document.contains("kind: EdgeDeviceModel") => fault = Fault::file(path, error),
            Err(_) => {}
        }
    }
    Err(fault)
}

async fn from_cluster(flags: &ClusterFlags, name: &str) -> Result<EdgeDeviceModel, Fault> {
    let cluster = Cluster::connect(flags).await?;
    let models: Api<EdgeDeviceModel> = Api::all(cluster.client);
    Ok(models.get(name).await?)
}

fn decode(
    model: &Model,
    topic: &str,
    payload: &[u8],
    received: Timestamp,
) -> Result<Report, depin_domain::canonical::CanonicalError> {
    let (mut decoder, problems) = Decoder::new(&[(model.digest()?, model.clone())], Limits::default());
    let mut decoded = Decoded::default();
    decoder.decode(topic, payload, received, &mut decoded);
    let mut readings = Table::new(["DEVICE", "METRIC", "VALUE", "UNIT", "READING", "AT", "DATED BY"]);
    let (mut values, mut rejected) = (Vec::new(), Vec::new());
    for group in &decoded.groups {
        let serial = decoded.serial(group);
        for reading in decoded.readings_of(group) {
            let Some(metric) = model.metrics.get(usize::from(reading.metric)) else { continue };
            readings.row([
                serial.to_owned(),
                metric.name.clone(),
                scaled(reading.value, metric.scale),
                metric.unit.clone(),
                reading.value.to_string(),
                when(reading.at),
                if group.device_time { "payload" } else { "receipt" }.into(),
            ]);
            values.push(json!({"device": serial, "metric": metric.name, "value": reading.value.to_string(), "at": reading.at, "deviceTime": group.device_time}));
        }
    }
    let mut rejections = Table::new(["REJECTED", "WHERE", "MEANING", "REMEDY"]);
    for rejection in &decoded.rejections {
        let place = match &rejection.place {
            Place::Message => "message".to_owned(),
            Place::Device => "device's name".to_owned(),
            Place::Timestamp => "timestamp".to_owned(),
            Place::Field(path) => format!("field {path}"),
        };
        let reason = rejection.reason;
        rejected.push(json!({"reason": reason.name(), "where": place}));
        rejections.row([reason.name().into(), place, reason.meaning().into(), reason.remedy().into()]);
    }
    let mut text = readings.or("No reading.\n");
    if !rejections.is_empty() {
        text.push_str(&format!("\n{}", rejections.text()));
    }
    for problem in &problems {
        text.push_str(&format!("\nmodel: {problem}\n"));
    }
    let right = rejected.is_empty() && problems.is_empty();
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    Ok(Report { right, ..Report::new(json!({"readings": values, "rejections": rejected, "problems": problems}), text) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: &str = r#"{"name": "meter", "sources": [{"topic": "meters/+/state", "codec": "Json", "device": {"topicSegment": 1},
        "fields": [{"path": "p", "metric": "power"}]}], "metrics": [{"name": "power", "unit": "W", "kind": "gauge", "scale": 1}],
        "cadenceMs": 1000, "reorderHorizonMs": 0}"#;

    #[test]
    fn a_payload_becomes_readings_and_what_does_not_has_its_reason() {
        let model: Model = serde_json::from_str(MODEL).unwrap();
        let report = decode(&model, "meters/a7/state", b"{\"p\": 12.34}", Timestamp(5)).unwrap();
        assert!(report.right && report.text.contains("12.3"), "{}", report.text);
        assert_eq!(report.json["readings"][0]["value"], "123");
        let report = decode(&model, "meters/a7/state", b"{\"p\": \"x\"}", Timestamp(5)).unwrap();
        assert!(!report.right && report.text.contains("NotANumber"), "{}", report.text);
    }
}
