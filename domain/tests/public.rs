//! A public export alone repeats its epoch; a changed figure is told; nothing in it names a device.

mod networks;

use depin_domain::rewards::{
    Amount,
    public::{publish, recompute},
};
use depin_trials::below;

#[test]
fn an_export_repeats_its_epoch_and_betrays_every_change() {
    depin_trials::run("public exports", |rng| {
        for (input, result) in networks::history(rng, 8) {
            let mut public = publish(&input, &result, &[9; 32]).unwrap();
            let again = recompute(&public).unwrap();
            assert_eq!(again.differences, [], "{}", serde_json::to_string(&input).unwrap());
            assert_eq!(again.result.summary.root, result.summary.root);
            for device in &input.devices {
                assert!(public.devices.iter().all(|row| row.device.id != device.id));
            }

            if public.devices.is_empty() {
                continue;
            }
            let place = below(rng, public.devices.len() as u64) as usize;
            let row = &mut public.devices[place];
            match below(rng, 3) {
                0 => row.weight += 1,
                1 => row.share = Amount(row.share.0 + 1),
                _ => row.reasons.push(depin_domain::rewards::ZeroReason::TooClose.into()),
            }
            assert_eq!(recompute(&public).unwrap().differences.len(), 1);
        }
    });
}
