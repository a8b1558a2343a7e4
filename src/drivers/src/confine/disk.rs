//! How much an instance keeps in its folder, against its limit.
//!
//! Measured, not reserved: quotas of projects need a file system that was mounted for them, and a file system in a file
//! for each instance needs root, a loop device and all its space at once. So the folder is walked, a part at each turn
//! since the shim has other things to do. When: once the whole file system has lost as much room as the instance had left,
//! which costs one call to know. One that fills fast is noticed within [`PERIOD`]; what it writes in that time is over
//! the limit and goes with it. No single file can outgrow the limit at all (`RLIMIT_FSIZE`).

//!
//! The instance changes its folder meanwhile, so each folder is opened by its name in the one above: no link is followed, and
//! none is too deep for a path. What cannot be measured counts as over the limit.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nebula_domain::resources::Disk;
use nix::sys::statvfs::statvfs;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, statat};
use rustix::io::Errno;

use super::forgotten::Forgotten;

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
pub(super) const BLOCK_BYTES: u64 = 512;
/// Folders below folders: each takes a descriptor while it is walked, and no program that means well comes close.
const DEEPEST: u32 = 256;
const FOLDER: OFlags = OFlags::DIRECTORY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Why an instance is ended for its disk limit although less than that was found.
pub(crate) fn hidden() -> String {
    format!(
        "it has folders that cannot be measured (closed to their own user, or more than {DEEPEST} below each other), which counts as over its disk limit"
    )
}

pub(crate) struct Watch {
    dir: PathBuf,
    limit: Disk,
    next: Instant,
    walk: Option<Walk>,
    /// After the walk: what has no name any more.
    forgotten: Option<Forgotten>,
    is_hidden: bool,
    /// What the last walk found, and the room that there was when it began.
    used: u64,
    free: u64,
    measured: Option<Instant>,
    rest_until: Instant,
}

struct Walk {
    began: Instant,
    free: u64,
    folders: Vec<Folder>,
    open: Option<Open>,
    bytes: u64,
    /// Files with several names count once.
    seen: BTreeSet<u64>,
    /// Some of it could not be looked at.
    is_hidden: bool,
}

/// One that is yet to be looked into.
struct Folder {
    /// None: the first.
    above: Option<Rc<OwnedFd>>,
    name: PathBuf,
    depth: u32,
}

struct Open {
    entries: Dir,
    folder: Rc<OwnedFd>,
    depth: u32,
}

impl Watch {
    pub(crate) fn new(dir: &Path, limit: Disk, now: Instant) -> Watch {
        Watch {
            dir: dir.to_owned(),
            limit,
            next: now,
            walk: None,
            forgotten: None,
            is_hidden: false,
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
        let forgotten = &mut self.forgotten;
        let begin = || Forgotten::new(&self.dir, parent);
        if walk.step() || forgotten.get_or_insert_with(begin).step() {
            self.walk = Some(walk);
            self.next = now + TURN;
            return self.is_over();
        }
        let forgotten = self.forgotten.take().map_or(0, |found| found.bytes());
        (self.used, self.free) = (walk.bytes + forgotten, walk.free);
        self.is_hidden |= walk.is_hidden;
        self.measured = Some(now);
        self.rest_until = now + (now - walk.began) * REST_FACTOR;
        self.next = now + PERIOD;
        self.used > self.limit.bytes() || self.is_hidden
    }

    /// Some of what it has could not be measured.
    pub(crate) fn is_hidden(&self) -> bool {
        self.is_hidden
    }

    /// What a walk has found so far is enough to know.
    fn is_over(&self) -> bool {
        let found = self.walk.as_ref().map_or(0, |walk| walk.bytes);
        let forgotten = self.forgotten.as_ref().map_or(0, Forgotten::bytes);
        found + forgotten > self.limit.bytes()
    }
}

impl Walk {
    fn new(dir: &Path, free: u64, began: Instant) -> Walk {
        Walk {
            began,
            free,
            folders: vec![Folder {
                above: None,
                name: dir.to_owned(),
                depth: 0,
            }],
            open: None,
            bytes: 0,
            seen: BTreeSet::new(),
            is_hidden: false,
        }
    }

