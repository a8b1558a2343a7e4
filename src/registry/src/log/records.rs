//! How the log lies in sled, up to a generation of the journal.
//!
//! Tree `entries`: key = index (8 bytes) and part (2 bytes), big-endian, so that the order of keys is
//! the order of the log; the first part begins with the length of the whole entry. Tree `meta`: the
//! vote, the last purged id, the commit marker, the last generation of the journal that is here.
//! sled recovers a prefix of what was written: order alone makes each step safe to be cut short.

use std::io;

use nebula_wire::codec;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::journal::Key;
use crate::disk::{Store, io_error};
use crate::error::StartError;
use crate::limits;
use crate::types::{Entry, LogId, Vote, entry_bytes};

const VOTE: &[u8] = b"vote";
const PURGED: &[u8] = b"purged";
const COMMITTED: &[u8] = b"committed";
const COVERED: &[u8] = b"covered";
const KEY: &[u8] = b"journal_key";
const LENGTH_BYTES: usize = 4;

pub struct Records {
    entries: sled::Tree,
    meta: sled::Tree,
    store: Store,
}

/// What a store held when it was opened.
pub struct Found {
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    pub purged: Option<LogId>,
    pub last: Option<LogId>,
}

impl Records {
    pub fn open(store: Store) -> Result<Records, StartError> {
        Ok(Records {
            entries: store.tree("entries")?,
            meta: store.tree("meta")?,
            store,
        })
    }

    /// The last generation of the journal that is in here; none in a new store.
    pub fn covered(&self) -> io::Result<Option<u64>> {
        self.get(COVERED)
    }

    /// The key of the journal's frames; none in a new store.
    pub fn key(&self) -> io::Result<Option<Key>> {
        self.get(KEY)
    }

