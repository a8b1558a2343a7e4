//! What a client says beside its requests, on streams of one direction (RFC 9114 section 6.2).

use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use quinn::{ReadError, RecvStream};

use super::connection::Common;
use super::frames::{
    CANCEL_PUSH, Code, FrameError, Frames, GOAWAY, MAX_PUSH_ID, Piece, Role, SETTINGS, put_frame,
    put_varint, take_varint,
};

/// Kinds of streams.
const CONTROL: u64 = 0;
const PUSH: u64 = 1;
const ENCODER: u64 = 2;
const DECODER: u64 = 3;

/// Settings (RFC 9114 section 7.2.4.1, RFC 9220 section 3).
const MAX_FIELD_SECTION_SIZE: u64 = 0x6;
const ENABLE_CONNECT_PROTOCOL: u64 = 0x8;
/// They meant something in HTTP/2 and mean nothing here.
const RESERVED_SETTINGS: [u64; 4] = [0x2, 0x3, 0x4, 0x5];

/// Held of a frame that is no request's. Settings with all that are known today have a tenth.
const FRAME_BYTES_MAX: usize = 1024;
/// Settings of one frame.
const SETTINGS_MAX: usize = 64;
/// Taken of a stream at once.
const CHUNK_BYTES: usize = 4 * 1024;
/// No identifier is greater (RFC 9000 section 2.1), so that one as great refuses nothing yet.
pub(super) const GREATEST_REQUEST: u64 = (1 << 62) - 4;

/// Which streams a client has opened of those that it may open once.
#[derive(Default)]
pub(super) struct Opened(AtomicU8);

/// How our own control stream begins.
pub(super) fn greeting(section_bytes: usize) -> Vec<u8> {
    let (mut out, mut settings) = (Vec::new(), Vec::new());
    for (setting, value) in [
        (MAX_FIELD_SECTION_SIZE, section_bytes as u64),
        (ENABLE_CONNECT_PROTOCOL, 1),
    ] {
        put_varint(&mut settings, setting);
        put_varint(&mut settings, value);
    }
    put_varint(&mut out, CONTROL);
    put_frame(&mut out, SETTINGS, &settings);
    out
}

/// Says that requests from this one on are not taken (section 5.2).
pub(super) fn goaway(request: u64) -> Vec<u8> {
    let (mut out, mut id) = (Vec::new(), Vec::new());
    put_varint(&mut id, request);
    put_frame(&mut out, GOAWAY, &id);
    out
}

/// Reads a stream of one direction until it ends or its connection has to.
pub(super) async fn read(common: &Common, mut stream: RecvStream) {
    let ended = match kind(&mut stream).await {
        Some((CONTROL, ahead)) if common.opened.first(CONTROL) => {
            control(common, &mut stream, ahead).await
        }
        Some((ENCODER, ahead)) if common.opened.first(ENCODER) => {
            instructions(common, &mut stream, ahead, Table::Encoder).await
        }
        Some((DECODER, ahead)) if common.opened.first(DECODER) => {
            instructions(common, &mut stream, ahead, Table::Decoder).await
        }
        // A second one; and a client pushes nothing.
        Some((CONTROL | PUSH | ENCODER | DECODER, _)) => Err(Code::STREAM_CREATION_ERROR),
        Some(_) => {
            common.idle_frame();
            // It is not to send what nobody reads.
            let _ = stream.stop(Code::STREAM_CREATION_ERROR.into());
            Ok(())
        }
        None => {
            common.idle_frame();
            Ok(())
        }
    };
    if let Err(code) = ended {
        common.end(code);
    }
}

impl Opened {
    fn first(&self, kind: u64) -> bool {
        let bit = 1 << kind;
        self.0.fetch_or(bit, Ordering::Relaxed) & bit == 0
    }
}

/// What a stream begins with, and what was read behind it; nothing if it ended before.
async fn kind(stream: &mut RecvStream) -> Option<(u64, Bytes)> {
    let mut begun = Vec::new();
    loop {
        let chunk = stream.read_chunk(CHUNK_BYTES, true).await.ok()??;
        begun.extend_from_slice(&chunk.bytes);
        let mut rest = &begun[..];
        if let Some(kind) = take_varint(&mut rest) {
            return Some((kind, Bytes::copy_from_slice(rest)));
        }
    }
}

