//! HTTP/1.1 on the wire (RFC 9112), for a proxy: heads stay the bytes they were and are looked at in place, bodies
//! pass from one connection's buffer to the other's.
//!
//! Strict where leniency has been abused to smuggle requests past a proxy: a message whose end two readers could
//! place differently is refused ([`head`], [`length`]).

mod chunked;
mod fields;
mod head;
mod inbox;
mod length;
mod pace;
mod relay;
mod timer;
mod trailers;
mod wire;

pub(crate) use chunked::{Decoder, Malformed, Piece};
pub(crate) use fields::{Fields, Kind, tokens};
pub(crate) use head::{
    End, FIELDS_MAX, HeadLimits, Refusal, RequestHead, ResponseHead, Spelling, Version, find_end,
    find_lenient_end, is_host,
};
pub(crate) use inbox::Inbox;
pub(crate) use length::Length;
pub(crate) use pace::Pace;
pub(crate) use relay::{Framing, Moved, Relay, RelayError, Trailers, chunk_size};
pub(crate) use timer::Timer;
pub(crate) use trailers::TRAILERS_MAX;
pub(crate) use wire::{Buffers, READ_BYTES, Wire};
