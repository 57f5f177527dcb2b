//! How hardware misbehaves, by the same pure chance as everything else here.

use clap::Args;

use crate::chance::fraction;

/// Messages for which a value sticks.
const STUCK: u64 = 10;

/// How often each fault strikes: the share of messages, 0 to 1.
#[derive(Args, Clone, Copy, Debug, Default)]
#[command(next_help_heading = "Faults (share of messages, 0 to 1)")]
pub struct Faults {
    /// The message is sent a second time under another packet id
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub duplicates: f64,
    /// The message is held back until after the device's next one
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub reordering: f64,
    /// The message carries a timestamp that is wrong by --skew-ms
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub skewed: f64,
    /// By how much a skewed timestamp is wrong, in milliseconds
    #[arg(long, default_value_t = 86_400_000, allow_negative_numbers = true, value_name = "MS")]
    pub skew_ms: i64,
    /// The first value sticks where it is, for ten messages
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub stuck: f64,
    /// The first value is impossible: minus 10^12
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub impossible: f64,
    /// The payload is damaged so that no codec can read it
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub tampering: f64,
    /// The connection is cut right after the message, without a goodbye
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub disconnects: f64,
}

/// What befalls one message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Struck {
    /// Sent twice.
    pub duplicate: bool,
    /// Sent after its successor.
    pub reorder: bool,
    /// Wrong time.
    pub skew: bool,
    /// The value of the first message of this span.
    pub stuck: bool,
    /// Impossible value.
    pub impossible: bool,
    /// Unreadable.
    pub tamper: bool,
    /// Connection cut afterwards.
    pub disconnect: bool,
}

impl Faults {
    /// What befalls the device's message with this index.
    #[must_use]
    pub fn strike(&self, seed: u64, device: u64, index: u64) -> Struck {
        let hits =
            |stream: u64, share: f64, index: u64| share > 0.0 && fraction(seed, &[stream, device, index]) < share;
        let hit = |stream: u64, share: f64| hits(stream, share, index);
        Struck {
            duplicate: hit(101, self.duplicates),
            reorder: hit(102, self.reordering),
            skew: hit(103, self.skewed),
            stuck: (index.saturating_sub(STUCK - 1)..=index).any(|begin| hits(104, self.stuck, begin)),
            impossible: hit(105, self.impossible),
            tamper: hit(106, self.tampering),
            disconnect: hit(107, self.disconnects),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_strike_about_as_often_as_asked_and_repeatably() {
        let faults = Faults { duplicates: 0.1, ..Faults::default() };
        let struck = |seed| (0..10_000).filter(|index| faults.strike(seed, 1, *index).duplicate).count();
        assert!((800..1_200).contains(&struck(1)), "{}", struck(1));
        assert_eq!(struck(1), struck(1));
        assert_eq!(Faults::default().strike(1, 1, 1), Struck::default());
    }
}
