//! Invites an agent as a person would with `kubectl depin token create`: a join token, and the EdgeEnrollment that carries its hash.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use sha2::{Digest as _, Sha256};

use crate::{cluster::Cluster, stack::NAMESPACE};

/// Makes a join token and the EdgeEnrollment that carries its hash; gives back the token.
///
/// # Errors
/// When the API server refuses or the operator has not published its authority.
pub fn invite(cluster: &Cluster, namespace: &str, agent: &str, fleets: &[&str]) -> Result<String> {
    let jsonpath = "-o=jsonpath={.data.sha256}";
    let ca = cluster.kubectl(&["get", "configmap", "depin-ca", "-n", NAMESPACE, jsonpath])?;
    let secret = crate::random()?;
    let hash = hex::encode(Sha256::digest(secret));
    let expires = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 3_600;
    let fleets: Vec<String> = fleets.iter().map(|fleet| format!("{fleet:?}")).collect();
    cluster.apply(&format!(
        "apiVersion: depin.dev/v1alpha1\nkind: EdgeEnrollment\nmetadata: {{name: join-{agent}, namespace: {namespace}}}\n\
         spec: {{token: {{sha256: \"{hash}\", expiresAt: \"{}\", fleets: [{}], agent: {agent}}}}}\n",
        rfc3339(expires),
        fleets.join(", ")
    ))?;
    Ok(format!("depin1.{}.{}", hex::encode(secret), ca.trim()))
}

/// Seconds since 1970 as `YYYY-MM-DDTHH:MM:SSZ` (Howard Hinnant's civil_from_days).
#[must_use]
pub fn rfc3339(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3_600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_api_reads_them() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_795_383_000), "2026-11-22T21:30:00Z");
    }
}
