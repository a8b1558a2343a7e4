//! The latest entries in memory: bounded by bytes, except for what is not on disk yet.

use std::collections::VecDeque;

use crate::types::{Entry, LogId, entry_bytes};

pub struct Tail {
    entries: VecDeque<(Entry, usize)>,
    bytes: usize,
    max_bytes: usize,
    /// Index after the last entry; where the next one goes.
    end: u64,
    /// Entries before this index are in sled, where they are read when they are gone from here.
    written: u64,
}

impl Tail {
    /// An empty tail of a log whose next entry has this index.
    pub fn new(max_bytes: usize, next: u64) -> Tail {
        Tail {
            entries: VecDeque::new(),
            bytes: 0,
            max_bytes,
            end: next,
            written: next,
        }
    }

    /// The first index held; everything older is on disk.
    pub fn first(&self) -> u64 {
        self.end - self.entries.len() as u64
    }

    pub fn push(&mut self, entry: Entry) {
        let index = entry.log_id.index;
        if index != self.end {
            // A log that starts after a snapshot.
            self.entries.clear();
            self.bytes = 0;
            self.written = index;
        }
        let bytes = entry_bytes(&entry);
        self.bytes += bytes;
        self.end = index + 1;
        self.entries.push_back((entry, bytes));
        self.shed();
    }

    /// The entries of `[start, end)` up to `max_bytes` but at least one; `None` if some are older than
    /// the tail.
    pub fn get(&self, start: u64, end: u64, max_bytes: usize) -> Option<Vec<Entry>> {
        let first = self.first();
        if start < first {
            return None;
        }
        let skip = usize::try_from(start - first).unwrap_or(usize::MAX);
        let count = usize::try_from(end.saturating_sub(start)).unwrap_or(usize::MAX);
        let mut used = 0usize;
        let fits = |(_, bytes): &&(Entry, usize)| {
            let fits = used == 0 || used + bytes <= max_bytes;
            used += bytes;
            fits
        };
        let chosen = self.entries.iter().skip(skip).take(count);
        Some(chosen.take_while(fits).map(|(e, _)| e.clone()).collect())
    }

    /// The store holds the log up to `last`, as far as that is still the log: if its last entry is
    /// here under the same id, then all before it are the same, too.
    pub fn written(&mut self, last: LogId) {
        let at = last.index.checked_sub(self.first());
        let at = at.and_then(|at| usize::try_from(at).ok());
        let here = at.and_then(|at| self.entries.get(at));
        if here.is_some_and(|(entry, _)| entry.log_id == last) {
            self.written = self.written.max(last.index + 1);
            self.shed();
        }
    }

    /// Drops entries from `since` on.
    pub fn truncate(&mut self, since: u64) {
        while self.end > since && !self.entries.is_empty() {
            if let Some((_, bytes)) = self.entries.pop_back() {
                self.bytes -= bytes;
            }
            self.end -= 1;
        }
        self.end = self.end.min(since);
        self.written = self.written.min(since);
    }

    /// Drops entries up to and including `upto`.
    pub fn purge(&mut self, upto: u64) {
        while self.first() <= upto && !self.entries.is_empty() {
            if let Some((_, bytes)) = self.entries.pop_front() {
                self.bytes -= bytes;
            }
        }
        if self.end <= upto {
            self.end = upto + 1;
        }
        self.written = self.written.max(upto + 1).min(self.end);
    }

    fn shed(&mut self) {
        while self.bytes > self.max_bytes && self.first() < self.written {
            let Some((_, bytes)) = self.entries.pop_front() else {
                break;
            };
            self.bytes -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use openraft::{CommittedLeaderId, EntryPayload};

    fn entry(index: u64) -> Entry {
        entry_of(1, index)
    }

    fn entry_of(term: u64, index: u64) -> Entry {
        Entry {
            log_id: LogId::new(CommittedLeaderId::new(term, 1), index),
            payload: EntryPayload::Blank,
        }
    }

    fn indexes(entries: Option<Vec<Entry>>) -> Option<Vec<u64>> {
        entries.map(|e| e.iter().map(|e| e.log_id.index).collect())
    }

    #[test]
    fn sheds_only_what_is_written() {
        let size = entry_bytes(&entry(0));
        let mut tail = Tail::new(3 * size, 1);
        (1..=5).for_each(|i| tail.push(entry(i)));
        assert_eq!(tail.first(), 1);
        tail.written(entry(3).log_id);
        assert_eq!(tail.first(), 3);
        assert_eq!(indexes(tail.get(3, 9, usize::MAX)), Some(vec![3, 4, 5]));
        assert_eq!(indexes(tail.get(2, 4, usize::MAX)), None);
        assert_eq!(indexes(tail.get(3, 6, 2 * size)), Some(vec![3, 4]));
        assert_eq!(indexes(tail.get(3, 6, 1)), Some(vec![3]));
    }

    #[test]
    fn what_was_taken_back_meanwhile_does_not_count_as_written() {
        let mut tail = Tail::new(0, 1);
        (1..=4).for_each(|i| tail.push(entry(i)));
        tail.truncate(3);
        tail.written(entry(4).log_id);
        assert_eq!(tail.first(), 1);
        tail.push(entry_of(2, 3));
        tail.push(entry_of(2, 4));
        tail.written(entry(4).log_id);
        assert_eq!(tail.first(), 1);
        tail.written(entry_of(2, 3).log_id);
        assert_eq!(indexes(tail.get(4, 9, usize::MAX)), Some(vec![4]));
        assert_eq!(tail.first(), 4);
    }

    #[test]
    fn truncate_and_purge_move_the_ends() {
        let mut tail = Tail::new(usize::MAX, 1);
        (1..=5).for_each(|i| tail.push(entry(i)));
        tail.truncate(4);
        assert_eq!(indexes(tail.get(1, 9, usize::MAX)), Some(vec![1, 2, 3]));
        tail.push(entry(4));
        tail.purge(2);
        assert_eq!(indexes(tail.get(3, 9, usize::MAX)), Some(vec![3, 4]));
        tail.purge(10);
        assert_eq!(tail.first(), 11);
        tail.push(entry(11));
        assert_eq!(indexes(tail.get(11, 12, usize::MAX)), Some(vec![11]));
    }
}
