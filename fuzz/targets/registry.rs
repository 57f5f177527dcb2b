//! A change as JSON: is read or refused; what may be appended can be applied and says nothing new the second time.
#![no_main]

use depin_domain::{
    canonical,
    registry::{Change, Record, Registry},
    time::Timestamp,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let Ok(change) = serde_json::from_slice::<Change>(text) else { return };
    let bytes = canonical::to_vec(&change).expect("a change has only integers");
    assert_eq!(serde_json::from_slice::<Change>(&bytes).expect("its canonical form is read again"), change);
    let mut registry = Registry::default();
    let allowed = registry.check(&change).is_ok();
    let record = |version| Record { version, at: Timestamp(1), change: change.clone() };
    registry.apply(record(1)).expect("the first record");
    assert!(!registry.would_change(&change));
    registry.apply(record(2)).expect("the second record");
    if allowed {
        assert!(registry.check(&change).is_ok());
    }
});
