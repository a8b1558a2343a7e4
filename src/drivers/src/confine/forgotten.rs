//! Files without a name that processes hold all the same, open or mapped: deleted ones take room as others do.
//!
//! One process after the other, a part at each turn, as the folder is walked (see [`super::disk`]). A descriptor on its way
//! through a Unix socket is in no process, and is not seen.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::disk::BLOCK_BYTES;
use crate::procfs;

/// Descriptors and mappings in one turn, but for the last process of it.
const ENTRIES_PER_TURN: usize = 2_000;

pub(super) struct Forgotten {
    /// Of the instance's folder.
    device: u64,
    /// That were not asked yet.
    processes: Vec<i32>,
    seen: BTreeSet<u64>,
    bytes: u64,
}

impl Forgotten {
    /// `parent` is above all processes of the instance.
    pub(super) fn new(dir: &Path, parent: i32) -> Forgotten {
        let device = fs::metadata(dir).map(|about| about.dev());
        let processes = procfs::descendants(parent);
        Forgotten {
            // Without the folder nothing of it can be told.
            processes: device.as_ref().map_or_else(
                |_| Vec::new(),
                |_| processes.iter().map(|process| process.pid).collect(),
            ),
            device: device.unwrap_or(0),
            seen: BTreeSet::new(),
            bytes: 0,
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// False when it is done.
    pub(super) fn step(&mut self) -> bool {
        let mut entries = 0;
        while entries < ENTRIES_PER_TURN {
            let Some(pid) = self.processes.pop() else {
                return false;
            };
            let open = fs::read_dir(format!("/proc/{pid}/fd"));
            for file in open.into_iter().flatten().flatten() {
                entries += 1;
                // Follows the link to the open file itself (proc_pid_fd(5)).
                self.add(&file.path());
            }
            // Which of them are deleted is told to everybody who may look at the process; their size only to root.
            let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
            let mut mapped = BTreeSet::new();
            for line in maps.lines() {
                entries += 1;
                if let Some((range, file)) = deleted(line)
                    && mapped.insert(file)
                {
                    self.add(Path::new(&format!("/proc/{pid}/map_files/{range}")));
                }
            }
        }
        true
    }

    fn add(&mut self, held: &Path) {
        let Ok(about) = fs::metadata(held) else {
            return;
        };
        let is_forgotten = about.is_file() && about.nlink() == 0;
        if is_forgotten && about.dev() == self.device && self.seen.insert(about.ino()) {
            self.bytes += about.blocks() * BLOCK_BYTES;
        }
    }
}

/// The range of a mapping of a file that was deleted, and which file (proc_pid_maps(5)).
fn deleted(line: &str) -> Option<(&str, (&str, &str))> {
    let line = line.strip_suffix(" (deleted)")?;
    let mut fields = line.split_ascii_whitespace();
    let range = fields.next()?;
    let (device, inode) = (fields.nth(2)?, fields.next()?);
    Some((range, (device, inode)))
}

#[cfg(test)]
#[allow(unsafe_code)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd as _;

    use super::*;

    /// Above the test's own process.
    fn above() -> i32 {
        nix::unistd::getppid().as_raw()
    }

    /// Other tests of this process have deleted files as well, so one is asked for by its number.
    fn counts(dir: &Path, inode: u64) -> bool {
        let mut forgotten = Forgotten::new(dir, above());
        while forgotten.step() {}
        forgotten.seen.contains(&inode) && forgotten.bytes() >= 1 << 20
    }

    #[test]
    fn deleted_files_count_while_they_are_open_or_mapped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, vec![1; 1 << 20]).unwrap();
        let file = File::open(&path).unwrap();
        let inode = file.metadata().unwrap().ino();
        assert!(!counts(dir.path(), inode), "it has a name");
        fs::remove_file(&path).unwrap();
        assert!(counts(dir.path(), inode));
        // SAFETY: a private mapping of a page that nothing else knows of, taken back below.
        let at = unsafe {
            let (read, private) = (libc::PROT_READ, libc::MAP_PRIVATE);
            libc::mmap(
                std::ptr::null_mut(),
                4096,
                read,
                private,
                file.as_raw_fd(),
                0,
            )
        };
        assert_ne!(at, libc::MAP_FAILED);
        drop(file);
        let counted = counts(dir.path(), inode);
        // SAFETY: see above.
        unsafe { libc::munmap(at, 4096) };
        assert_eq!(
            counted,
            nix::unistd::geteuid().is_root(),
            "only root may ask"
        );
    }

    #[test]
    fn a_mapping_of_a_deleted_file_is_told_from_others() {
        let line = "7f00-7f10 r--p 00000000 fe:00 42    /a b (deleted)";
        assert_eq!(deleted(line), Some(("7f00-7f10", ("fe:00", "42"))));
        assert_eq!(deleted("7f00-7f10 r--p 00000000 fe:00 42    /a b"), None);
        assert_eq!(deleted(" (deleted)"), None);
    }
}
