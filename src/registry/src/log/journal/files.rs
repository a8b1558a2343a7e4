//! The journal's files: `0` and `1` for the frames, `sealed` for how far they were synced.
//!
//! `sealed` is made last, and is never removed: a store that has it was in use.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::damaged;
use super::frame::{self, Frame, Key};
use crate::limits;

pub const NAMES: [&str; 2] = ["0", "1"];
const SEAL: &str = "sealed";
const SEAL_BYTES: usize = 24;

pub struct Files {
    pub files: [File; 2],
    pub seal: File,
    /// None if there is none that can be read.
    pub sealed: Option<Seal>,
}

/// So many frames of this generation were on stable storage. It may be old, never too new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seal {
    pub generation: u64,
    pub frames: u64,
}

impl Seal {
    pub fn write(self, file: &File, key: &Key) -> io::Result<()> {
        let mut bytes = [0; SEAL_BYTES];
        bytes[8..16].copy_from_slice(&self.generation.to_be_bytes());
        bytes[16..].copy_from_slice(&self.frames.to_be_bytes());
        let check = frame::check(key, &bytes[8..]);
        bytes[..8].copy_from_slice(&check);
        // Far below a sector, which a disk writes whole.
        file.write_all_at(&bytes, 0)
    }

    fn read(file: &File, key: &Key) -> Option<Seal> {
        let mut bytes = [0; SEAL_BYTES];
        file.read_exact_at(&mut bytes, 0).ok()?;
        (frame::check(key, &bytes[8..]) == bytes[..8]).then(|| Seal {
            generation: frame::number(&bytes, 8),
            frames: frame::number(&bytes, 16),
        })
    }
}

pub fn index_of(generation: u64) -> usize {
    usize::from(generation % 2 == 1)
}

/// Whether a journal was ever finished in this folder.
pub fn exists(dir: &Path) -> io::Result<bool> {
    dir.join(SEAL).try_exists()
}

/// Makes the files of a store that says nothing of its journal yet, also after a crash cut that short.
pub fn make(dir: &Path, key: &Key) -> io::Result<()> {
    if was_used(dir, key)? {
        return Err(damaged(
            "the store is new, and its journal was in use".to_owned(),
        ));
    }
    match exists(dir)? {
        true => Ok(()),
        false => create(dir, key),
    }
}

/// Opens what [`make`] made.
pub fn open(dir: &Path, key: &Key) -> io::Result<Files> {
    if !exists(dir)? {
        return Err(damaged(format!("the journal's file '{SEAL}' is gone")));
    }
    let open = |name: &str| {
        let opened = options().open(dir.join(name));
        opened.map_err(|e| io::Error::new(e.kind(), format!("journal file {name}: {e}")))
    };
    let files = [open(NAMES[0])?, open(NAMES[1])?];
    for (file, name) in files.iter().zip(NAMES) {
        let bytes = file.metadata()?.len();
        if bytes < limits::JOURNAL_FILE_BYTES {
            return Err(damaged(format!(
                "journal file {name} is {bytes} bytes long instead of {}",
                limits::JOURNAL_FILE_BYTES
            )));
        }
    }
    let seal = open(SEAL)?;
    let sealed = Seal::read(&seal, key);
    Ok(Files {
        files,
        seal,
        sealed,
    })
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options
}

/// Whether a frame of this store stands in one of the files.
fn was_used(dir: &Path, key: &Key) -> io::Result<bool> {
    for name in NAMES {
        match std::fs::read(dir.join(name)) {
            Ok(bytes) if Frame::at(&bytes, 0, key).is_some() => return Ok(true),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(false)
}

/// Space is taken now, so that later syncs have no sizes and blocks to store, and that a full disk does
/// not stop them.
fn create(dir: &Path, key: &Key) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let fresh = |name: &str| {
        let mut options = options();
        options.create(true).truncate(true).mode(0o600);
        options.open(dir.join(name))
    };
    for name in NAMES {
        let file = fresh(name)?;
        let zeros = vec![0; 256 * 1024];
        let mut at = 0;
        while at < limits::JOURNAL_FILE_BYTES {
            file.write_all_at(&zeros, at)?;
            at += zeros.len() as u64;
        }
        file.sync_all()?;
    }
    let sync_folder = || File::open(dir)?.sync_all();
    sync_folder()?;
    if let Some(parent) = dir.parent() {
        File::open(parent)?.sync_all()?;
    }
    let nothing = Seal {
        generation: 0,
        frames: 0,
    };
    let seal = fresh(SEAL)?;
    nothing.write(&seal, key)?;
    seal.sync_all()?;
    sync_folder()
}
