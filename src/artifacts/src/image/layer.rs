//! Reads one layer: a tar archive from anywhere, compressed or not. Names of any length come as entries of their own, by the
//! rules of GNU tar and of POSIX (pax); they are read here, within limits, and not left to the library.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use nebula_domain::image::ImageDigest;
use sha2::{Digest, Sha256};
use tar::EntryType;

use super::ImageError;
use super::tree::Entry;
use crate::archive::{MAX_LINK_BYTES, MAX_PATH_BYTES};

const BUFFER_BYTES: usize = 256 * 1024;
/// A path or a target, and NUL.
const MAX_LONG_NAME_BYTES: u64 = (MAX_PATH_BYTES + MAX_LINK_BYTES) as u64;
/// Of one entry's further attributes. They hold the names besides, and what else a file system keeps beside a file.
const MAX_PAX_BYTES: u64 = 1024 * 1024;

/// Takes what a layer has.
pub(super) trait Take {
    /// Keeps the content of a file and gives its number.
    fn content(
        &mut self,
        from: &mut dyn Read,
        size: u64,
        executable: bool,
    ) -> Result<u64, ImageError>;
    fn entry(&mut self, path: &[u8], entry: Entry<'_>) -> Result<(), ImageError>;
}

/// Hands everything in the layer over. `left`: bytes that it may still have, unpacked; less of them afterwards. Returns the
/// digest of the unpacked layer.
pub(super) fn read(
    compressed: impl Read,
    left: &mut u64,
    limit: u64,
    take: &mut dyn Take,
) -> Result<ImageDigest, ImageError> {
    let mut plain = Counted {
        inner: plain(compressed)?,
        hasher: Sha256::new(),
        left: *left,
        over: false,
    };
    let result = entries(&mut plain, take);
    if plain.over {
        return Err(ImageError::TooLarge { limit });
    }
    result?;
    // What follows the end of the archive is part of what the digest is about.
    let rest = io::copy(&mut plain, &mut io::sink());
    if plain.over {
        return Err(ImageError::TooLarge { limit });
    }
    rest.map_err(ImageError::Damaged)?;
    *left = plain.left;
    Ok(ImageDigest(plain.hasher.finalize().into()))
}

/// The digest of an unpacked layer, whatever is in it.
pub(super) fn digest(compressed: impl Read, limit: u64) -> Result<ImageDigest, ImageError> {
    let mut plain = Counted {
        inner: plain(compressed)?,
        hasher: Sha256::new(),
        left: limit,
        over: false,
    };
    let read = io::copy(&mut plain, &mut io::sink());
    if plain.over {
        return Err(ImageError::TooLarge { limit });
    }
    read.map_err(ImageError::Damaged)?;
    Ok(ImageDigest(plain.hasher.finalize().into()))
}

/// Unpacked, by what it begins with.
pub(super) fn plain<'r>(compressed: impl Read + 'r) -> Result<Box<dyn Read + 'r>, ImageError> {
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, compressed);
    let start = reader.fill_buf().map_err(ImageError::Damaged)?;
    Ok(match start {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(reader)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let decoder = zstd::stream::read::Decoder::with_buffer(reader);
            Box::new(decoder.map_err(ImageError::Damaged)?)
        }
        // bzip2 and xz.
        [b'B', b'Z', b'h', ..] | [0xfd, b'7', b'z', b'X', ..] => {
            return Err(ImageError::Compression);
        }
        _ => Box::new(reader),
    })
}

