//! Reads an archive that came from anywhere, trusting nothing in it.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use serde::{Deserialize, Serialize};
use tar::EntryType;

use super::check::{Checker, Item};
use super::{ArchiveError, MAX_PATH_BYTES};

const BUFFER_BYTES: usize = 64 * 1024;
/// A path or a target, a leading `./`, a final `/` and NUL.
const MAX_LONG_NAME_BYTES: u64 = MAX_PATH_BYTES as u64 + 4;

/// What was unpacked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unpacked {
    /// Regular files by path.
    pub files: BTreeMap<String, FileInfo>,
    /// Whether there are symbolic links, by which files have further paths.
    #[serde(default)]
    pub links: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileInfo {
    pub size: u64,
    /// Of the content, hexadecimal.
    pub blake3: String,
}

/// Unpacks into `dir`, which must not exist and whose parent nobody else writes to. On an error, what was
/// unpacked so far is left for the caller to remove.
pub fn unpack(reader: impl Read, dir: &Path, max_bytes: u64) -> Result<Unpacked, ArchiveError> {
    make_folder(dir, "")?;
    read(reader, Some(dir), max_bytes)
}

/// Checks an archive as [`unpack`] does and writes nothing.
pub fn inspect(reader: impl Read, max_bytes: u64) -> Result<(), ArchiveError> {
    read(reader, None, max_bytes).map(|_| ())
}

fn read(reader: impl Read, dir: Option<&Path>, max_bytes: u64) -> Result<Unpacked, ArchiveError> {
    let mut archive = tar::Archive::new(reader);
    let mut checker = Checker::new(max_bytes);
    let mut unpacked = Unpacked::default();
    let mut buffer = vec![0; BUFFER_BYTES];
    // Raw: left to itself the crate would read a long name of any length into memory.
    let mut long = Long::default();
    for entry in archive.entries().map_err(ArchiveError::Damaged)?.raw(true) {
        let mut entry = entry.map_err(ArchiveError::Damaged)?;
        if long.take(&mut entry)? {
            continue;
        }
        let path = match long.path.take() {
            Some(path) => name(&path)?,
            None => name(&entry.path_bytes())?,
        };
        let executable = entry.header().mode().map_err(ArchiveError::Damaged)? & 0o111 != 0;
        match entry.header().entry_type() {
            EntryType::Directory => {
                // Other tools write the folder itself as `./`.
                if path.is_empty() {
                    continue;
                }
                checker.add(&path, &Item::Folder)?;
                if let Some(dir) = dir {
                    make_folders(dir, &path)?;
                }
            }
            EntryType::Regular | EntryType::Continuous => {
                let size = entry.size();
                checker.add(&path, &Item::File { size })?;
                let info = copy(&mut entry, size, dir, &path, executable, &mut buffer)?;
                if dir.is_some() {
                    unpacked.files.insert(path, info);
                }
            }
            EntryType::Symlink => {
                let target = match long.target.take() {
                    Some(target) => utf8(&target)?,
                    None => utf8(&entry.link_name_bytes().unwrap_or_default())?,
                };
                checker.add(&path, &Item::Link { target: &target })?;
                unpacked.links = true;
                if let Some(dir) = dir {
                    make_parents(dir, &path)?;
                    std::os::unix::fs::symlink(&target, dir.join(&path))
                        .map_err(|source| write_error(&path, source))?;
                }
            }
            other => {
                return Err(ArchiveError::Special {
                    path,
                    what: describe(other),
                });
            }
        }
        if long.target.is_some() {
            return Err(ArchiveError::Damaged(io::ErrorKind::InvalidData.into()));
        }
    }
    checker.finish("the archive")?;
    Ok(unpacked)
}

/// Names over 100 bytes come as entries of their own before the one they belong to (GNU tar's `L`
/// and `K`).
#[derive(Default)]
struct Long {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
}