    /// False when it is done. What vanishes meanwhile is not there.
    fn step(&mut self) -> bool {
        for _ in 0..ENTRIES_PER_TURN {
            let Some(open) = &mut self.open else {
                let Some(folder) = self.folders.pop() else {
                    return false;
                };
                match folder.open() {
                    Ok(open) => self.open = Some(open),
                    Err(error) => self.is_hidden |= hides(error),
                }
                continue;
            };
            let entry = match open.entries.read() {
                Some(Ok(entry)) => entry,
                end => {
                    let error = end.and_then(Result::err);
                    self.is_hidden |= error.is_some_and(hides);
                    self.open = None;
                    continue;
                }
            };
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            // Of the entry itself, not of what a link leads to.
            let about = match statat(&open.folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(about) => about,
                Err(error) => {
                    self.is_hidden |= hides(error);
                    continue;
                }
            };
            self.bytes += ENTRY_BYTES;
            if FileType::from_raw_mode(about.st_mode).is_dir() {
                if open.depth == DEEPEST {
                    self.is_hidden = true;
                    continue;
                }
                self.folders.push(Folder {
                    above: Some(open.folder.clone()),
                    name: PathBuf::from(OsStr::from_bytes(name.to_bytes())),
                    depth: open.depth + 1,
                });
            } else if about.st_nlink > 1 && !self.seen.insert(about.st_ino) {
                continue;
            }
            self.bytes += u64::try_from(about.st_blocks).unwrap_or(0) * BLOCK_BYTES;
        }
        true
    }
}

impl Folder {
    fn open(self) -> rustix::io::Result<Open> {
        let folder = match &self.above {
            Some(above) => openat(above, &self.name, FOLDER, Mode::empty()),
            None => openat(CWD, &self.name, FOLDER, Mode::empty()),
        }?;
        Ok(Open {
            entries: Dir::read_from(&folder)?,
            folder: Rc::new(folder),
            depth: self.depth,
        })
    }
}

/// Whether it is the instance's own doing that something cannot be looked at. A disk that fails, and a machine without
/// descriptors, are not: those are measured the next time.
fn hides(error: Errno) -> bool {
    matches!(error, Errno::ACCESS | Errno::PERM)
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use rustix::fs::mkdirat;

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

    /// Folders below each other; the last of them.
    fn nest(top: &Path, name: &str, levels: u32) -> OwnedFd {
        (0..levels).fold(openat(CWD, top, FOLDER, Mode::empty()).unwrap(), |at, _| {
            mkdirat(&at, name, Mode::RWXU).unwrap();
            openat(&at, name, FOLDER, Mode::empty()).unwrap()
        })
    }

    #[test]
    fn folders_beyond_every_path_are_measured_and_deeper_ones_are_over() {
        let dir = tempfile::tempdir().unwrap();
        let last = nest(dir.path(), &"d".repeat(100), 50);
        let file = openat(&last, "file", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR);
        let data = vec![1; 3 << 20];
        std::io::Write::write_all(&mut fs::File::from(file.unwrap()), &data).unwrap();
        assert!(over(dir.path(), 2));
        assert!(!over(dir.path(), 5));

        let dir = tempfile::tempdir().unwrap();
        nest(dir.path(), "d", DEEPEST);
        assert!(!over(dir.path(), 1024));
        let dir = tempfile::tempdir().unwrap();
        nest(dir.path(), "d", DEEPEST + 1);
        assert!(over(dir.path(), 1024));
    }

    /// What root may not look into there is not, so this is about the errors.
    #[test]
    fn a_folder_that_is_closed_to_its_owner_is_over() {
        assert!(hides(Errno::ACCESS) && !hides(Errno::NOENT) && !hides(Errno::IO));
        if nix::unistd::geteuid().is_root() {
            return;
        }
        for mode in [0o300, 0o400] {
            let dir = tempfile::tempdir().unwrap();
            let sub = dir.path().join("sub");
            fs::create_dir(&sub).unwrap();
            fs::write(sub.join("file"), "x").unwrap();
            fs::set_permissions(&sub, fs::Permissions::from_mode(mode)).unwrap();
            assert!(over(dir.path(), 1024), "{mode:o}");
            fs::set_permissions(&sub, fs::Permissions::from_mode(0o700)).unwrap();
        }
    }
}
