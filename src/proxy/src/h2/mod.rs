//! HTTP/2 for clients (RFC 9113). A stream is carried as one HTTP/1.1 connection with one request on it, so that
//! routing, policies, retries, tunnels, sites and limits hold for both protocols without a second implementation.
//!
//! `connection` is a client's connection with its streams (`streams`), which `workers` answer; all of that is one task, and `bells` say
//! what in it has something to do. `stream` are a stream's two directions for `crate::streams`, which makes of them what `client` reads from
//! and writes to, and `frames` looks at what passes for those who ask for much and take nothing. Framing, HPACK and flow control are the crate `h2`'s.

mod bells;
mod connection;
mod frames;
mod stream;
mod streams;
mod workers;

pub(crate) use connection::serve;
pub(crate) use stream::broken;
pub(crate) use workers::Workers;
