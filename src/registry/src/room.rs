//! Room on the disk for the registry.
//!
//! sled refuses everything after one failed write, so nothing is written to it unless there is room:
//! a checkpoint or a snapshot waits here, and Raft on this node waits with it, as it would for a slow
//! disk. Long before that, a node that is low on space hands leadership to others.

use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use nebula_telemetry::Gauge;
use tokio::sync::watch;

use crate::error::StartError;
use crate::limits;

/// How a node's disk bears on its part in the registry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Space {
    #[default]
    Enough,
    /// Follows, and neither leads nor takes proposals.
    Low,
    /// Takes no part until there is room.
    Full,
}

type Probe = Box<dyn Fn() -> io::Result<u64> + Send + Sync>;

/// Clones share it.
#[derive(Clone)]
pub struct Room(Arc<Inner>);

struct Inner {
    probe: Probe,
    free: Gauge,
    waiting: Mutex<Waiting>,
    closing: Condvar,
    space: watch::Sender<Space>,
}

#[derive(Default)]
struct Waiting {
    stores: usize,
    /// The most that one of them has waited for.
    wanted: u64,
    closed: bool,
}

impl Room {
    /// On the disk of this folder, which must exist by the time somebody asks.
    pub fn of(dir: &Path, free: Gauge) -> Room {
        let dir = dir.to_owned();
        Room::with(Box::new(move || free_bytes(&dir)), free)
    }

    pub fn with(probe: Probe, free: Gauge) -> Room {
        Room(Arc::new(Inner {
            probe,
            free,
            waiting: Mutex::default(),
            closing: Condvar::new(),
            space: watch::Sender::new(Space::Enough),
        }))
    }

    /// Where nothing is written to a disk.
    pub fn endless() -> Room {
        Room::with(Box::new(|| Ok(u64::MAX)), Gauge::default())
    }

    pub fn watch(&self) -> watch::Receiver<Space> {
        self.0.space.subscribe()
    }

    /// Measures, and tells those who watch. Blocks as long as the disk does.
    pub fn look(&self) {
        let free = match (self.0.probe)() {
            Ok(free) => free,
            // Then whatever is written next will fail and say why.
            Err(error) => return tracing::warn!(%error, "the free space cannot be measured"),
        };
        self.0.free.set(i64::try_from(free).unwrap_or(i64::MAX));
        let (is_waiting, wanted) = {
            let waiting = self.lock();
            (waiting.stores > 0, waiting.wanted)
        };
        let moved = self.0.space.send_if_modified(|space| {
            let now = match *space {
                _ if is_waiting => Space::Full,
                Space::Enough if free >= limits::SPACE_LOW_BYTES => Space::Enough,
                _ if free >= limits::SPACE_ENOUGH_BYTES => Space::Enough,
                _ => Space::Low,
            };
            std::mem::replace(space, now) != now
        });
        if moved {
            match *self.0.space.borrow() {
                Space::Enough => tracing::info!(free, "the disk has room again"),
                Space::Low => tracing::warn!(
                    free,
                    floor = limits::SPACE_LOW_BYTES,
                    "the disk is nearly full: this node does not lead (space_low_bytes)"
                ),
                Space::Full => tracing::error!(
                    free,
                    wanted,
                    floor = limits::SPACE_STOP_BYTES,
                    "the disk is full: this node takes no part in the registry until there is room \
                     (space_stop_bytes)"
                ),
            }
        }
    }

    /// Returns once `bytes` can be written and the floor is kept; an error when it was closed. Blocks.
    pub fn wait(&self, bytes: u64) -> io::Result<()> {
        let wanted = limits::SPACE_STOP_BYTES.saturating_add(bytes);
        // A disk that cannot be measured may still be written.
        let there_is = || (self.0.probe)().map_or(true, |free| free >= wanted);
        if there_is() {
            return Ok(());
        }
        let _waits = self.enter(wanted);
        loop {
            self.look();
            if there_is() {
                return Ok(());
            }
            self.pause()?;
        }
    }

    /// Says that a store waits for room until what is returned is dropped.
    fn enter(&self, wanted: u64) -> Waits<'_> {
        let mut waiting = self.lock();
        waiting.stores += 1;
        waiting.wanted = waiting.wanted.max(wanted);
        Waits(self)
    }

    /// Until the next look; an error when it was closed. Blocks.
    fn pause(&self) -> io::Result<()> {
        let waiting = self.lock();
        if waiting.closed {
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                "the disk is full, and the store is being closed",
            ));
        }
        let pause = self.0.closing.wait_timeout(waiting, limits::SPACE_LOOK);
        drop(pause.unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }

    /// For one piece of work of a store that is tried until it finds room.
    pub fn refusals(&self) -> Refusals<'_> {
        Refusals {
            room: self,
            waits: None,
        }
    }

    /// Opens a store again after a write that found no room, once there is, as often as it takes: what a look
    /// saw may be gone when the store writes. An error when it was closed, or something else is wrong. Blocks.
    pub fn open_again<T>(&self, open: impl Fn() -> Result<T, StartError>) -> io::Result<T> {
        let mut refusals = self.refusals();
        loop {
            self.wait(0)?;
            match open() {
                Err(StartError::Open { source, .. }) if is_full(&source) => {
                    refusals.again("a store that is opened again", &source)?;
                }
                result => return result.map_err(io::Error::other),
            }
        }
    }

    /// Whether stores may be opened in a folder, which is made.
    pub fn check(&self, dir: &Path) -> Result<(), StartError> {
        std::fs::create_dir_all(dir).map_err(|source| StartError::Open {
            path: dir.to_owned(),
            source,
        })?;
        self.holds(dir, 0)
    }

    /// Whether so much can be written in a folder and the floor is kept, now.
    pub fn holds(&self, dir: &Path, bytes: u64) -> Result<(), StartError> {
        let floor = limits::SPACE_STOP_BYTES.saturating_add(bytes);
        match (self.0.probe)() {
            Ok(free) if free < floor => Err(StartError::DiskFull {
                path: dir.to_owned(),
                free,
                floor,
            }),
            _ => Ok(()),
        }
    }

    /// Ends all waiting.
    pub fn close(&self) {
        self.lock().closed = true;
        self.0.closing.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A store that waits, until this is dropped.
struct Waits<'a>(&'a Room);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        {
            let mut waiting = self.0.lock();
            waiting.stores -= 1;
            if waiting.stores == 0 {
                waiting.wanted = 0;
            }
        }
        self.0.look();
    }
}

