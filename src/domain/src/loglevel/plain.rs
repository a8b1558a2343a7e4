//! A line as it may be shown on a terminal, and as searches see it: without colours, and with nothing
//! in it that would move the cursor, ring the bell or turn the text around.

use std::borrow::Cow;
use std::fmt::Write as _;

const ESCAPE: char = '\u{1b}';

/// Control sequences are left out, other control characters are written as `\x07`. Tabs stay.
pub fn plain(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(found) = rest.chars().next() {
        if found == ESCAPE
            && let Some(bytes) = sequence(rest)
        {
            rest = &rest[bytes..];
            continue;
        }
        if is_harmful(found) {
            let code = u32::from(found);
            // Writing to a string cannot fail.
            let _ = match code {
                0..=0xff => write!(out, "\\x{code:02x}"),
                _ => write!(out, "\\u{{{code:x}}}"),
            };
        } else {
            out.push(found);
        }
        rest = &rest[found.len_utf8()..];
    }
    Cow::Owned(out)
}

/// Controls, and what changes the direction of the text that follows (Unicode Annex 9, 2).
fn is_harmful(c: char) -> bool {
    let turns = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    (c.is_control() && c != '\t') || turns
}

/// The length of the control sequence that the text begins with: CSI or OSC of ECMA-48, 8.3.16 and 8.3.89.
fn sequence(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    match bytes.get(1)? {
        b'[' => {
            let parameters = bytes[2..].iter().take_while(|b| (0x20..0x40).contains(*b));
            let last = 2 + parameters.count();
            let ends = bytes.get(last).is_some_and(|b| (0x40..0x7f).contains(b));
            ends.then_some(last + 1)
        }
        b']' => {
            let end = bytes.iter().position(|b| *b == 0x07).map(|at| at + 1);
            let other = text[2..].find("\u{1b}\\").map(|at| at + 4);
            match (end, other) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            }
        }
        _ => None,
    }
}
