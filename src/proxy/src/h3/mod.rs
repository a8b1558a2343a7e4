//! HTTP/3 for clients (RFC 9114). As in `h2`, a stream is carried as one HTTP/1.1 connection with one request on it (`streams`),
//! so that everything else holds for it without a second implementation.
//!
//! QUIC is the crate `quinn`'s: packets, TLS, flow control, streams. `endpoint` lets connections in, `connection` is one with its
//! requests, `control` reads what clients say beside them; `frames` and `qpack` are the encodings, `fields` says what is a request,
//! `receive` and `send` are a stream's two directions.
//!
//! There is no dynamic table, so that a field section never waits for another stream; no push, which no client takes any more;
//! and no 0-RTT, as what is sent by it can be sent again by others (RFC 8446 section 8). Priorities (RFC 9218) are not looked at.
//!
//! Framing is done here and not by the crate `h3`: it holds a HEADERS frame of any length in memory before it looks at it, takes
//! content that is cut off in mid-frame for whole, knows no `:protocol` of WebSocket, and does not see that a client has stopped
//! reading an answer. Here it is what the tests' client is made of.

mod connection;
mod control;
mod endpoint;
mod fields;
mod frames;
#[cfg(test)]
mod fuzz;
mod qpack;
mod receive;
mod send;

pub(crate) use endpoint::{Door, serve};
