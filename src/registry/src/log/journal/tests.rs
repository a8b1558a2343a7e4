//! What a crash may do to the files, and what only damage does.

use std::fs::OpenOptions;

use tempfile::TempDir;

use super::*;

const KEY: Key = [7; 32];

fn open(dir: &TempDir, covered: u64) -> io::Result<(Journal, Replay)> {
    Journal::open(dir.path(), covered, KEY, Counter::default())
}

/// Of a store that is being made.
fn make(dir: &TempDir) -> Journal {
    super::make(dir.path(), &KEY).unwrap();
    let (journal, replay) = open(dir, 0).unwrap();
    assert_eq!((indexes(&replay), replay.generation), (vec![], 0));
    journal
}

fn indexes(replay: &Replay) -> Vec<u64> {
    let index = |record: &Record| match record {
        Record::Truncate(index) => *index,
        other => panic!("{other:?}"),
    };
    replay.records.iter().map(index).collect()
}

fn found(dir: &TempDir, covered: u64) -> (Vec<u64>, u64) {
    let (_, replay) = open(dir, covered).unwrap();
    (indexes(&replay), replay.generation)
}

/// Each in a sync of its own.
fn write(journal: &mut Journal, indexes: impl IntoIterator<Item = u64>) {
    for index in indexes {
        write_at_once(journal, [index]);
    }
}

fn write_at_once(journal: &mut Journal, indexes: impl IntoIterator<Item = u64>) {
    for index in indexes {
        journal.push(&Record::Truncate(index)).unwrap();
    }
    journal.sync().unwrap();
}

fn file(dir: &TempDir, generation: u64) -> File {
    named(dir, files::NAMES[files::index_of(generation)])
}

fn named(dir: &TempDir, name: &str) -> File {
    let path = dir.path().join(name);
    let mut options = OpenOptions::new();
    options.read(true).write(true).open(path).unwrap()
}

/// The seal as it was before the latest writes reached the disk.
fn old_seal(dir: &TempDir, generation: u64, frames: u64) {
    let seal = Seal { generation, frames };
    seal.write(&named(dir, "sealed"), &KEY).unwrap();
}

fn is_damage(dir: &TempDir, covered: u64, what: &str) {
    let error = open(dir, covered).map(|(_, r)| r).expect_err(what);
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{what}: {error}");
}

/// Frames of a truncation with a small index are of this size; the last bytes are padding.
const FRAME: u64 = 56;
const PADDING: u64 = 5;

#[test]
fn generations_are_replayed_in_order_from_the_first_that_is_not_covered() {
    let dir = TempDir::new().unwrap();
    let mut journal = make(&dir);
    write(&mut journal, 1..=3);
    journal.turn();
    write(&mut journal, 4..=5);
    assert_eq!(found(&dir, 0), (vec![1, 2, 3, 4, 5], 2));
    assert_eq!(found(&dir, 1), (vec![4, 5], 2));

    // The first file again, over what it held.
    journal.turn();
    write(&mut journal, 6..=6);
    assert_eq!(found(&dir, 1), (vec![4, 5, 6], 3));
    let (mut journal, replay) = open(&dir, 3).unwrap();
    assert_eq!((indexes(&replay), replay.generation), (vec![], 3));
    write(&mut journal, 7..=8);
    assert_eq!(found(&dir, 3), (vec![7, 8], 4));
}

#[test]
fn a_cut_off_end_is_dropped_wherever_the_cut_is() {
    let dir = TempDir::new().unwrap();
    let mut journal = make(&dir);
    write(&mut journal, 1..=3);
    old_seal(&dir, 1, 2);
    for kept in (2 * FRAME..3 * FRAME - PADDING - 1).rev() {
        file(&dir, 1).write_all_at(&[0], kept).unwrap();
        assert_eq!(found(&dir, 0), (vec![1, 2], 1), "cut at {kept}");
    }
}

#[test]
fn any_part_of_what_was_written_at_once_may_be_missing() {
    let dir = TempDir::new().unwrap();
    let mut journal = make(&dir);
    write(&mut journal, 1..=2);
    write_at_once(&mut journal, 3..=5);
    old_seal(&dir, 1, 2);
    // The fourth did not get there, the fifth did.
    file(&dir, 1).write_all_at(&[0; 40], 3 * FRAME).unwrap();
    assert_eq!(found(&dir, 0), (vec![1, 2, 3], 1));
    // Nor the third. What is whole of them never comes back, whatever is written next.
    file(&dir, 1).write_all_at(&[0; 40], 2 * FRAME).unwrap();
    assert_eq!(found(&dir, 0), (vec![1, 2], 1));
    let (mut journal, replay) = open(&dir, 0).unwrap();
    assert_eq!(journal.generation(), replay.generation + 1);
    write(&mut journal, 13..=14);
    assert_eq!(found(&dir, 1), (vec![13, 14], 2));
}

