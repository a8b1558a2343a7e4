//! One artifact as it is served: its list of files, its own rules, and what was prepared of both.
//!
//! All is read once for each artifact, except the compressed forms: those are made after a site is first
//! served, so they are looked for now and then until they are there.

use std::io;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;
use nebula_domain::Digest;
use nebula_domain::site::{
    HEADERS_BYTES_MAX, HEADERS_FILE, Headers, Problem, REDIRECTS_BYTES_MAX, REDIRECTS_FILE,
    Redirects,
};

use super::cache::Cache;
use super::files::{Place, Tree};
use super::manifest::Manifest;
use super::packed::Packed;
use super::page::Page;

/// Prepared answers of one site; the files of most sites.
const PAGES_MAX: usize = 512;
/// Longest path that an answer is prepared for, so that paths do not take more than answers.
const PAGE_PATH_BYTES_MAX: usize = 512;
/// About what a prepared answer takes, with its path.
const PAGE_BYTES: usize = 2048;
/// How often compressed forms are looked for that are not there yet. They take longer to make.
const LOOK_EVERY: Duration = Duration::from_secs(2);

pub(super) struct Site {
    pub(super) tree: Arc<Tree>,
    pub(super) manifest: Manifest,
    pub(super) redirects: Redirects,
    pub(super) headers: Headers,
    packed: OnceLock<Packed>,
    loaded: Instant,
    /// Milliseconds from `loaded` to when the forms are next looked for.
    look_at: AtomicU64,
    pages: Mutex<LruCache<Box<str>, Arc<Page>>>,
    /// About what all this takes in memory.
    bytes: usize,
}

/// The sites in use.
pub(super) struct Loaded {
    trees_dir: PathBuf,
    max_bytes: usize,
    cache: Cache<Digest, Arc<Site>>,
}

impl Loaded {
    pub(super) fn new(trees_dir: PathBuf, max_bytes: usize) -> Loaded {
        Loaded {
            trees_dir,
            max_bytes,
            cache: Cache::new(max_bytes),
        }
    }

    pub(super) async fn get(&self, artifact: Digest) -> io::Result<Arc<Site>> {
        if let Some(site) = self.cache.get(&artifact) {
            if site.is_time_to_look() {
                self.look_for_packed(artifact, &site).await;
            }
            return Ok(site);
        }
        let dir = self.trees_dir.clone();
        let site = tokio::task::spawn_blocking(move || Site::read(dir, artifact)).await??;
        let site = Arc::new(site);
        self.keep(artifact, &site);
        Ok(site)
    }

    /// A site larger than all that may be kept is the only one that is: read anew for each request it
    /// would take more.
    fn keep(&self, artifact: Digest, site: &Arc<Site>) {
        let packed = site.packed.get().map_or(0, |packed| packed.bytes);
        let bytes = (site.bytes + packed).min(self.max_bytes);
        self.cache.put(artifact, Arc::clone(site), bytes);
    }

    async fn look_for_packed(&self, artifact: Digest, site: &Arc<Site>) {
        let dir = site.tree.packed.clone();
        let read = tokio::task::spawn_blocking(move || Packed::read(&dir)).await;
        match read.map_err(io::Error::other).flatten() {
            Ok(None) => {}
            Ok(Some(packed)) => {
                // What was prepared knows only the files as they are.
                let is_first = site.packed.set(packed).is_ok();
                if is_first {
                    site.pages().clear();
                    self.keep(artifact, site);
                }
            }
            Err(error) => not_packed(artifact, &error),
        }
    }
}

