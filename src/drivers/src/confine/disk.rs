//! How much an instance keeps in its folder, against its limit.
//!
//! Measured, not reserved: quotas of projects need a file system that was mounted for them, and a file system in a file
//! for each instance needs root, a loop device and all its space at once. So the folder is walked, a part at each turn
//! since the shim has other things to do. When: once the whole file system has lost as much room as the instance had left,
//! which costs one call to know. One that fills fast is noticed within [`PERIOD`]; what it writes in that time is over
//! the limit and goes with it. No single file can outgrow the limit at all (`RLIMIT_FSIZE`).

use std::collections::BTreeSet;
use std::fs::{self, ReadDir};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nebula_domain::resources::Disk;
use nix::sys::statvfs::statvfs;

use crate::procfs;

/// Between two looks at the file system.
const PERIOD: Duration = Duration::from_millis(250);
/// Between two turns of a walk.
const TURN: Duration = Duration::from_millis(5);
/// Entries in one turn: some milliseconds.
const ENTRIES_PER_TURN: usize = 2_000;
/// Others write too, so room may be lost without end: a walk takes at most a fifth of the time.
const REST_FACTOR: u32 = 4;
/// What others give back hides what the instance takes: measured at least this often.
const LONGEST: Duration = Duration::from_secs(30);
/// An entry takes room even when its file is empty: a name, an inode.
const ENTRY_BYTES: u64 = 512;
/// stat(2): what blocks are counted in.
const BLOCK_BYTES: u64 = 512;

pub(crate) struct Watch {
    dir: PathBuf,
    limit: Disk,
    next: Instant,
    walk: Option<Walk>,
    /// What the last walk found, and the room that there was when it began.
    used: u64,
    free: u64,
    measured: Option<Instant>,
    rest_until: Instant,
}

struct Walk {
    began: Instant,
    free: u64,
    folders: Vec<PathBuf>,
    open: Option<ReadDir>,
    bytes: u64,
    /// Files with several names count once.
    seen: BTreeSet<u64>,
}

impl Watch {
    pub(crate) fn new(dir: &Path, limit: Disk, now: Instant) -> Watch {
        Watch {
            dir: dir.to_owned(),
            limit,
            next: now,
            walk: None,
            used: 0,
            free: 0,
            measured: None,
            rest_until: now,
        }
    }

    /// When to be called again.
    pub(crate) fn next(&self) -> Instant {
        self.next
    }

    /// Goes on; true when the instance has more than it may. `parent` is above all of its processes.
    pub(crate) fn turn(&mut self, now: Instant, parent: i32) -> bool {
        if now < self.next {
            return false;
        }
        let Some(mut walk) = self.walk.take() else {
            self.next = now + PERIOD;
            let free = free(&self.dir);
            let lost = self.free.saturating_sub(free);
            let late = self.measured.is_none_or(|at| now - at >= LONGEST);
            if late || (self.used + lost > self.limit.bytes() && now >= self.rest_until) {
                self.walk = Some(Walk::new(&self.dir, free, now));
                self.next = now;
            }
            return false;
        };
        if walk.step() {
            self.walk = Some(walk);
            self.next = now + TURN;
            return self.is_over();
        }
        (self.used, self.free) = (walk.bytes + forgotten(&self.dir, parent), walk.free);
        self.measured = Some(now);
        self.rest_until = now + (now - walk.began) * REST_FACTOR;
        self.next = now + PERIOD;
        self.used > self.limit.bytes()
    }

    /// What a walk has found so far is enough to know.
    fn is_over(&self) -> bool {
        let found = self.walk.as_ref().map_or(0, |walk| walk.bytes);
        found > self.limit.bytes()
    }
}

impl Walk {
    fn new(dir: &Path, free: u64, began: Instant) -> Walk {
        Walk {
            began,
            free,
            folders: vec![dir.to_owned()],
            open: None,
            bytes: 0,
            seen: BTreeSet::new(),
        }
    }

    /// False when it is done. What vanishes meanwhile is not there.
    fn step(&mut self) -> bool {
        for _ in 0..ENTRIES_PER_TURN {
            let Some(open) = &mut self.open else {
                let Some(folder) = self.folders.pop() else {
                    return false;
                };
                self.open = fs::read_dir(folder).ok();
                continue;
            };
            let Some(entry) = open.next() else {
                self.open = None;
                continue;
            };
            // Of the entry itself, not of what a link leads to.
            let Some((entry, metadata)) =
                entry.ok().and_then(|e| e.metadata().ok().map(|m| (e, m)))
            else {
                continue;
            };
            self.bytes += ENTRY_BYTES;
            if metadata.is_dir() {
                self.folders.push(entry.path());
            } else if metadata.nlink() > 1 && !self.seen.insert(metadata.ino()) {
                continue;
            }
            self.bytes += metadata.blocks() * BLOCK_BYTES;
        }
        true
    }
}

/// What lies in a folder now. Walks all of it.
pub(crate) fn used(dir: &Path) -> u64 {
    let mut walk = Walk::new(dir, 0, Instant::now());
    while walk.step() {}
    walk.bytes
}

fn free(dir: &Path) -> u64 {
    statvfs(dir).map_or(0, |fs| fs.blocks_free() * fs.fragment_size())
}

/// Files without a name that processes still hold open: deleted ones take room as others do.
fn forgotten(dir: &Path, parent: i32) -> u64 {
    let Ok(device) = fs::metadata(dir).map(|metadata| metadata.dev()) else {
        return 0;
    };
    let mut seen = BTreeSet::new();
    let mut bytes = 0;
    for process in procfs::descendants(parent) {
        let open = fs::read_dir(format!("/proc/{}/fd", process.pid));
        for file in open.into_iter().flatten().flatten() {
            // Follows the link to the open file itself (proc_pid_fd(5)).
            let Ok(metadata) = fs::metadata(file.path()) else {
                continue;
            };
            let is_forgotten = metadata.is_file() && metadata.nlink() == 0;
            if is_forgotten && metadata.dev() == device && seen.insert(metadata.ino()) {
                bytes += metadata.blocks() * BLOCK_BYTES;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn over(dir: &Path, mib: u64) -> bool {
        let start = Instant::now();
        let mut watch = Watch::new(dir, Disk::mib(mib), start);
        let me = i32::try_from(std::process::id()).unwrap();
        // Of a made-up clock: as many turns as a walk of this size takes, and more.
        (0..100).any(|n| watch.turn(start + n * PERIOD, me))
    }

    #[test]
    fn a_folder_is_measured_with_its_folders_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let big = tempfile::tempdir().unwrap();
        fs::write(big.path().join("other"), vec![1; 8 << 20]).unwrap();
        std::os::unix::fs::symlink(big.path(), dir.path().join("link")).unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        let file = dir.path().join("sub/file");
        fs::write(&file, vec![1; 3 << 20]).unwrap();
        fs::hard_link(&file, dir.path().join("same")).unwrap();
        assert!(over(dir.path(), 2));
        assert!(!over(dir.path(), 4));
    }

    #[test]
    fn many_empty_files_are_not_nothing() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..3000 {
            fs::write(dir.path().join(n.to_string()), "").unwrap();
        }
        assert!(over(dir.path(), 1));
    }
}
