//! One record in a file of the journal.
//!
//! Check (8 bytes: keyed BLAKE3 of the rest), generation (8), place in the generation (8), frames of the
//! generation that were on stable storage when this one was written (8), frames of the generation
//! before (8), length (4), mark (4), an encoded record, zeros up to the next multiple of 8. All numbers
//! are big-endian. The key is the store's own: no value that somebody stores can pass for a frame.

use std::io;

pub type Key = [u8; 32];

pub const HEADER_BYTES: usize = 48;
pub const ALIGN: usize = 8;
const MARK: [u8; 4] = *b"NJ2\n";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub generation: u64,
    pub place: u64,
    pub synced: u64,
    pub before: u64,
}

#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    pub head: Head,
    pub body: &'a [u8],
}

pub fn push(buffer: &mut Vec<u8>, key: &Key, head: Head, body: &[u8]) -> io::Result<()> {
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    let start = buffer.len();
    buffer.extend_from_slice(&[0; 8]);
    for number in [head.generation, head.place, head.synced, head.before] {
        buffer.extend_from_slice(&number.to_be_bytes());
    }
    buffer.extend_from_slice(&length.to_be_bytes());
    buffer.extend_from_slice(&MARK);
    buffer.extend_from_slice(body);
    let check = check(key, &buffer[start + 8..]);
    buffer[start..start + 8].copy_from_slice(&check);
    buffer.resize(padded(buffer.len()), 0);
    Ok(())
}

impl Frame<'_> {
    /// The frame that begins at `at`, if one does and it is whole.
    pub fn at<'a>(bytes: &'a [u8], at: usize, key: &Key) -> Option<Frame<'a>> {
        let bytes = bytes.get(at..)?;
        let (header, rest) = bytes.split_at_checked(HEADER_BYTES)?;
        if header[44..] != MARK {
            return None;
        }
        let length = usize::try_from(number(header, 40) >> 32).ok()?;
        let body = rest.get(..length)?;
        let whole = check(key, &bytes[8..HEADER_BYTES + length]) == header[..8];
        whole.then(|| Frame {
            head: Head {
                generation: number(header, 8),
                place: number(header, 16),
                synced: number(header, 24),
                before: number(header, 32),
            },
            body,
        })
    }

    /// Where the next frame begins when this one begins at `at`.
    pub fn end(&self, at: usize) -> usize {
        padded(at + HEADER_BYTES + self.body.len())
    }
}

pub fn check(key: &Key, bytes: &[u8]) -> [u8; 8] {
    let mut check = [0; 8];
    check.copy_from_slice(&blake3::keyed_hash(key, bytes).as_bytes()[..8]);
    check
}

/// Eight big-endian bytes from `from` on.
pub fn number(bytes: &[u8], from: usize) -> u64 {
    bytes[from..from + 8]
        .iter()
        .fold(0, |n, b| (n << 8) | u64::from(*b))
}

fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGN)
}
