//! What a client sends, frame by frame (RFC 9113 sections 5 and 6): what breaks a rule ends its stream or the connection, and what
//! costs work and carries nothing is counted (docs/proxy-conformance.md lists what is bounded where).

use std::mem;

use super::entry::ResetBy;
use super::frames::{
    ACK, CONTINUATION, Code, DATA, ENABLE_PUSH, END_STREAM, FrameHead, GOAWAY, HEAD_BYTES,
    HEADER_TABLE_SIZE, HEADERS, INITIAL_WINDOW_SIZE, MAX_31_BITS, MAX_FRAME_SIZE, PAYLOAD_BYTES,
    PING, PREFACE, PRIORITY, PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE, integer, put,
    put_goaway, put_reset,
};
use super::state::{Fatal, Goodbye, Greeting, State};
use crate::metrics::Abuse;

/// Of PRIORITY, and of what says the same in HEADERS.
pub(super) const PRIORITY_BYTES: usize = 5;
const SETTING_BYTES: usize = 6;
const PING_BYTES: usize = 8;
const GOAWAY_BYTES: usize = 8;
/// Our own PING asks whether what was said before it has been heard.
const HEARD: [u8; PING_BYTES] = *b"goodbye?";
/// What a frame of content that nobody has taken costs beside its bytes.
const CRUMB_BYTES: usize = 64;
/// Streams that may go wrong in a connection's life, each of which is answered by a RST_STREAM (CVE-2025-8671).
const ERRORS_MAX: u32 = 1024;
/// The greatest and the least setting of a frame's size (section 6.5.2).
const FRAME_SIZES: std::ops::RangeInclusive<u32> = 16_384..=(1 << 24) - 1;

impl State {
    /// Reads on, wherever the bytes are cut.
    pub(super) fn receive(&mut self, bytes: &[u8]) -> Result<(), Fatal> {
        let mut rest = bytes;
        // What has come of a frame is made whole first; nothing behind it is copied.
        while !self.inbox.is_empty() {
            let lacks = self.lacks();
            let (more, behind) = rest.split_at(lacks.min(rest.len()));
            self.inbox.extend_from_slice(more);
            rest = behind;
            if more.len() < lacks {
                return Ok(());
            }
            let mut inbox = mem::take(&mut self.inbox);
            let used = self.take(&inbox)?;
            inbox.drain(..used);
            self.inbox = inbox;
        }
        let used = self.take(rest)?;
        self.inbox.extend_from_slice(&rest[used..]);
        Ok(())
    }

    /// Bytes that the inbox lacks for what it begins with.
    fn lacks(&self) -> usize {
        let whole = match FrameHead::read(&self.inbox) {
            _ if self.greeting == Greeting::Preface => PREFACE.len(),
            Some(head) => HEAD_BYTES + head.length,
            None => HEAD_BYTES,
        };
        whole.saturating_sub(self.inbox.len())
    }

    /// Acts on whole frames; so many bytes were in them.
    fn take(&mut self, bytes: &[u8]) -> Result<usize, Fatal> {
        let mut used = 0;
        if self.greeting == Greeting::Preface {
            let there = bytes.len().min(PREFACE.len());
            if bytes[..there] != PREFACE[..there] {
                return Err(Code::PROTOCOL_ERROR.into());
            }
            if there < PREFACE.len() {
                return Ok(0);
            }
            self.greeting = Greeting::Settings;
            used = PREFACE.len();
        }
        while let Some(head) = FrameHead::read(&bytes[used..]) {
            if head.length > PAYLOAD_BYTES {
                return Err(Code::FRAME_SIZE_ERROR.into());
            }
            let payload = &bytes[used + HEAD_BYTES..];
            let Some(payload) = payload.get(..head.length) else {
                break;
            };
            self.frame(head, payload)?;
            used += HEAD_BYTES + head.length;
        }
        Ok(used)
    }

    fn frame(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), Fatal> {
        self.charge(&head)?;
        // Section 6.10: nothing comes between the pieces of a block.
        if let Some(block) = &self.block
            && (head.kind != CONTINUATION || head.stream != block.stream)
        {
            return Err(Code::PROTOCOL_ERROR.into());
        }
        // Section 3.4.
        if self.greeting == Greeting::Settings && (head.kind != SETTINGS || head.has(ACK)) {
            return Err(Code::PROTOCOL_ERROR.into());
        }
        let of_connection = matches!(head.kind, SETTINGS | PING | GOAWAY);
        let of_both = head.kind == WINDOW_UPDATE || head.kind > CONTINUATION;
        if !of_both && of_connection != (head.stream == 0) {
            return Err(Code::PROTOCOL_ERROR.into());
        }
        match head.kind {
            DATA => self.data(head, payload),
            HEADERS => self.headers(head, payload),
            PRIORITY => priority(head.stream, payload),
            RST_STREAM => self.reset_by_client(head.stream, payload),
            SETTINGS => self.settings(head, payload),
            PUSH_PROMISE => Err(Code::PROTOCOL_ERROR.into()),
            PING => self.ping(head, payload),
            GOAWAY if payload.len() < GOAWAY_BYTES => Err(Code::FRAME_SIZE_ERROR.into()),
            GOAWAY => {
                self.say_goodbye();
                Ok(())
            }
            WINDOW_UPDATE => self.window(head.stream, payload),
            CONTINUATION => self.continuation(head, payload),
            // Section 5.5.
            _ => Ok(()),
        }
    }

