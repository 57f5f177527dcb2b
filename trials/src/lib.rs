//! Randomized trials: many rounds of one property from one printed seed.
//!
//! In `cargo xtask test` every suite gets a slice of time; `cargo xtask soak` asks for a number of rounds. A failing round
//! prints the seed and the round that repeat it: `DEPIN_TRIAL_SEED=… DEPIN_TRIAL_FIRST=… cargo test NAME`.

use std::{
    io::Write as _,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

mod postgresql;
mod small_disk;

pub use postgresql::PostgresqlServer;
pub use rand_chacha::ChaCha8Rng as Rng;
pub use rand_core::Rng as RngCore;
use rand_core::SeedableRng;
pub use small_disk::SmallDisk;

/// How often a long run tells how far it is.
const PROGRESS: Duration = Duration::from_secs(15);

/// Whether full counts are asked for, and whatever else takes its time: see [`run`].
#[must_use]
pub fn is_soak() -> bool {
    std::env::var_os("DEPIN_TRIAL_ROUNDS").is_some()
}

/// Runs `round` again and again, each time with a generator of its own made from the seed and the round's number.
///
/// `DEPIN_TRIAL_SEED` (default 1), `DEPIN_TRIAL_ROUNDS` (a number of rounds) or `DEPIN_TRIAL_SECONDS` (a slice of time,
/// default 1; at least one round runs), `DEPIN_TRIAL_FIRST` (the first round's number, default 0).
///
/// # Panics
/// When a round does, after printing how to repeat it.
pub fn run(name: &str, round: impl FnMut(&mut Rng)) {
    run_at_least(name, 1, round);
}

/// The same, but at least `least` rounds run however short the slice of time is.
///
/// # Panics
/// When a round does, after printing how to repeat it.
pub fn run_at_least(name: &str, least: u64, mut round: impl FnMut(&mut Rng)) {
    let number = |variable: &str| std::env::var(variable).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("DEPIN_TRIAL_SEED").unwrap_or(1);
    let first = number("DEPIN_TRIAL_FIRST").unwrap_or(0);
    let rounds = number("DEPIN_TRIAL_ROUNDS");
    let slice = Duration::from_secs(number("DEPIN_TRIAL_SECONDS").unwrap_or(1));
    let started = Instant::now();
    let mut told = started;
    let mut done = 0;
    while rounds.map_or(done < least || started.elapsed() < slice, |rounds| done < rounds) {
        let number = first + done;
        let mut rng = Rng::seed_from_u64(seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| round(&mut rng))) {
            println!(
                "trial {name}: failed; repeat with DEPIN_TRIAL_SEED={seed} DEPIN_TRIAL_FIRST={number} DEPIN_TRIAL_ROUNDS=1"
            );
            resume_unwind(panic);
        }
        done += 1;
        if let Some(rounds) = rounds
            && told.elapsed() >= PROGRESS
        {
            told = Instant::now();
            // Written past the capture of tests' output: it is for whoever waits now.
            let line = format!("progress {name}: {done} of {rounds} rounds, {} s\n", started.elapsed().as_secs());
            drop(std::io::stderr().write_all(line.as_bytes()));
        }
    }
    println!("trial {name}: seed {seed}, rounds {done}, {:.1} s", started.elapsed().as_secs_f64());
}

/// A number in `[0, bound)`; `bound` must be positive.
pub fn below(rng: &mut Rng, bound: u64) -> u64 {
    rng.next_u64() % bound
}

/// True once in `n` times.
pub fn one_in(rng: &mut Rng, n: u64) -> bool {
    below(rng, n) == 0
}

/// A file of the recordings that lie beside the project (`shared/data/` in a directory above it), where they are there; where not,
/// prints that the test is skipped and why.
#[must_use]
pub fn shared_data(file: &str) -> Option<PathBuf> {
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let found = above.map(|directory| directory.join("shared/data").join(file)).find(|path| path.exists());
    if found.is_none() {
        println!("skipped: there is no shared/data/{file} in a directory above the project: put the recordings there");
    }
    found
}
