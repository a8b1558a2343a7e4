//! Reading files without holding up an edge thread: small ones from memory, others in pieces, both
//! off the thread; and their compressed forms.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_compression::Level;
use async_compression::tokio::bufread::GzipEncoder;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;
use tokio::io::{AsyncReadExt, AsyncSeekExt, BufReader};
use tokio::sync::Semaphore;
use tokio_util::io::ReaderStream;

use super::cache::Cache;
use super::manifest::Entry;
use super::path::SitePath;
use crate::body::FrameStream;
use crate::config::Limits;

/// Of a file that is not kept in memory.
const PIECE_BYTES: usize = 64 * 1024;
/// Compressions under way at once, so that a crowd asking for a new file does not take every core.
const COMPRESSING_MAX: usize = 2;

/// The coding a file is sent in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Coding {
    Identity,
    Gzip,
}

/// Contents in memory, by hash: the same file of two releases is held once.
pub(crate) struct Files {
    cache: Cache<([u8; 32], Coding), Bytes>,
    cached_file_bytes: u64,
    compressing: Semaphore,
}

impl Files {
    pub(crate) fn new(limits: &Limits) -> Files {
        Files {
            cache: Cache::new(limits.file_cache_bytes),
            cached_file_bytes: limits.cached_file_bytes,
            compressing: Semaphore::new(COMPRESSING_MAX),
        }
    }

    /// Whether a file is served from memory.
    pub(crate) fn is_small(&self, entry: Entry) -> bool {
        entry.size <= self.cached_file_bytes
    }

    /// The whole of a small file.
    pub(crate) async fn small(
        &self,
        tree: Arc<Tree>,
        path: &str,
        entry: Entry,
        coding: Coding,
    ) -> io::Result<Bytes> {
        let key = (entry.hash, coding);
        if let Some(bytes) = self.cache.get(&key) {
            return Ok(bytes);
        }
        let _turn = match coding {
            Coding::Identity => None,
            // It is only closed with the process.
            Coding::Gzip => self.compressing.acquire().await.ok(),
        };
        if let Some(bytes) = self.cache.get(&key) {
            return Ok(bytes);
        }
        let known = self.cache.get(&(entry.hash, Coding::Identity));
        let path = path.to_owned();
        let bytes = tokio::task::spawn_blocking(move || {
            let content = match known {
                Some(content) => content,
                None => tree.read(&path, entry)?,
            };
            match coding {
                Coding::Identity => Ok::<_, io::Error>(content),
                Coding::Gzip => gzip(&content),
            }
        })
        .await??;
        self.cache.put(key, bytes.clone(), bytes.len());
        Ok(bytes)
    }

    /// Part of a large file, or all of it.
    pub(crate) async fn pieces(
        &self,
        tree: Arc<Tree>,
        path: &str,
        entry: Entry,
        from: u64,
        length: u64,
        coding: Coding,
    ) -> io::Result<FrameStream> {
        let path = path.to_owned();
        let file = tokio::task::spawn_blocking(move || tree.open_file(&path, entry)).await??;
        let mut file = tokio::fs::File::from_std(file);
        if from > 0 {
            file.seek(io::SeekFrom::Start(from)).await?;
        }
        let part = file.take(length);
        Ok(match coding {
            Coding::Identity => Box::pin(ReaderStream::with_capacity(part, PIECE_BYTES)),
            Coding::Gzip => {
                let part = BufReader::with_capacity(PIECE_BYTES, part);
                // Fast, because nobody else will profit from the result.
                let encoder = GzipEncoder::with_quality(part, Level::Fastest);
                Box::pin(ReaderStream::with_capacity(encoder, PIECE_BYTES))
            }
        })
    }
}

fn gzip(content: &[u8]) -> io::Result<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(content)?;
    Ok(encoder.finish()?.into())
}

/// An unpacked artifact's folder.
pub(crate) struct Tree {
    pub(crate) root: PathBuf,
}

impl Tree {
    /// The path that the links on the way of another lead to, if there are any. A manifest lists files
    /// only; where links lead was checked when the artifact was unpacked, and is checked here again.
    pub(crate) async fn behind_links(&self, asked: &SitePath) -> Option<SitePath> {
        let (root, path) = (self.root.clone(), asked.as_str().to_owned());
        let real = tokio::task::spawn_blocking(move || real_path(&root, &path));
        let real = real.await.ok()??;
        (real != asked.as_str()).then(|| asked.with_path(real))
    }

    fn read(&self, path: &str, entry: Entry) -> io::Result<Bytes> {
        let mut content = Vec::with_capacity(usize::try_from(entry.size).unwrap_or_default());
        self.open_file(path, entry)?
            .take(entry.size + 1)
            .read_to_end(&mut content)?;
        if content.len() as u64 != entry.size {
            return Err(changed());
        }
        Ok(content.into())
    }

    /// Opens a file without leaving the tree, even if somebody had put links into it since.
    fn open_file(&self, path: &str, entry: Entry) -> io::Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let root = open(&self.root, flags | OFlag::O_DIRECTORY, Mode::empty())?;
        let how = OpenHow::new()
            .flags(flags)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let file: OwnedFd = match openat2(&root, path, how) {
            // A kernel before 5.6, or a sandbox that does not know the call.
            Err(Errno::ENOSYS | Errno::EPERM) => {
                let real = real_path(&self.root, path).ok_or_else(changed)?;
                open(
                    &self.root.join(real),
                    flags | OFlag::O_NOFOLLOW,
                    Mode::empty(),
                )?
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