    /// What costs work and carries nothing may come now and then.
    fn charge(&mut self, head: &FrameHead) -> Result<(), Fatal> {
        let cost = match head.kind {
            // What is in them is looked at.
            DATA | HEADERS | RST_STREAM => return Ok(()),
            WINDOW_UPDATE => 2,
            _ => 1,
        };
        self.idle(cost)
    }

    /// So much was spent on what carried nothing.
    pub(super) fn idle(&mut self, cost: u32) -> Result<(), Fatal> {
        match self.frames.spend(cost) {
            true => Ok(()),
            false => Err(Fatal::calm(Abuse::Frames)),
        }
    }

    /// A request was taken back, or was none.
    pub(super) fn in_vain(&mut self) -> Result<(), Fatal> {
        match self.resets.spend(1) {
            true => Ok(()),
            false => Err(Fatal::calm(Abuse::Resets)),
        }
    }

    fn data(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), Fatal> {
        let content = head.unpadded(payload)?;
        let ended = head.has(END_STREAM);
        if content.is_empty() && !ended {
            self.idle(1)?;
        }
        // At most 16 KiB.
        let bytes = payload.len() as u32;
        self.room -= i64::from(bytes);
        if self.room < 0 {
            return Err(Code::FLOW_CONTROL_ERROR.into());
        }
        let Some(at) = self.find(head.stream) else {
            self.give_back(bytes);
            return self.on_nobody(head.stream);
        };
        let entry = &mut self.entries[at];
        if entry.reset.is_some() || entry.received_end {
            self.give_back(bytes);
            return self.on_closed(at);
        }
        entry.room -= i64::from(bytes);
        if entry.room < 0 {
            self.give_back(bytes);
            return self.fail(at, Code::FLOW_CONTROL_ERROR);
        }
        let left = entry
            .expected
            .map(|left| left.checked_sub(content.len() as u64));
        // Section 8.1.1: it has to be as long as it was said to be.
        if matches!(left, Some(None)) || (ended && matches!(left, Some(Some(1..)))) {
            self.give_back(bytes);
            return self.fail(at, Code::PROTOCOL_ERROR);
        }
        entry.expected = left.flatten();
        entry.received_end = ended;
        let padding = (payload.len() - content.len()) as u32;
        entry.held += bytes;
        if !entry.content.is_empty() && !content.is_empty() {
            entry.crumbs += CRUMB_BYTES;
            self.crumbs += CRUMB_BYTES;
        }
        entry.content.extend_from_slice(content);
        if ended || !content.is_empty() {
            entry.wake();
        }
        if padding > 0 {
            self.release(head.stream, padding);
        }
        if self.crumbs > self.bounds.connection_window as usize / 2 {
            return Err(Fatal::calm(Abuse::Protocol));
        }
        Ok(())
    }

    fn reset_by_client(&mut self, stream: u32, payload: &[u8]) -> Result<(), Fatal> {
        integer(payload)?;
        if stream > self.last {
            return Err(Code::PROTOCOL_ERROR.into());
        }
        self.in_vain()?;
        let Some(at) = self.find(stream) else {
            return Ok(());
        };
        self.entries[at].reset.get_or_insert(ResetBy::Client);
        if let Some(place) = self.opened.iter().position(|opened| opened.id == stream) {
            // Nobody has begun with it.
            self.opened.remove(place);
            self.close(stream);
            return Ok(());
        }
        self.entries[at].wake();
        Ok(())
    }

    fn settings(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), Fatal> {
        if head.has(ACK) {
            if !payload.is_empty() {
                return Err(Code::FRAME_SIZE_ERROR.into());
            }
            // There is one to acknowledge.
            return match mem::replace(&mut self.acknowledged, true) {
                true => Err(Code::PROTOCOL_ERROR.into()),
                false => Ok(()),
            };
        }
        let (settings, []) = payload.as_chunks::<SETTING_BYTES>() else {
            return Err(Code::FRAME_SIZE_ERROR.into());
        };
        for [a, b, value @ ..] in settings {
            self.setting(u16::from_be_bytes([*a, *b]), u32::from_be_bytes(*value))?;
        }
        self.greeting = Greeting::Done;
        put(&mut self.out, SETTINGS, ACK, 0, &[]);
        Ok(())
    }

