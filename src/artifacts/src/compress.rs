//! Compressed forms of a static site's files: made once for an artifact on a node, in the background.
//!
//! ```text
//! trees/<digest>.packed/index.json      {"files": {"<blake3>": {"br": {"size": 1, "blake3": "…"}, …}}}
//! trees/<digest>.packed/<blake3>.br     that form of the file with this hash; also .gz and .zst
//! ```
//!
//! The folder appears whole or not at all, and goes with the tree. One thread of the lowest priority makes
//! it: a machine with work to do is not slowed, and sites are served uncompressed meanwhile. A form that an
//! artifact brings by itself, next to the file, is not made again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use brotli::enc::BrotliEncoderParams;
use flate2::Compression;
use flate2::write::GzEncoder;
use nebula_domain::{Digest, site};
use nix::fcntl::OFlag;
use serde::Serialize;
use tempfile::TempDir;
use tokio::sync::{Semaphore, oneshot};

use crate::archive::FileInfo;
use crate::error::{ArtifactError, one_line};
use crate::limits::{COMPRESSED_BEST_BYTES, COMPRESSED_BYTES, COMPRESSED_FILE_BYTES};
use crate::store::blocking;
use crate::{Artifacts, Inner};

/// What a form has to be at most, of the file's size. A smaller gain is not worth a second form in caches.
const WORTH_PERCENT: u64 = 90;
/// Lets everything else go first.
const LOWEST_PRIORITY: i32 = 19;
/// The encoder's memory and the decoder's grow with the window; beyond 4 MiB it hardly helps text.
const BROTLI_WINDOW_LOG: std::ops::RangeInclusive<u32> = 16..=22;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Coding {
    Br,
    Gz,
    Zst,
}

impl Coding {
    const ALL: [Coding; 3] = [Coding::Br, Coding::Gz, Coding::Zst];

    fn extension(self) -> &'static str {
        match self {
            Coding::Br => "br",
            Coding::Gz => "gz",
            Coding::Zst => "zst",
        }
    }

    fn encode(self, content: &[u8]) -> io::Result<Vec<u8>> {
        let best = content.len() as u64 <= COMPRESSED_BEST_BYTES;
        match self {
            Coding::Gz => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
                encoder.write_all(content)?;
                encoder.finish()
            }
            Coding::Br => {
                let params = BrotliEncoderParams {
                    quality: if best { 11 } else { 9 },
                    lgwin: window_log(content.len()),
                    size_hint: content.len(),
                    ..BrotliEncoderParams::default()
                };
                let mut packed = Vec::new();
                let mut reader = content;
                brotli::BrotliCompress(&mut reader, &mut packed, &params)?;
                Ok(packed)
            }
            // Up to this level the window stays within the 8 MiB of RFC 9659.
            Coding::Zst => zstd::bulk::compress(content, if best { 19 } else { 12 }),
        }
    }
}

/// As small as holds all of it (RFC 7932 section 9.1: a window is 16 bytes less than a power of two).
fn window_log(length: usize) -> i32 {
    let fits = (length + 16).next_power_of_two().trailing_zeros();
    fits.clamp(*BROTLI_WINDOW_LOG.start(), *BROTLI_WINDOW_LOG.end()) as i32
}

/// What is under way.
pub(crate) struct Compressing {
    /// One artifact at a time.
    turn: Semaphore,
    asked: Mutex<BTreeSet<Digest>>,
}

impl Default for Compressing {
    fn default() -> Self {
        Compressing {
            turn: Semaphore::new(1),
            asked: Mutex::default(),
        }
    }
}

#[derive(Debug, Default, Serialize)]
struct Index {
    files: BTreeMap<String, BTreeMap<Coding, FileInfo>>,
}

impl Artifacts {
    /// Has compressed forms made of an unpacked artifact's text files, unless there are. Returns at once; that
    /// it fails is logged, and the site is served without.
    pub fn compress(&self, digest: Digest) {
        if !self.0.compressing.ask(digest) {
            return;
        }
        let inner = self.0.clone();
        tokio::spawn(async move {
            let result = inner.compress(digest).await;
            inner.compressing.done(digest);
            if let Err(error) = result {
                let error = one_line(&error);
                tracing::warn!(%digest, error, "an artifact's files are served without compression");
            }
        });
    }
}

impl Compressing {
    /// Whether nobody else has asked for it.
    fn ask(&self, digest: Digest) -> bool {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.insert(digest)
    }

    fn done(&self, digest: Digest) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.remove(&digest);
    }
}

