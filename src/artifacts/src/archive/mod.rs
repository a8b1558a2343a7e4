//! A folder as one deterministic archive, and back.
//!
//! The same files give the same bytes, hence the same digest, on any machine: entries are sorted, times
//! and owners are zero, modes are 0644 or 0755. What could mean different things to different
//! readers, or reach outside the folder, is refused by name, when packing and again when unpacking.

mod check;
mod error;
mod pack;
mod scan;
mod unpack;

pub use error::ArchiveError;
pub use pack::{Measured, measure, pack, stream};
pub use scan::scan;
pub use unpack::{FileInfo, Unpacked, inspect, unpack};

use std::path::{Path, PathBuf};

/// Files, folders and links of one artifact: a checkout with all its dependencies fits, a mistaken
/// home folder does not.
pub const MAX_ENTRIES: usize = 200_000;
/// Of one path. Linux allows 4,096 in all, and the artifact lies somewhere.
pub const MAX_PATH_BYTES: usize = 1024;
/// Of one name; what Linux file systems allow.
pub const MAX_NAME_BYTES: usize = 255;
/// Folders inside folders.
pub const MAX_DEPTH: usize = 64;
/// Of a link's target.
pub const MAX_LINK_BYTES: usize = 1024;

/// A folder's checked content, in the order of the archive.
#[derive(Debug, Clone)]
pub struct Manifest {
    pub(crate) root: PathBuf,
    pub(crate) entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Relative, with `/` between the names.
    pub path: String,
    pub kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Folder,
    File { stamp: Stamp, executable: bool },
    Link { target: String },
}

/// Tells whether a file was changed between two looks at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub size: u64,
    pub modified: (i64, i64),
    pub changed: (i64, i64),
    pub inode: u64,
}

impl Manifest {
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The same without these files, wherever they lie; those outside of the folder are no part of it anyway.
    pub fn without(mut self, files: &[PathBuf]) -> Result<Manifest, ArchiveError> {
        let Ok(root) = self.root.canonicalize() else {
            return Err(ArchiveError::NoSuchFolder(self.root));
        };
        for file in files {
            let Some((Ok(parent), name)) = file.parent().zip(file.file_name()).map(|(p, n)| {
                let parent = if p == Path::new("") {
                    Path::new(".")
                } else {
                    p
                };
                (parent.canonicalize(), n)
            }) else {
                continue;
            };
            let whole = parent.join(name);
            if let Ok(inside) = whole.strip_prefix(&root) {
                self.entries
                    .retain(|entry| Path::new(&entry.path) != inside);
            }
        }
        match self.files() {
            0 => Err(ArchiveError::Empty(format!("'{}'", self.root.display()))),
            _ => Ok(self),
        }
    }

    /// Regular files.
    pub fn files(&self) -> usize {
        self.sizes().count()
    }

    /// Bytes in all files; the archive is a little larger.
    pub fn content_bytes(&self) -> u64 {
        self.sizes().sum()
    }

    fn sizes(&self) -> impl Iterator<Item = u64> + '_ {
        self.entries.iter().filter_map(|entry| match entry.kind {
            Kind::File { stamp, .. } => Some(stamp.size),
            _ => None,
        })
    }
}