impl Long {
    /// Whether the entry was such a name.
    fn take(&mut self, entry: &mut tar::Entry<'_, impl Read>) -> Result<bool, ArchiveError> {
        let slot = match entry.header().entry_type() {
            EntryType::GNULongName => &mut self.path,
            EntryType::GNULongLink => &mut self.target,
            _ => return Ok(false),
        };
        let size = entry.size();
        if size > MAX_LONG_NAME_BYTES {
            return Err(ArchiveError::TooLong {
                path: "a name in the archive".to_owned(),
                actual: usize::try_from(size).unwrap_or(usize::MAX),
                unit: "bytes long",
                limit: MAX_PATH_BYTES,
                name: "artifact_path_bytes",
            });
        }
        let mut name = Vec::new();
        entry
            .read_to_end(&mut name)
            .map_err(ArchiveError::Damaged)?;
        if name.last() == Some(&0) {
            name.pop();
        }
        if slot.replace(name).is_some() {
            return Err(ArchiveError::Damaged(io::ErrorKind::InvalidData.into()));
        }
        Ok(true)
    }
}

fn copy(
    entry: &mut impl Read,
    size: u64,
    dir: Option<&Path>,
    path: &str,
    executable: bool,
    buffer: &mut [u8],
) -> Result<FileInfo, ArchiveError> {
    let mut file = match dir {
        Some(dir) => {
            make_parents(dir, path)?;
            let mode = if executable { 0o755 } else { 0o644 };
            // `create_new` follows no link and overwrites nothing.
            let opened = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(mode)
                .open(dir.join(path))
                .map_err(|source| write_error(path, source))?;
            Some(opened)
        }
        None => None,
    };
    let mut hasher = blake3::Hasher::new();
    let mut copied = 0;
    loop {
        let count = match entry.read(buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(ArchiveError::Damaged(error)),
        };
        copied += count as u64;
        if let Some(file) = &mut file {
            hasher.update(&buffer[..count]);
            file.write_all(&buffer[..count])
                .map_err(|source| write_error(path, source))?;
        }
    }
    if copied != size {
        return Err(ArchiveError::Damaged(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(FileInfo {
        size,
        blake3: hasher.finalize().to_hex().to_string(),
    })
}

/// An entry's path without a leading `./` or a trailing `/`; other oddities are the checker's to refuse.
fn name(bytes: &[u8]) -> Result<String, ArchiveError> {
    let path = utf8(bytes)?;
    let path = path.strip_prefix("./").unwrap_or(&path);
    Ok(path.strip_suffix('/').unwrap_or(path).to_owned())
}

fn utf8(bytes: &[u8]) -> Result<String, ArchiveError> {
    std::str::from_utf8(bytes)
        .map(str::to_owned)
        .map_err(|_| ArchiveError::NotUtf8 {
            shown: String::from_utf8_lossy(bytes).into_owned(),
        })
}

fn make_parents(dir: &Path, path: &str) -> Result<(), ArchiveError> {
    match path.rsplit_once('/') {
        Some((parent, _)) => make_folders(dir, parent),
        None => Ok(()),
    }
}

/// The checker has made sure that nothing on the way is a link.
fn make_folders(dir: &Path, path: &str) -> Result<(), ArchiveError> {
    let full = dir.join(path);
    match std::fs::symlink_metadata(&full) {
        Ok(found) if found.is_dir() => return Ok(()),
        _ => {}
    }
    make_parents(dir, path)?;
    make_folder(&full, path)
}

fn make_folder(full: &Path, path: &str) -> Result<(), ArchiveError> {
    DirBuilder::new()
        .mode(0o755)
        .create(full)
        .map_err(|source| write_error(path, source))
}

fn write_error(path: &str, source: io::Error) -> ArchiveError {
    ArchiveError::Write {
        path: path.to_owned(),
        source,
    }
}

fn describe(kind: EntryType) -> &'static str {
    match kind {
        EntryType::Link => "a hard link in an archive",
        EntryType::Char | EntryType::Block => "a device",
        EntryType::Fifo => "a named pipe",
        EntryType::GNUSparse => "a sparse file",
        EntryType::XHeader | EntryType::XGlobalHeader => {
            "an extended (pax) header, which only other tools than 'nebula' write"
        }
        _ => "an entry of an unknown kind",
    }
}
