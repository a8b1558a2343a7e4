//! A cache bounded by the bytes of what it holds; the least recently used goes first.

use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

use lru::LruCache;

pub(crate) struct Cache<K, V> {
    max_bytes: usize,
    inner: Mutex<Inner<K, V>>,
}

struct Inner<K, V> {
    values: LruCache<K, (V, usize)>,
    bytes: usize,
}

impl<K: Hash + Eq, V: Clone> Cache<K, V> {
    pub(crate) fn new(max_bytes: usize) -> Cache<K, V> {
        Cache {
            max_bytes,
            inner: Mutex::new(Inner {
                values: LruCache::unbounded(),
                bytes: 0,
            }),
        }
    }

    pub(crate) fn get(&self, key: &K) -> Option<V> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.values.get(key).map(|(value, _)| value.clone())
    }

    /// What is larger than the whole cache is not kept.
    pub(crate) fn put(&self, key: K, value: V, bytes: usize) {
        if bytes > self.max_bytes {
            return;
        }
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.bytes += bytes;
        if let Some((_, before)) = inner.values.put(key, (value, bytes)) {
            inner.bytes -= before;
        }
        while inner.bytes > self.max_bytes {
            let Some((_, (_, freed))) = inner.values.pop_lru() else {
                break;
            };
            inner.bytes -= freed;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_makes_room() {
        let cache = Cache::new(10);
        cache.put("a", 1, 4);
        cache.put("b", 2, 4);
        assert_eq!(cache.get(&"a"), Some(1));
        cache.put("c", 3, 4);
        assert_eq!(cache.get(&"b"), None);
        assert_eq!(cache.get(&"a"), Some(1));
        cache.put("huge", 4, 11);
        assert_eq!(cache.get(&"huge"), None);
        cache.put("a", 5, 10);
        assert_eq!((cache.get(&"a"), cache.get(&"c")), (Some(5), None));
    }
}
