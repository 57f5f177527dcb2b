//! Bytes of a segment: header, frames, and reading them in order through a bounded window.

use std::io;

use crate::storage::StorageFile;

pub(crate) const HEADER: u64 = 32;
pub(crate) const FRAME: u64 = 9;
pub(crate) const MARK: u8 = 0;
const MAGIC: &[u8; 8] = b"depinlog";
const VERSION: u32 = 1;
const WINDOW: usize = 256 << 10;

/// The file name of the segment that begins at `base`.
pub(crate) fn name(base: u64) -> String {
    format!("{base:020}.seg")
}

/// The base that a file name tells; `None` for other files.
pub(crate) fn base_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    (digits.len() == 20).then(|| digits.parse().ok())?
}

pub(crate) fn header(tag: u32, base: u64) -> [u8; HEADER as usize] {
    let mut bytes = [0; HEADER as usize];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[12..16].copy_from_slice(&tag.to_le_bytes());
    bytes[16..24].copy_from_slice(&base.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..28]);
    bytes[28..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// What a segment's first bytes are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HeaderCheck {
    Good,
    Damaged,
    /// An intact header of another kind of log.
    Foreign(String),
}

pub(crate) fn check_header(bytes: &[u8], tag: u32, base: u64) -> HeaderCheck {
    if bytes == header(tag, base) {
        return HeaderCheck::Good;
    }
    if bytes.len() < HEADER as usize || &bytes[..8] != MAGIC || crc32fast::hash(&bytes[..28]) != le32(&bytes[28..]) {
        return HeaderCheck::Damaged;
    }
    let (version, found) = (le32(&bytes[8..]), le32(&bytes[12..]));
    HeaderCheck::Foreign(format!(
        "format version {version}, tag {found:#x}; expected version {VERSION}, tag {tag:#x}, base {base}"
    ))
}

pub(crate) fn le32(bytes: &[u8]) -> u32 {
    let mut array = [0; 4];
    array.copy_from_slice(&bytes[..4]);
    u32::from_le_bytes(array)
}

pub(crate) fn le64(bytes: &[u8]) -> u64 {
    let mut array = [0; 8];
    array.copy_from_slice(&bytes[..8]);
    u64::from_le_bytes(array)
}

fn checksum(position: u64, kind: u8, payload: &[u8]) -> u32 {
    let mut place = [0; 13];
    place[..8].copy_from_slice(&position.to_le_bytes());
    place[8..12].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    place[12] = kind;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&place);
    hasher.update(payload);
    hasher.finalize()
}

/// Opens a frame in `buffer`; the payload is to be appended and then [`finish_frame`] called with the returned place.
pub(crate) fn begin_frame(buffer: &mut Vec<u8>, kind: u8) -> usize {
    let start = buffer.len();
    buffer.extend([0; 8]);
    buffer.push(kind);
    start
}

pub(crate) fn finish_frame(buffer: &mut [u8], start: usize, position: u64) {
    let payload = &buffer[start + FRAME as usize..];
    let (length, crc) = (payload.len() as u32, checksum(position, buffer[start + 8], payload));
    buffer[start..start + 4].copy_from_slice(&length.to_le_bytes());
    buffer[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

/// What stands at a place.
#[derive(Debug)]
pub(crate) enum Frame<'a> {
    /// A valid frame; its bytes end at `end` (offset in the file).
    Valid { kind: u8, payload: &'a [u8], end: u64 },
    /// Not a frame.
    Invalid(&'static str),
}

/// Reads frames of one file through a window that grows to the largest record.
#[derive(Debug)]
pub(crate) struct FrameReader {
    file: Box<dyn StorageFile>,
    base: u64,
    window: Vec<u8>,
    window_at: u64,
}

impl FrameReader {
    pub(crate) fn new(file: Box<dyn StorageFile>, base: u64) -> Self {
        Self { file, base, window: Vec::new(), window_at: 0 }
    }

    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    pub(crate) fn position(&self, offset: u64) -> u64 {
        self.base + (offset - HEADER)
    }

    /// Bytes `[offset, offset + want)`, fewer at the file's or the limit's end.
    fn bytes(&mut self, offset: u64, want: usize, limit: u64) -> io::Result<&[u8]> {
        let want = want.min(usize::try_from(limit.saturating_sub(offset)).unwrap_or(usize::MAX));
        let inside = offset >= self.window_at && offset + want as u64 <= self.window_at + self.window.len() as u64;
        if !inside {
            let ahead = usize::try_from(limit.saturating_sub(offset)).unwrap_or(usize::MAX);
            let size = want.max(WINDOW.min(ahead));
            self.window.resize(size, 0);
            self.window_at = offset;
            let read = match self.file.read_at(offset, &mut self.window) {
                Ok(read) => read,
                Err(error) => {
                    self.window.clear();
                    return Err(error);
                }
            };
            self.window.truncate(read);
        }
        let from = (offset - self.window_at) as usize;
        Ok(&self.window[from..(from + want).min(self.window.len())])
    }

    /// The frame at `offset`; nothing at or after `limit` is looked at.
    pub(crate) fn frame(&mut self, offset: u64, limit: u64, max_record: usize) -> io::Result<Frame<'_>> {
        let position = self.position(offset);
        let head = self.bytes(offset, FRAME as usize, limit)?;
        if head.len() < FRAME as usize {
            return Ok(Frame::Invalid("a frame is cut off"));
        }
        let (length, crc, kind) = (le32(head) as usize, le32(&head[4..]), head[8]);
        if length > max_record {
            return Ok(Frame::Invalid("a frame's length is beyond the limit"));
        }
        let whole = self.bytes(offset, FRAME as usize + length, limit)?;
        if whole.len() < FRAME as usize + length {
            return Ok(Frame::Invalid("a frame is cut off"));
        }
        let payload = &whole[FRAME as usize..];
        if checksum(position, kind, payload) != crc || (kind == MARK && length != 8) {
            return Ok(Frame::Invalid("a frame's checksum does not fit"));
        }
        Ok(Frame::Valid { kind, payload, end: offset + FRAME + length as u64 })
    }

    /// The payload of the frame over `[offset, end)`, which was found valid just before.
    pub(crate) fn payload(&mut self, offset: u64, end: u64) -> io::Result<&[u8]> {
        self.bytes(offset + FRAME, (end - offset - FRAME) as usize, end)
    }

    /// The first offset after `offset` at which a valid frame stands, or `limit`.
    pub(crate) fn resynchronize(&mut self, offset: u64, limit: u64, max_record: usize) -> io::Result<u64> {
        let mut at = offset + 1;
        while at + FRAME <= limit {
            if let Frame::Valid { .. } = self.frame(at, limit, max_record)? {
                return Ok(at);
            }
            at += 1;
        }
        Ok(limit)
    }
}
