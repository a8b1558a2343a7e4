//! Snapshots in sled: small parts under a number of their own, and one record that says which number
//! counts. A new snapshot is durable before that record names it, and the old one goes afterwards, so
//! that a crash at any point leaves one whole snapshot.

use std::io;
use std::sync::Mutex;

use nebula_wire::codec;
use serde::{Deserialize, Serialize};

use crate::disk::{Store, io_error};
use crate::error::StartError;
use crate::limits;
use crate::types::SnapshotMeta;

const CURRENT: &[u8] = b"current";

pub struct Snapshots {
    parts: sled::Tree,
    meta: sled::Tree,
    store: Store,
    /// The number of the next snapshot. Held while one is saved.
    next: Mutex<u64>,
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
    pub fn open(store: Store) -> Result<(Snapshots, Option<(SnapshotMeta, Vec<u8>)>), StartError> {
        let snapshots = Snapshots {
            parts: store.tree("parts")?,
            meta: store.tree("meta")?,
            store,
            next: Mutex::new(0),
        };
        let corrupt = |e: io::Error| snapshots.store.corrupt(e);
        let current = snapshots.current().map_err(corrupt)?;
        let number = current.as_ref().map(|c| c.number);
        snapshots.remove_all_but(number).map_err(corrupt)?;
        let found = snapshots.load().map_err(corrupt)?;
        *snapshots.lock() = number.map_or(0, |n| n + 1);
        Ok((snapshots, found))
    }

    pub fn corrupt(&self, detail: impl std::fmt::Display) -> StartError {
        self.store.corrupt(detail)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, u64> {
        self.next
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Durable on return. A snapshot older than the current one is left out. Blocks.
    pub fn save(&self, meta: &SnapshotMeta, bytes: &[u8]) -> io::Result<()> {
        let mut next = self.lock();
        let current = self.current()?;
        if current.is_some_and(|c| c.meta.last_log_id > meta.last_log_id) {
            // One that was installed while this one was being built.
            return Ok(());
        }
        let number = *next;
        *next += 1;
        for (part, chunk) in (0u32..).zip(bytes.chunks(limits::PART_BYTES)) {
            self.parts
                .insert(key(number, part), chunk)
                .map_err(io_error)?;
        }
        self.store.sync()?;
        let current = Current {
            number,
            length: bytes.len() as u64,
            blake3: *blake3::hash(bytes).as_bytes(),
            meta: meta.clone(),
        };
        let record = codec::encode(&current).map_err(io::Error::other)?;
        self.meta.insert(CURRENT, record).map_err(io_error)?;
        self.store.sync()?;
        self.remove_all_but(Some(number))
    }

    /// The current snapshot, checked. Blocks.
    pub fn load(&self) -> io::Result<Option<(SnapshotMeta, Vec<u8>)>> {
        let _saving = self.lock();
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

    /// Damages the current snapshot, as a bad disk would.
    #[cfg(test)]
    pub fn damage(&self) {
        let (key, value) = self.parts.first().unwrap().unwrap();
        let mut value = value.to_vec();
        value[0] ^= 1;
        self.parts.insert(key, value).unwrap();
        self.store.sync().unwrap();
    }

    #[cfg(test)]
    pub fn stored_parts(&self) -> usize {
        self.parts.len()
    }
}

fn key(number: u64, part: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&number.to_be_bytes());
    key[8..].copy_from_slice(&part.to_be_bytes());
    key
}