#[test]
fn a_generation_whose_beginning_was_never_synced_is_not_used_again() {
    let dir = TempDir::new().unwrap();
    let mut journal = make(&dir);
    write_at_once(&mut journal, 1..=3);
    old_seal(&dir, 0, 0);
    file(&dir, 1).write_all_at(&[0; 40], 0).unwrap();
    let (mut journal, replay) = open(&dir, 0).unwrap();
    assert_eq!((indexes(&replay), replay.generation), (vec![], 1));
    write(&mut journal, 11..=11);
    assert_eq!(found(&dir, 1), (vec![11], 2), "2 and 3 stay gone");
}

#[test]
fn whatever_is_missing_of_what_was_synced_is_damage() {
    let dir = TempDir::new().unwrap();
    let mut journal = make(&dir);
    write(&mut journal, 1..=3);
    journal.turn();
    write(&mut journal, 4..=5);
    let whole = (vec![1, 2, 3, 4, 5], 2);
    // Frames in the middle, the last one of a generation, and the very last one.
    for (generation, frame) in [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1)] {
        for byte in 0..FRAME - PADDING {
            let at = frame * FRAME + byte;
            let mut was = [0];
            file(&dir, generation).read_exact_at(&mut was, at).unwrap();
            let flipped = [was[0] ^ 0x10];
            file(&dir, generation).write_all_at(&flipped, at).unwrap();
            is_damage(&dir, 0, &format!("frame {frame} of {generation} at {byte}"));
            file(&dir, generation).write_all_at(&was, at).unwrap();
        }
        assert_eq!(found(&dir, 0), whole);
    }
    // An old seal still knows of the first generation, and of the second by its frames.
    old_seal(&dir, 1, 1);
    for frame in 0..3 {
        let mut was = [0; 1];
        file(&dir, 1)
            .read_exact_at(&mut was, frame * FRAME)
            .unwrap();
        file(&dir, 1)
            .write_all_at(&[!was[0]], frame * FRAME)
            .unwrap();
        is_damage(&dir, 0, &format!("frame {frame} with an old seal"));
        file(&dir, 1).write_all_at(&was, frame * FRAME).unwrap();
    }
    old_seal(&dir, 2, 2);
    // All of a generation.
    for generation in [1, 2] {
        let mut was = [0; 3 * FRAME as usize];
        file(&dir, generation).read_exact_at(&mut was, 0).unwrap();
        file(&dir, generation).write_all_at(&[0; 168], 0).unwrap();
        is_damage(&dir, 0, "a generation is gone");
        file(&dir, generation).write_all_at(&was, 0).unwrap();
    }
    // sled holds less than it did.
    journal.turn();
    write(&mut journal, 6..=6);
    is_damage(&dir, 0, "generation 1 was overwritten");
    assert_eq!(found(&dir, 1), (vec![4, 5, 6], 3));
    let (mut journal, _) = open(&dir, 3).unwrap();
    write(&mut journal, 7..=7);
    is_damage(&dir, 2, "a restart had left generation 3 behind");
}

#[test]
fn files_that_are_short_or_gone_are_damage() {
    for name in files::NAMES {
        let dir = TempDir::new().unwrap();
        let mut journal = make(&dir);
        write(&mut journal, 1..=1);
        named(&dir, name).set_len(1 << 20).unwrap();
        is_damage(&dir, 0, "a short file");
        std::fs::remove_file(dir.path().join(name)).unwrap();
        assert!(open(&dir, 0).is_err());
    }
    let dir = TempDir::new().unwrap();
    let mut journal = make(&dir);
    write(&mut journal, 1..=1);
    std::fs::remove_file(dir.path().join("sealed")).unwrap();
    is_damage(&dir, 0, "the seal is gone from a journal in use");
    is_damage(&dir, 1, "the same, covered");
    let error = super::make(dir.path(), &KEY).expect_err("a new store with a journal in use");
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
}

#[test]
fn a_damaged_seal_harms_nothing() {
    let dir = TempDir::new().unwrap();
    let mut journal = make(&dir);
    write(&mut journal, 1..=2);
    named(&dir, "sealed").write_all_at(&[0xAB; 24], 0).unwrap();
    assert_eq!(found(&dir, 0), (vec![1, 2], 1));
}

#[test]
fn making_the_files_is_finished_after_a_crash() {
    let dir = TempDir::new().unwrap();
    drop(make(&dir));
    std::fs::remove_file(dir.path().join("sealed")).unwrap();
    named(&dir, "1").set_len(100).unwrap();
    is_damage(&dir, 0, "a store that has its journal behind it");
    drop(make(&dir));
    // All was made, and the store does not say so yet.
    drop(make(&dir));
}

#[test]
fn a_value_cannot_pass_for_a_frame() {
    let dir = TempDir::new().unwrap();
    let mut journal = make(&dir);
    write(&mut journal, 1..=1);
    let mut forged = Vec::new();
    let head = frame::Head {
        generation: 1,
        place: 1,
        synced: 1,
        before: 0,
    };
    let body = codec::encode(&Record::Truncate(0)).unwrap();
    frame::push(&mut forged, &[8; 32], head, &body).unwrap();
    file(&dir, 1).write_all_at(&forged, FRAME).unwrap();
    assert_eq!(found(&dir, 0), (vec![1], 1));
}
