//! Reads a folder into a checked, sorted [`Manifest`].

use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::check::{Checker, Item};
use super::{ArchiveError, Entry, Kind, MAX_DEPTH, MAX_ENTRIES, Manifest, Stamp};

/// Everything below `dir`, links not followed. Hard links are files of their own.
pub fn scan(dir: &Path) -> Result<Manifest, ArchiveError> {
    match fs::metadata(dir) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return Err(ArchiveError::NotAFolder(dir.to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(ArchiveError::NoSuchFolder(dir.to_owned()));
        }
        Err(source) => {
            return Err(ArchiveError::Read {
                path: dir.display().to_string(),
                source,
            });
        }
    }
    let mut entries = Vec::new();
    walk(dir, "", 0, &mut entries)?;
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    let mut checker = Checker::new(u64::MAX);
    for entry in &entries {
        let item = match &entry.kind {
            Kind::Folder => Item::Folder,
            Kind::File { stamp, .. } => Item::File { size: stamp.size },
            Kind::Link { target } => Item::Link { target },
        };
        checker.add(&entry.path, &item)?;
    }
    checker.finish(&format!("'{}'", dir.display()))?;
    Ok(Manifest {
        root: dir.to_owned(),
        entries,
    })
}

fn walk(
    dir: &Path,
    prefix: &str,
    depth: usize,
    entries: &mut Vec<Entry>,
) -> Result<(), ArchiveError> {
    if depth > MAX_DEPTH {
        return Err(ArchiveError::TooLong {
            path: prefix.to_owned(),
            actual: depth,
            unit: "folders deep",
            limit: MAX_DEPTH,
            name: "artifact_depth",
        });
    }
    let read = |source| ArchiveError::Read {
        path: dir.display().to_string(),
        source,
    };
    for found in fs::read_dir(dir).map_err(read)? {
        let found = found.map_err(read)?;
        let name = utf8(found.file_name().as_os_str())?;
        let path = if prefix.is_empty() {
            name
        } else {
            format!("{prefix}/{name}")
        };
        if entries.len() >= MAX_ENTRIES {
            return Err(ArchiveError::TooMany { limit: MAX_ENTRIES });
        }
        let full = found.path();
        let failed = |source| ArchiveError::Read {
            path: path.clone(),
            source,
        };
        let metadata = fs::symlink_metadata(&full).map_err(failed)?;
        let kind = kind(&full, &path, &metadata)?;
        let is_folder = kind == Kind::Folder;
        entries.push(Entry {
            path: path.clone(),
            kind,
        });
        if is_folder {
            walk(&full, &path, depth + 1, entries)?;
        }
    }
    Ok(())
}

fn kind(full: &Path, path: &str, metadata: &Metadata) -> Result<Kind, ArchiveError> {
    let file_type = metadata.file_type();
    if file_type.is_dir() {
        return Ok(Kind::Folder);
    }
    if file_type.is_file() {
        return Ok(Kind::File {
            stamp: Stamp::of(metadata),
            executable: metadata.mode() & 0o111 != 0,
        });
    }
    if file_type.is_symlink() {
        let target = fs::read_link(full).map_err(|source| ArchiveError::Read {
            path: path.to_owned(),
            source,
        })?;
        return Ok(Kind::Link {
            target: utf8(target.as_os_str())?,
        });
    }
    let what = if file_type.is_socket() {
        "a socket"
    } else if file_type.is_fifo() {
        "a named pipe"
    } else {
        "a device"
    };
    Err(ArchiveError::Special {
        path: path.to_owned(),
        what,
    })
}

fn utf8(name: &std::ffi::OsStr) -> Result<String, ArchiveError> {
    name.to_str()
        .map(str::to_owned)
        .ok_or_else(|| ArchiveError::NotUtf8 {
            shown: name.to_string_lossy().into_owned(),
        })
}

impl Stamp {
    pub fn of(metadata: &Metadata) -> Stamp {
        Stamp {
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
        }
    }
}
