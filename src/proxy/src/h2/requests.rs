//! The fields that a client sends: requests, and what follows their content (RFC 9113 sections 6.2, 6.10 and 8).

use std::mem;

use http::Method;

use super::entry::Entry;
use super::frames::{
    Code, END_HEADERS, END_STREAM, FrameHead, PAYLOAD_BYTES, WITH_PRIORITY, put_reset,
};
use super::hpack::DecodeError;
use super::receive::{PRIORITY_BYTES, priority};
use super::state::{Block, Fatal, Goodbye, Opened, State};
use crate::metrics::Abuse;
use crate::streams::{Asking, Content, Malformed, Section, trailers};

/// A list of fields needs as many frames as its bytes do, and may have a few small ones.
const SPARE_PIECES: usize = 5;
/// What is coded is so many times as long as the list may be at most: in plain text it would be shorter.
const CODED: usize = 4;

impl State {
    pub(super) fn headers(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), Fatal> {
        // Section 5.1.1: a client's streams are odd.
        if head.stream.is_multiple_of(2) {
            return Err(Code::PROTOCOL_ERROR.into());
        }
        let mut payload = head.unpadded(payload)?;
        if head.has(WITH_PRIORITY) {
            let (said, rest) = payload
                .split_at_checked(PRIORITY_BYTES)
                .ok_or(Code::FRAME_SIZE_ERROR)?;
            priority(head.stream, said)?;
            payload = rest;
        }
        let ended = head.has(END_STREAM);
        if head.has(END_HEADERS) {
            return self.fields(head.stream, ended, payload);
        }
        self.block = Some(Block {
            stream: head.stream,
            ended,
            bytes: payload.to_vec(),
            pieces: 0,
        });
        Ok(())
    }

    pub(super) fn continuation(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), Fatal> {
        let most = self.bounds.section_bytes;
        let block = self.block.as_mut().ok_or(Code::PROTOCOL_ERROR)?;
        block.bytes.extend_from_slice(payload);
        block.pieces += 1;
        if block.pieces > most / PAYLOAD_BYTES + SPARE_PIECES || block.bytes.len() > CODED * most {
            return Err(Fatal::calm(Abuse::Protocol));
        }
        if !head.has(END_HEADERS) {
            return Ok(());
        }
        match self.block.take() {
            Some(block) => self.fields(block.stream, block.ended, &block.bytes),
            None => Ok(()),
        }
    }

    /// A whole block of fields, which is read whatever becomes of its stream: those behind it build upon it.
    fn fields(&mut self, stream: u32, ended: bool, block: &[u8]) -> Result<(), Fatal> {
        let mut section = mem::take(&mut self.section);
        section.clear();
        let most = self.bounds.section_bytes;
        let read = self.decoder.decode(block, most, &mut section);
        let taken = match read {
            Ok(whole) => self.message(stream, ended, &section, whole),
            Err(DecodeError::Endless) => Err(Fatal::calm(Abuse::Protocol)),
            Err(error) => Err(Code::from(error).into()),
        };
        self.section = section;
        taken
    }

    fn message(
        &mut self,
        stream: u32,
        ended: bool,
        section: &Section,
        whole: bool,
    ) -> Result<(), Fatal> {
        if let Some(at) = self.find(stream) {
            return self.trailers(at, ended, section, whole);
        }
        if stream <= self.last {
            // Section 5.1.1: numbers only grow.
            return match self.ended.contains(&stream) || self.forgotten.contains(&stream) {
                true => self.on_nobody(stream),
                false => Err(Code::PROTOCOL_ERROR.into()),
            };
        }
        self.last = stream;
        if self.goodbye == Goodbye::Said || self.is_full() {
            // Section 8.7: it may be sent again.
            self.refuse(stream);
            return Ok(());
        }
        if !whole {
            self.begin(stream, ended, None).received_end = ended;
            return Ok(());
        }
        let asking = Asking::read(section).and_then(|asking| match asking.length {
            Some(1..) if ended => Err(Malformed("its content is not as long as it says")),
            _ => Ok(asking),
        });
        match asking {
            Ok(asking) => {
                let is_connect = asking.method == Method::CONNECT;
                let expected = asking.length.filter(|_| !is_connect);
                let entry = self.begin(stream, ended, Some((section, asking)));
                entry.received_end = ended;
                entry.is_connect = is_connect;
                entry.expected = expected;
                Ok(())
            }
            Err(malformed) => {
                tracing::debug!(?malformed, "a stream carried no request");
                put_reset(&mut self.out, stream, Code::PROTOCOL_ERROR);
                self.forget(stream);
                self.in_vain()
            }
        }
    }

    fn begin(&mut self, id: u32, ended: bool, read: Option<(&Section, Asking)>) -> &mut Entry {
        let opened = match read {
            Some((section, asking)) => {
                let content = asking.content(ended);
                Opened {
                    id,
                    content,
                    head: Some(asking.spell(section, content)),
                    method: asking.method,
                }
            }
            None => Opened {
                id,
                method: Method::GET,
                content: Content::Nothing,
                head: None,
            },
        };
        self.opened.push(opened);
        self.open(id)
    }

    /// Fields behind the content (section 8.1).
    fn trailers(
        &mut self,
        at: usize,
        ended: bool,
        section: &Section,
        whole: bool,
    ) -> Result<(), Fatal> {
        let entry = &mut self.entries[at];
        if entry.reset.is_some() || entry.received_end {
            return self.on_closed(at);
        }
        let is_short = matches!(entry.expected, Some(1..));
        if !ended || !whole || entry.is_connect || is_short {
            return self.fail(at, Code::PROTOCOL_ERROR);
        }
        match trailers(section) {
            Ok(trailers) => {
                entry.trailers = Some(trailers);
                entry.received_end = true;
                entry.wake();
                Ok(())
            }
            Err(malformed) => {
                tracing::debug!(?malformed, "a stream's trailers are none");
                self.fail(at, Code::PROTOCOL_ERROR)
            }
        }
    }
}
