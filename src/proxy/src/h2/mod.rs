//! HTTP/2 for clients (RFC 9113). A stream is carried as one HTTP/1.1 connection with one request on it, so that
//! routing, policies, retries, tunnels, sites and limits hold for both protocols without a second implementation.
//!
//! `connection` is a client's connection with its streams, `stream` makes of one what `client` reads from and writes
//! to, `request` and `answer` translate heads, `incoming` and `outgoing` content (also for instances that speak HTTP/2, see
//! `upstream`), and `frames` looks at what passes for those who ask for much and take nothing. Framing, HPACK and flow
//! control are the crate `h2`'s.

mod answer;
mod connection;
mod frames;
mod incoming;
mod outgoing;
mod request;
mod stream;

pub(crate) use answer::{copy_fields, stays};
pub(crate) use connection::serve;
pub(crate) use incoming::Incoming;
pub(crate) use outgoing::{Framing, Outgoing, invalid};
pub(crate) use request::line;
pub(crate) use stream::broken;
