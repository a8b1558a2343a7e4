//! The output of a deployment's instances, from all nodes, in the order of time.
//!
//! Every node keeps its instances' log files and answers for them ([`Protocol::Logs`]). The node
//! that is asked reads its own files and asks all others, merges what they have, and, when
//! following, goes on with what arrives. Files are looked at only while somebody follows.
//!
//! Everything a reader causes ends with it: dropping the stream ends the readers of files and the
//! streams of other nodes.
//!
//! [`Protocol::Logs`]: nebula_wire::peer::Protocol::Logs
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod error;
mod feed;
mod files;
mod local;
mod logs;
mod merge;
mod serve;
mod tail;

pub use error::LogsError;
pub use feed::{ANSWER_WITHIN, RETRY_AFTER};
pub use files::POLL;
pub use logs::{Config, LogStream, Logs, Query, READERS, TAIL_DEFAULT};
pub use merge::{WINDOW, WINDOW_LINES};
pub use tail::{MAX_TAIL, TAIL_BYTES};