/// The next bytes of a stream that has to be there as long as its connection is.
async fn more(stream: &mut RecvStream) -> Result<Option<Bytes>, Code> {
    match stream.read_chunk(CHUNK_BYTES, true).await {
        Ok(Some(chunk)) => Ok(Some(chunk.bytes)),
        Ok(None) | Err(ReadError::Reset(_)) => Err(Code::CLOSED_CRITICAL_STREAM),
        // The connection has ended.
        Err(_) => Ok(None),
    }
}

async fn control(common: &Common, stream: &mut RecvStream, ahead: Bytes) -> Result<(), Code> {
    let mut frames = Frames::new(Role::Control, FRAME_BYTES_MAX);
    let mut said = Said::default();
    let mut input = ahead;
    loop {
        let piece = frames.next(&mut input).map_err(|error| match error {
            // Section 6.2.1: it begins with settings, whatever else it may hold.
            _ if !said.settings => Code::MISSING_SETTINGS,
            FrameError::Connection(code) => code,
            FrameError::TooLarge => Code::EXCESSIVE_LOAD,
        })?;
        match piece {
            Some(Piece::Whole(kind, payload)) => {
                if let Some(most) = said.take(kind, &payload)? {
                    common.peer_takes(most);
                }
                common.idle_frame();
            }
            Some(_) if !said.settings => return Err(Code::MISSING_SETTINGS),
            Some(_) => common.idle_frame(),
            None => match more(stream).await? {
                Some(bytes) => input = bytes,
                None => return Ok(()),
            },
        }
    }
}

/// What a client has said on its control stream.
#[derive(Default)]
struct Said {
    settings: bool,
    goaway: Option<u64>,
    max_push: Option<u64>,
}

impl Said {
    /// The size of a field section that the client takes, when it says so.
    fn take(&mut self, kind: u64, payload: &[u8]) -> Result<Option<u64>, Code> {
        if kind == SETTINGS {
            if std::mem::replace(&mut self.settings, true) {
                return Err(Code::FRAME_UNEXPECTED);
            }
            return settings(payload);
        }
        if !self.settings {
            return Err(Code::MISSING_SETTINGS);
        }
        // All others are one integer.
        let mut rest = payload;
        let id = take_varint(&mut rest).filter(|_| rest.is_empty());
        let id = id.ok_or(Code::FRAME_ERROR)?;
        let is_wrong = match kind {
            // Of pushes, of which there are none; but it may not take back what it said.
            GOAWAY => self.goaway.replace(id).is_some_and(|before| id > before),
            MAX_PUSH_ID => self.max_push.replace(id).is_some_and(|before| id < before),
            // No push was promised that could be cancelled.
            CANCEL_PUSH => true,
            _ => false,
        };
        match is_wrong {
            true => Err(Code::ID_ERROR),
            false => Ok(None),
        }
    }
}

fn settings(payload: &[u8]) -> Result<Option<u64>, Code> {
    let (mut rest, mut seen, mut most) = (payload, Vec::new(), None);
    while !rest.is_empty() {
        let setting = take_varint(&mut rest).ok_or(Code::FRAME_ERROR)?;
        let value = take_varint(&mut rest).ok_or(Code::FRAME_ERROR)?;
        if seen.len() == SETTINGS_MAX {
            return Err(Code::EXCESSIVE_LOAD);
        }
        if seen.contains(&setting) || RESERVED_SETTINGS.contains(&setting) {
            return Err(Code::SETTINGS_ERROR);
        }
        seen.push(setting);
        match setting {
            MAX_FIELD_SECTION_SIZE => most = Some(value),
            ENABLE_CONNECT_PROTOCOL if value > 1 => return Err(Code::SETTINGS_ERROR),
            _ => {}
        }
    }
    Ok(most)
}

/// Whether a frame can be taken behind settings, or as them.
#[cfg(test)]
pub(super) fn understands(kind: u64, payload: &[u8]) -> bool {
    let mut said = Said {
        settings: kind != SETTINGS,
        ..Said::default()
    };
    said.take(kind, payload).is_ok()
}

/// Of QPACK (RFC 9204 section 4.2). There is nothing in a table of size zero, so that there is little to say of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Table {
    /// What the client's encoder says of the table here.
    Encoder,
    /// What its decoder says of ours.
    Decoder,
}

