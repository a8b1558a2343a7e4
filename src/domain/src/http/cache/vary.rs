//! `Vary`: of which fields of a request an answer depends (RFC 9111 section 4.1).

use super::{Lines, Refusal};

/// Fields that an answer may depend on. Each multiplies what is kept; real ones name two or three.
const VARY_FIELDS_MAX: usize = 8;

/// What every key holds already.
const KEYED: [&str; 3] = ["host", "x-forwarded-host", "x-forwarded-proto"];

/// What the edge says of each request anew, or keeps from a fetch. An answer that depends on it cannot be told from another.
const UNKNOWN: [&str; 11] = [
    "connection",
    "forwarded",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "range",
    "te",
    "upgrade",
    "via",
    "x-real-ip",
    "x-request-id",
];

/// Names in lower case, sorted, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vary(Vec<String>);

impl Vary {
    /// `lines` are the values of all `Vary` fields of an answer.
    pub fn read(lines: &[&[u8]]) -> Result<Vary, Refusal> {
        let mut names = Vec::new();
        for line in lines {
            let line = std::str::from_utf8(line).map_err(|_| Refusal::Vary)?;
            for name in line.split(',').map(str::trim).filter(|n| !n.is_empty()) {
                let name = name.to_ascii_lowercase();
                if KEYED.contains(&name.as_str()) {
                    continue;
                }
                let ours = UNKNOWN.contains(&name.as_str()) || name.starts_with("x-forwarded-");
                // A program that takes `_` for `-` may mean either.
                if ours || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
                    return Err(Refusal::Vary);
                }
                names.push(name);
            }
        }
        names.sort();
        names.dedup();
        match names.len() <= VARY_FIELDS_MAX {
            true => Ok(Vary(names)),
            false => Err(Refusal::Vary),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What it takes in memory.
    pub fn bytes(&self) -> usize {
        self.0
            .iter()
            .map(|name| name.len() + size_of::<String>())
            .sum()
    }

    /// The fields of a request that count, in one form for all requests that are to be answered alike.
    pub fn key<'a>(&self, fields: impl Lines<'a>) -> Vec<u8> {
        let mut key = Vec::new();
        for name in &self.0 {
            let lines = fields(name);
            let value = normal(&lines);
            // What is not there is something else than what is empty.
            let length = match lines.is_empty() {
                true => u64::MAX,
                false => value.len() as u64,
            };
            key.extend_from_slice(&length.to_le_bytes());
            key.extend_from_slice(&value);
        }
        key
    }
}

/// Lines are members of one list, and blanks around its commas say nothing. Where something is quoted they may.
fn normal(lines: &[&[u8]]) -> Vec<u8> {
    if lines.iter().any(|line| line.contains(&b'"')) {
        return lines.join(&b',');
    }
    let members = lines.iter().flat_map(|line| line.split(|b| *b == b','));
    let members: Vec<&[u8]> = members.map(<[u8]>::trim_ascii).collect();
    members.join(&b',')
}
