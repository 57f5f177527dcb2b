//! Bytes from outside: what decodes encodes to the same bytes.
#![no_main]

use depin_proto::envelope::{
    decode_header, decode_receipt, decode_section, decode_verdict, encode_header, encode_receipt, encode_section,
    encode_verdict,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(header) = decode_header(bytes) {
        assert_eq!(encode_header(&header).expect("it was decoded"), bytes);
    }
    if let Ok(section) = decode_section(bytes) {
        assert_eq!(encode_section(&section).expect("it was decoded"), bytes);
    }
    if let Ok(receipt) = decode_receipt(bytes) {
        assert_eq!(encode_receipt(&receipt), bytes);
    }
    if let Ok(verdict) = decode_verdict(bytes) {
        assert_eq!(encode_verdict(&verdict).expect("it was decoded"), bytes);
    }
});