impl Site {
    fn read(trees_dir: PathBuf, artifact: Digest) -> io::Result<Site> {
        let (manifest, bytes) = Manifest::read(&trees_dir.join(format!("{artifact}.manifest")))?;
        let tree = Tree {
            root: trees_dir.join(artifact.to_string()),
            packed: trees_dir.join(format!("{artifact}.packed")),
        };
        let rules = |name, max| rules(&tree, &manifest, name, max);
        let (redirects, more) = rules(REDIRECTS_FILE, REDIRECTS_BYTES_MAX)?
            .map(|text| (Redirects::parse(&text), text.len()))
            .map_or_else(Default::default, |((rules, problems), bytes)| {
                tell(artifact, &problems);
                (rules, bytes)
            });
        let (headers, still_more) = rules(HEADERS_FILE, HEADERS_BYTES_MAX)?
            .map(|text| (Headers::parse(&text), text.len()))
            .map_or_else(Default::default, |((rules, problems), bytes)| {
                tell(artifact, &problems);
                (rules, bytes)
            });
        let packed = OnceLock::new();
        match Packed::read(&tree.packed) {
            Ok(Some(found)) => drop(packed.set(found)),
            Ok(None) => {}
            Err(error) => not_packed(artifact, &error),
        }
        let pages = PAGES_MAX.min(manifest.len() + 1);
        Ok(Site {
            // A rule in memory takes some times its text; a page may have all fields.
            bytes: bytes + (more + still_more) * 4 + pages * (PAGE_BYTES + still_more),
            tree: Arc::new(tree),
            manifest,
            redirects,
            headers,
            packed,
            loaded: Instant::now(),
            look_at: AtomicU64::new(0),
            pages: Mutex::new(LruCache::new(
                NonZeroUsize::new(pages).unwrap_or(NonZeroUsize::MIN),
            )),
        })
    }

    /// True for one of those who ask, each time that it is due.
    fn is_time_to_look(&self) -> bool {
        if self.packed.get().is_some() {
            return false;
        }
        let now = u64::try_from(self.loaded.elapsed().as_millis()).unwrap_or(u64::MAX);
        let due = self.look_at.load(Ordering::Relaxed);
        let next = now + u64::try_from(LOOK_EVERY.as_millis()).unwrap_or(u64::MAX);
        let order = Ordering::Relaxed;
        now >= due
            && self
                .look_at
                .compare_exchange(due, next, order, order)
                .is_ok()
    }

    pub(super) fn packed(&self) -> Option<&Packed> {
        self.packed.get()
    }

    /// What was prepared for a path.
    pub(super) fn page(&self, path: &str) -> Option<Arc<Page>> {
        self.pages().get(path).cloned()
    }

    pub(super) fn keep_page(&self, path: &str, page: &Arc<Page>) {
        let mut pages = self.pages();
        // Forms that came meanwhile would never show on a page that was made without them.
        let is_current = page.knows_packed == self.packed.get().is_some();
        if is_current && path.len() <= PAGE_PATH_BYTES_MAX {
            pages.put(path.into(), Arc::clone(page));
        }
    }

    fn pages(&self) -> std::sync::MutexGuard<'_, LruCache<Box<str>, Arc<Page>>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The text of a rule file, if the site has it. One that is too large, or no text, is none.
fn rules(tree: &Tree, manifest: &Manifest, name: &str, max: u64) -> io::Result<Option<String>> {
    let Some(entry) = manifest.file(name) else {
        return Ok(None);
    };
    if entry.size > max {
        tracing::warn!(
            file = name,
            limit = max,
            "a site's rules are too large and not followed"
        );
        return Ok(None);
    }
    let bytes = tree.read(&Place::Tree(name.to_owned()), entry)?;
    match String::from_utf8(bytes.into()) {
        Ok(text) => Ok(Some(text)),
        Err(_) => {
            tracing::warn!(file = name, "a site's rules are not UTF-8 and not followed");
            Ok(None)
        }
    }
}

/// The files themselves are served.
fn not_packed(artifact: Digest, error: &io::Error) {
    tracing::warn!(%artifact, %error, "a site's compressed files cannot be read");
}

/// Whoever deployed it was told by `nebula deploy`; this is for whoever looks after the node.
fn tell(artifact: Digest, problems: &[Problem]) {
    if let Some(first) = problems.first() {
        let count = problems.len();
        tracing::warn!(%artifact, count, first = %first, "rules of a site are not followed");
    }
}
