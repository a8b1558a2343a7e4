//! What this node's probes have said lately, for people. In memory: a daemon that is started anew begins a new book.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nebula_domain::InstanceId;
use nebula_domain::probe::Standing;
use nebula_domain::spec::ProbeRole;
use nebula_domain::time::Millis;
use nebula_wire::peer::health::{Change, HISTORY, Last, Probe, Probed, REASON_BYTES};

/// Instances in the book, those that are gone included: as many as a node may tell of by gossip. The ones that were not
/// heard of for longest make room.
pub const BOOK_INSTANCES: usize = 1_000;

/// Cheap to clone; all clones are one book.
#[derive(Clone, Default)]
pub struct Book(Arc<Mutex<BTreeMap<InstanceId, Entry>>>);

#[derive(Default)]
struct Entry {
    run: u64,
    probes: BTreeMap<ProbeRole, Probe>,
    history: VecDeque<Change>,
    touched: Millis,
}

/// One probe as it stands now, and what it met just now, if it was that one which was asked.
pub(crate) struct Note<'a> {
    pub role: ProbeRole,
    pub asks: &'a str,
    pub standing: Standing,
    pub streak: u32,
    pub met: Option<Result<(), &'a str>>,
}

impl Book {
    /// Writes down how the probes of a run stand.
    pub(crate) fn write<'a>(
        &self,
        instance: InstanceId,
        run: u64,
        now: Millis,
        notes: impl IntoIterator<Item = Note<'a>>,
    ) {
        let mut book = self.book();
        if !book.contains_key(&instance) && book.len() >= BOOK_INSTANCES {
            let oldest = book.iter().min_by_key(|(_, entry)| entry.touched);
            if let Some(oldest) = oldest.map(|(id, _)| *id) {
                book.remove(&oldest);
            }
        }
        let entry = book.entry(instance).or_default();
        if entry.run != run {
            entry.run = run;
            entry.probes.clear();
        }
        entry.touched = now;
        for note in notes {
            entry.note(run, now, &note);
        }
    }

    /// What is known of these instances, in their order.
    pub fn read(
        &self,
        instances: impl IntoIterator<Item = InstanceId>,
        history: bool,
    ) -> Vec<Probed> {
        let book = self.book();
        let known = instances.into_iter().filter_map(|id| {
            let entry = book.get(&id)?;
            Some(Probed {
                instance: id,
                run: entry.run,
                probes: entry.probes.values().cloned().collect(),
                history: match history {
                    true => entry.history.iter().cloned().collect(),
                    false => Vec::new(),
                },
            })
        });
        known.collect()
    }

    fn book(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn note(&mut self, run: u64, now: Millis, note: &Note<'_>) {
        let before = self.probes.get(&note.role);
        let last = match note.met {
            None => before.and_then(|probe| probe.last.clone()),
            Some(met) => Some(Last {
                ok: met.is_ok(),
                at: now,
                reason: met.err().map_or_else(String::new, cut),
            }),
        };
        // That a run begins with a probe that waits says nothing.
        let first =
            before.is_none() && matches!(note.standing, Standing::Waiting | Standing::Pending);
        if !first && before.map(|probe| probe.standing) != Some(note.standing) {
            if self.history.len() == HISTORY {
                self.history.pop_front();
            }
            self.history.push_back(Change {
                at: now,
                run,
                role: note.role,
                standing: note.standing,
                reason: match note.met {
                    Some(Err(reason)) => cut(reason),
                    _ => String::new(),
                },
            });
        }
        let probe = Probe {
            role: note.role,
            asks: cut(note.asks),
            standing: note.standing,
            last,
            streak: note.streak,
        };
        self.probes.insert(note.role, probe);
    }
}

/// At a character's boundary.
fn cut(text: &str) -> String {
    let mut end = text.len().min(REASON_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(standing: Standing, met: Option<Result<(), &str>>) -> Note<'_> {
        Note {
            role: ProbeRole::Readiness,
            asks: "GET /",
            standing,
            streak: 1,
            met,
        }
    }

    #[test]
    fn changes_are_kept_and_repetitions_are_not() {
        let (book, id) = (Book::default(), InstanceId(1));
        let mut now = 0;
        let mut say = |run, standing, met| {
            now += 1;
            book.write(id, run, Millis(now), [note(standing, met)]);
        };
        say(1, Standing::Pending, Some(Err("no connection to port 1")));
        say(1, Standing::Passing, Some(Ok(())));
        say(1, Standing::Passing, Some(Ok(())));
        say(1, Standing::Failing, Some(Err("GET / answered 500")));
        say(2, Standing::Pending, None);
        let told = book.read([id, InstanceId(9)], true).remove(0);
        assert_eq!((told.run, told.probes.len()), (2, 1));
        assert_eq!(told.probes[0].last, None, "of an earlier run");
        let history: Vec<_> = told.history.iter().map(|c| (c.at.0, c.standing)).collect();
        assert_eq!(history, [(2, Standing::Passing), (4, Standing::Failing)]);
        assert_eq!(told.history[1].reason, "GET / answered 500");
        assert!(book.read([id], false)[0].history.is_empty());
    }

    #[test]
    fn it_stays_small() {
        let book = Book::default();
        let long = "ä".repeat(REASON_BYTES);
        for n in 0..2 * HISTORY as u64 {
            let (standing, met) = match n % 2 {
                0 => (Standing::Passing, Ok(())),
                _ => (Standing::Failing, Err(long.as_str())),
            };
            book.write(InstanceId(0), 1, Millis(n), [note(standing, Some(met))]);
        }
        let told = book.read([InstanceId(0)], true).remove(0);
        assert_eq!(told.history.len(), HISTORY);
        assert!(told.history.iter().all(|c| c.reason.len() <= REASON_BYTES));
        for id in 1..=BOOK_INSTANCES as u64 {
            book.write(InstanceId(id), 1, Millis(1_000 + id), []);
        }
        assert_eq!(book.book().len(), BOOK_INSTANCES);
        assert!(book.read([InstanceId(0)], true).is_empty());
    }
}
