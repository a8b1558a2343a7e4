//! How the log lies in sled.
//!
//! Tree `entries`: key = index (8 bytes) and part (2 bytes), big-endian, so that the order of keys is
//! the order of the log; the first part begins with the length of the whole entry. Tree `meta`: the
//! vote, the last purged id, the commit marker.
//! sled recovers a prefix of what was written: order alone makes each step safe to be cut short.

use std::io;
use std::sync::Arc;

use nebula_wire::codec;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::disk::{Store, io_error};
use crate::error::StartError;
use crate::limits;
use crate::types::{Entry, LogId, Vote, entry_bytes};

const VOTE: &[u8] = b"vote";
const PURGED: &[u8] = b"purged";
const COMMITTED: &[u8] = b"committed";
const LENGTH_BYTES: usize = 4;

pub struct Records {
    entries: sled::Tree,
    meta: sled::Tree,
    store: Arc<Store>,
}

/// What a store held when it was opened.
pub struct Found {
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    pub purged: Option<LogId>,
    pub last: Option<LogId>,
}

impl Records {
    pub fn open(store: Store) -> Result<(Records, Found), StartError> {
        let records = Records {
            entries: store.tree("entries")?,
            meta: store.tree("meta")?,
            store: Arc::new(store),
        };
        let store = &records.store;
        let corrupt = |e: io::Error| store.corrupt(e);
        let vote = records.get(VOTE).map_err(corrupt)?;
        let committed = records.get(COMMITTED).map_err(corrupt)?;
        let purged: Option<LogId> = records.get(PURGED).map_err(corrupt)?;
        if let Some(purged) = purged {
            // A purge that a crash cut short.
            records
                .remove_some(purged.index, usize::MAX)
                .map_err(corrupt)?;
        }
        let last = records.check(purged).map_err(corrupt)?;
        let found = Found {
            vote,
            committed,
            purged,
            last,
        };
        Ok((records, found))
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

    /// Marks entries as purged; [`Records::remove_some`] removes them. A restart in between finishes it.
    pub fn put_purged(&self, upto: LogId) -> io::Result<()> {
        self.put_meta(PURGED, &upto)
    }

    /// Removes at most `max` parts of the entries up to `index`. `true` when none are left.
    pub fn remove_some(&self, index: u64, max: usize) -> io::Result<bool> {
        let mut removed = 0;
        let some = self.entries.range(..key(index + 1, 0)).keys().take(max);
        self.remove(some.inspect(|_| removed += 1))?;
        Ok(removed < max)
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

    pub fn put_committed(&self, committed: Option<LogId>) -> io::Result<()> {
        match committed {
            Some(id) => self.put_meta(COMMITTED, &id),
            None => Ok(()),
        }
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

    /// Walks the whole log: no holes, every entry whole. The last one may be cut off by a crash; it was
    /// never acknowledged, and goes. Returns the id of the last entry.
    fn check(&self, purged: Option<LogId>) -> io::Result<Option<LogId>> {
        let mut last: Option<Vec<u8>> = None;
        let mut next = purged.map(|p| p.index + 1);
        let mut raws = (Raw {
            iter: self.entries.iter(),
            ahead: None,
        })
        .peekable();
        while let Some(raw) = raws.next() {
            let raw = raw?;
            if next.is_some_and(|next| next != raw.index) {
                return Err(io::Error::other(format!(
                    "entry {} follows entry {}",
                    raw.index,
                    next.unwrap_or(0).saturating_sub(1)
                )));
            }
            if !raw.whole {
                if raws.peek().is_some() {
                    return Err(io::Error::other(format!(
                        "entry {} is not whole",
                        raw.index
                    )));
                }
                tracing::warn!(index = raw.index, "an entry cut off by a crash is dropped");
                self.truncate(raw.index)?;
                break;
            }
            next = Some(raw.index + 1);
            last = Some(raw.bytes);
        }
        let Some(bytes) = last else { return Ok(None) };
        let entry: Entry = codec::decode(&bytes).map_err(io::Error::other)?;
        Ok(Some(entry.log_id))
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
