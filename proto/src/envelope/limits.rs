//! What no envelope exceeds, whatever a gateway is configured to take. Part of the format: docs/envelope.md lists them.

/// Drop records in a header.
pub const MAX_DROPS: usize = 1_024;
/// Sections in a proof.
pub const MAX_SECTIONS: u32 = 65_536;
/// Series in a section.
pub const MAX_SERIES: usize = 1_024;
/// Readings in a section, over all its series.
pub const MAX_SECTION_READINGS: usize = 262_144;
/// Bytes of a metric's name.
pub const MAX_NAME: usize = 64;
/// Bytes of a rejection's detail.
pub const MAX_DETAIL: usize = 255;
/// Rejections in a verdict, and readings that one rejection names.
pub const MAX_REJECTIONS: usize = 1 << 24;
