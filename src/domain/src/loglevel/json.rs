//! The level in a line that is one JSON object (RFC 8259). The line may be cut or not quite JSON: what
//! was found until then counts.

use super::{KEYS, Level, words};

/// Objects within objects that are looked into; `log` in an object is one level deep.
const DEPTH_SEEN: usize = 2;

pub(super) fn level(text: &str) -> Option<Level> {
    let mut scan = Scan {
        rest: text,
        depth: 0,
    };
    // The last two strings in place of keys, by depth: `{"log": {"level": …}}`.
    let mut keys = [""; DEPTH_SEEN + 1];
    while let Some(token) = scan.next() {
        let Token::Text(name) = token else { continue };
        if !scan.colon() || scan.depth == 0 || scan.depth > DEPTH_SEEN {
            continue;
        }
        keys[scan.depth] = name;
        let tells = match scan.depth {
            1 => KEYS.contains(&name),
            // The Elastic Common Schema's `log.level`, written as objects.
            _ => keys[1] == "log" && name == "level",
        };
        if tells && let Some(found) = scan.value() {
            return Some(found);
        }
    }
    None
}

enum Token<'a> {
    Text(&'a str),
    Other,
}

struct Scan<'a> {
    rest: &'a str,
    depth: usize,
}

impl<'a> Scan<'a> {
    /// A string, or one character that is none.
    fn next(&mut self) -> Option<Token<'a>> {
        let at = self
            .rest
            .find(['"', '{', '}', '[', ']'])
            .unwrap_or(self.rest.len());
        let found = *self.rest.as_bytes().get(at)?;
        self.rest = &self.rest[at + 1..];
        match found {
            b'"' => return Some(Token::Text(self.string()?)),
            b'{' | b'[' => self.depth += 1,
            _ => self.depth = self.depth.saturating_sub(1),
        }
        Some(Token::Other)
    }

    /// What is left of a string after its first quote, escapes as they are. None: it is cut.
    fn string(&mut self) -> Option<&'a str> {
        let bytes = self.rest.as_bytes();
        let mut at = 0;
        loop {
            match bytes.get(at)? {
                b'"' => break,
                b'\\' => at += 2,
                _ => at += 1,
            }
        }
        let text = self.rest.get(..at)?;
        self.rest = self.rest.get(at + 1..)?;
        Some(text)
    }

    fn colon(&mut self) -> bool {
        match self.rest.trim_start().strip_prefix(':') {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn value(&mut self) -> Option<Level> {
        let value = self.rest.trim_start();
        if let Some(text) = value.strip_prefix('"') {
            self.rest = text;
            return words::any_case(self.string()?);
        }
        let digits = value.bytes().take_while(u8::is_ascii_digit).count();
        number(crate::text::parse_number(&value[..digits])?)
    }
}

/// pino and bunyan count in tens from 10 (trace) to 60 (fatal); GELF has syslog's severities.
fn number(n: u64) -> Option<Level> {
    Some(match n {
        0..=7 => Level::of_syslog(n),
        10..20 => Level::Trace,
        20..30 => Level::Debug,
        30..40 => Level::Info,
        40..50 => Level::Warn,
        50..60 => Level::Error,
        60..100 => Level::Fatal,
        _ => return None,
    })
}
