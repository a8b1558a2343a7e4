//! An ext4 file system in a file, on a loop device. Its power can be cut; it is unmounted, and its loop device gone,
//! when it is dropped, whatever happened to it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use tempfile::TempDir;

use crate::wait::eventually;
use crate::{binaries, process};

/// Nothing holds a file system for longer once its processes are gone.
const UNMOUNT: Duration = Duration::from_secs(20);

/// What [`Volume::fill`] writes.
const FILLER: &str = "filler";

/// Of a volume's folder; the pid of its test follows.
const PREFIX: &str = "nebula-disk-";

/// Whether such tests can run here.
pub fn available() -> bool {
    let missing = if !nix::unistd::geteuid().is_root() {
        Some("root is needed to mount file systems")
    } else if !binaries::works("mkfs.ext4", &["-V"]) {
        Some("'mkfs.ext4' (e2fsprogs) is not installed")
    } else if !Path::new("/dev/loop-control").exists() {
        Some("this kernel has no loop devices")
    } else {
        None
    };
    binaries::unless_missing(missing)
}

pub struct Volume {
    folder: TempDir,
    mounted: bool,
}

impl Volume {
    pub fn new(megabytes: u64) -> Volume {
        sweep();
        let prefix = format!("{PREFIX}{}-", std::process::id());
        let folder = tempfile::Builder::new().prefix(&prefix).tempdir();
        let folder = folder.expect("a temporary folder");
        let image = folder.path().join("image");
        let file = File::create(&image).expect("an image");
        file.set_len(megabytes << 20).expect("an image's size");
        let volume = Volume {
            folder,
            mounted: false,
        };
        // Without lazy work that would go on in the background.
        let options = "lazy_itable_init=0,lazy_journal_init=0";
        let made = Command::new("mkfs.ext4")
            .args(["-q", "-F", "-m", "0", "-E", options])
            .arg(&image)
            .status();
        assert!(made.is_ok_and(|s| s.success()), "mkfs.ext4 failed");
        std::fs::create_dir(volume.dir()).expect("a mount point");
        let mut volume = volume;
        volume.mount();
        volume
    }

    /// Where it is mounted.
    pub fn dir(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }

    /// Recovers the file system from its journal if it was cut off.
    pub fn mount(&mut self) {
        assert!(!self.mounted, "it is mounted already");
        // mount(8) makes the loop device such that it goes with the last use.
        let done = Command::new("mount")
            .args(["-t", "ext4", "-o", "loop"])
            .arg(self.folder.path().join("image"))
            .arg(self.dir())
            .status();
        assert!(done.is_ok_and(|s| s.success()), "mount failed");
        self.mounted = true;
    }

    pub fn unmount(&mut self) {
        if !std::mem::take(&mut self.mounted) {
            return;
        }
        eventually(UNMOUNT, "the file system is unmounted", || {
            umount2(&self.dir(), MntFlags::empty()).map_err(|e| e.to_string())
        });
    }

    /// Writes a file until no more than so many bytes are free.
    pub fn fill(&self, leave: u64) {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir().join(FILLER));
        let mut file = file.expect("a file");
        let chunk = vec![0xA5; 256 * 1024];
        while self.free() > leave {
            let more = (self.free() - leave).min(chunk.len() as u64);
            let more = usize::try_from(more).expect("it fits");
            match file
                .write_all(&chunk[..more])
                .and_then(|()| file.sync_all())
            {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => return,
                Err(error) => panic!("cannot fill the disk: {error}"),
            }
        }
    }

    /// Takes back what [`Volume::fill`] took.
    pub fn make_room(&self) {
        std::fs::remove_file(self.dir().join(FILLER)).expect("the file that fills the disk");
    }

    pub fn free(&self) -> u64 {
        let found = nix::sys::statvfs::statvfs(&self.dir()).expect("a file system");
        found.blocks_available() * found.fragment_size()
    }

    /// From now on nothing reaches the disk, not even what the file system's own journal still had to write.
    pub fn cut(&self) {
        shut_down(&self.dir()).expect("the file system can be shut down");
    }

    /// After [`Volume::cut`], once everybody who used it is gone.
    pub fn restore_power(&mut self) {
        self.unmount();
        self.mount();
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if self.mounted && umount2(&self.dir(), MntFlags::empty()).is_err() {
            // Somebody still uses it: gone from here now, and altogether with them.
            if let Err(error) = umount2(&self.dir(), MntFlags::MNT_DETACH) {
                eprintln!("cannot unmount {}: {error}", self.dir().display());
            }
        }
    }
}

/// Unmounts what tests left behind that were ended by force.
fn sweep() {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    for dir in mounts.lines().filter_map(|line| line.split(' ').nth(1)) {
        let folder = Path::new(dir).parent();
        let owner = folder
            .and_then(|folder| folder.file_name()?.to_str()?.strip_prefix(PREFIX))
            .and_then(|rest| rest.split_once('-')?.0.parse().ok());
        if owner.is_some_and(|pid| !process::is_running(pid)) {
            let _ = umount2(dir, MntFlags::MNT_DETACH);
            let _ = folder.map(std::fs::remove_dir_all);
        }
    }
}

/// `EXT4_IOC_SHUTDOWN` without a flush of the journal (linux/fs/ext4/ext4.h).
#[allow(unsafe_code)]
fn shut_down(dir: &Path) -> io::Result<()> {
    const NO_LOG_FLUSH: u32 = 2;
    let folder = File::open(dir)?;
    // Encoded as a read, though the kernel reads the flags from us.
    nix::ioctl_write_ptr_bad!(shutdown, nix::request_code_read!(b'X', 125, 4), u32);
    // SAFETY: the descriptor is open and the flags outlive the call.
    unsafe {
        shutdown(folder.as_raw_fd(), &NO_LOG_FLUSH)?;
    }
    Ok(())
}
