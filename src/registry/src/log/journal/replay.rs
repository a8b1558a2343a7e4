//! Reading the journal after a restart.
//!
//! A crash may cut off the end of the last generation, which nobody was told of: of what was written
//! at once but not synced, any part may have reached the disk, also a later frame without an earlier
//! one. Everything else that is missing is damage: frames before one that says they were synced, before
//! a later generation, or before the seal. Damage is refused; what a crash may do is not.

use std::fs::File;
use std::io::{self, Read};

use nebula_wire::codec;

use super::files::{NAMES, Seal};
use super::frame::{ALIGN, Frame, HEADER_BYTES, Key};
use super::{Record, damaged};

/// What the files held beyond what sled has.
#[derive(Debug)]
pub struct Replay {
    pub records: Vec<Record>,
    /// The last generation of which there is any trace; `covered` if there is nothing newer.
    pub generation: u64,
}

/// What one file says that is newer than `covered`.
#[derive(Debug)]
struct Run {
    generation: u64,
    /// Frames of the generation before.
    before: u64,
    /// The whole ones from the beginning on. May be none, when the first one is not whole.
    records: Vec<Record>,
}

pub fn read(
    files: &[File; 2],
    sealed: Option<Seal>,
    covered: u64,
    key: &Key,
) -> io::Result<Replay> {
    let mut runs: Vec<Run> = Vec::new();
    for (mut file, name) in files.iter().zip(NAMES) {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let run = run_of(&bytes, covered, key);
        runs.extend(run.map_err(|e| damaged(format!("journal file {name}: {e}")))?);
    }
    runs.sort_by_key(|run| run.generation);
    check_seal(&runs, sealed, covered)?;
    let mut replay = Replay {
        records: Vec::new(),
        generation: covered,
    };
    let mut previous: Option<usize> = None;
    for run in runs {
        if run.generation != replay.generation + 1 {
            return Err(damaged(format!(
                "generation {} of the journal follows {}",
                run.generation, replay.generation
            )));
        }
        if previous.is_some_and(|frames| frames as u64 != run.before) {
            return Err(damaged(format!(
                "generation {} of the journal has {} frames instead of {}",
                replay.generation,
                previous.unwrap_or(0),
                run.before
            )));
        }
        previous = Some(run.records.len());
        replay.generation = run.generation;
        replay.records.extend(run.records);
    }
    Ok(replay)
}

fn check_seal(runs: &[Run], sealed: Option<Seal>, covered: u64) -> io::Result<()> {
    let Some(seal) = sealed.filter(|seal| seal.generation > covered) else {
        return Ok(());
    };
    let run = runs.iter().find(|run| run.generation == seal.generation);
    let found = run.map_or(0, |run| run.records.len() as u64);
    if found >= seal.frames {
        return Ok(());
    }
    Err(damaged(format!(
        "generation {} of the journal has {found} whole frames, and {} were synced",
        seal.generation, seal.frames
    )))
}

/// The frames of one file that are newer than `covered`; all of one generation.
fn run_of(bytes: &[u8], covered: u64, key: &Key) -> io::Result<Option<Run>> {
    let mut at = 0;
    let mut run: Option<Run> = None;
    while let Some(frame) = Frame::at(bytes, at, key) {
        let head = frame.head;
        let expected = match &run {
            None => head.generation > covered && head.place == 0,
            Some(run) => {
                head.generation == run.generation && head.place == run.records.len() as u64
            }
        };
        if !expected {
            break;
        }
        let record = codec::decode(frame.body).map_err(io::Error::other)?;
        let new = || Run {
            generation: head.generation,
            before: head.before,
            records: Vec::new(),
        };
        run.get_or_insert_with(new).records.push(record);
        at = frame.end(at);
    }
    // What stands behind the end is older than `covered`, or was never synced, or the end is not one.
    let broken = run.as_ref().map_or(0, |run| run.records.len() as u64);
    let mut behind = at;
    while behind + HEADER_BYTES <= bytes.len() {
        let frame = Frame::at(bytes, behind, key).filter(|f| f.head.generation > covered);
        if let Some(head) = frame.map(|frame| frame.head) {
            let run = run.get_or_insert_with(|| Run {
                generation: head.generation,
                before: head.before,
                records: Vec::new(),
            });
            if head.generation != run.generation || head.synced > broken || head.place <= broken {
                return Err(damaged(format!(
                    "the frame at byte {at} is broken, and frame {} of generation {} at byte {behind} is whole",
                    head.place, head.generation
                )));
            }
        }
        behind += ALIGN;
    }
    Ok(run)
}