    /// Reads everything and checks it from end to end.
    pub fn find(&self) -> io::Result<Found> {
        let purged = self.get(PURGED)?;
        Ok(Found {
            vote: self.get(VOTE)?,
            committed: self.get(COMMITTED)?,
            purged,
            last: self.check(purged)?,
        })
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    pub fn put(&self, entry: &Entry) -> io::Result<()> {
        let bytes = codec::encode(entry).map_err(io::Error::other)?;
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        let mut rest = bytes.as_slice();
        let mut part = 0u16;
        loop {
            let (now, later) = rest.split_at(rest.len().min(limits::PART_BYTES));
            let mut value = Vec::with_capacity(LENGTH_BYTES + now.len());
            if part == 0 {
                value.extend_from_slice(&length.to_be_bytes());
            }
            value.extend_from_slice(now);
            self.entries
                .insert(key(entry.log_id.index, part), value)
                .map_err(io_error)?;
            rest = later;
            if rest.is_empty() {
                return Ok(());
            }
            part += 1;
        }
    }

    /// The entries of `[start, end)`, up to `max_bytes` but at least one.
    pub fn read(&self, start: u64, end: u64, max_bytes: usize) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut used = 0;
        for raw in (Raw {
            iter: self.entries.range(key(start, 0)..key(end, 0)),
            ahead: None,
        }) {
            let entry: Entry = codec::decode(&raw?.bytes).map_err(io::Error::other)?;
            used += entry_bytes(&entry);
            if used > max_bytes && !entries.is_empty() {
                break;
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    /// Removes from the end backwards, so that a crash leaves no hole.
    pub fn truncate(&self, since: u64) -> io::Result<()> {
        self.remove(self.entries.range(key(since, 0)..).keys().rev())
    }

    /// Marks entries as purged and removes them. Cut short, it is done again from the journal.
    pub fn purge(&self, upto: LogId) -> io::Result<()> {
        self.put_meta(PURGED, &upto)?;
        self.remove(self.entries.range(..key(upto.index + 1, 0)).keys())
    }

    fn remove(&self, keys: impl Iterator<Item = sled::Result<sled::IVec>>) -> io::Result<()> {
        for key in keys {
            self.entries
                .remove(key.map_err(io_error)?)
                .map_err(io_error)?;
        }
        Ok(())
    }

    pub fn put_vote(&self, vote: &Vote) -> io::Result<()> {
        self.put_meta(VOTE, vote)
    }

    pub fn put_committed(&self, committed: LogId) -> io::Result<()> {
        self.put_meta(COMMITTED, &committed)
    }

    pub fn put_key(&self, key: &Key) -> io::Result<()> {
        self.put_meta(KEY, key)
    }

    pub fn put_covered(&self, generation: u64) -> io::Result<()> {
        self.put_meta(COVERED, &generation)
    }

    fn put_meta<T: Serialize>(&self, name: &[u8], value: &T) -> io::Result<()> {
        let bytes = codec::encode(value).map_err(io::Error::other)?;
        self.meta.insert(name, bytes).map_err(io_error)?;
        Ok(())
    }

    fn get<T: DeserializeOwned>(&self, name: &[u8]) -> io::Result<Option<T>> {
        let Some(bytes) = self.meta.get(name).map_err(io_error)? else {
            return Ok(None);
        };
        codec::decode(&bytes).map(Some).map_err(io::Error::other)
    }

    /// Walks the whole log: no holes, every entry whole and in its place, terms that only grow. Returns the
    /// last id. What a crash cuts off here is made whole from the journal first, so that all else is damage.
    fn check(&self, purged: Option<LogId>) -> io::Result<Option<LogId>> {
        let mut last = purged;
        for raw in (Raw {
            iter: self.entries.iter(),
            ahead: None,
        }) {
            let raw = raw?;
            if let Some(last) = last.filter(|last| last.index + 1 != raw.index) {
                return Err(io::Error::other(format!(
                    "entry {} follows entry {}",
                    raw.index, last.index
                )));
            }
            if !raw.whole {
                return Err(io::Error::other(format!(
                    "entry {} is not whole",
                    raw.index
                )));
            }
            let entry: Entry = codec::decode(&raw.bytes).map_err(io::Error::other)?;
            if entry.log_id.index != raw.index || Some(entry.log_id) <= last {
                return Err(io::Error::other(format!(
                    "entry {} stands in the place of entry {}",
                    entry.log_id, raw.index
                )));
            }
            last = Some(entry.log_id);
        }
        Ok(last)
    }
}

fn key(index: u64, part: u16) -> [u8; 10] {
    let mut key = [0; 10];
    key[..8].copy_from_slice(&index.to_be_bytes());
    key[8..].copy_from_slice(&part.to_be_bytes());
    key
}

/// Puts parts together again.
struct Raw {
    iter: sled::Iter,
    ahead: Option<(u64, u16, sled::IVec)>,
}

struct RawEntry {
    index: u64,
    bytes: Vec<u8>,
    whole: bool,
}

impl Raw {
    fn part(&mut self) -> Option<io::Result<(u64, u16, sled::IVec)>> {
        if let Some(part) = self.ahead.take() {
            return Some(Ok(part));
        }
        let (key, value) = match self.iter.next()? {
            Ok(pair) => pair,
            Err(error) => return Some(Err(io_error(error))),
        };
        let Ok(key) = <[u8; 10]>::try_from(key.as_ref()) else {
            return Some(Err(io::Error::other("a key of the log has a wrong length")));
        };
        let (mut index, mut part) = ([0; 8], [0; 2]);
        index.copy_from_slice(&key[..8]);
        part.copy_from_slice(&key[8..]);
        Some(Ok((
            u64::from_be_bytes(index),
            u16::from_be_bytes(part),
            value,
        )))
    }
}

impl Iterator for Raw {
    type Item = io::Result<RawEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        let (index, part, value) = match self.part()? {
            Ok(first) => first,
            Err(error) => return Some(Err(error)),
        };
        let (length, body) = match value.split_at_checked(LENGTH_BYTES) {
            Some((length, body)) if part == 0 => (length, body),
            _ => {
                return Some(Err(io::Error::other(format!(
                    "entry {index} lacks its beginning"
                ))));
            }
        };
        let mut wanted = [0; LENGTH_BYTES];
        wanted.copy_from_slice(length);
        let mut bytes = body.to_vec();
        let mut expected = 1u16;
        loop {
            match self.part() {
                None => break,
                Some(Err(error)) => return Some(Err(error)),
                Some(Ok((at, part, value))) if at == index && part == expected => {
                    bytes.extend_from_slice(&value);
                    expected += 1;
                }
                Some(Ok(other)) => {
                    self.ahead = Some(other);
                    break;
                }
            }
        }
        let whole = bytes.len() == u32::from_be_bytes(wanted) as usize;
        Some(Ok(RawEntry {
            index,
            bytes,
            whole,
        }))
    }
}

#[cfg(test)]
mod tests {
    use nebula_domain::{Command, Request, RequestId};
    use nebula_telemetry::Counter;
    use openraft::{CommittedLeaderId, EntryPayload};
    use tempfile::TempDir;

    use super::*;
    use crate::types::{Batch, Item};

    #[test]
    fn an_entry_that_lacks_its_end_is_damage() {
        let dir = TempDir::new().unwrap();
        let store = Store::open(dir.path(), Counter::default()).unwrap();
        let records = Records::open(store).unwrap();
        let request = Request {
            id: RequestId(1),
            command: Command::SetSetting {
                key: "user.k".to_owned(),
                value: "x".repeat(limits::PART_BYTES),
            },
            stamp: Default::default(),
        };
        let item = std::sync::Arc::new(Item::new(request).unwrap());
        let log_id = LogId::new(CommittedLeaderId::new(1, 1), 1);
        let payload = EntryPayload::Normal(Batch::new(vec![item]));
        records.put(&Entry { log_id, payload }).unwrap();
        assert_eq!(records.find().unwrap().last, Some(log_id));
        assert!(records.entries.remove(key(1, 1)).unwrap().is_some());
        assert!(records.find().is_err());
    }
}
