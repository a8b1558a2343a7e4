//! Field sections (RFC 9204), as far as they need no dynamic table: its size is zero here, which is what a peer has to assume
//! before it is told otherwise, and so it stays. No section waits for another stream.

mod table;

use std::borrow::Cow;

use crate::streams::coding::{self, Reader, put_integer, put_string};
use table::{Found, TABLE, find};

/// What RFC 9204 section 3.2.1 adds to a field's name and value, as RFC 9114 section 4.2.2 counts the size of a section.
const FIELD_BYTES: usize = 32;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: Cow<'static, [u8]>,
    pub(super) value: Cow<'static, [u8]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DecodeError {
    /// Not a section, or one that names the dynamic table.
    Broken,
    /// More than is allowed; the rest was not looked at.
    TooLarge,
}

impl From<coding::Broken> for DecodeError {
    fn from(_: coding::Broken) -> DecodeError {
        DecodeError::Broken
    }
}

/// The fields of a section, up to a size of `max`.
pub(super) fn decode(section: &[u8], max: usize) -> Result<Vec<Field>, DecodeError> {
    let mut rest = Reader(section);
    // Section 4.5.1: of a table without entries nothing can be required, and there is nothing before its beginning.
    let required = rest.integer(8)?;
    let negative = rest.peek()? & 0x80 != 0;
    rest.integer(7)?;
    if required != 0 || negative {
        return Err(DecodeError::Broken);
    }
    let (mut fields, mut size) = (Vec::new(), 0);
    while let Some(first) = rest.0.first() {
        let field = match first {
            // Section 4.5.2: a field of the static table.
            0b1100_0000.. => {
                let (name, value) = entry(rest.integer(6)?)?;
                Field {
                    name: Cow::Borrowed(name.as_bytes()),
                    value: Cow::Borrowed(value.as_bytes()),
                }
            }
            // Section 4.5.4: a name of the static table.
            0b0101_0000..=0b0101_1111 | 0b0111_0000..=0b0111_1111 => {
                let (name, _) = entry(rest.integer(4)?)?;
                Field {
                    name: Cow::Borrowed(name.as_bytes()),
                    value: Cow::Owned(string(&mut rest, 7)?),
                }
            }
            // Section 4.5.6.
            0b0010_0000..=0b0011_1111 => Field {
                name: Cow::Owned(string(&mut rest, 3)?),
                value: Cow::Owned(string(&mut rest, 7)?),
            },
            // The dynamic table.
            _ => return Err(DecodeError::Broken),
        };
        size += field.name.len() + field.value.len() + FIELD_BYTES;
        if size > max {
            return Err(DecodeError::TooLarge);
        }
        fields.push(field);
    }
    Ok(fields)
}

fn entry(index: usize) -> Result<(&'static str, &'static str), DecodeError> {
    TABLE.get(index).copied().ok_or(DecodeError::Broken)
}

fn string(from: &mut Reader<'_>, bits: u32) -> Result<Vec<u8>, DecodeError> {
    let mut string = Vec::new();
    from.string(bits, &mut string)?;
    Ok(string)
}

/// A section in the making.
pub(super) struct Encoder {
    pub(super) section: Vec<u8>,
    /// As RFC 9114 section 4.2.2 counts it.
    pub(super) size: usize,
}

impl Encoder {
    pub(super) fn new() -> Encoder {
        Encoder {
            section: vec![0, 0],
            size: 0,
        }
    }

    /// Names are in lower case.
    pub(super) fn field(&mut self, name: &str, value: &[u8]) {
        self.size += name.len() + value.len() + FIELD_BYTES;
        let section = &mut self.section;
        match find(name, value) {
            Found::Field(index) => return put_integer(section, 0b1100_0000, 6, index),
            Found::Name(index) => put_integer(section, 0b0101_0000, 4, index),
            Found::Nothing => {
                put_integer(section, 0b0010_0000, 3, name.len() as u64);
                section.extend_from_slice(name.as_bytes());
            }
        }
        put_string(section, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAX: usize = 1 << 20;

    fn field(name: &str, value: &str) -> Field {
        Field {
            name: Cow::Owned(name.as_bytes().to_vec()),
            value: Cow::Owned(value.as_bytes().to_vec()),
        }
    }

    #[test]
    fn an_example_of_the_standard() {
        // RFC 9204 appendix B.1.
        let section = hex::decode("0000510b2f696e6465782e68746d6c").unwrap();
        let fields = decode(&section, MAX).unwrap();
        assert_eq!(fields, [field(":path", "/index.html")]);
    }

    #[test]
    fn a_string_may_be_coded() {
        let value = crate::streams::huffman::tests::encode(b"www.example.com");
        let mut section = vec![0, 0, 0x50, 0x80 | value.len() as u8];
        section.extend_from_slice(&value);
        let fields = decode(&section, MAX).unwrap();
        assert_eq!(fields, [field(":authority", "www.example.com")]);
    }

    #[test]
    fn what_names_the_dynamic_table_is_refused() {
        for wrong in [
            "",
            "00",
            // It requires an entry, or begins before the first one.
            "0100c1",
            "0080c1",
            // Entries relative to the base, after it, names of both, and beyond the static table.
            "000080",
            "000010",
            "00004000",
            "00000000",
            "0000ff24",
            // Cut off, too long, endless.
            "00005105",
            "0000ff",
            "0000ffffffffffffffff7f",
        ] {
            let section = hex::decode(wrong).unwrap();
            assert_eq!(decode(&section, MAX), Err(DecodeError::Broken), "{wrong}");
        }
    }

    #[test]
    fn a_section_has_a_size() {
        let mut encoder = Encoder::new();
        encoder.field("x-mine", b"1234");
        assert_eq!(encoder.size, 42);
        assert!(decode(&encoder.section, 42).is_ok());
        assert_eq!(decode(&encoder.section, 41), Err(DecodeError::TooLarge));
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            fields in prop::collection::vec(("[a-z-]{1,200}", "[ -~]{0,400}"), 0..8),
            known in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let known = known.iter().map(|index| TABLE[index.index(TABLE.len())]);
            let all: Vec<_> = fields
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .chain(known)
                .collect();
            let mut encoder = Encoder::new();
            for (name, value) in &all {
                encoder.field(name, value.as_bytes());
            }
            let expected: Vec<_> = all.iter().map(|(name, value)| field(name, value)).collect();
            prop_assert_eq!(decode(&encoder.section, encoder.size), Ok(expected));
        }

        #[test]
        fn nothing_breaks_it(section in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&section, 1000);
        }
    }
}
