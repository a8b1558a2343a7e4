//! HPACK (RFC 7541): fields of requests as they are read, those of answers as they are written.

mod table;

use super::frames::Code;
use crate::streams::Section;
use crate::streams::coding::{Broken, Reader, put_integer, put_string};
use table::{FIELD_BYTES, TABLE_BYTES, Table, name_index};

/// Sections that are so many times as long as they may be end their connection; shorter ones only their request.
const ENDLESS: usize = 4;
/// Values up to this length are put into the table of what is said: longer ones would push out much and are rarely said twice.
const KEPT_VALUE_BYTES: usize = 256;

/// Why a block of fields ends its connection: what comes behind it could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DecodeError {
    Broken,
    /// It stands for more than anybody needs, and was not read to its end.
    Endless,
}

impl From<Broken> for DecodeError {
    fn from(_: Broken) -> DecodeError {
        DecodeError::Broken
    }
}

impl From<DecodeError> for Code {
    fn from(error: DecodeError) -> Code {
        match error {
            DecodeError::Broken => Code::COMPRESSION_ERROR,
            DecodeError::Endless => Code::ENHANCE_YOUR_CALM,
        }
    }
}

/// Of what a client says.
pub(super) struct Decoder {
    table: Table,
}

impl Decoder {
    pub(super) fn new() -> Decoder {
        Decoder {
            table: Table::new(),
        }
    }

    /// Puts the fields of a block into `section`, up to a size of `max` as RFC 9113 section 6.5.2 counts it. Whether that was all: what is
    /// longer is read for what it does to the table.
    pub(super) fn decode(
        &mut self,
        block: &[u8],
        max: usize,
        section: &mut Section,
    ) -> Result<bool, DecodeError> {
        let mut rest = Reader(block);
        let (mut size, mut begun) = (0, false);
        while let Some(first) = rest.0.first().copied() {
            if first & 0xe0 == 0x20 {
                // Sections 4.2 and 6.3: before the first field, and not beyond what was allowed.
                let bytes = rest.integer(5)?;
                if begun || bytes > TABLE_BYTES {
                    return Err(DecodeError::Broken);
                }
                self.table.resize(bytes);
                continue;
            }
            begun = true;
            let start = section.bytes().len();
            let name_end = self.field(first, &mut rest, section.bytes())?;
            size += section.bytes().len() - start + FIELD_BYTES;
            if size > max.saturating_mul(ENDLESS) {
                return Err(DecodeError::Endless);
            }
            match size > max {
                true => section.bytes().truncate(start),
                false => section.placed(start, name_end),
            }
        }
        Ok(size <= max)
    }

    /// Writes a field's name and value behind what `out` holds; where the name ends.
    fn field(
        &mut self,
        first: u8,
        rest: &mut Reader<'_>,
        out: &mut Vec<u8>,
    ) -> Result<usize, Broken> {
        let start = out.len();
        // Section 6.1.
        if first & 0x80 != 0 {
            let (name, value) = self.table.get(rest.integer(7)?).ok_or(Broken)?;
            out.extend_from_slice(name);
            out.extend_from_slice(value);
            return Ok(start + name.len());
        }
        // Sections 6.2.1 to 6.2.3.
        let is_kept = first & 0x40 != 0;
        let index = rest.integer(if is_kept { 6 } else { 4 })?;
        if index == 0 {
            rest.string(7, out)?;
        } else {
            let (name, _) = self.table.get(index).ok_or(Broken)?;
            out.extend_from_slice(name);
        }
        let name_end = out.len();
        rest.string(7, out)?;
        if is_kept {
            self.table
                .insert(0, &out[start..name_end], &out[name_end..]);
        }
        Ok(name_end)
    }
}

/// Of what is said to a client.
pub(super) struct Encoder {
    table: Table,
    /// The client has changed how much the table may hold, and is to be told that it was seen: the least that it was meanwhile.
    resized: Option<usize>,
}

impl Encoder {
    pub(super) fn new() -> Encoder {
        Encoder {
            table: Table::new(),
            resized: None,
        }
    }

    /// The client takes a table of so many bytes.
    pub(super) fn resize(&mut self, bytes: usize) {
        let bytes = bytes.min(TABLE_BYTES);
        if bytes != self.table.max() {
            self.table.resize(bytes);
            let least = self.resized.unwrap_or(bytes);
            self.resized = Some(least.min(bytes));
        }
    }

    /// Before the first field of a block.
    pub(super) fn begin(&mut self, out: &mut Vec<u8>) {
        let Some(least) = self.resized.take() else {
            return;
        };
        put_integer(out, 0x20, 5, least as u64);
        if least != self.table.max() {
            put_integer(out, 0x20, 5, self.table.max() as u64);
        }
    }

    /// Names are in lower case. `alone` says that this field is not likely to be said again.
    pub(super) fn field(&mut self, out: &mut Vec<u8>, name: &[u8], value: &[u8], alone: bool) {
        if name == b":status" {
            return status(out, value);
        }
        if alone || value.len() > KEPT_VALUE_BYTES || is_of_one_answer(name) {
            return literal(out, 0, 4, name, value);
        }
        let hash = hash(name, value);
        if let Some(index) = self.table.find(hash, name, value) {
            return put_integer(out, 0x80, 7, index);
        }
        literal(out, 0x40, 6, name, value);
        self.table.insert(hash, name, value);
    }
}

fn literal(out: &mut Vec<u8>, first: u8, bits: u32, name: &[u8], value: &[u8]) {
    let index = name_index(name);
    put_integer(out, first, bits, index);
    if index == 0 {
        put_string(out, name);
    }
    put_string(out, value);
}

fn status(out: &mut Vec<u8>, value: &[u8]) {
    let index = match value {
        b"200" => 8,
        b"204" => 9,
        b"206" => 10,
        b"304" => 11,
        b"400" => 12,
        b"404" => 13,
        b"500" => 14,
        _ => return literal(out, 0, 4, b":status", value),
    };
    out.push(0x80 | index);
}

/// Fields that differ from answer to answer, or are nobody else's to guess at (section 7.1.3).
fn is_of_one_answer(name: &[u8]) -> bool {
    matches!(
        name,
        b"age"
            | b"content-range"
            | b"etag"
            | b"expires"
            | b"last-modified"
            | b"location"
            | b"set-cookie"
    )
}

/// Tells fields from each other before they are compared.
fn hash(name: &[u8], value: &[u8]) -> u64 {
    /// 2^64 divided by the golden ratio.
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = (name.len() as u64) << 32 | value.len() as u64;
    for part in [name, value] {
        for bytes in part.chunks(8) {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            hash = (hash.rotate_left(5) ^ u64::from_le_bytes(word)).wrapping_mul(SPREAD);
        }
    }
    hash
}

#[cfg(test)]
mod tests;
