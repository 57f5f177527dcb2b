//! The form of single fields: names, ids, serials, keys, shares, places.

use std::collections::BTreeSet;

use super::{Checked, invalid, require};
use crate::{
    ids::{Algorithm, PublicKey},
    registry::DeviceEntry,
};

const MAX_NAME: usize = 253;
const MAX_SERIAL: usize = 128;
const MAX_SHARES: usize = 64;
const BASIS_POINTS: u64 = 10_000;

pub(super) fn check_named(namespace: &str, name: &str) -> Checked {
    check_name("namespace", namespace)?;
    check_name("name", name)
}

pub(super) fn check_id(field: &str, id: &str) -> Checked {
    let parts = id.split_once('/').filter(|(_, name)| !name.contains('/'));
    let (namespace, name) = parts.ok_or_else(|| {
        invalid(field, format!("{:?} is not namespace/name", clip(id)), "give both, joined by a slash")
    })?;
    check_name(field, namespace)?;
    check_name(field, name)
}

pub(super) fn check_name(field: &str, name: &str) -> Checked {
    let good = (1..=MAX_NAME).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.');
    require(good, || {
        let reason = format!("{:?} is not a Kubernetes name", clip(name));
        invalid(field, reason, "use at most 253 lower-case letters, digits, dashes and dots")
    })
}

pub(super) fn check_serial(serial: &str) -> Checked {
    let good = (1..=MAX_SERIAL).contains(&serial.len()) && !serial.chars().any(char::is_control);
    require(good, || {
        invalid(
            "serial",
            format!("{:?} is not a serial", clip(serial)),
            "use 1 to 128 bytes without control characters",
        )
    })
}

pub(super) fn check_key(field: &str, key: &PublicKey) -> Checked {
    let expected = match key.algorithm {
        Algorithm::Ed25519 => 32,
        Algorithm::P256 => 33,
    };
    require(key.bytes.len() == expected, || {
        let reason = format!("{} bytes are not a {:?} key", key.bytes.len(), key.algorithm);
        invalid(field, reason, format!("give the {expected} bytes of the encoded point"))
    })
}

pub(super) fn check_shares(entry: &DeviceEntry) -> Checked {
    let shares = &entry.shares;
    require(shares.len() <= MAX_SHARES, || {
        invalid("shares", format!("{} are more than {MAX_SHARES}", shares.len()), "pay a contract that splits further")
    })?;
    let mut accounts = BTreeSet::new();
    for (share, index) in shares.iter().zip(0..) {
        let digits = share.account.strip_prefix("0x").unwrap_or_default();
        let good = digits.len() == 40 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        require(good, || {
            let reason = format!("{:?} is not an account", clip(&share.account));
            invalid(format!("shares/{index}/account"), reason, "use 0x and 40 lower-case hexadecimal digits")
        })?;
        require(accounts.insert(&share.account), || {
            invalid(format!("shares/{index}/account"), "stands twice", "add the two parts")
        })?;
    }
    let sum: u64 = shares.iter().map(|share| u64::from(share.basis_points)).sum();
    require(shares.is_empty() || sum == BASIS_POINTS, || {
        invalid("shares", format!("basis points sum to {sum}"), "let them sum to 10000, or give no share")
    })
}

pub(super) fn check_location(entry: &DeviceEntry) -> Checked {
    let Some(location) = &entry.location else { return Ok(()) };
    let good =
        location.latitude_e7.unsigned_abs() <= 900_000_000 && location.longitude_e7.unsigned_abs() <= 1_800_000_000;
    require(good, || {
        let reason = format!("{}, {} is no place", location.latitude_e7, location.longitude_e7);
        invalid("location", reason, "give degrees times 10^7, latitude to ±90 and longitude to ±180")
    })?;
    require(location.cells.len() == 16, || {
        invalid(
            "location/cells",
            format!("{} are not 16", location.cells.len()),
            "give the cells of resolutions 0 to 15",
        )
    })
}

pub(super) fn clip(text: &str) -> String {
    text.chars().take(80).collect()
}