/// Hashes what is read through it, and ends with an error at the limit.
struct Counted<R> {
    inner: R,
    hasher: Sha256,
    left: u64,
    over: bool,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        match self.left.checked_sub(count as u64) {
            Some(left) => self.left = left,
            None => {
                self.over = true;
                return Err(io::ErrorKind::FileTooLarge.into());
            }
        }
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

fn entries(from: &mut impl Read, take: &mut dyn Take) -> Result<(), ImageError> {
    let mut archive = tar::Archive::new(from);
    let mut long = Long::default();
    for entry in archive.entries().map_err(ImageError::Damaged)?.raw(true) {
        let mut entry = entry.map_err(ImageError::Damaged)?;
        if long.take(&mut entry)? {
            continue;
        }
        let Long { path, target } = std::mem::take(&mut long);
        let path = path.unwrap_or_else(|| entry.path_bytes().into_owned());
        let target = target
            .or_else(|| entry.link_name_bytes().map(|name| name.into_owned()))
            .unwrap_or_default();
        let mode = entry.header().mode().map_err(ImageError::Damaged)?;
        let size = entry.size();
        match entry.header().entry_type() {
            EntryType::Directory => take.entry(&path, Entry::Folder)?,
            // Before there was a type for folders, they had a slash.
            EntryType::Regular if path.ends_with(b"/") => take.entry(&path, Entry::Folder)?,
            EntryType::Regular | EntryType::Continuous => {
                let content = take.content(&mut entry, size, mode & 0o111 != 0)?;
                take.entry(&path, Entry::File(content))?;
            }
            EntryType::Symlink => take.entry(&path, Entry::Link(&target))?,
            EntryType::Link => take.entry(&path, Entry::Same(&target))?,
            // Devices are made by the node, and pipes by programs.
            EntryType::Char | EntryType::Block | EntryType::Fifo => {}
            EntryType::GNUSparse => {
                return Err(ImageError::entry(&path, "sparse files are not supported"));
            }
            _ => return Err(ImageError::entry(&path, "it is of an unknown kind")),
        }
    }
    Ok(())
}

/// What is said of the next entry before it.
#[derive(Default)]
struct Long {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
}

impl Long {
    /// Whether the entry was about the next one.
    fn take(&mut self, entry: &mut tar::Entry<'_, impl Read>) -> Result<bool, ImageError> {
        match entry.header().entry_type() {
            EntryType::GNULongName => {
                self.path = Some(name(&whole(
                    entry,
                    MAX_LONG_NAME_BYTES,
                    "artifact_path_bytes",
                )?));
            }
            EntryType::GNULongLink => {
                self.target = Some(name(&whole(
                    entry,
                    MAX_LONG_NAME_BYTES,
                    "artifact_link_bytes",
                )?));
            }
            EntryType::XHeader => {
                let text = whole(entry, MAX_PAX_BYTES, "image_pax_bytes")?;
                self.pax(&text, entry)?;
            }
            // About all that follow; nothing in it matters here.
            EntryType::XGlobalHeader => {}
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// POSIX.1-2017, "pax Extended Header": lines of length, keyword and value.
    fn pax(&mut self, text: &[u8], entry: &tar::Entry<'_, impl Read>) -> Result<(), ImageError> {
        let damaged = || ImageError::Damaged(io::ErrorKind::InvalidData.into());
        let mut rest = text;
        while !rest.is_empty() {
            let digits = rest
                .iter()
                .position(|byte| *byte == b' ')
                .ok_or_else(damaged)?;
            let length = std::str::from_utf8(&rest[..digits]).ok();
            let length: usize = length.and_then(|t| t.parse().ok()).ok_or_else(damaged)?;
            let record = rest.get(digits + 1..length).ok_or_else(damaged)?;
            let record = record.strip_suffix(b"\n").ok_or_else(damaged)?;
            let equals = record
                .iter()
                .position(|byte| *byte == b'=')
                .ok_or_else(damaged)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.target = Some(value.to_vec()),
                // Of files of 8 GiB and more, whose size the entry cannot say.
                b"size" => {
                    return Err(ImageError::entry(
                        &entry.path_bytes(),
                        "it is larger than 8 GiB",
                    ));
                }
                key if key.starts_with(b"GNU.sparse.") => {
                    let path = entry.path_bytes();
                    return Err(ImageError::entry(&path, "sparse files are not supported"));
                }
                _ => {}
            }
            rest = &rest[length..];
        }
        Ok(())
    }
}

fn name(bytes: &[u8]) -> Vec<u8> {
    bytes.strip_suffix(b"\0").unwrap_or(bytes).to_vec()
}

fn whole(
    entry: &mut tar::Entry<'_, impl Read>,
    limit: u64,
    name: &'static str,
) -> Result<Vec<u8>, ImageError> {
    let size = entry.size();
    if size > limit {
        return Err(ImageError::TooLong {
            path: "what is said of an entry".to_owned(),
            actual: usize::try_from(size).unwrap_or(usize::MAX),
            unit: "bytes long",
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
            name,
        });
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(ImageError::Damaged)?;
    if bytes.len() as u64 != size {
        return Err(ImageError::Damaged(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(bytes)
}
