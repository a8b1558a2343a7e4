//! The output of a deployment's instances, from all nodes, in the order of time.
//!
//! Every node keeps its instances' log files and answers for them ([`Protocol::LogSearch`]): filters are
//! applied where the lines lie. The node that is asked reads its own files and asks all others, merges what
//! they have, and, when following, goes on with what arrives. Files are looked at only while somebody follows.
//!
//! Everything a reader causes ends with it: dropping the stream ends the readers of files and the
//! streams of other nodes.
//!
//! Output outlives its instance ([`places`]) and its machine ([`copies`]), within bounds ([`keeper`]).
//!
//! [`Protocol::LogSearch`]: nebula_wire::peer::Protocol::LogSearch
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod copies;
mod error;
mod feed;
mod files;
mod filter;
#[cfg(test)]
mod fuzz;
mod keeper;
mod local;
mod logs;
mod merge;
mod metrics;
mod origins;
mod placed;
mod places;
mod reader;
mod retain;
mod seen;
mod serve;
mod tail;

pub use copies::{COPY_EVERY, COPY_RATE_BYTES, Copier};
pub use error::LogsError;
pub use feed::{ANSWER_WITHIN, RETRY_AFTER};
pub use files::{POLL, SEARCH_BYTES, SEARCH_WITHIN};
pub use filter::GREP_BYTES;
pub use keeper::Keeper;
pub use logs::{Config, LogStream, Logs, Query, READERS, TAIL_DEFAULT};
pub use merge::{WINDOW, WINDOW_BYTES, WINDOW_LINES};
pub use nebula_drivers::logfile::time_text;
pub use retain::Retention;
pub use tail::{MAX_TAIL, TAIL_BYTES};
