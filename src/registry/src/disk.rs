//! One sled store whose acknowledgements are true.
//!
//! sled's own writes are true because of [`crate::honest`]. Every flush here is followed by an `fsync` of
//! the store's file all the same, and a new store's folder is synced too. After a failed
//! sync the store refuses everything: the kernel may have dropped the pages that it could not write.

use std::fs::File;
use std::io;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use nebula_telemetry::Counter;

use crate::error::StartError;
use crate::limits;
use crate::room::is_full;

pub struct Store {
    db: sled::Db,
    path: PathBuf,
    file: File,
    blobs: PathBuf,
    failed: AtomicBool,
    counter: Counter,
}

impl Store {
    /// Opens or creates; on return the store's existence is durable. Blocks.
    pub fn open(path: &Path, syncs: Counter) -> Result<Store, StartError> {
        let fault = |source| StartError::Open {
            path: path.to_owned(),
            source,
        };
        if !crate::honest::is_in_place() {
            let what = "this program was linked such that sled's writes would not be durable";
            return Err(fault(io::Error::other(what)));
        }
        std::fs::create_dir_all(path).map_err(fault)?;
        let db = open_db(path)?;
        let store = Store {
            db,
            path: path.to_owned(),
            file: File::open(path.join("db")).map_err(fault)?,
            blobs: path.join("blobs"),
            failed: AtomicBool::new(false),
            counter: syncs,
        };
        store.sync().map_err(fault)?;
        for made in std::fs::read_dir(path).map_err(fault)? {
            File::open(made.map_err(fault)?.path())
                .and_then(|f| f.sync_all())
                .map_err(fault)?;
        }
        // The store's folder and the one that names it; the one above that, which the registry's own
        // folder may be new in, need not be ours to open.
        for (level, dir) in path.ancestors().take(3).enumerate() {
            let synced = File::open(dir).and_then(|f| f.sync_all());
            if level < 2 {
                synced.map_err(fault)?;
            }
        }
        Ok(store)
    }

    pub fn tree(&self, name: &str) -> Result<sled::Tree, StartError> {
        self.db.open_tree(name).map_err(|e| self.start_error(e))
    }

    /// Everything written before this call is on stable storage when it returns. Blocks.
    pub fn sync(&self) -> io::Result<()> {
        if self.failed.load(Ordering::Acquire) {
            return Err(io::Error::other("an earlier sync of this store failed"));
        }
        let result = self.try_sync();
        match &result {
            Ok(()) => {
                self.counter.inc();
            }
            Err(error) => {
                self.failed.store(true, Ordering::Release);
                tracing::error!(store = %self.path.display(), %error, "the store cannot be synced");
            }
        }
        result
    }

    fn try_sync(&self) -> io::Result<()> {
        self.db.flush().map_err(io_error)?;
        // Values are kept small enough that none becomes a file of its own; should one, it counts too.
        for blob in std::fs::read_dir(&self.blobs)? {
            File::open(blob?.path())?.sync_all()?;
        }
        self.file.sync_data()
    }

    pub fn corrupt(&self, detail: impl std::fmt::Display) -> StartError {
        StartError::Corrupt {
            path: self.path.clone(),
            detail: detail.to_string(),
        }
    }

    pub fn unopened(&self, source: io::Error) -> StartError {
        StartError::Open {
            path: self.path.clone(),
            source,
        }
    }

    /// What a failed read or write at the start means: a full disk is no damage, and sled repeats it to readers.
    pub fn fault(&self, source: io::Error) -> StartError {
        match is_full(&source) {
            true => self.unopened(source),
            false => self.corrupt(source),
        }
    }

    pub fn start_error(&self, error: sled::Error) -> StartError {
        sled_start_error(&self.path, error)
    }
}

fn open_db(path: &Path) -> Result<sled::Db, StartError> {
    let config = sled::Config::new()
        .path(path)
        .cache_capacity(limits::STORE_CACHE_BYTES)
        .segment_size(limits::STORE_SEGMENT_BYTES)
        // Syncs are ours to decide; a background flush would only compete with them.
        .flush_every_ms(None)
        .mode(sled::Mode::LowSpace);
    let give_up = Instant::now() + limits::STORE_UNLOCK;
    loop {
        // sled panics on some damage that it meets while it recovers.
        match std::panic::catch_unwind(AssertUnwindSafe(|| config.open())) {
            Ok(Ok(db)) => return Ok(db),
            // A handle of this process may still be on its way out in one of sled's threads.
            Ok(Err(sled::Error::Io(e)))
                if e.to_string().contains("lock") && Instant::now() < give_up =>
            {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            Ok(Err(error)) => return Err(sled_start_error(path, error)),
            Err(_) => {
                return Err(StartError::Corrupt {
                    path: path.to_owned(),
                    detail: "its recovery failed".to_owned(),
                });
            }
        }
    }
}

fn sled_start_error(path: &Path, error: sled::Error) -> StartError {
    match error {
        sled::Error::Corruption { .. } | sled::Error::ReportableBug(_) => StartError::Corrupt {
            path: path.to_owned(),
            detail: error.to_string(),
        },
        other => StartError::Open {
            path: path.to_owned(),
            source: io_error(other),
        },
    }
}

pub fn io_error(error: sled::Error) -> io::Error {
    match error {
        sled::Error::Io(e) => e,
        other => io::Error::other(other),
    }
}
