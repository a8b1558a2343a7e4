//! Snapshots in sled: small parts under a number of their own, and one record that says which number
//! counts. A new snapshot is durable before that record names it, and the old one goes afterwards, so
//! that a crash at any point leaves one whole snapshot. A write that finds no room is made again, in a
//! store that was opened anew, when there is room.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nebula_telemetry::Counter;
use nebula_wire::codec;
use serde::{Deserialize, Serialize};

use crate::disk::{Store, io_error};
use crate::error::StartError;
use crate::limits;
use crate::points::point;
use crate::room::{Room, is_full};
use crate::types::SnapshotMeta;

const CURRENT: &[u8] = b"current";

pub struct Snapshots {
    path: PathBuf,
    syncs: Counter,
    room: Room,
    /// Locked while one is saved or loaded. None when the store could not be opened again.
    opened: Mutex<Option<Opened>>,
}

struct Opened {
    parts: sled::Tree,
    meta: sled::Tree,
    store: Store,
    /// The number of the next snapshot.
    next: u64,
}

/// The record that names the current snapshot.
#[derive(Serialize, Deserialize)]
struct Current {
    number: u64,
    length: u64,
    blake3: [u8; 32],
    meta: SnapshotMeta,
}

impl Snapshots {
    pub fn open(
        path: &Path,
        syncs: Counter,
        room: Room,
    ) -> Result<(Snapshots, Option<(SnapshotMeta, Vec<u8>)>), StartError> {
        let opened = Opened::open(path, &syncs)?;
        let found = opened.load().map_err(|e| opened.store.fault(e))?;
        let snapshots = Snapshots {
            path: path.to_owned(),
            syncs,
            room,
            opened: Mutex::new(Some(opened)),
        };
        Ok((snapshots, found))
    }

    pub fn corrupt(&self, detail: impl std::fmt::Display) -> StartError {
        StartError::Corrupt {
            path: self.path.clone(),
            detail: detail.to_string(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Opened>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Durable on return; waits for room. A snapshot older than the current one is left out. Blocks.
    pub fn save(&self, meta: &SnapshotMeta, bytes: &[u8]) -> io::Result<()> {
        let mut opened = self.lock();
        let mut refusals = self.room.refusals();
        loop {
            // The parts, and as much again for what sled moves while it stores them.
            self.room.wait(2 * bytes.len() as u64)?;
            match opened.as_mut().ok_or_else(closed)?.save(meta, bytes) {
                Err(error) if is_full(&error) => {
                    refusals.again("a snapshot", &error)?;
                    // The old store first: it holds the lock of its files.
                    opened.take();
                    let open = || Opened::open(&self.path, &self.syncs);
                    *opened = Some(self.room.open_again(open)?);
                }
                result => return result,
            }
        }
    }

    /// The current snapshot, checked. Blocks.
    pub fn load(&self) -> io::Result<Option<(SnapshotMeta, Vec<u8>)>> {
        self.lock().as_ref().ok_or_else(closed)?.load()
    }

    /// Damages the current snapshot, as a bad disk would.
    #[cfg(test)]
    pub fn damage(&self) {
        let opened = self.lock();
        let opened = opened.as_ref().unwrap();
        let (key, value) = opened.parts.first().unwrap().unwrap();
        let mut value = value.to_vec();
        value[0] ^= 1;
        opened.parts.insert(key, value).unwrap();
        opened.store.sync().unwrap();
    }

    #[cfg(test)]
    pub fn stored_parts(&self) -> usize {
        self.lock().as_ref().unwrap().parts.len()
    }
}

fn closed() -> io::Error {
    io::Error::other("the snapshot store is closed")
}

impl Opened {
    fn open(path: &Path, syncs: &Counter) -> Result<Opened, StartError> {
        let store = Store::open(path, syncs.clone())?;
        let mut opened = Opened {
            parts: store.tree("parts")?,
            meta: store.tree("meta")?,
            store,
            next: 0,
        };
        let current = opened.current().map_err(|e| opened.store.fault(e))?;
        let number = current.as_ref().map(|c| c.number);
        let cleared = opened.remove_all_but(number);
        cleared.map_err(|e| opened.store.fault(e))?;
        opened.next = number.map_or(0, |n| n + 1);
        Ok(opened)
    }

    fn save(&mut self, meta: &SnapshotMeta, bytes: &[u8]) -> io::Result<()> {
        let current = self.current()?;
        if current.is_some_and(|c| c.meta.last_log_id > meta.last_log_id) {
            // One that was installed while this one was being built.
            return Ok(());
        }
        let number = self.next;
        self.next += 1;
        for (part, chunk) in (0u32..).zip(bytes.chunks(limits::PART_BYTES)) {
            self.parts
                .insert(key(number, part), chunk)
                .map_err(io_error)?;
        }
        point!("snapshot-before-parts-sync");
        self.store.sync()?;
        point!("snapshot-after-parts-sync");
        let current = Current {
            number,
            length: bytes.len() as u64,
            blake3: *blake3::hash(bytes).as_bytes(),
            meta: meta.clone(),
        };
        let record = codec::encode(&current).map_err(io::Error::other)?;
        self.meta.insert(CURRENT, record).map_err(io_error)?;
        point!("snapshot-before-name-sync");
        self.store.sync()?;
        point!("snapshot-after-name-sync");
        self.remove_all_but(Some(number))
    }

    fn load(&self) -> io::Result<Option<(SnapshotMeta, Vec<u8>)>> {
        let Some(current) = self.current()? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        for pair in self
            .parts
            .range(key(current.number, 0)..=key(current.number, u32::MAX))
        {
            bytes.extend_from_slice(&pair.map_err(io_error)?.1);
        }
        if bytes.len() as u64 != current.length
            || *blake3::hash(&bytes).as_bytes() != current.blake3
        {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the snapshot does not match its checksum",
            ));
        }
        Ok(Some((current.meta, bytes)))
    }

    fn current(&self) -> io::Result<Option<Current>> {
        let Some(record) = self.meta.get(CURRENT).map_err(io_error)? else {
            return Ok(None);
        };
        codec::decode(&record).map(Some).map_err(io::Error::other)
    }

    fn remove_all_but(&self, number: Option<u64>) -> io::Result<()> {
        for key in self.parts.iter().keys() {
            let key = key.map_err(io_error)?;
            let kept = number.is_some_and(|n| key.starts_with(&n.to_be_bytes()));
            if !kept {
                self.parts.remove(key).map_err(io_error)?;
            }
        }
        Ok(())
    }
}

fn key(number: u64, part: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&number.to_be_bytes());
    key[8..].copy_from_slice(&part.to_be_bytes());
    key
}
