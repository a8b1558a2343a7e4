//! The table of HPACK: fields that everybody knows (RFC 7541 appendix A), and those that the two ends of a connection have said.

use std::collections::VecDeque;

/// What section 4.1 adds to a field's name and value.
pub(super) const FIELD_BYTES: usize = 32;
/// Of the table in either direction: what every peer takes without being asked (RFC 9113 section 6.5.2).
pub(super) const TABLE_BYTES: usize = 4096;

/// Its first index is 1.
pub(super) static STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// Where the static table has a name that answers have; 0 where it has not.
pub(super) fn name_index(name: &[u8]) -> u64 {
    match name {
        b":status" => 8,
        b"accept-ranges" => 18,
        b"access-control-allow-origin" => 20,
        b"age" => 21,
        b"allow" => 22,
        b"cache-control" => 24,
        b"content-disposition" => 25,
        b"content-encoding" => 26,
        b"content-language" => 27,
        b"content-length" => 28,
        b"content-location" => 29,
        b"content-range" => 30,
        b"content-type" => 31,
        b"date" => 33,
        b"etag" => 34,
        b"expires" => 36,
        b"last-modified" => 44,
        b"link" => 45,
        b"location" => 46,
        b"refresh" => 52,
        b"retry-after" => 53,
        b"server" => 54,
        b"set-cookie" => 55,
        b"strict-transport-security" => 56,
        b"vary" => 59,
        b"via" => 60,
        b"www-authenticate" => 61,
        _ => 0,
    }
}

/// The fields that were said, the latest first.
pub(super) struct Table {
    entries: VecDeque<Entry>,
    size: usize,
    max: usize,
}

struct Entry {
    text: Box<[u8]>,
    name_bytes: usize,
    hash: u64,
}

impl Entry {
    fn size(&self) -> usize {
        self.text.len() + FIELD_BYTES
    }
}

impl Table {
    pub(super) fn new() -> Table {
        Table {
            entries: VecDeque::new(),
            size: 0,
            max: TABLE_BYTES,
        }
    }

    /// Name and value at an index of both tables.
    pub(super) fn get(&self, index: usize) -> Option<(&[u8], &[u8])> {
        let index = index.checked_sub(1)?;
        if let Some((name, value)) = STATIC.get(index) {
            return Some((name.as_bytes(), value.as_bytes()));
        }
        let entry = self.entries.get(index - STATIC.len())?;
        Some(entry.text.split_at(entry.name_bytes))
    }

    /// The index of a field with that hash.
    pub(super) fn find(&self, hash: u64, name: &[u8], value: &[u8]) -> Option<u64> {
        let same = |entry: &Entry| {
            entry.hash == hash && entry.text.split_at(entry.name_bytes) == (name, value)
        };
        let at = self.entries.iter().position(same)?;
        Some((STATIC.len() + 1 + at) as u64)
    }

    /// Section 4.4: one that does not fit empties the table.
    pub(super) fn insert(&mut self, hash: u64, name: &[u8], value: &[u8]) {
        let size = name.len() + value.len() + FIELD_BYTES;
        self.evict(self.max.saturating_sub(size));
        if size <= self.max {
            self.size += size;
            self.entries.push_front(Entry {
                text: [name, value].concat().into_boxed_slice(),
                name_bytes: name.len(),
                hash,
            });
        }
    }

    pub(super) fn resize(&mut self, max: usize) {
        self.max = max;
        self.evict(max);
    }

    pub(super) fn max(&self) -> usize {
        self.max
    }

    fn evict(&mut self, size: usize) {
        while self.size > size
            && let Some(entry) = self.entries.pop_back()
        {
            self.size -= entry.size();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_where_they_are() {
        for (at, (name, _)) in STATIC.iter().enumerate() {
            let index = name_index(name.as_bytes());
            let first = STATIC.iter().position(|(other, _)| other == name);
            let here = first.unwrap() as u64 + 1;
            assert!(index == 0 || index == here, "{at}: {name} {index}");
        }
        assert_eq!(name_index(b"server"), 54);
        assert_eq!(name_index(b"x-mine"), 0);
    }

    #[test]
    fn it_holds_so_much_and_the_oldest_goes() {
        let mut table = Table::new();
        table.resize(2 * (FIELD_BYTES + 2));
        for name in [b"a", b"b", b"c"] {
            table.insert(u64::from(name[0]), name, b"1");
        }
        assert_eq!(table.get(62), Some((&b"c"[..], &b"1"[..])));
        assert_eq!(table.find(u64::from(b'b'), b"b", b"1"), Some(63));
        assert_eq!(table.get(64), None);
        assert_eq!(table.get(0), None);
        assert_eq!(table.find(u64::from(b'b'), b"b", b"2"), None);
        table.insert(0, b"d", &[b'x'; 100]);
        assert_eq!((table.get(62), table.size), (None, 0));
    }
}