async fn instructions(
    common: &Common,
    stream: &mut RecvStream,
    ahead: Bytes,
    table: Table,
) -> Result<(), Code> {
    let mut input = ahead;
    // In the middle of an integer.
    let mut continued = false;
    loop {
        for byte in &input {
            continued = match continued {
                true => byte & 0x80 != 0,
                false => {
                    common.idle_frame();
                    instruction(table, *byte)?
                }
            };
        }
        match more(stream).await? {
            Some(bytes) => input = bytes,
            None => return Ok(()),
        }
    }
}

/// Whether the integer of the instruction that begins so goes on behind its first byte.
fn instruction(table: Table, first: u8) -> Result<bool, Code> {
    match table {
        // Section 4.3.1: a size of zero is all that may be set.
        Table::Encoder if first == 0b0010_0000 => Ok(false),
        Table::Encoder => Err(Code::ENCODER_STREAM_ERROR),
        // Section 4.4.2: a stream that it does not read any more.
        Table::Decoder if first >> 6 == 0b01 => Ok(first & 0x3f == 0x3f),
        // Sections 4.4.1 and 4.4.3: of entries that were never sent.
        Table::Decoder => Err(Code::DECODER_STREAM_ERROR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(settings: &[(u64, u64)]) -> Vec<u8> {
        let mut payload = Vec::new();
        for (setting, value) in settings {
            put_varint(&mut payload, *setting);
            put_varint(&mut payload, *value);
        }
        payload
    }

    #[test]
    fn settings_are_read() {
        assert_eq!(
            settings(&of(&[(1, 4096), (0x21, 7), (6, 1000)])),
            Ok(Some(1000))
        );
        assert_eq!(settings(&[]), Ok(None));
        for wrong in [&[(6, 1), (6, 1)][..], &[(2, 0)], &[(4, 1)], &[(8, 2)]] {
            assert_eq!(settings(&of(wrong)), Err(Code::SETTINGS_ERROR), "{wrong:?}");
        }
        assert_eq!(settings(&[6]), Err(Code::FRAME_ERROR));
        let many: Vec<_> = (100..165).map(|setting| (setting, 0)).collect();
        assert_eq!(settings(&of(&many)), Err(Code::EXCESSIVE_LOAD));
    }

    #[test]
    fn what_a_client_says_holds() {
        let mut said = Said::default();
        assert_eq!(said.take(GOAWAY, &[0]), Err(Code::MISSING_SETTINGS));
        assert_eq!(said.take(SETTINGS, &[]), Ok(None));
        assert_eq!(said.take(SETTINGS, &[]), Err(Code::FRAME_UNEXPECTED));
        assert_eq!(said.take(GOAWAY, &[8]), Ok(None));
        assert_eq!(said.take(GOAWAY, &[4]), Ok(None));
        assert_eq!(said.take(GOAWAY, &[5]), Err(Code::ID_ERROR));
        assert_eq!(said.take(MAX_PUSH_ID, &[5]), Ok(None));
        assert_eq!(said.take(MAX_PUSH_ID, &[4]), Err(Code::ID_ERROR));
        assert_eq!(said.take(CANCEL_PUSH, &[0]), Err(Code::ID_ERROR));
        assert_eq!(said.take(MAX_PUSH_ID, &[5, 5]), Err(Code::FRAME_ERROR));
        assert_eq!(said.take(MAX_PUSH_ID, &[]), Err(Code::FRAME_ERROR));
    }

    #[test]
    fn a_table_without_entries_has_few_instructions() {
        assert_eq!(instruction(Table::Encoder, 0x20), Ok(false));
        for wrong in [0x21, 0x3f, 0x40, 0xc0, 0x00] {
            let error = Err(Code::ENCODER_STREAM_ERROR);
            assert_eq!(instruction(Table::Encoder, wrong), error);
        }
        assert_eq!(instruction(Table::Decoder, 0x44), Ok(false));
        assert_eq!(instruction(Table::Decoder, 0x7f), Ok(true));
        for wrong in [0x80, 0x01, 0x3f] {
            let error = Err(Code::DECODER_STREAM_ERROR);
            assert_eq!(instruction(Table::Decoder, wrong), error);
        }
    }
}
