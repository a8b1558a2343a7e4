//! Frames (RFC 9114 section 7), found in a stream's bytes however they are cut, and the numbers of the protocol.

use bytes::{Buf, Bytes};
use quinn::VarInt;

/// An error that a stream or a connection is ended with (RFC 9114 section 8.1, RFC 9204 section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Code(u32);

impl Code {
    pub(super) const NO_ERROR: Code = Code(0x100);
    pub(super) const INTERNAL_ERROR: Code = Code(0x102);
    pub(super) const STREAM_CREATION_ERROR: Code = Code(0x103);
    pub(super) const CLOSED_CRITICAL_STREAM: Code = Code(0x104);
    pub(super) const FRAME_UNEXPECTED: Code = Code(0x105);
    pub(super) const FRAME_ERROR: Code = Code(0x106);
    pub(super) const EXCESSIVE_LOAD: Code = Code(0x107);
    pub(super) const ID_ERROR: Code = Code(0x108);
    pub(super) const SETTINGS_ERROR: Code = Code(0x109);
    pub(super) const MISSING_SETTINGS: Code = Code(0x10a);
    pub(super) const REQUEST_REJECTED: Code = Code(0x10b);
    pub(super) const REQUEST_CANCELLED: Code = Code(0x10c);
    pub(super) const REQUEST_INCOMPLETE: Code = Code(0x10d);
    pub(super) const MESSAGE_ERROR: Code = Code(0x10e);
    pub(super) const CONNECT_ERROR: Code = Code(0x10f);
    pub(super) const DECOMPRESSION_FAILED: Code = Code(0x200);
    pub(super) const ENCODER_STREAM_ERROR: Code = Code(0x201);
    pub(super) const DECODER_STREAM_ERROR: Code = Code(0x202);
}

impl From<Code> for VarInt {
    fn from(code: Code) -> VarInt {
        VarInt::from_u32(code.0)
    }
}

pub(super) const DATA: u64 = 0x0;
pub(super) const HEADERS: u64 = 0x1;
pub(super) const CANCEL_PUSH: u64 = 0x3;
pub(super) const SETTINGS: u64 = 0x4;
pub(super) const PUSH_PROMISE: u64 = 0x5;
pub(super) const GOAWAY: u64 = 0x7;
pub(super) const MAX_PUSH_ID: u64 = 0xd;
/// Of HTTP/2, and reserved because they mean nothing here (section 7.2.8).
const RESERVED: [u64; 4] = [0x2, 0x6, 0x8, 0x9];

/// A type and a length.
const HEADER_BYTES_MAX: usize = 16;

/// What a stream is for, which says what may be in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Request,
    Control,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    /// Some of a DATA frame, or one that is empty.
    Data(Bytes),
    /// A frame of another kind that the stream's role knows.
    Whole(u64, Vec<u8>),
    /// A frame that means nothing here.
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FrameError {
    Connection(Code),
    /// A frame is longer than what is held of one.
    TooLarge,
}

/// Takes the frames of one stream apart.
pub(super) struct Frames {
    role: Role,
    /// The most that is held of a frame other than DATA.
    max: usize,
    at: At,
    header: [u8; HEADER_BYTES_MAX],
    have: usize,
}

enum At {
    Header,
    Data(u64),
    Whole {
        kind: u64,
        bytes: Vec<u8>,
        length: usize,
    },
    Unknown(u64),
}

impl Frames {
    pub(super) fn new(role: Role, max: usize) -> Frames {
        Frames {
            role,
            max,
            at: At::Header,
            header: [0; HEADER_BYTES_MAX],
            have: 0,
        }
    }

    /// Whether the stream may end here.
    pub(super) fn is_between(&self) -> bool {
        matches!(self.at, At::Header) && self.have == 0
    }

    /// Takes the next piece off the front of `input`; without one all of it was taken.
    pub(super) fn next(&mut self, input: &mut Bytes) -> Result<Option<Piece>, FrameError> {
        loop {
            match &mut self.at {
                At::Header => {
                    let Some((kind, length)) = self.header(input) else {
                        return Ok(None);
                    };
                    if let Some(piece) = self.begin(kind, length)? {
                        return Ok(Some(piece));
                    }
                }
                At::Data(left) => {
                    if input.is_empty() {
                        return Ok(None);
                    }
                    let data = input.split_to(fitting(*left, input.len()));
                    *left -= data.len() as u64;
                    if *left == 0 {
                        self.at = At::Header;
                    }
                    return Ok(Some(Piece::Data(data)));
                }
                At::Whole {
                    kind,
                    bytes,
                    length,
                } => {
                    let taken = (*length - bytes.len()).min(input.len());
                    bytes.extend_from_slice(&input.split_to(taken));
                    if bytes.len() < *length {
                        return Ok(None);
                    }
                    let piece = Piece::Whole(*kind, std::mem::take(bytes));
                    self.at = At::Header;
                    return Ok(Some(piece));
                }
                At::Unknown(left) => {
                    let skipped = fitting(*left, input.len());
                    input.advance(skipped);
                    *left -= skipped as u64;
                    if *left > 0 {
                        return Ok(None);
                    }
                    self.at = At::Header;
                    return Ok(Some(Piece::Unknown));
                }
            }
        }
    }

    /// A frame's type and length, once they are there.
    fn header(&mut self, input: &mut Bytes) -> Option<(u64, u64)> {
        loop {
            let mut rest = &self.header[..self.have];
            if let (Some(kind), Some(length)) = (take_varint(&mut rest), take_varint(&mut rest)) {
                self.have = 0;
                return Some((kind, length));
            }
            if input.is_empty() {
                return None;
            }
            // Two integers never need more than there is room for.
            self.header[self.have] = input.get_u8();
            self.have += 1;
        }
    }

