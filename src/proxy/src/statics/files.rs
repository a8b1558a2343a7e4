//! Reading files without holding up an edge thread: small ones from memory, others handed on as parts.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;

use super::cache::Cache;
use super::manifest::Entry;
use super::open::OpenFiles;
use super::path::SitePath;
use crate::config::Limits;

/// About what the cache takes for a file besides its content, so that a great many small ones count.
const ENTRY_BYTES: usize = 128;

/// Contents in memory, by hash: the same file of two releases is held once.
pub(crate) struct Files {
    cache: Cache<[u8; 32], Bytes>,
    open: OpenFiles,
    cached_file_bytes: u64,
}

/// Where the bytes of a file's form lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A path of the tree.
    Tree(String),
    /// A name in the folder of compressed forms.
    Packed(String),
}

impl Files {
    pub(crate) fn new(limits: &Limits) -> Files {
        Files {
            cache: Cache::new(limits.file_cache_bytes),
            open: OpenFiles::default(),
            cached_file_bytes: limits.cached_file_bytes,
        }
    }

    /// Whether a file is served from memory.
    pub(super) fn is_small(&self, entry: Entry) -> bool {
        entry.size <= self.cached_file_bytes
    }

    /// The whole of a small file.
    pub(super) async fn small(
        &self,
        tree: &Arc<Tree>,
        place: &Place,
        entry: Entry,
    ) -> io::Result<Bytes> {
        if let Some(bytes) = self.cache.get(&entry.hash) {
            return Ok(bytes);
        }
        let (tree, place) = (Arc::clone(tree), place.clone());
        let bytes = tokio::task::spawn_blocking(move || tree.read(&place, entry)).await??;
        let taken = bytes.len() + ENTRY_BYTES;
        self.cache.put(entry.hash, bytes.clone(), taken);
        Ok(bytes)
    }

    /// A large file, to be read in parts.
    pub(super) async fn large(
        &self,
        tree: &Arc<Tree>,
        place: &Place,
        entry: Entry,
    ) -> io::Result<Arc<File>> {
        if let Some(file) = self.open.get(&entry.hash) {
            return Ok(file);
        }
        let (tree, place) = (Arc::clone(tree), place.clone());
        let opened = tokio::task::spawn_blocking(move || tree.open_file(&place, entry)).await?;
        let file = Arc::new(opened?);
        self.open.keep(entry.hash, &file);
        Ok(file)
    }
}

/// An unpacked artifact's folder, and that of the compressed forms.
pub(super) struct Tree {
    pub(super) root: PathBuf,
    pub(super) packed: PathBuf,
}

impl Tree {
    /// The path that the links on the way of another lead to, if there are any. A manifest lists files
    /// only; where links lead was checked when the artifact was unpacked, and is checked here again.
    pub(super) async fn behind_links(&self, asked: &SitePath) -> Option<SitePath> {
        let (root, path) = (self.root.clone(), asked.as_str().to_owned());
        let real = tokio::task::spawn_blocking(move || real_path(&root, &path));
        let real = real.await.ok()??;
        (real != asked.as_str()).then(|| asked.with_path(real))
    }

    pub(super) fn read(&self, place: &Place, entry: Entry) -> io::Result<Bytes> {
        let mut content = Vec::with_capacity(usize::try_from(entry.size).unwrap_or_default());
        self.open_file(place, entry)?
            .take(entry.size + 1)
            .read_to_end(&mut content)?;
        if content.len() as u64 != entry.size {
            return Err(changed());
        }
        Ok(content.into())
    }

    /// Opens a file without leaving its folder, even if somebody had put links into it since.
    fn open_file(&self, place: &Place, entry: Entry) -> io::Result<File> {
        let (root, path) = match place {
            Place::Tree(path) => (&self.root, path),
            Place::Packed(name) => (&self.packed, name),
        };
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let folder = open(root, flags | OFlag::O_DIRECTORY, Mode::empty())?;
        let how = OpenHow::new()
            .flags(flags)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let file: OwnedFd = match openat2(&folder, path.as_str(), how) {
            // A kernel before 5.6, or a sandbox that does not know the call.
            Err(Errno::ENOSYS | Errno::EPERM) => {
                let real = real_path(root, path).ok_or_else(changed)?;
                open(&root.join(real), flags | OFlag::O_NOFOLLOW, Mode::empty())?
            }
            opened => opened?,
        };
        let file = File::from(file);
        let found = file.metadata()?;
        if !found.is_file() || found.len() != entry.size {
            return Err(changed());
        }
        Ok(file)
    }
}

/// A path of the tree with links followed, relative to the tree; `None` if it leads out or nowhere.
fn real_path(root: &Path, path: &str) -> Option<String> {
    let root = root.canonicalize().ok()?;
    let real = root.join(path).canonicalize().ok()?;
    real.strip_prefix(&root).ok()?.to_str().map(str::to_owned)
}

fn changed() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "a file of the artifact is not what its manifest says",
    )
}
