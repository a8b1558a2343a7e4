//! Bounds on requests, and pauses: sizes, idle time, rate limits with what is exempt, maintenance.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::{HttpError, within};
use super::limits::{
    AGE_MAX, EXEMPT_PATHS, HEAD_BYTES_MAX, HEAD_BYTES_MIN, NETWORKS, PAGE_BYTES, TIME_MAX, TIME_MIN,
};
use super::networks::Network;
use super::path::PathPrefix;
use super::size::ByteSize;
use crate::text::show_duration;
use crate::traffic::rate::{RateKey, RateLimit};

/// How large a request may be, and how long it may stand still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestLimits {
    /// 413 beyond it; `None` for no limit. Bodies stream, so this protects the application and not the proxy.
    pub body: Option<ByteSize>,
    /// Request line and header fields together; 431 beyond it.
    pub head: ByteSize,
    /// The request's target; 414 beyond it.
    pub uri: ByteSize,
    /// Nothing moves in either direction for so long, once an answer has begun.
    pub idle: Duration,
}

impl Default for RequestLimits {
    /// 1 GiB is more than forms upload and less than fills a disk. 32 KiB is what this proxy has always taken,
    /// 8 KiB what RFC 9110 section 4.1 asks for at least. Ten minutes: streams that send a sign of life
    /// (the HTML standard suggests one every 15 s) live forever.
    fn default() -> Self {
        RequestLimits {
            body: Some(ByteSize::gib(1)),
            head: ByteSize::kib(32),
            uri: ByteSize::kib(8),
            idle: Duration::from_secs(600),
        }
    }
}

impl RequestLimits {
    pub(super) fn check(&self) -> Result<(), HttpError> {
        let head = usize::try_from(self.head.0).unwrap_or(usize::MAX);
        within("limits.head", HEAD_BYTES_MAX, "the size in bytes", head)?;
        if self.head.0 < HEAD_BYTES_MIN {
            return Err(HttpError::new(
                "limits.head",
                format!(
                    "{} is too little: use at least {}",
                    self.head,
                    ByteSize(HEAD_BYTES_MIN)
                ),
            ));
        }
        if self.uri > self.head || self.uri.0 == 0 {
            return Err(HttpError::new(
                "limits.uri",
                format!(
                    "{} is not between 1 and limits.head, which is {}",
                    self.uri, self.head
                ),
            ));
        }
        check_time("limits.idle", self.idle)
    }
}

pub(super) fn check_time(field: &str, time: Duration) -> Result<(), HttpError> {
    if (TIME_MIN..=TIME_MAX).contains(&time) {
        return Ok(());
    }
    Err(HttpError::new(
        field,
        format!(
            "{} is not between {} and {}",
            show_duration(time),
            show_duration(TIME_MIN),
            show_duration(TIME_MAX)
        ),
    ))
}

/// One limit on a deployment's requests: 429 with `Retry-After` beyond it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateRule {
    pub limit: RateLimit,
    pub key: RateKey,
    /// Paths that do not count and are never refused.
    pub exempt: Vec<PathPrefix>,
    /// Counts are shared between the nodes, so that the limit holds for the cluster and not for each node.
    /// Approximate: nodes tell each other by gossip, some fractions of a second late.
    pub cluster: bool,
}

impl RateRule {
    /// A limit for each client.
    pub fn by_address(limit: RateLimit) -> RateRule {
        RateRule {
            limit,
            key: RateKey::Address,
            exempt: Vec::new(),
            cluster: false,
        }
    }

    pub(super) fn check(&self, field: &str) -> Result<(), HttpError> {
        let of = |part: &str| format!("{field}.{part}");
        self.limit
            .check()
            .map_err(|e| HttpError::new(of("limit"), e))?;
        self.key.check().map_err(|e| HttpError::new(of("key"), e))?;
        let what = "the number of exempt paths";
        within(&of("exempt"), EXEMPT_PATHS, what, self.exempt.len())?;
        match self.exempt.iter().any(PathPrefix::is_root) {
            true => Err(HttpError::new(
                of("exempt"),
                "'/' would exempt every request: leave the whole rate limit out",
            )),
            false => Ok(()),
        }
    }

    /// Whether a path in its canonical form counts.
    pub fn counts(&self, path: &str) -> bool {
        !self.exempt.iter().any(|prefix| prefix.covers(path))
    }
}

/// Everybody gets a page with 503 while the deployment is worked on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Maintenance {
    pub on: bool,
    /// HTML; empty for the proxy's own page.
    pub page: String,
    /// When to come again.
    pub retry_after: Duration,
    /// Who gets through all the same, to look whether it works.
    pub exempt: Vec<Network>,
}

impl Default for Maintenance {
    fn default() -> Self {
        Maintenance {
            on: false,
            page: String::new(),
            retry_after: Duration::from_secs(300),
            exempt: Vec::new(),
        }
    }
}

impl Maintenance {
    /// Whether a client at this address gets the page.
    pub fn stops(&self, client: IpAddr) -> bool {
        self.on && !self.exempt.iter().any(|network| network.contains(client))
    }

    pub(super) fn check(&self) -> Result<(), HttpError> {
        let (page, exempt) = (self.page.len(), self.exempt.len());
        within("maintenance.page", PAGE_BYTES, "the size in bytes", page)?;
        within(
            "maintenance.exempt",
            NETWORKS,
            "the number of networks",
            exempt,
        )?;
        if self.retry_after > AGE_MAX || self.retry_after.as_secs() == 0 {
            return Err(HttpError::new(
                "maintenance.retry_after",
                format!(
                    "{} is not between 1s and {}",
                    show_duration(self.retry_after),
                    show_duration(AGE_MAX)
                ),
            ));
        }
        Ok(())
    }
}
