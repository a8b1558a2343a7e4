//! `Cache-Control` (RFC 9111 section 5.2). Unknown directives are ignored; of those that contradict each other the strictest
//! holds, and a list that cannot be read allows nothing.

/// The longest time that is told apart: RFC 9111 section 1.2.2 has larger ones mean as much.
const SECONDS_MAX: u32 = 1 << 31;

/// What a response says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResponseControl {
    pub no_store: bool,
    /// Also with field names: those may be left out, and a cache may take them for all (section 5.2.2.4).
    pub no_cache: bool,
    /// The same (section 5.2.2.7).
    pub private: bool,
    pub public: bool,
    pub must_revalidate: bool,
    pub proxy_revalidate: bool,
    /// All in seconds.
    pub max_age: Option<u32>,
    pub s_maxage: Option<u32>,
    pub stale_while_revalidate: Option<u32>,
    pub stale_if_error: Option<u32>,
}

/// What a request says. `max-stale` is not followed: nobody has to be given something old.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RequestControl {
    pub no_store: bool,
    pub no_cache: bool,
    pub only_if_cached: bool,
    pub max_age: Option<u32>,
    pub min_fresh: Option<u32>,
}

impl ResponseControl {
    /// `lines` are the values of all fields.
    pub fn read(lines: &[&[u8]]) -> ResponseControl {
        let mut control = ResponseControl::default();
        let clear = lines.iter().all(|line| {
            each(line, |name, value| match name {
                "no-store" => control.no_store = true,
                "no-cache" => control.no_cache = true,
                "private" => control.private = true,
                "public" => control.public = true,
                "must-revalidate" => control.must_revalidate = true,
                "proxy-revalidate" => control.proxy_revalidate = true,
                "max-age" => least(&mut control.max_age, value),
                "s-maxage" => least(&mut control.s_maxage, value),
                "stale-while-revalidate" => least(&mut control.stale_while_revalidate, value),
                "stale-if-error" => least(&mut control.stale_if_error, value),
                _ => {}
            })
        });
        control.no_store |= !clear;
        control
    }
}

impl RequestControl {
    /// `pragma` counts where there is no `Cache-Control` (section 5.4).
    pub fn read(lines: &[&[u8]], pragma: &[&[u8]]) -> RequestControl {
        let mut control = RequestControl::default();
        let clear = lines.iter().all(|line| {
            each(line, |name, value| match name {
                "no-store" => control.no_store = true,
                "no-cache" => control.no_cache = true,
                "only-if-cached" => control.only_if_cached = true,
                "max-age" => least(&mut control.max_age, value),
                "min-fresh" => {
                    let seconds = value.and_then(seconds).unwrap_or(SECONDS_MAX);
                    control.min_fresh = control.min_fresh.max(Some(seconds));
                }
                _ => {}
            })
        });
        control.no_store |= !clear;
        if lines.is_empty() {
            for line in pragma {
                each(line, |name, _| control.no_cache |= name == "no-cache");
            }
        }
        control
    }
}

/// Takes the shorter one; what is not a time is none at all (section 4.2.1).
fn least(kept: &mut Option<u32>, value: Option<&str>) {
    let seconds = value.and_then(seconds).unwrap_or(0);
    *kept = Some(kept.map_or(seconds, |before| before.min(seconds)));
}

/// Delta-seconds.
pub(super) fn seconds(text: &str) -> Option<u32> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(SECONDS_MAX).min(SECONDS_MAX))
}

/// Shows each directive, its name in lower case; whether the line could be read.
fn each(line: &[u8], mut show: impl FnMut(&str, Option<&str>)) -> bool {
    let Ok(text) = std::str::from_utf8(line) else {
        return false;
    };
    let Some(directives) = members(text) else {
        return false;
    };
    for directive in directives {
        let (name, value) = match directive.split_once('=') {
            Some((name, value)) => (name.trim(), Some(unquoted(value.trim()))),
            None => (directive, None),
        };
        show(&name.to_ascii_lowercase(), value);
    }
    true
}

fn unquoted(value: &str) -> &str {
    let inner = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
    inner.unwrap_or(value)
}

/// The members of a list, in which quoted strings may hold commas; `None` when a quote is open.
pub(super) fn members(text: &str) -> Option<Vec<&str>> {
    let (mut quoted, mut escaped, mut start) = (false, false, 0);
    let mut found = Vec::new();
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => {
                found.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    found.push(text[start..].trim());
    found.retain(|member| !member.is_empty());
    (!quoted).then_some(found)
}
