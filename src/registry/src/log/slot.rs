//! The log's part in sled, which can be closed, and made anew after a write that found no room.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::closed;
use super::records::Records;

/// Clones share it.
#[derive(Clone)]
pub struct Slot(Arc<(Mutex<Held>, Condvar)>);

enum Held {
    Open(Arc<Records>),
    /// It comes back, or is closed.
    Away,
    Closed,
}

impl Slot {
    pub fn new(records: Records) -> Slot {
        Slot(Arc::new((
            Mutex::new(Held::Open(Arc::new(records))),
            Condvar::new(),
        )))
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while it is being made anew. Blocks.
    pub fn get(&self) -> io::Result<Arc<Records>> {
        let mut held = self.lock();
        loop {
            match &*held {
                Held::Open(records) => return Ok(records.clone()),
                Held::Closed => return Err(closed()),
                Held::Away => {
                    held = self.0.1.wait(held).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// Lets go of the files, for good.
    pub fn close(&self) {
        *self.lock() = Held::Closed;
        self.0.1.notify_all();
    }

    /// Lets go of the files and opens them again, which is how sled forgets a failed write.
    pub fn renew(&self, open: impl FnOnce() -> io::Result<Records>) -> io::Result<()> {
        {
            let mut held = self.lock();
            if matches!(*held, Held::Closed) {
                return Err(closed());
            }
            *held = Held::Away;
        }
        let renewed = open();
        let mut held = self.lock();
        let result = match (renewed, &*held) {
            (Ok(records), Held::Away) => {
                *held = Held::Open(Arc::new(records));
                Ok(())
            }
            (Ok(_), _) => Err(closed()),
            (Err(error), _) => {
                *held = Held::Closed;
                Err(error)
            }
        };
        self.0.1.notify_all();
        result
    }
}
