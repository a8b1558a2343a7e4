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
    // What ends no string here ends none further on: the rest is not searched again for each.
    let mut strings_end = true;
    while let Some(found) = rest.chars().next() {
        let is_string = rest[found.len_utf8()..].starts_with(']');
        if found == ESCAPE && (strings_end || !is_string) {
            if let Some(bytes) = sequence(rest) {
                rest = &rest[bytes..];
                continue;
            }
            strings_end = !is_string;
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
            // No further than its end, of which there are two.
            (2..bytes.len()).find_map(|at| match bytes[at..] {
                [0x07, ..] => Some(at + 1),
                [0x1b, b'\\', ..] => Some(at + 2),
                _ => None,
            })
        }
        _ => None,
    }
}
