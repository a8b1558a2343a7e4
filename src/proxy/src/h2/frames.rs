//! Frames as they are on the wire (RFC 9113 sections 4, 6 and 7).

/// What a client begins with (section 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) const HEAD_BYTES: usize = 9;
/// Of a frame's payload, in both directions: what every peer takes (section 4.2). Larger ones would save little, and hold up other
/// streams.
pub(super) const PAYLOAD_BYTES: usize = 16 * 1024;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const ACK: u8 = 0x1;
pub(super) const END_STREAM: u8 = 0x1;
pub(super) const END_HEADERS: u8 = 0x4;
pub(super) const PADDED: u8 = 0x8;
pub(super) const WITH_PRIORITY: u8 = 0x20;

pub(super) const HEADER_TABLE_SIZE: u16 = 1;
pub(super) const ENABLE_PUSH: u16 = 2;
pub(super) const MAX_CONCURRENT_STREAMS: u16 = 3;
pub(super) const INITIAL_WINDOW_SIZE: u16 = 4;
pub(super) const MAX_FRAME_SIZE: u16 = 5;
pub(super) const MAX_HEADER_LIST_SIZE: u16 = 6;
pub(super) const ENABLE_CONNECT_PROTOCOL: u16 = 8;

/// The greatest size of a window (section 6.9.1), and of a stream's number.
pub(super) const MAX_31_BITS: u32 = (1 << 31) - 1;
const MAX_24_BITS: u32 = (1 << 24) - 1;

/// What a stream or a connection ended for (section 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Code(pub(super) u32);

impl Code {
    pub(super) const NO_ERROR: Code = Code(0);
    pub(super) const PROTOCOL_ERROR: Code = Code(1);
    pub(super) const INTERNAL_ERROR: Code = Code(2);
    pub(super) const FLOW_CONTROL_ERROR: Code = Code(3);
    pub(super) const STREAM_CLOSED: Code = Code(5);
    pub(super) const FRAME_SIZE_ERROR: Code = Code(6);
    pub(super) const REFUSED_STREAM: Code = Code(7);
    pub(super) const COMPRESSION_ERROR: Code = Code(9);
    pub(super) const CONNECT_ERROR: Code = Code(10);
    pub(super) const ENHANCE_YOUR_CALM: Code = Code(11);
}

/// What a frame begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHead {
    pub(super) length: usize,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

impl FrameHead {
    /// Of the frame that `bytes` begin with, as soon as its head is there.
    pub(super) fn read(bytes: &[u8]) -> Option<FrameHead> {
        let [a, b, c, kind, flags, s, t, u, v] = *bytes.first_chunk()?;
        Some(FrameHead {
            length: u32::from_be_bytes([0, a, b, c]) as usize,
            kind,
            flags,
            // Section 4.1: the reserved bit is ignored.
            stream: u32::from_be_bytes([s, t, u, v]) & MAX_31_BITS,
        })
    }

    pub(super) fn bytes(self) -> [u8; HEAD_BYTES] {
        let [_, a, b, c] = u32::try_from(self.length)
            .unwrap_or(MAX_24_BITS)
            .to_be_bytes();
        let [s, t, u, v] = self.stream.to_be_bytes();
        [a, b, c, self.kind, self.flags, s, t, u, v]
    }

    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// What is left of a payload without its padding (section 6.1).
    pub(super) fn unpadded<'a>(&self, payload: &'a [u8]) -> Result<&'a [u8], Code> {
        if !self.has(PADDED) {
            return Ok(payload);
        }
        let (padding, rest) = payload.split_first().ok_or(Code::FRAME_SIZE_ERROR)?;
        let left = rest.len().checked_sub(usize::from(*padding));
        left.map(|left| &rest[..left]).ok_or(Code::PROTOCOL_ERROR)
    }
}

/// Writes a frame.
pub(super) fn put(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let head = FrameHead {
        length: payload.len(),
        kind,
        flags,
        stream,
    };
    out.extend_from_slice(&head.bytes());
    out.extend_from_slice(payload);
}

pub(super) fn put_reset(out: &mut Vec<u8>, stream: u32, code: Code) {
    put(out, RST_STREAM, 0, stream, &code.0.to_be_bytes());
}

pub(super) fn put_window(out: &mut Vec<u8>, stream: u32, more: u32) {
    put(out, WINDOW_UPDATE, 0, stream, &more.to_be_bytes());
}

pub(super) fn put_goaway(out: &mut Vec<u8>, last: u32, code: Code) {
    let mut payload = [0; 8];
    payload[..4].copy_from_slice(&last.to_be_bytes());
    payload[4..].copy_from_slice(&code.0.to_be_bytes());
    put(out, GOAWAY, 0, 0, &payload);
}

pub(super) fn put_settings(out: &mut Vec<u8>, settings: &[(u16, u32)]) {
    let mut payload = Vec::with_capacity(settings.len() * 6);
    for (setting, value) in settings {
        payload.extend_from_slice(&setting.to_be_bytes());
        payload.extend_from_slice(&value.to_be_bytes());
    }
    put(out, SETTINGS, 0, 0, &payload);
}

/// A payload that is one integer.
pub(super) fn integer(payload: &[u8]) -> Result<u32, Code> {
    let bytes = payload.try_into().map_err(|_| Code::FRAME_SIZE_ERROR)?;
    Ok(u32::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn padding_is_no_content() {
        let head = |flags| FrameHead {
            length: 0,
            kind: DATA,
            flags,
            stream: 1,
        };
        assert_eq!(head(0).unpadded(&[1, 2]), Ok(&[1, 2][..]));
        assert_eq!(head(PADDED).unpadded(&[1, 2, 0]), Ok(&[2][..]));
        assert_eq!(head(PADDED).unpadded(&[2, 0, 0]), Ok(&[][..]));
        let wrong = head(PADDED).unpadded(&[3, 0, 0]);
        assert_eq!(wrong, Err(Code::PROTOCOL_ERROR));
        assert_eq!(head(PADDED).unpadded(&[]), Err(Code::FRAME_SIZE_ERROR));
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(kind in any::<u8>(), flags in any::<u8>(), stream in 0..=MAX_31_BITS, length in 0_usize..300) {
            let mut out = Vec::new();
            put(&mut out, kind, flags, stream, &vec![7; length]);
            let head = FrameHead { length, kind, flags, stream };
            prop_assert_eq!(FrameHead::read(&out), Some(head));
            prop_assert_eq!(FrameHead::read(&out[..8]), None);
            out[5] |= 0x80;
            prop_assert_eq!(FrameHead::read(&out), Some(head));
        }
    }
}
