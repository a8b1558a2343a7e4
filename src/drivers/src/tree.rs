//! Deleting folders that programs wrote. They nest deeper than any path, stack or table of descriptors when a program wants
//! them to: what lies below [`DEPTH`] is moved up instead of descended into.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, DirEntry, FileType, Mode, OFlags, chmodat, fchmod, fstat, openat, renameat,
    statat, unlinkat,
};
use rustix::io::Errno;

/// Folders that are open at once, each a descriptor and a frame; ordinary trees are not as deep.
const DEPTH: u32 = 64;
const FOLDER: OFlags = OFlags::DIRECTORY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
const OWNERS: Mode = Mode::RWXU;

/// Deletes a folder with everything in it, also what its owner may not write to; links are not followed. One that is not
/// there is no error. Nothing may run in it any more.
///
/// # Errors
/// The first thing that cannot be deleted.
pub fn remove(path: &Path) -> io::Result<()> {
    let top = match open(CWD, path) {
        Err(Errno::NOENT) => return Ok(()),
        // Something else in its place.
        Err(Errno::NOTDIR | Errno::LOOP) => return std::fs::remove_file(path),
        opened => opened?,
    };
    let mut removal = Removal {
        top: top.as_fd(),
        moved: 0,
    };
    loop {
        let before = removal.moved;
        removal.empty(Dir::read_from(&top)?, 0)?;
        if removal.moved == before {
            break;
        }
    }
    there(unlinkat(CWD, path, AtFlags::REMOVEDIR))?;
    Ok(())
}

struct Removal<'a> {
    top: BorrowedFd<'a>,
    /// Folders that were moved to the top so far.
    moved: u64,
}

impl Removal<'_> {
    fn empty(&mut self, mut dir: Dir, depth: u32) -> rustix::io::Result<()> {
        while let Some(entry) = dir.read() {
            let entry = entry?;
            let (at, name) = (dir.fd()?, entry.file_name());
            if name == c"." || name == c".." {
                continue;
            }
            if !is_folder(at, &entry)? {
                there(unlinkat(at, name, AtFlags::empty()))?;
                continue;
            }
            let Some(folder) = there(open(at, name))? else {
                continue;
            };
            if depth < DEPTH {
                self.empty(Dir::new(folder)?, depth + 1)?;
                there(unlinkat(at, name, AtFlags::REMOVEDIR))?;
            } else {
                self.move_up(at, name)?;
            }
        }
        Ok(())
    }

    fn move_up(&mut self, at: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<()> {
        loop {
            self.moved += 1;
            let up = format!(".gone-{}", self.moved);
            match there(renameat(at, name, self.top, up)) {
                // The program has one of this name, or an earlier removal ended half-way.
                Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
                moved => return moved.map(|_| ()),
            }
        }
    }
}

/// Opens a folder so that it can be emptied. Programs close some even to themselves; package caches do.
fn open(at: impl AsFd, name: impl rustix::path::Arg + Copy) -> rustix::io::Result<OwnedFd> {
    let at = at.as_fd();
    let folder = match openat(at, name, FOLDER, Mode::empty()) {
        Err(Errno::ACCESS) => {
            chmodat(at, name, OWNERS, AtFlags::empty())?;
            openat(at, name, FOLDER, Mode::empty())?
        }
        opened => opened?,
    };
    let mode = Mode::from_raw_mode(fstat(&folder)?.st_mode);
    if !mode.contains(OWNERS) {
        fchmod(&folder, OWNERS)?;
    }
    Ok(folder)
}

fn is_folder(at: BorrowedFd<'_>, entry: &DirEntry) -> rustix::io::Result<bool> {
    let kind = match entry.file_type() {
        // Not every file system says.
        FileType::Unknown => {
            let about = there(statat(at, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW))?;
            about.map_or(FileType::Unknown, |about| {
                FileType::from_raw_mode(about.st_mode)
            })
        }
        kind => kind,
    };
    Ok(kind.is_dir())
}

/// What somebody else has deleted in between is what was wanted.
fn there<T>(result: rustix::io::Result<T>) -> rustix::io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use rustix::fs::mkdirat;

    use super::*;

    /// Folders in folders, a file in every hundredth.
    fn nest(top: &Path, levels: u32) {
        let mut at = openat(CWD, top, FOLDER, Mode::empty()).unwrap();
        for level in 0..levels {
            if level % 100 == 0 {
                let file = OFlags::CREATE | OFlags::WRONLY;
                openat(&at, "file", file, Mode::RUSR).unwrap();
            }
            mkdirat(&at, "a", OWNERS).unwrap();
            at = openat(&at, "a", FOLDER, Mode::empty()).unwrap();
        }
    }

    fn remove_with_a_small_stack(path: &Path) -> io::Result<()> {
        let path = path.to_owned();
        let thread = std::thread::Builder::new().stack_size(256 << 10);
        let removed = thread.spawn(move || remove(&path)).unwrap();
        removed.join().unwrap()
    }

    #[test]
    fn folders_nested_deeper_than_a_stack_are_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("i-1");
        fs::create_dir(&top).unwrap();
        // As a removal leaves them that ended half-way.
        fs::create_dir_all(top.join(".gone-1/x")).unwrap();
        fs::write(top.join(".gone-2"), "").unwrap();
        nest(&top, 5_000);
        remove_with_a_small_stack(&top).unwrap();
        assert!(!top.exists());
        remove(&top).unwrap();
    }

    #[test]
    fn wide_trees_and_closed_folders_go_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let kept = dir.path().join("kept");
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("file"), "x").unwrap();
        let top = dir.path().join("i-1");
        for n in 0..300 {
            fs::create_dir_all(top.join(format!("{n}/sub"))).unwrap();
            fs::write(top.join(format!("{n}/sub/file")), "x").unwrap();
        }
        symlink(&kept, top.join("link")).unwrap();
        symlink(&kept, top.join("7/sub/link")).unwrap();
        for (folder, mode) in [("1/sub", 0o000), ("2", 0o500), ("3/sub", 0o300)] {
            fs::set_permissions(top.join(folder), fs::Permissions::from_mode(mode)).unwrap();
        }
        remove(&top).unwrap();
        assert!(!top.exists());
        assert!(kept.join("file").exists());

        symlink(&kept, &top).unwrap();
        remove(&top).unwrap();
        assert!(top.symlink_metadata().is_err() && kept.join("file").exists());
    }
}