/// Writes that found no room where a look saw some: it was gone by then, or a quota or the file system's own
/// needs are behind it, which no look shows. From the first of them until this is dropped the store counts as one that waits.
pub struct Refusals<'a> {
    room: &'a Room,
    waits: Option<Waits<'a>>,
}

impl Refusals<'_> {
    /// Pauses before the next try; an error when it was closed. Blocks.
    pub fn again(&mut self, what: &str, error: &io::Error) -> io::Result<()> {
        if self.waits.is_none() {
            tracing::warn!(%error, "{what} found no room, and is tried again until there is");
            self.waits = Some(self.room.enter(limits::SPACE_STOP_BYTES));
            self.room.look();
        }
        self.room.pause()
    }
}

/// For users other than root: what the file system keeps back is not ours to use.
pub fn free_bytes(dir: &Path) -> io::Result<u64> {
    let found = nix::sys::statvfs::statvfs(dir)?;
    Ok(found
        .blocks_available()
        .saturating_mul(found.fragment_size()))
}

/// Whether an error says that there was no room.
pub fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use super::*;

    fn room() -> (Room, Arc<AtomicU64>) {
        let free = Arc::new(AtomicU64::new(u64::MAX / 2));
        let probe = free.clone();
        let probe = move || Ok(probe.load(Ordering::SeqCst));
        (Room::with(Box::new(probe), Gauge::default()), free)
    }

    #[test]
    fn a_store_is_opened_again_as_often_as_it_takes() {
        let (room, _) = room();
        let tries = AtomicU64::new(0);
        let full = || StartError::Open {
            path: "store".into(),
            source: io::ErrorKind::StorageFull.into(),
        };
        let open = || match tries.fetch_add(1, Ordering::SeqCst) {
            0 | 1 => Err(full()),
            n => Ok(n),
        };
        assert_eq!(room.open_again(open).unwrap(), 2);
        assert_eq!(*room.watch().borrow(), Space::Enough);
        room.close();
        let closed = room.open_again(|| Err::<(), _>(full()));
        assert!(is_full(&closed.unwrap_err()));
    }

    #[test]
    fn writes_without_room_are_seen_though_a_look_sees_some() {
        let (room, _) = room();
        let mut refusals = room.refusals();
        let full = io::Error::from(io::ErrorKind::QuotaExceeded);
        refusals.again("a test", &full).unwrap();
        assert_eq!(*room.watch().borrow(), Space::Full);
        room.close();
        assert!(is_full(&refusals.again("a test", &full).unwrap_err()));
        drop(refusals);
        assert_eq!(*room.watch().borrow(), Space::Enough);
    }

    #[test]
    fn low_is_left_only_with_some_to_spare() {
        let (room, free) = room();
        let at = |bytes: u64| {
            free.store(bytes, Ordering::SeqCst);
            room.look();
            *room.watch().borrow()
        };
        assert_eq!(at(limits::SPACE_LOW_BYTES), Space::Enough);
        assert_eq!(at(limits::SPACE_LOW_BYTES - 1), Space::Low);
        assert_eq!(at(limits::SPACE_ENOUGH_BYTES - 1), Space::Low);
        assert_eq!(at(limits::SPACE_ENOUGH_BYTES), Space::Enough);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_both_numbers() {
        let (room, free) = room();
        let dir = Path::new("folder");
        free.store(limits::SPACE_STOP_BYTES + 999, Ordering::SeqCst);
        room.holds(dir, 999).unwrap();
        let refused = room.holds(dir, 1000).unwrap_err().to_string();
        for number in [999, 1000] {
            let number = limits::SPACE_STOP_BYTES + number;
            assert!(refused.contains(&number.to_string()), "{refused}");
        }
    }

    #[test]
    fn a_store_waits_for_room_and_everybody_can_see_it() {
        let (room, free) = room();
        room.wait(1000).unwrap();
        free.store(limits::SPACE_STOP_BYTES + 999, Ordering::SeqCst);
        let waits = std::thread::spawn({
            let room = room.clone();
            move || room.wait(1000)
        });
        let until = std::time::Instant::now() + Duration::from_secs(20);
        while *room.watch().borrow() != Space::Full {
            assert!(std::time::Instant::now() < until);
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(!waits.is_finished());
        free.store(limits::SPACE_ENOUGH_BYTES, Ordering::SeqCst);
        waits.join().unwrap().unwrap();
        assert_eq!(*room.watch().borrow(), Space::Enough);
    }

    #[test]
    fn closing_ends_the_wait() {
        let (room, free) = room();
        free.store(0, Ordering::SeqCst);
        let waits = std::thread::spawn({
            let room = room.clone();
            move || room.wait(0)
        });
        room.close();
        assert!(is_full(&waits.join().unwrap().unwrap_err()));
    }
}
