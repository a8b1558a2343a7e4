//! `Cache-Status` (RFC 9211): what this cache did with a request.

use std::fmt;

/// Why a request went on to an instance (section 2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarded {
    /// Whatever is kept, it was not to be used.
    Bypass,
    Method,
    UriMiss,
    VaryMiss,
    /// The client wants no old answer.
    Request,
    Stale,
    /// Part of an answer was asked for that is not kept.
    Partial,
}

impl Forwarded {
    fn as_str(self) -> &'static str {
        match self {
            Forwarded::Bypass => "bypass",
            Forwarded::Method => "method",
            Forwarded::UriMiss => "uri-miss",
            Forwarded::VaryMiss => "vary-miss",
            Forwarded::Request => "request",
            Forwarded::Stale => "stale",
            Forwarded::Partial => "partial",
        }
    }
}

/// The field's value; what is not forwarded is a hit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheStatus {
    pub forwarded: Option<Forwarded>,
    pub status: Option<u16>,
    pub ttl: Option<i64>,
    pub stored: bool,
    /// Another request's answer was waited for.
    pub collapsed: bool,
    /// A token.
    pub detail: Option<&'static str>,
}

impl CacheStatus {
    pub fn forwarded(why: Forwarded) -> CacheStatus {
        CacheStatus {
            forwarded: Some(why),
            ..CacheStatus::default()
        }
    }
}

impl fmt::Display for CacheStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nebula")?;
        match self.forwarded {
            None => f.write_str("; hit")?,
            Some(why) => write!(f, "; fwd={}", why.as_str())?,
        }
        if let Some(status) = self.status {
            write!(f, "; fwd-status={status}")?;
        }
        if let Some(ttl) = self.ttl {
            write!(f, "; ttl={ttl}")?;
        }
        if self.stored {
            f.write_str("; stored")?;
        }
        if self.collapsed {
            f.write_str("; collapsed")?;
        }
        if let Some(detail) = self.detail {
            write!(f, "; detail={detail}")?;
        }
        Ok(())
    }
}
