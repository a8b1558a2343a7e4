//! The rules of a shared cache: what may be kept, for whom, how long, and what is done with it then (RFC 9111, RFC 5861).
//!
//! Pure: fields come as lookups by name, times as numbers. The proxy's `cache` holds the answers and fetches them.

mod conditions;
mod control;
mod freshness;
mod status;
mod storing;
#[cfg(test)]
mod tests;
mod vary;

pub use conditions::{Validators, is_same};
pub use control::{RequestControl, ResponseControl};
pub use freshness::{Freshness, Use};
pub use status::{CacheStatus, Forwarded};
pub use storing::{Asker, Refusal, Times, is_failure, keep};
pub use vary::Vary;

/// The values of all fields of a name, in lower case, line by line.
pub trait Lines<'a>: Fn(&str) -> Vec<&'a [u8]> {}

impl<'a, F: Fn(&str) -> Vec<&'a [u8]>> Lines<'a> for F {}
