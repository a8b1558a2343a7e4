//! Cuts a stream of bytes into lines of bounded length.

use super::{CONTINUES, LINE_BYTES};

/// The unfinished line of one stream.
#[derive(Default)]
pub(crate) struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    /// Takes more bytes and hands out every line they finish.
    pub(crate) fn feed(&mut self, bytes: &[u8], mut line: impl FnMut(&str)) {
        let mut rest = bytes;
        while let Some(at) = rest.iter().position(|b| *b == b'\n') {
            self.add(&rest[..at], &mut line);
            self.finish(&mut line, true);
            rest = &rest[at + 1..];
        }
        self.add(rest, &mut line);
    }

    /// Hands out what is left when the stream has ended without a newline.
    pub(crate) fn end(&mut self, mut line: impl FnMut(&str)) {
        self.finish(&mut line, false);
    }

    fn add(&mut self, mut bytes: &[u8], line: &mut impl FnMut(&str)) {
        while self.partial.len() + bytes.len() > LINE_BYTES {
            let take = LINE_BYTES - self.partial.len();
            self.partial.extend_from_slice(&bytes[..take]);
            bytes = &bytes[take..];
            let cut = boundary(&self.partial);
            let piece = String::from_utf8_lossy(&self.partial[..cut]);
            line(&format!("{piece}{CONTINUES}"));
            self.partial.drain(..cut);
        }
        self.partial.extend_from_slice(bytes);
    }

    fn finish(&mut self, line: &mut impl FnMut(&str), even_empty: bool) {
        if self.partial.last() == Some(&b'\r') {
            self.partial.pop();
        }
        if even_empty || !self.partial.is_empty() {
            line(&String::from_utf8_lossy(&self.partial));
        }
        self.partial.clear();
    }
}

/// The last place where a full buffer can be cut without splitting a character.
fn boundary(bytes: &[u8]) -> usize {
    // A character's first byte is at most 4 from its end (RFC 3629).
    for back in 1..=4.min(bytes.len()) {
        let at = bytes.len() - back;
        let width = match bytes[at] {
            0xc0..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf7 => 4,
            0x80..=0xbf => continue,
            _ => 1,
        };
        return if width > back { at } else { bytes.len() };
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(chunks: &[&[u8]]) -> Vec<String> {
        let mut lines = Lines::default();
        let mut out = Vec::new();
        for chunk in chunks {
            lines.feed(chunk, |l| out.push(l.to_owned()));
        }
        lines.end(|l| out.push(l.to_owned()));
        out
    }

    #[test]
    fn lines_are_joined_across_reads_and_ended_by_the_end() {
        assert_eq!(all(&[b"a\nb", b"c\n\nd\r\ne"]), ["a", "bc", "", "d", "e"]);
        assert!(all(&[b""]).is_empty());
    }

    #[test]
    fn bytes_that_are_not_utf8_are_replaced() {
        assert_eq!(all(&[b"a\xffb\n"]), ["a\u{fffd}b"]);
    }

    #[test]
    fn a_long_line_is_split_between_characters() {
        let long = format!("x{}\n", "ä".repeat(LINE_BYTES));
        let pieces = all(&[long.as_bytes()]);
        assert_eq!(pieces.len(), 3);
        let joined: String = pieces
            .iter()
            .map(|p| p.strip_suffix(CONTINUES).unwrap_or(p))
            .collect();
        assert_eq!(format!("{joined}\n"), long);
        assert!(pieces[0].ends_with(CONTINUES) && !pieces[2].ends_with(CONTINUES));
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_whole() {
        let line = "y".repeat(LINE_BYTES);
        assert_eq!(all(&[line.as_bytes(), b"\n"]), [line]);
    }
}