    fn setting(&mut self, setting: u16, value: u32) -> Result<(), Fatal> {
        match setting {
            HEADER_TABLE_SIZE => self.encoder.resize(value as usize),
            ENABLE_PUSH if value > 1 => return Err(Code::PROTOCOL_ERROR.into()),
            INITIAL_WINDOW_SIZE if value > MAX_31_BITS => {
                return Err(Code::FLOW_CONTROL_ERROR.into());
            }
            INITIAL_WINDOW_SIZE => {
                // Section 6.9.2: streams that are there follow the change.
                let more = i64::from(value) - mem::replace(&mut self.first_window, value.into());
                for entry in &mut self.entries {
                    entry.send_window += more;
                    if entry.send_window > i64::from(MAX_31_BITS) {
                        return Err(Code::FLOW_CONTROL_ERROR.into());
                    }
                    if more > 0 {
                        entry.wake();
                    }
                }
            }
            MAX_FRAME_SIZE if !FRAME_SIZES.contains(&value) => {
                return Err(Code::PROTOCOL_ERROR.into());
            }
            _ => {}
        }
        Ok(())
    }

    fn ping(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), Fatal> {
        if payload.len() != PING_BYTES {
            return Err(Code::FRAME_SIZE_ERROR.into());
        }
        if !head.has(ACK) {
            put(&mut self.out, PING, ACK, 0, payload);
        } else if payload == HEARD && self.goodbye == Goodbye::Announced {
            self.say_goodbye();
        }
        Ok(())
    }

    fn window(&mut self, stream: u32, payload: &[u8]) -> Result<(), Fatal> {
        let more = i64::from(integer(payload)? & MAX_31_BITS);
        let most = i64::from(MAX_31_BITS);
        if stream == 0 {
            if more == 0 {
                return Err(Code::PROTOCOL_ERROR.into());
            }
            self.send_window += more;
            if self.send_window > most {
                return Err(Code::FLOW_CONTROL_ERROR.into());
            }
            self.wake_next();
            return Ok(());
        }
        if stream > self.last {
            return Err(Code::PROTOCOL_ERROR.into());
        }
        // One that has ended may be spoken of for a while.
        let Some(at) = self.find(stream) else {
            return Ok(());
        };
        let entry = &mut self.entries[at];
        if entry.reset.is_some() {
            return Ok(());
        }
        entry.send_window += more;
        if more == 0 {
            return self.fail(at, Code::PROTOCOL_ERROR);
        }
        if entry.send_window > most {
            return self.fail(at, Code::FLOW_CONTROL_ERROR);
        }
        entry.wake();
        Ok(())
    }

    /// HEADERS or DATA of a stream that nobody answers here.
    pub(super) fn on_nobody(&self, stream: u32) -> Result<(), Fatal> {
        if stream > self.last || stream.is_multiple_of(2) {
            return Err(Code::PROTOCOL_ERROR.into());
        }
        match self.forgotten.contains(&stream) {
            true => Ok(()),
            // Section 5.1: the client itself has ended it.
            false => Err(Code::STREAM_CLOSED.into()),
        }
    }

    /// The same of one on which the client may say nothing more.
    pub(super) fn on_closed(&mut self, at: usize) -> Result<(), Fatal> {
        match self.entries[at].reset {
            Some(ResetBy::Us) => Ok(()),
            Some(ResetBy::Client) => Err(Code::STREAM_CLOSED.into()),
            None => self.fail(at, Code::STREAM_CLOSED),
        }
    }

    /// A stream has gone wrong (section 5.4.2).
    pub(super) fn fail(&mut self, at: usize, code: Code) -> Result<(), Fatal> {
        let id = self.entries[at].id;
        self.say_reset(id, code);
        self.errors += 1;
        match self.errors > ERRORS_MAX {
            true => Err(Fatal::calm(Abuse::Protocol)),
            false => Ok(()),
        }
    }

    /// It may be sent again.
    pub(super) fn refuse(&mut self, stream: u32) {
        self.forget(stream);
        put_reset(&mut self.out, stream, Code::REFUSED_STREAM);
    }

    /// Begins to end the connection (section 6.8): what is on its way will be answered, and the client says when it has heard of it.
    pub(super) fn announce_goodbye(&mut self) {
        self.goodbye = Goodbye::Announced;
        put_goaway(&mut self.out, MAX_31_BITS, Code::NO_ERROR);
        put(&mut self.out, PING, 0, 0, &HEARD);
    }

    /// The connection ends when all that has come is answered.
    fn say_goodbye(&mut self) {
        if self.goodbye != Goodbye::Said {
            self.goodbye = Goodbye::Said;
            put_goaway(&mut self.out, self.last, Code::NO_ERROR);
        }
    }
}

/// Section 5.3.1 of RFC 7540, whose priorities nobody looks at any more.
pub(super) fn priority(stream: u32, payload: &[u8]) -> Result<(), Fatal> {
    let Some((on, [_weight])) = payload.split_at_checked(PRIORITY_BYTES - 1) else {
        return Err(Code::FRAME_SIZE_ERROR.into());
    };
    match integer(on)? & MAX_31_BITS == stream {
        true => Err(Code::PROTOCOL_ERROR.into()),
        false => Ok(()),
    }
}
