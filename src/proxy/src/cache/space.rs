//! One deployment's answers on this node. One lock, held for a look or a change and never while anything is waited for; other
//! deployments have their own.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use nebula_domain::http::cache::{Asker, Forwarded, Use, Vary};
use nebula_domain::routes::Version;
use nebula_domain::traffic::Nanos;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::entry::{Stored, Variant};
use super::flight::{Flight, Lead, Place, Waiter};
use super::key::{Ask, Key};

/// What a list of fields takes in memory besides their names.
const SLOT_BYTES: usize = 256;

pub(super) struct Space {
    inner: Mutex<Inner>,
    bytes: AtomicUsize,
    /// Of all deployments together.
    total: Arc<AtomicUsize>,
    used: AtomicU64,
    fetches: Arc<Semaphore>,
}

struct Inner {
    /// What is kept is of this release.
    version: Option<Version>,
    slots: LruCache<Key, (Slot, usize)>,
    /// Answers that were found not to be kept, until when nobody waits for such a one.
    passes: LruCache<(Key, Asker), Nanos>,
    flights: HashMap<Place, Arc<Flight>>,
    /// Counts lists of fields, and fetches that nobody waits for.
    number: u64,
}

enum Slot {
    Answer(Arc<Stored>),
    /// It depends on these fields of a request; the answers are under keys with this number.
    Varies(Arc<Vary>, u64),
}

/// What there is for a request.
pub(super) enum Look {
    Fresh(Arc<Stored>),
    /// To be given as it is; with a fetch to be made unless there is one.
    Stale(Arc<Stored>, Option<Lead>),
    /// Somebody fetches it. Something old may be given if that fails.
    Wait(Waiter, Option<Arc<Stored>>, Forwarded),
    /// To be fetched. Something old may be given if that fails.
    Fetch(Lead, Option<Arc<Stored>>, Forwarded),
    /// Nothing, and nothing else was wanted.
    Absent,
    Pass(Forwarded, Option<&'static str>),
}

impl Space {
    /// With so many `fetches` under way at once.
    pub(super) fn new(total: Arc<AtomicUsize>, passes: NonZeroUsize, fetches: usize) -> Space {
        Space {
            inner: Mutex::new(Inner {
                version: None,
                slots: LruCache::unbounded(),
                passes: LruCache::new(passes),
                flights: HashMap::new(),
                number: 0,
            }),
            bytes: AtomicUsize::new(0),
            total,
            used: AtomicU64::new(0),
            fetches: Arc::new(Semaphore::new(fetches)),
        }
    }

    /// One of its fetches, until that is dropped.
    pub(super) fn fetch(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.fetches).try_acquire_owned().ok()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn last_used(&self) -> Nanos {
        self.used.load(Ordering::Relaxed)
    }