impl Inner {
    async fn compress(self: &Arc<Self>, digest: Digest) -> Result<(), ArtifactError> {
        // Never closed.
        let _turn = self.compressing.turn.acquire().await.ok();
        if self.layout.packed(digest).exists() {
            return Ok(());
        }
        let began = Instant::now();
        let (sender, made) = oneshot::channel();
        // The thread ends after the file it is at when the store is no longer there.
        let store = Arc::downgrade(self);
        let work = move || {
            // Without it, it only takes its share.
            let _ = rustix::process::setpriority_process(None, LOWEST_PRIORITY);
            let _ = sender.send(make(&store, digest));
        };
        std::thread::Builder::new()
            .name("compress".to_owned())
            .spawn(work)
            .map_err(ArtifactError::disk("compress", &self.layout.tree(digest)))?;
        let Ok(made) = made.await else {
            return Err(ArtifactError::disk("compress", &self.layout.tree(digest))(
                io::Error::other("the thread ended early"),
            ));
        };
        let Some((work, forms)) = made? else {
            return Ok(());
        };
        let _lock = self.locks.lock(digest).await;
        let (layout, trees) = (self.layout.clone(), self.trees.clone());
        blocking(move || {
            // It may have been dropped, or unpacked again, meanwhile.
            let path = layout.packed(digest);
            if !trees.is_complete(digest) || path.exists() {
                return Ok(());
            }
            fs::rename(packed_in(&work), &path).map_err(ArtifactError::disk("create", &path))
        })
        .await?;
        tracing::debug!(%digest, forms, took = ?began.elapsed(), "an artifact's files are compressed");
        Ok(())
    }
}

fn written(path: &Path) -> impl FnOnce(io::Error) -> ArtifactError + use<> {
    ArtifactError::disk("write", path)
}

fn packed_in(work: &TempDir) -> std::path::PathBuf {
    work.path().join("packed")
}

/// All forms in a folder of their own and their number; nothing if the tree or the store went away.
fn make(store: &Weak<Inner>, digest: Digest) -> Result<Option<(TempDir, usize)>, ArtifactError> {
    let Some(inner) = store.upgrade() else {
        return Ok(None);
    };
    let Some(unpacked) = inner.trees.manifest(digest)? else {
        return Ok(None);
    };
    let (tree, tmp) = (inner.layout.tree(digest), inner.layout.tmp());
    let space = inner.space.clone();
    drop(inner);
    let work = tempfile::tempdir_in(&tmp).map_err(ArtifactError::disk("write in", &tmp))?;
    let packed = packed_in(&work);
    DirBuilder::new()
        .mode(0o700)
        .create(&packed)
        .map_err(written(&packed))?;
    let mut index = Index::default();
    let (mut total, mut forms) = (0, 0);
    // Files with the same content share their forms.
    let mut tried = BTreeSet::new();
    for (path, info) in &unpacked.files {
        let wanted = site::compresses(path)
            && (site::PACK_BYTES_MIN..=COMPRESSED_FILE_BYTES).contains(&info.size)
            && total + info.size <= COMPRESSED_BYTES;
        if !wanted {
            continue;
        }
        let mut codings = Coding::ALL.to_vec();
        codings.retain(|coding| {
            let brought = format!("{path}.{}", coding.extension());
            !unpacked.files.contains_key(&brought) && tried.insert((&info.blake3, *coding))
        });
        if codings.is_empty() {
            continue;
        }
        if store.strong_count() == 0 {
            return Ok(None);
        }
        total += info.size;
        space.check(info.size * codings.len() as u64)?;
        let Some(content) =
            read(&tree.join(path), info).map_err(ArtifactError::disk("read", &tree))?
        else {
            return Ok(None);
        };
        for coding in codings {
            let form = coding.encode(&content).map_err(written(&packed))?;
            let size = form.len() as u64;
            if size * 100 > info.size * WORTH_PERCENT {
                continue;
            }
            let to = packed.join(format!("{}.{}", info.blake3, coding.extension()));
            fs::write(&to, &form).map_err(written(&to))?;
            let blake3 = blake3::hash(&form).to_hex().to_string();
            let found = index.files.entry(info.blake3.clone()).or_default();
            found.insert(coding, FileInfo { size, blake3 });
            forms += 1;
        }
    }
    let path = packed.join("index.json");
    let json = serde_json::to_vec(&index).map_err(io::Error::from);
    json.and_then(|json| fs::write(&path, json))
        .map_err(written(&path))?;
    Ok(Some((work, forms)))
}

/// The file's content; nothing if it is not what was unpacked.
fn read(path: &Path, info: &FileInfo) -> io::Result<Option<Vec<u8>>> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(path);
    let file = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut content = Vec::with_capacity(usize::try_from(info.size).unwrap_or_default());
    file.take(info.size + 1).read_to_end(&mut content)?;
    let same = blake3::hash(&content).to_hex().as_str() == info.blake3;
    Ok(same.then_some(content))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_unpack_to_what_they_were() {
        let text = "a line of text that comes again\n".repeat(2_000);
        for text in [text.as_bytes(), &[]] {
            let gz = Coding::Gz.encode(text).unwrap();
            let mut back = Vec::new();
            let mut decoder = flate2::read::GzDecoder::new(&gz[..]);
            decoder.read_to_end(&mut back).unwrap();
            assert_eq!(back, text);
            let br = Coding::Br.encode(text).unwrap();
            back.clear();
            brotli::BrotliDecompress(&mut &br[..], &mut back).unwrap();
            assert_eq!(back, text);
            let zst = Coding::Zst.encode(text).unwrap();
            assert_eq!(zstd::bulk::decompress(&zst, text.len()).unwrap(), text);
        }
    }
}