    fn begin(&mut self, kind: u64, length: u64) -> Result<Option<Piece>, FrameError> {
        let fits = match kind {
            DATA | HEADERS => self.role == Role::Request,
            SETTINGS | GOAWAY | MAX_PUSH_ID | CANCEL_PUSH => self.role == Role::Control,
            PUSH_PROMISE => false,
            kind if RESERVED.contains(&kind) => false,
            _ => {
                self.at = At::Unknown(length);
                return Ok(None);
            }
        };
        if !fits {
            return Err(FrameError::Connection(Code::FRAME_UNEXPECTED));
        }
        if kind == DATA {
            if length == 0 {
                return Ok(Some(Piece::Data(Bytes::new())));
            }
            self.at = At::Data(length);
            return Ok(None);
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > self.max {
            return Err(FrameError::TooLarge);
        }
        self.at = At::Whole {
            kind,
            bytes: Vec::new(),
            length,
        };
        Ok(None)
    }
}

fn fitting(left: u64, there: usize) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).min(there)
}

/// Takes an integer off the front (RFC 9000 section 16), if it is there.
pub(super) fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let first = *bytes.first()?;
    let length = 1 << (first >> 6);
    let (integer, rest) = bytes.split_at_checked(length)?;
    let mut value = u64::from(first & 0x3f);
    for byte in &integer[1..] {
        value = value << 8 | u64::from(*byte);
    }
    *bytes = rest;
    Some(value)
}

/// `value` is below 2^62.
pub(super) fn put_varint(out: &mut Vec<u8>, value: u64) {
    // The casts keep the bytes that are meant.
    match value {
        0..0x40 => out.push(value as u8),
        0x40..0x4000 => out.extend_from_slice(&(value as u16 | 0x4000).to_be_bytes()),
        0x4000..0x4000_0000 => {
            out.extend_from_slice(&(value as u32 | 0x8000_0000).to_be_bytes());
        }
        _ => out.extend_from_slice(&(value | 0xc000_0000_0000_0000).to_be_bytes()),
    }
}

pub(super) fn put_frame(out: &mut Vec<u8>, kind: u64, payload: &[u8]) {
    out.reserve(payload.len() + HEADER_BYTES_MAX);
    put_varint(out, kind);
    put_varint(out, payload.len() as u64);
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(role: Role, input: &[&[u8]]) -> Result<Vec<Piece>, FrameError> {
        let (mut frames, mut pieces) = (Frames::new(role, 100), Vec::new());
        for part in input {
            let mut part = Bytes::copy_from_slice(part);
            while let Some(piece) = frames.next(&mut part)? {
                pieces.push(piece);
            }
            assert!(part.is_empty());
        }
        Ok(pieces)
    }

    #[test]
    fn a_stream_has_the_frames_of_its_role() {
        let unexpected = Err(FrameError::Connection(Code::FRAME_UNEXPECTED));
        for kind in [2_u8, 3, 4, 5, 6, 7, 8, 9, 0xd] {
            assert_eq!(all(Role::Request, &[&[kind, 0]]), unexpected, "{kind}");
        }
        for kind in [0_u8, 1, 2, 5, 6, 8, 9] {
            assert_eq!(all(Role::Control, &[&[kind, 0]]), unexpected, "{kind}");
        }
        for role in [Role::Request, Role::Control] {
            assert_eq!(all(role, &[&[0x21, 1, 7]]), Ok(vec![Piece::Unknown]));
        }
        // Its length is enough.
        let long = [1, 0x40, 101];
        assert_eq!(all(Role::Request, &[&long]), Err(FrameError::TooLarge));
    }

    #[test]
    fn integers_have_four_lengths() {
        // RFC 9000 appendix A.1.
        for (text, value) in [
            ("c2197c5eff14e88c", 151_288_809_941_952_652),
            ("9d7f3e7d", 494_878_333),
            ("7bbd", 15_293),
            ("25", 37),
        ] {
            let bytes = hex::decode(text).unwrap();
            assert_eq!(take_varint(&mut &bytes[..]), Some(value));
            assert_eq!(take_varint(&mut &bytes[..bytes.len() - 1]), None);
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(out, bytes);
        }
    }

    proptest! {
        #[test]
        fn however_they_are_cut_frames_are_the_same(
            sent in prop::collection::vec((prop::sample::select(vec![DATA, HEADERS, 0x21, 0x4_0000_0000]), 0usize..90), 0..8),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let (mut bytes, mut expected) = (Vec::new(), Vec::new());
            for (kind, length) in &sent {
                let payload = vec![7; *length];
                put_frame(&mut bytes, *kind, &payload);
                expected.push((*kind.min(&2), payload));
            }
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            at.extend([0, bytes.len()]);
            at.sort_unstable();
            let parts: Vec<_> = at.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
            let mut content = Vec::new();
            let mut others = Vec::new();
            for piece in all(Role::Request, &parts).unwrap() {
                match piece {
                    Piece::Data(data) => content.extend_from_slice(&data),
                    Piece::Whole(kind, bytes) => others.push((kind, bytes)),
                    Piece::Unknown => others.push((2, Vec::new())),
                }
            }
            let mut data = Vec::new();
            expected.retain_mut(|(kind, payload)| {
                if *kind == DATA {
                    data.append(payload);
                }
                if *kind == 2 {
                    payload.clear();
                }
                *kind != DATA
            });
            prop_assert_eq!(content, data);
            prop_assert_eq!(others, expected);
        }
    }
}