    /// `is_current` says whether the table in force has this version; one that has not belongs to a request that was held back since
    /// before.
    pub(super) fn look(
        self: &Arc<Space>,
        ask: &Ask<'_>,
        version: Version,
        is_current: impl FnOnce() -> bool,
        now: Nanos,
    ) -> Look {
        self.used.store(now, Ordering::Relaxed);
        let mut inner = self.inner();
        if inner.version != Some(version) {
            // Asked under the lock, so that what comes later is not undone by what came before.
            if !is_current() {
                return Look::Pass(Forwarded::Bypass, Some("outdated"));
            }
            self.clear(&mut inner);
            inner.version = Some(version);
        }
        let (key, missing) = match inner.slots.get(&ask.key) {
            Some((Slot::Varies(vary, number), _)) => {
                let key = ask.key.variant(*number, &ask.values(vary));
                (key, Forwarded::VaryMiss)
            }
            _ => (ask.key, Forwarded::UriMiss),
        };
        let known = match inner.slots.get(&key) {
            Some((Slot::Answer(stored), _)) if stored.head.fresh.is_for(ask.asker) => {
                Some(Arc::clone(stored))
            }
            _ => None,
        };
        let used = known.as_ref();
        let used = used.map(|stored| stored.head.fresh.decide(&ask.control, now));
        let mut place = Place {
            key,
            asker: ask.asker,
            alone: 0,
        };
        let (old, why) = match (known.clone(), used) {
            (Some(stored), Some(Use::Fresh)) => return Look::Fresh(stored),
            (Some(stored), Some(Use::Stale)) => {
                let lead = match ask.control.no_store {
                    true => None,
                    false => self.begin(&mut inner, ask, place, known),
                };
                return Look::Stale(stored, lead);
            }
            _ if ask.control.only_if_cached => return Look::Absent,
            (Some(stored), Some(Use::Validate { if_error })) => {
                let asked = stored.head.fresh.ttl(now) > 0 && !stored.head.fresh.always_validates();
                let why = match asked {
                    true => Forwarded::Request,
                    false => Forwarded::Stale,
                };
                (if_error.then_some(stored), why)
            }
            _ => (None, missing),
        };
        if ask.control.no_store {
            return Look::Pass(Forwarded::Request, Some("no-store"));
        }
        if ask.is_partial() {
            let why = if ask.is_get { Forwarded::Partial } else { why };
            return Look::Pass(why, None);
        }
        let until = inner.passes.get(&(key, ask.asker)).copied();
        if known.is_none() && until.is_some_and(|until| now < until) {
            return Look::Pass(why, Some("uncacheable"));
        }
        // Who wants to be sure asks by themselves, and so does each who wants what is always to be asked about.
        let always = known.as_ref();
        let always = always.is_some_and(|stored| stored.head.fresh.always_validates());
        // What could not be kept last time may well not be kept this time.
        let doubtful = known.is_none() && until.is_some();
        if always || doubtful || ask.control.no_cache {
            inner.number += 1;
            place.alone = inner.number;
        }
        if let Some(flight) = inner.flights.get(&place) {
            // Under the lock: from here on it is not in vain.
            return Look::Wait(flight.join(), old, why);
        }
        match self.begin(&mut inner, ask, place, known) {
            Some(lead) => Look::Fetch(lead, old, why),
            None => Look::Pass(why, None),
        }
    }

    /// Nothing if somebody has begun.
    fn begin(
        self: &Arc<Space>,
        inner: &mut Inner,
        ask: &Ask<'_>,
        place: Place,
        known: Option<Arc<Stored>>,
    ) -> Option<Lead> {
        let Entry::Vacant(vacant) = inner.flights.entry(place) else {
            return None;
        };
        let flight = Arc::new(Flight::new(ask.key));
        vacant.insert(Arc::clone(&flight));
        Some(Lead {
            space: Arc::clone(self),
            flight,
            place,
            known,
        })
    }

    /// Whether a fetch is to end because nobody waits for it any more. From here on nobody will.
    pub(super) fn abandon(&self, place: &Place, flight: &Arc<Flight>) -> bool {
        let mut inner = self.inner();
        let in_vain = flight.is_in_vain();
        if in_vain {
            remove(&mut inner, place, flight);
        }
        in_vain
    }

    /// A fetch is over.
    pub(super) fn land(&self, place: &Place, flight: &Arc<Flight>) {
        remove(&mut self.inner(), place, flight);
    }

    /// Keeps what a fetch of this release has brought, and lets nobody wait for it any more; whether it is kept.
    pub(super) fn keep(
        &self,
        lead: &Lead,
        version: Version,
        variant: &Variant,
        stored: Arc<Stored>,
    ) -> bool {
        let mut inner = self.inner();
        remove(&mut inner, &lead.place, &lead.flight);
        if lead.flight.is_spoiled() || inner.version != Some(version) {
            return false;
        }
        inner.passes.pop(&(lead.place.key, lead.place.asker));
        let key = self.key(&mut inner, lead.flight.url, variant);
        let bytes = stored.bytes();
        self.put(&mut inner, key, Slot::Answer(stored), bytes);
        true
    }

    /// What an answer depends on is known before all of it has come. From here on only those wait for it that it is for.
    pub(super) fn learn(&self, lead: &mut Lead, version: Version, variant: &Variant) {
        let mut inner = self.inner();
        if lead.flight.is_spoiled() || inner.version != Some(version) {
            return;
        }
        let key = self.key(&mut inner, lead.flight.url, variant);
        if key == lead.place.key {
            return;
        }
        remove(&mut inner, &lead.place, &lead.flight);
        lead.place.key = key;
        if inner.flights.contains_key(&lead.place) {
            // Nobody waits for it there; a change of what it fetches has to find it.
            inner.number += 1;
            lead.place.alone = inner.number;
        }
        inner.flights.insert(lead.place, Arc::clone(&lead.flight));
    }

