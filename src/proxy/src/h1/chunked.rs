//! The chunked coding (RFC 9112 section 7.1), read byte by byte as it comes. Strict: hexadecimal digits, CR LF, nothing
//! else that another reader might take differently. Chunk extensions are read over and not passed on.

/// A chunk's size line with its extensions. Sizes have 16 digits at most, and nobody uses extensions.
const LINE_BYTES_MAX: u32 = 256;
/// All trailer fields together: as much as a head may have by default ([`crate::config::Limits::max_header_bytes`]), which is what
/// gRPC's rich errors need. Only those that come are held.
pub(crate) const TRAILER_BYTES_MAX: usize = 64 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the first digit of a size.
    Size,
    SizeDigits,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// Within the trailer section; its bytes are kept.
    Trailer,
    Done,
}

/// Reads one body.
#[derive(Debug)]
pub(crate) struct Decoder {
    state: State,
    size: u64,
    line: u32,
    trailer: Vec<u8>,
}

/// What the next bytes are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// That many bytes from the front are coding and may be dropped.
    Coding(usize),
    /// That many bytes from the front are data.
    Data(usize),
    /// That many bytes were coding, and the body is complete.
    End(usize),
}

/// Not the chunked coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

impl Decoder {
    pub(crate) fn new() -> Decoder {
        Decoder {
            state: State::Size,
            size: 0,
            line: 0,
            trailer: Vec::new(),
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// The trailer fields' lines as they came, without the empty line that ends them.
    pub(crate) fn trailer(&self) -> &[u8] {
        let end = self.trailer.len().saturating_sub(2);
        &self.trailer[..end]
    }

    /// Says what the front of `bytes`, which are not empty, is. Takes note of coding, so that each byte is to be
    /// shown once; of data, only as many as [`Piece::Data`] says are taken.
    pub(crate) fn next(&mut self, bytes: &[u8]) -> Result<Piece, Malformed> {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match self.state {
                State::Data => {
                    if at > 0 {
                        return Ok(Piece::Coding(at));
                    }
                    let left = usize::try_from(self.size).unwrap_or(usize::MAX);
                    let taken = left.min(bytes.len());
                    self.size -= taken as u64;
                    if self.size == 0 {
                        self.state = State::DataCr;
                    }
                    return Ok(Piece::Data(taken));
                }
                State::Trailer => {
                    at += 1;
                    self.trailer_byte(byte)?;
                    if self.state == State::Done {
                        return Ok(Piece::End(at));
                    }
                }
                State::Done => return Ok(Piece::End(at)),
                _ => {
                    at += 1;
                    self.coding_byte(byte)?;
                }
            }
        }
        Ok(Piece::Coding(at))
    }

    fn coding_byte(&mut self, byte: u8) -> Result<(), Malformed> {
        self.line += 1;
        if self.line > LINE_BYTES_MAX {
            return Err(Malformed("a chunk's size line is too long"));
        }
        self.state = match (self.state, byte) {
            (State::Size | State::SizeDigits, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(byte).to_digit(16).unwrap_or(0);
                if self.size >> 60 != 0 {
                    return Err(Malformed("a chunk's size is too large"));
                }
                self.size = self.size << 4 | u64::from(digit);
                State::SizeDigits
            }
            (State::SizeDigits, b'\r') => State::SizeLf,
            (State::SizeDigits, b';') => State::Extension,
            (State::Extension, b'\r') => State::SizeLf,
            // A lone LF in an extension ends the line for some readers and not for others.
            (State::Extension, b'\t' | b' '..=b'~' | 0x80..) => State::Extension,
            (State::SizeLf, b'\n') => {
                self.line = 0;
                match self.size {
                    0 => State::Trailer,
                    _ => State::Data,
                }
            }
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => {
                self.line = 0;
                State::Size
            }
            (State::DataCr | State::DataLf, _) => {
                return Err(Malformed("a chunk is longer than its size"));
            }
            _ => return Err(Malformed("a chunk's size is not a hexadecimal number")),
        };
        Ok(())
    }

    fn trailer_byte(&mut self, byte: u8) -> Result<(), Malformed> {
        if self.trailer.len() >= TRAILER_BYTES_MAX {
            return Err(Malformed("the trailer fields are too long"));
        }
        let after_cr = self.trailer.last() == Some(&b'\r');
        if (byte == b'\n') != after_cr {
            return Err(Malformed(
                "a line of the trailer fields does not end in CR LF",
            ));
        }
        self.trailer.push(byte);
        if byte == b'\n' && (self.trailer.len() == 2 || self.trailer.ends_with(b"\r\n\r\n")) {
            self.state = State::Done;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(pieces: &[&[u8]]) -> Result<(Vec<u8>, bool, Vec<u8>), Malformed> {
        let mut decoder = Decoder::new();
        let mut data = Vec::new();
        for piece in pieces {
            let mut rest = *piece;
            while !rest.is_empty() && !decoder.is_done() {
                let taken = match decoder.next(rest)? {
                    Piece::Coding(n) | Piece::End(n) => n,
                    Piece::Data(n) => {
                        data.extend_from_slice(&rest[..n]);
                        n
                    }
                };
                rest = &rest[taken..];
            }
        }
        let trailer = decoder.trailer().to_vec();
        Ok((data, decoder.is_done(), trailer))
    }

    #[test]
    fn a_body_ends_where_it_says() {
        let body = b"3\r\nabc\r\nA;x=\"y\"\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n";
        let (data, done, trailer) = decode(&[body]).unwrap();
        assert_eq!(data, b"abc0123456789");
        assert!(done);
        assert_eq!(trailer, b"X-Sum: 1\r\n");
        let (data, done, trailer) = decode(&[b"0\r\n\r\n"]).unwrap();
        assert!(data.is_empty() && done && trailer.is_empty());
    }

    #[test]
    fn what_readers_disagree_on_is_refused() {
        for bad in [
            &b"3\nabc\r\n"[..],
            b"3 \r\nabc\r\n",
            b" 3\r\nabc\r\n",
            b"+3\r\nabc\r\n",
            b"0x3\r\nabc\r\n",
            b"\r\n",
            b"3\r\nabcd\r\n",
            b"3\r\nabc\n0\r\n\r\n",
            b"3;a\nb\r\nabc\r\n",
            b"10000000000000000\r\n",
            b"3;\x00\r\n",
            b"0\r\nX: 1\n\r\n",
            b"0\r\nX: \r1\r\n\r\n",
        ] {
            assert!(decode(&[bad]).is_err(), "{}", bad.escape_ascii());
        }
        let endless = [b"1;".to_vec(), vec![b'x'; 1000]].concat();
        assert!(decode(&[&endless]).is_err());
        let endless = [b"0\r\n".to_vec(), b"a: b\r\n".repeat(20_000)].concat();
        assert!(decode(&[&endless]).is_err());
    }

    proptest! {
        #[test]
        fn however_it_is_cut_it_is_the_same(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let mut body = Vec::new();
            for chunk in &chunks {
                body.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                body.extend_from_slice(chunk);
                body.extend_from_slice(b"\r\n");
            }
            body.extend_from_slice(b"0\r\n\r\n");
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len())).collect();
            at.extend([0, body.len()]);
            at.sort_unstable();
            let pieces: Vec<&[u8]> = at.windows(2).map(|w| &body[w[0]..w[1]]).collect();
            let (data, done, _) = decode(&pieces).unwrap();
            prop_assert!(done);
            prop_assert_eq!(data, chunks.concat());
        }

        #[test]
        fn rubbish_is_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&[&bytes]);
        }
    }
}
