//! Bytes of peer messages and stored records. The only file that knows bincode.
//!
//! Layout: one version byte, then the value. Lengths are checked before anything is decoded, and
//! decoding itself allocates no more than the limit.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Version of the encoding; the first byte of everything encoded.
pub const VERSION: u8 = 4;

/// Largest encoded value: a snapshot chunk or a batch of log entries fits, a mistake does not.
pub const MAX_BYTES: usize = 8 * 1024 * 1024;

/// Why bytes were not produced or not read.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    #[error(
        "encoded value of {actual} bytes is over the limit of {MAX_BYTES} bytes (codec_max_bytes)"
    )]
    TooLarge { actual: usize },
    #[error("encoding version {0} is not understood, expected {VERSION}")]
    Version(u8),
    #[error("no bytes to decode")]
    Empty,
    #[error("{0} bytes left over after decoding")]
    Trailing(usize),
    #[error("value cannot be encoded")]
    Encode(#[source] bincode::error::EncodeError),
    #[error("bytes cannot be decoded")]
    Decode(#[source] bincode::error::DecodeError),
}

fn config() -> bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<MAX_BYTES>,
> {
    bincode::config::standard().with_limit::<MAX_BYTES>()
}

/// Encodes a value.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, CodecError> {
    let mut bytes = vec![VERSION];
    bincode::serde::encode_into_std_write(value, &mut bytes, config())
        .map_err(CodecError::Encode)?;
    if bytes.len() > MAX_BYTES {
        return Err(CodecError::TooLarge {
            actual: bytes.len(),
        });
    }
    Ok(bytes)
}

/// Decodes a value that must fill the bytes exactly.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    if bytes.len() > MAX_BYTES {
        return Err(CodecError::TooLarge {
            actual: bytes.len(),
        });
    }
    let (&version, body) = bytes.split_first().ok_or(CodecError::Empty)?;
    if version != VERSION {
        return Err(CodecError::Version(version));
    }
    let (value, used) =
        bincode::serde::decode_from_slice(body, config()).map_err(CodecError::Decode)?;
    if used != body.len() {
        return Err(CodecError::Trailing(body.len() - used));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let value = (7u64, "seven".to_owned(), vec![1u8, 2, 3]);
        assert_eq!(
            decode::<(u64, String, Vec<u8>)>(&encode(&value).unwrap()).unwrap(),
            value
        );
    }

    #[test]
    fn rubbish_is_an_error_and_allocates_nothing_large() {
        assert!(matches!(decode::<u64>(&[]), Err(CodecError::Empty)));
        assert!(matches!(
            decode::<u64>(&[9, 1]),
            Err(CodecError::Version(9))
        ));
        assert!(matches!(
            decode::<u64>(&[VERSION, 1, 1]),
            Err(CodecError::Trailing(1))
        ));
        // A vector that claims 2^60 elements.
        let mut bytes = vec![VERSION, 253];
        bytes.extend_from_slice(&(1u64 << 60).to_le_bytes());
        assert!(matches!(
            decode::<Vec<u8>>(&bytes),
            Err(CodecError::Decode(_))
        ));
    }
}