    /// Where an answer is kept. What it depends on is remembered for the next request.
    fn key(&self, inner: &mut Inner, url: Key, variant: &Variant) -> Key {
        if variant.vary.is_empty() {
            return url;
        }
        if let Some((Slot::Varies(vary, number), _)) = inner.slots.get(&url)
            && **vary == variant.vary
        {
            return url.variant(*number, &variant.values);
        }
        inner.number += 1;
        let number = inner.number;
        let vary = Arc::new(variant.vary.clone());
        let bytes = vary.bytes() + SLOT_BYTES;
        self.put(inner, url, Slot::Varies(vary, number), bytes);
        url.variant(number, &variant.values)
    }

    /// What was kept holds still, with a newer head.
    pub(super) fn renew(&self, lead: &Lead, version: Version, stored: &Arc<Stored>) {
        let mut inner = self.inner();
        remove(&mut inner, &lead.place, &lead.flight);
        if !lead.flight.is_spoiled() && inner.version == Some(version) {
            let bytes = stored.bytes();
            let slot = Slot::Answer(Arc::clone(stored));
            self.put(&mut inner, lead.place.key, slot, bytes);
        }
    }

    /// What a fetch was to renew is not to be used any more.
    pub(super) fn forget(&self, lead: &Lead) {
        let mut inner = self.inner();
        let is_known = |stored: &Arc<Stored>| {
            let known = lead.known.as_ref();
            known.is_some_and(|known| Arc::ptr_eq(known, stored))
        };
        if let Some((Slot::Answer(stored), _)) = inner.slots.peek(&lead.place.key)
            && is_known(stored)
        {
            self.take(&mut inner, &lead.place.key);
        }
    }

    /// Until then nobody waits for an answer like the one that a fetch has brought.
    pub(super) fn pass(&self, lead: &Lead, until: Nanos) {
        let place = (lead.place.key, lead.place.asker);
        self.inner().passes.put(place, until);
    }

    /// What a URL names has changed (RFC 9111 section 4.4).
    pub(super) fn invalidate(&self, url: &Key) {
        let mut inner = self.inner();
        self.take(&mut inner, url);
        inner.flights.retain(|_, flight| {
            let spoiled = flight.url == *url;
            if spoiled {
                flight.spoil();
            }
            !spoiled
        });
    }

    /// Lets go of what was used least recently; whether there was anything.
    pub(super) fn evict(&self) -> bool {
        let mut inner = self.inner();
        let Some((_, (_, bytes))) = inner.slots.pop_lru() else {
            return false;
        };
        self.less(bytes);
        true
    }

    /// What the answers take, one by one.
    #[cfg(test)]
    pub(super) fn counted(&self) -> usize {
        let inner = self.inner();
        inner.slots.iter().map(|(_, (_, bytes))| bytes).sum()
    }

    fn put(&self, inner: &mut Inner, key: Key, slot: Slot, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.total.fetch_add(bytes, Ordering::Relaxed);
        if let Some((_, before)) = inner.slots.put(key, (slot, bytes)) {
            self.less(before);
        }
    }

    fn take(&self, inner: &mut Inner, key: &Key) {
        if let Some((_, bytes)) = inner.slots.pop(key) {
            self.less(bytes);
        }
    }

    fn clear(&self, inner: &mut Inner) {
        inner.slots.clear();
        inner.passes.clear();
        // What is under way is of another release, and nobody is to wait for that.
        inner.flights.clear();
        self.less(self.bytes());
    }

    fn less(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.total.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        self.less(self.bytes());
    }
}

/// Unless another fetch has taken its place.
fn remove(inner: &mut Inner, place: &Place, flight: &Arc<Flight>) {
    if let Entry::Occupied(known) = inner.flights.entry(*place)
        && Arc::ptr_eq(known.get(), flight)
    {
        known.remove();
    }
}
