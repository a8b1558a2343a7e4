//! The bounds of what one deployment may say about its HTTP. All of it travels in one log entry and is
//! held by every node, for each of its kept releases.

use std::time::Duration;

use crate::limits::Limit;

/// All texts of one policy together: with command and environment it fits the registry's request.
pub const HTTP_BYTES: Limit = Limit {
    name: "http_bytes",
    max: 48 * 1024,
};
/// Names besides the deployment's own; a shop's domains in all its countries.
pub const HTTP_NAMES: Limit = Limit {
    name: "http_names",
    max: 128,
};
/// A request may be compared with each of them.
pub const HTTP_RULES: Limit = Limit {
    name: "http_rules",
    max: 128,
};
/// More methods than RFC 9110 and WebDAV together have in use.
pub const RULE_METHODS: Limit = Limit {
    name: "rule_methods",
    max: 16,
};
pub const RULE_HEADERS: Limit = Limit {
    name: "rule_headers",
    max: 8,
};
/// One path prefix, exempt path or redirect's target.
pub const PATH_BYTES: Limit = Limit {
    name: "path_bytes",
    max: 1024,
};
/// A header field's name.
pub const FIELD_NAME_BYTES: Limit = Limit {
    name: "field_name_bytes",
    max: 128,
};
/// A header field's value; content security policies of large applications take 2 to 3 KiB.
pub const FIELD_VALUE_BYTES: Limit = Limit {
    name: "field_value_bytes",
    max: 4 * 1024,
};
pub const RESPONSE_HEADERS: Limit = Limit {
    name: "response_headers",
    max: 32,
};
/// Each request pays for each of them.
pub const RATE_LIMITS: Limit = Limit {
    name: "rate_limits",
    max: 8,
};
pub const EXEMPT_PATHS: Limit = Limit {
    name: "exempt_paths",
    max: 32,
};
/// People behind one password prompt; more of them want a login of their own.
pub const USERS: Limit = Limit {
    name: "basic_auth_users",
    max: 128,
};
pub const USER_NAME_BYTES: Limit = Limit {
    name: "user_name_bytes",
    max: 128,
};
/// Networks in one list; each request is compared with each of them.
pub const NETWORKS: Limit = Limit {
    name: "networks",
    max: 256,
};
pub const CORS_ENTRIES: Limit = Limit {
    name: "cors_entries",
    max: 64,
};
/// A maintenance page or fixed answer; it is held in memory by every node.
pub const PAGE_BYTES: Limit = Limit {
    name: "page_bytes",
    max: 16 * 1024,
};
/// Releases with a weight: those that are kept.
pub const WEIGHTS: Limit = Limit {
    name: "weights",
    max: crate::limits::RELEASES_KEPT as u64,
};
/// A release's weight: ten thousandths are finer than any share that could be measured.
pub const WEIGHT: Limit = Limit {
    name: "weight",
    max: 10_000,
};
/// A request's head, which is held in memory whole.
pub const HEAD_BYTES_MAX: Limit = Limit {
    name: "head_bytes",
    max: 64 * 1024,
};
/// Under this a browser's usual head does not fit.
pub const HEAD_BYTES_MIN: u64 = 1024;
/// One response in the cache.
pub const CACHED_BYTES_MAX: Limit = Limit {
    name: "cached_response_bytes",
    max: 64 * 1024 * 1024,
};
/// The longest of all time limits: what lasts longer than a day is not one request.
pub const TIME_MAX: Duration = Duration::from_secs(24 * 3600);
/// Under this a time limit fails what is well.
pub const TIME_MIN: Duration = Duration::from_millis(10);
/// RFC 6797 knows no longest time; two years are what browsers' preload lists ask for at most.
pub const AGE_MAX: Duration = Duration::from_secs(2 * 366 * 24 * 3600);
