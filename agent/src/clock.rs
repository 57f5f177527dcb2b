//! The machine's clocks, read in one place and handed to everything else.

use std::{
    fs,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use depin_domain::{ids::Digest, time::Timestamp};

use crate::spool::Stamp;

/// Where time comes from.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Boot, uptime and wall clock now.
    fn now(&self) -> Stamp;
}

/// The machine's own clocks.
#[derive(Debug)]
pub struct SystemClock {
    boot: u64,
    started: std::time::Instant,
}

impl SystemClock {
    /// Learns which boot this is.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let id = fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_else(|_| {
            // Without the kernel's name for the boot, every start of the process counts as one.
            let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
            [nanos.to_le_bytes().as_slice(), &std::process::id().to_le_bytes()].concat()
        });
        let boot = Digest::of(&id).0.iter().take(8).fold(0, |sum, byte| (sum << 8) | u64::from(*byte));
        Arc::new(Self { boot, started: std::time::Instant::now() })
    }

    /// Milliseconds since boot, suspended time included; without a kernel that tells, since the start of the process.
    fn uptime(&self) -> i64 {
        let told = fs::read_to_string("/proc/uptime").ok().and_then(|text| {
            let (seconds, hundredths) = text.split_whitespace().next()?.split_once('.')?;
            Some(seconds.parse::<i64>().ok()? * 1000 + hundredths.parse::<i64>().ok()? * 10)
        });
        told.unwrap_or_else(|| i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX))
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Stamp {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        Stamp { boot: self.boot, uptime: self.uptime(), wall: Timestamp(i64::try_from(wall).unwrap_or(i64::MAX)) }
    }
}
