//! A public export alone repeats its epoch; a changed figure is told.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it cannot go on")]

mod networks;

use depin_domain::rewards::{
    Amount,
    public::{PublicEpoch, recompute},
};
use depin_trials::below;

#[test]
fn an_export_repeats_its_epoch_and_betrays_every_change() {
    depin_trials::run("public exports", |rng| {
        for (input, result) in networks::history(rng, 8) {
            let mut public = PublicEpoch {
                spec: input.spec.clone(),
                summary: result.summary.clone(),
                lines: result.lines.clone(),
                accounts: vec![],
            };
            let again = recompute(&public).unwrap();
            assert_eq!(again.differences, [], "{}", serde_json::to_string(&input).unwrap());
            assert_eq!(again.root, result.summary.root);

            if public.lines.is_empty() {
                continue;
            }
            let place = below(rng, public.lines.len() as u64) as usize;
            let line = &mut public.lines[place];
            match below(rng, 4) {
                0 => line.weight += 1,
                1 => line.share = Amount(line.share.0 + 1),
                2 => public.summary.minted = Amount(public.summary.minted.0 + 1),
                _ => line.raw_weight += 1,
            }
            assert!(!recompute(&public).unwrap().differences.is_empty());
        }
    });
}
