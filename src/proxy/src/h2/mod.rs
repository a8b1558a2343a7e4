//! HTTP/2 for clients (RFC 9113). A stream is carried as one HTTP/1.1 connection with one request on it, so that
//! routing, policies, retries, tunnels, sites and limits hold for both protocols without a second implementation.
//!
//! `frames` and `hpack` are the encodings. `state` is what is known of a client's connection and its streams (`entry`), without socket or
//! task: `receive` and `requests` read what comes, `send` writes what goes. `connection` carries both, with the streams (`streams`)
//! that `workers` answer; all of that is one task, and `bells` say what in it has something to do. `stream` are a stream's two directions
//! for `crate::streams`, which makes of them what `client` reads from and writes to.
//!
//! Push is not used, and priorities (RFC 9218) are not looked at: streams are served in turn.

mod bells;
mod connection;
mod entry;
mod frames;
#[cfg(test)]
mod fuzz;
mod hpack;
mod receive;
mod requests;
mod send;
mod state;
mod stream;
mod streams;
#[cfg(test)]
mod tests;
mod workers;

pub(crate) use connection::serve;
pub(crate) use workers::Workers;
