//! HTTP/2 in the clear to instances that ask for it (RFC 9113 section 3.3, prior knowledge). A stream is used as one
//! HTTP/1.1 connection for one request, the inverse of `crate::h2`, so that exchanges, retries and policies hold for both
//! protocols without a second implementation.
//!
//! `links` are a thread's connections, `link` is one of them, `greeting` sees whether the other end speaks HTTP/2 at all, `empties` how
//! long its connection will stand,
//! `stream` is what an exchange writes to and reads from, and `heads` translates.

mod empties;
mod greeting;
mod halves;
mod heads;
mod link;
mod links;
mod stream;
#[cfg(test)]
mod tests;

pub(crate) use heads::is_websocket;
pub(crate) use links::Links;
pub(crate) use stream::{Stream, Told};
