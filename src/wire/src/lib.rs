//! What travels: the HTTP API's JSON shapes ([`api`]), the messages between nodes ([`peer`]), and the
//! one codec for bytes between nodes and on disk ([`codec`]).

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod api;
pub mod codec;
pub mod convert;
#[cfg(test)]
mod formats;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod messages;
pub mod peer;
pub mod token;
