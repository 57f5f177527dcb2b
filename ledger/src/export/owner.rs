//! An owner's export: the epoch's public lines, and beside them what was signed about this owner's devices, and of nobody else's.
//!
//! From the signed sections follow the features of the owner's devices; which of the public lines are theirs is told; and from the public
//! lines follow weights, amounts and root. So an owner proves his amount from first reading to root without seeing a neighbour's readings.

use std::collections::BTreeSet;

use depin_domain::{ids::DeviceId, rewards::Account};
use serde_json::json;

use super::{
    Chunks, Source,
    audit::send_registry,
    json_of, public,
    sections::{Part, send_marks, send_sections},
    send, send_manifest,
    table::{self, Column},
};
use crate::error::LedgerError;

pub(crate) const FORMAT: &str = "depin.v1.OwnerExport";

const DEVICES: &str = "message device {
    required binary device (UTF8);
    required binary pseudonym (UTF8);
}";

pub(crate) fn write(source: &Source, chunks: &Chunks, owner: &Account) -> Result<(), LedgerError> {
    let mut parts = Part::all(source, Some(owner))?;
    let devices: BTreeSet<DeviceId> = parts.iter().flat_map(|part| part.devices.iter().copied()).collect();
    if devices.is_empty() {
        let (program, number) = (&source.close()?.program, source.window()?.number);
        return Err(LedgerError::NotFound(format!("a device of {owner} in epoch {number} of {program}")));
    }
    let (result, digest) = source.result()?;
    let summary = json_of("summary", &result.summary)?;
    let mut files = public::send_files(source, chunks, &result, &summary)?;
    let key = public::pseudonym_key(source)?;
    let text = |id: &DeviceId| id.to_string().into_bytes();
    let columns = [
        Column::Bytes(devices.iter().map(text).collect()),
        Column::Bytes(devices.iter().map(|device| text(&public::pseudonym(&key, device))).collect()),
    ];
    files.push(send(chunks, "devices.parquet", devices.len(), table::write(DEVICES, &columns)?)?);
    let chains = send_sections(source, chunks, &mut parts, true, &mut files)?;
    files.push(send_registry(source, chunks, Some(&devices))?);
    files.push(send_marks(chunks, &parts)?);
    let manifest = json!({
        "format": FORMAT, "owner": owner, "files": files, "chains": chains, "summary": summary, "spec": source.spec()?,
        "resultDigest": digest.to_string(), "matured": source.matured_numbers()?,
    });
    send_manifest(chunks, &manifest)
}
