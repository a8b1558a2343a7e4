use super::*;
use crate::logfile::previous;

fn bytes(segment_bytes: u64) -> Bounds {
    Bounds {
        segment_bytes,
        ..Bounds::default()
    }
}

#[test]
fn the_file_is_rotated_at_its_limit() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(dir.path().to_owned(), bytes(200));
    for n in 0..20 {
        writer.line(Millis(0), Stream::Stdout, &format!("line {n}"));
        writer.flush(Millis(0));
    }
    let new = fs::read_to_string(current(dir.path())).unwrap();
    let old = fs::read_to_string(previous(dir.path())).unwrap();
    assert!(new.len() <= 200 && old.len() <= 200);
    assert!(new.ends_with("line 19\n"));
    let last_old: u32 = old.trim().rsplit(' ').next().unwrap().parse().unwrap();
    let first_new = new.lines().nth(1).unwrap();
    assert!(first_new.ends_with(&format!("line {}", last_old + 1)));
}

#[test]
fn each_file_says_how_much_came_before_it_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut written = 0;
    let mark_of = |path| mark::of(&File::open(path).unwrap()).unwrap().unwrap();
    for n in 0..30 {
        let mut writer = Writer::open(dir.path().to_owned(), bytes(200));
        writer.line(Millis(0), Stream::Stdout, &format!("line {n}"));
        writer.flush(Millis(0));
        let now = mark_of(current(dir.path())).begins;
        if now != written {
            let before = fs::metadata(previous(dir.path())).unwrap().len();
            assert_eq!(now, written + before);
            written = now;
        }
    }
    assert!(written > 200);
}

#[test]
fn a_file_that_went_away_does_not_end_the_output() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(dir.path().to_owned(), bytes(50));
    for _ in 0..3 {
        writer.line(Millis(0), Stream::Stdout, "some text");
        writer.flush(Millis(0));
        let _ = fs::remove_file(current(dir.path()));
    }
    writer.line(Millis(0), Stream::Stdout, "kept");
    writer.flush(Millis(0));
    let text = fs::read_to_string(current(dir.path())).unwrap();
    assert!(text.ends_with("stdout kept\n"), "{text}");
}

#[test]
fn lines_that_cannot_be_written_are_counted() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("later");
    let mut writer = Writer::open(dir.clone(), bytes(1000));
    for _ in 0..3 {
        writer.line(Millis(0), Stream::Stdout, "lost");
        writer.flush(Millis(0));
    }
    fs::create_dir(&dir).unwrap();
    writer.line(Millis(0), Stream::Stdout, "kept");
    writer.flush(Millis(0));
    let text = fs::read_to_string(current(&dir)).unwrap();
    assert!(text.contains("nebula 3 lines were lost"), "{text}");
    assert!(text.ends_with("stdout kept\n"));
}

#[test]
fn so_many_segments_are_kept_as_the_bounds_say() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(dir.path().to_owned(), bytes(200));
    for n in 0..200 {
        writer.line(Millis(0), Stream::Stdout, &format!("line {n}"));
        writer.flush(Millis(0));
    }
    let all = crate::logfile::segments(dir.path()).unwrap();
    assert_eq!(all.len(), 4);
    for pair in all.windows(2) {
        let end = pair[0].begins.unwrap() + pair[0].bytes;
        assert_eq!(Some(end), pair[1].begins);
    }
    assert!(!numbered(dir.path(), 4).exists());
}

#[test]
fn an_old_segment_ends_however_small_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let age = Bounds::default().segment_age();
    let write = |at: Millis| {
        // Each by a shim of its own.
        let mut writer = Writer::open(dir.path().to_owned(), Bounds::default());
        writer.line(at, Stream::Stdout, "x");
        writer.flush(at);
        crate::logfile::segments(dir.path()).unwrap().len()
    };
    assert_eq!(write(Millis(1_000)), 1);
    assert_eq!(write(Millis(1_000).plus(age)), 1);
    assert_eq!(write(Millis(1_001).plus(age)), 2);
}

#[test]
fn a_flood_is_dropped_told_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let bounds = Bounds {
        // A tenth of what is written, each line with its time and stream.
        rate_bytes: 420,
        ..Bounds::default()
    };
    let mut writer = Writer::open(dir.path().to_owned(), bounds);
    for _ in 0..2 {
        for _ in 0..100 {
            writer.line(Millis(0), Stream::Stdout, "123456789");
        }
        writer.flush(Millis(0));
    }
    assert!(writer.owes_note());
    writer.end(Millis(1));
    let text = fs::read_to_string(current(dir.path())).unwrap();
    assert_eq!(text.matches("123456789").count(), 80);
    assert!(
        text.contains(" nebula 20 lines (840 bytes) were dropped"),
        "{text}"
    );
    assert!(
        text.contains(" nebula 100 lines (4200 bytes) were dropped"),
        "{text}"
    );
    let all: Option<Dropped> = record::read(dir.path(), DROPPED).unwrap();
    assert_eq!(
        all.unwrap(),
        Dropped {
            lines: 120,
            bytes: 5040
        }
    );
}

#[test]
fn empty_lines_are_not_written_for_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let bounds = Bounds {
        rate_bytes: 1_000,
        ..Bounds::default()
    };
    let mut writer = Writer::open(dir.path().to_owned(), bounds);
    for _ in 0..10_000 {
        writer.line(Millis(0), Stream::Stdout, "");
    }
    writer.end(Millis(0));
    let bytes = fs::metadata(current(dir.path())).unwrap().len();
    // Eight seconds of the rate, the mark and the note.
    assert!(bytes < 8_000 + 200, "{bytes}");
}

#[test]
fn output_goes_on_where_the_files_that_are_left_end() {
    let dir = tempfile::tempdir().unwrap();
    let write = |text: &str| {
        // Each by a shim of its own.
        let mut writer = Writer::open(dir.path().to_owned(), bytes(100));
        writer.line(Millis(0), Stream::Stdout, text);
        writer.flush(Millis(0));
    };
    for n in 0..4 {
        write(&format!("line {n}"));
    }
    let before = crate::logfile::segments(dir.path()).unwrap();
    assert!(before.len() > 1);
    fs::remove_file(current(dir.path())).unwrap();
    write("after");
    let all = crate::logfile::segments(dir.path()).unwrap();
    let (earlier, newest) = (&all[all.len() - 2], &all[all.len() - 1]);
    let end = earlier.begins.unwrap() + earlier.bytes;
    assert!(end > 0 && newest.begins == Some(end));
}

/// Takes so many bytes and no more, as a full disk does.
struct Full(Vec<u8>, usize);

impl io::Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.1 - self.0.len();
        if room == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let taken = bytes.len().min(room).min(2);
        self.0.extend(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_a_full_disk_took_of_a_batch_is_kept_by_whole_lines() {
    let write = |room| write_lines(&mut Full(Vec::new(), room), b"aa\nbbb\nc\n");
    assert_eq!(write(9), Ok(()));
    let cut = |lines, bytes| Err(Cut { lines, bytes });
    assert_eq!(write(8), cut(2, 7));
    assert_eq!(write(6), cut(1, 3));
    assert_eq!(write(2), cut(0, 0));
    assert_eq!(write(0), cut(0, 0));
}
