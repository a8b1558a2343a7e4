//! One request's view of this node's log files: the latest lines that match, then what is added.
//!
//! Blocking reads of bounded size; [`crate::local`] runs them on the blocking pool.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use nebula_domain::{InstanceId, NodeId, ReleaseNumber};
use nebula_drivers::logfile::{self, Want};
use nebula_wire::peer::logs::{Line, Source};

use crate::filter::Filter;
use crate::placed::Written;
use crate::places::{Folder, Places, Releases};
use crate::tail::Tail;

/// Between two looks at the files of a follower: below what a person notices, and a few system
/// calls per instance.
pub const POLL: Duration = Duration::from_millis(200);
/// Output that one request looks at on one node before it says that it did not see all: seconds of work.
pub const SEARCH_BYTES: u64 = 512 * 1024 * 1024;
/// How long it looks: an expression may cost a thousand times what an ordinary one does, and a disk may hang.
pub const SEARCH_WITHIN: Duration = Duration::from_secs(30);

/// The readers of one request.
pub(crate) struct Files {
    open: BTreeMap<PathBuf, Followed>,
    /// Not all output was looked at.
    pub(crate) cut: bool,
}

/// How far one look at a folder goes.
struct Look<'a> {
    lines: usize,
    budget: &'a mut u64,
    stop: &'a dyn Fn() -> bool,
    is_full: &'a mut bool,
}

struct Followed {
    instance: InstanceId,
    release: ReleaseNumber,
    owner: Option<(NodeId, String)>,
    place: logfile::Tail,
    moved: bool,
}

impl Files {
    /// The tail of all folders together, in the order of time, and the place after it. `stop` is asked
    /// before each line.
    pub(crate) fn open(
        folders: Vec<Folder>,
        filter: &Filter,
        tail: usize,
        stop: impl Fn() -> bool,
    ) -> io::Result<(Vec<Written>, Files)> {
        // Everything since a time is wanted: then what is left out is missing, and otherwise it is older than what was asked for.
        let all = filter.said.since.is_some() && tail >= crate::MAX_TAIL;
        let lines = tail.min(crate::MAX_TAIL) + usize::from(all);
        let mut is_full = false;
        let mut found = Tail::new(tail);
        let mut files = Files {
            open: BTreeMap::new(),
            cut: false,
        };
        let mut budget = SEARCH_BYTES;
        for folder in folders {
            if stop() {
                break;
            }
            let mut look = Look {
                lines,
                budget: &mut budget,
                stop: &stop,
                is_full: &mut is_full,
            };
            found.add(files.take_up(folder, filter, &mut look)?);
        }
        files.cut = budget == 0 || stop() || (all && (is_full || found.is_cut()));
        Ok((found.into_lines().into(), files))
    }

    /// Follows further folders; returns what was written to them before they were noticed.
    pub(crate) fn add(
        &mut self,
        folders: Vec<Folder>,
        filter: &Filter,
        stop: impl Fn() -> bool,
    ) -> io::Result<Vec<Written>> {
        let mut begun = Vec::new();
        let mut budget = SEARCH_BYTES;
        for folder in folders {
            // One that was moved is followed where it is now.
            let same =
                |open: &Followed| open.instance == folder.instance && open.owner == folder.owner;
            if self.open.contains_key(&folder.dir) || self.open.values().any(same) {
                continue;
            }
            let mut look = Look {
                lines: crate::MAX_TAIL,
                budget: &mut budget,
                stop: &stop,
                is_full: &mut false,
            };
            begun.extend(self.take_up(folder, filter, &mut look)?);
        }
        Ok(begun)
    }

    fn take_up(
        &mut self,
        folder: Folder,
        filter: &Filter,
        look: &mut Look<'_>,
    ) -> io::Result<Vec<Written>> {
        let want = Want {
            lines: look.lines,
            since: filter.said.since.as_deref(),
            budget_bytes: look.budget,
            stop: look.stop,
            is_full: look.is_full,
            keep: &mut |text| {
                logfile::parse(text).is_some_and(|entry| {
                    filter.wants_text(entry.time_text, source(entry.stream), entry.text)
                })
            },
        };
        let (texts, place) = logfile::Tail::find(&folder.dir, want)?;
        let followed = Followed {
            instance: folder.instance,
            release: folder.release,
            owner: folder.owner,
            place,
            moved: false,
        };
        let found = texts
            .iter()
            .filter_map(|text| followed.line(text))
            .collect();
        self.open.insert(folder.dir, followed);
        Ok(found)
    }

    /// Some of what was added since, at most [`logfile::READ_BYTES`] of each instance; `None` when there is
    /// nothing new. An instance whose folder is gone is followed where its output is kept, and no more once
    /// that is read, unless it is still `known`: then its folder is yet to come.
    pub(crate) fn read(
        &mut self,
        filter: &Filter,
        places: &Places,
        known: &Releases,
    ) -> io::Result<Option<Vec<Written>>> {
        let mut added = Vec::new();
        let mut gone = Vec::new();
        let mut idle = true;
        for (dir, followed) in &mut self.open {
            let texts = followed.place.read()?;
            idle &= texts.is_empty();
            if texts.is_empty() && !known.contains_key(&followed.instance) && !dir.exists() {
                match kept(places, followed).filter(|_| !followed.moved) {
                    Some(kept) => {
                        followed.place.moved_to(kept);
                        followed.moved = true;
                    }
                    None => gone.push(dir.clone()),
                }
            }
            let lines = texts.iter().filter_map(|text| followed.line(text));
            added.extend(lines.filter(|written| filter.wants(&written.line)));
        }
        for dir in gone {
            self.open.remove(&dir);
        }
        added.sort_by(|a: &Written, b: &Written| a.line.time.cmp(&b.line.time));
        Ok((!idle).then_some(added))
    }
}

/// Where the output of an instance of this node went when its folder did.
fn kept(places: &Places, followed: &Followed) -> Option<PathBuf> {
    if followed.owner.is_some() {
        return None;
    }
    let name = format!("{}-{}", followed.instance, followed.release);
    let deployments = crate::places::dirs(&places.kept()).ok()?;
    let mut folders = deployments.into_iter().map(|(_, dir)| dir.join(&name));
    folders.find(|dir| dir.exists())
}

impl Followed {
    /// Text that is not of the log's format was not written by Nebula, and is left out.
    fn line(&self, text: &str) -> Option<Written> {
        let entry = logfile::parse(text)?;
        Some(Written {
            owner: self.owner.clone(),
            line: Line {
                time: entry.time_text.to_owned(),
                instance: self.instance,
                release: self.release,
                source: source(entry.stream),
                text: entry.text.to_owned(),
            },
        })
    }
}

fn source(stream: logfile::Stream) -> Source {
    match stream {
        logfile::Stream::Stdout => Source::Stdout,
        logfile::Stream::Stderr => Source::Stderr,
        logfile::Stream::Nebula => Source::Nebula,
    }
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
