//! The output of real programs: nothing of it is lost or told twice while no driver looks, it is bounded,
//! and it outlives its instance.
#![allow(clippy::unwrap_used)]

mod common;

use std::os::unix::fs::PermissionsExt as _;

use common::{Folder, ONE, eventually, exit_of};
use nebula_drivers::Driver as _;
use nebula_drivers::logfile::{self, About, Bounds, Tail};

#[tokio::test]
async fn lines_written_while_no_driver_looks_are_found_in_order_and_once() {
    let folder = Folder::new();
    let driver = folder.open();
    // Writes until it is told that the driver is back.
    let command = "n=0; until [ -e back ]; do n=$((n+1)); echo $n; done; echo $n > last";
    driver.start(folder.spec(ONE, command)).await.unwrap();
    let (mut seen, mut tail) = Tail::open(&folder.dir(ONE), 1_000_000).unwrap();
    drop(driver);
    let before = folder.lines(ONE).len();
    eventually("lines while no driver looks", || {
        (folder.lines(ONE).len() > before + 100).then_some(())
    })
    .await;
    let driver = folder.open();
    std::fs::write(folder.root.path().join("back"), "").unwrap();
    exit_of(&driver, ONE).await;
    let last = folder.number("last").await;
    loop {
        let lines = tail.read().unwrap();
        if lines.is_empty() {
            break;
        }
        seen.extend(lines);
    }
    let numbers: Vec<i32> = seen
        .iter()
        .map(|line| logfile::parse(line).unwrap().text.parse().unwrap())
        .collect();
    assert_eq!(numbers, (1..=last).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_output_outlives_its_instance() {
    let folder = Folder::new();
    let driver = folder.open();
    driver.start(folder.spec(ONE, "echo hello")).await.unwrap();
    exit_of(&driver, ONE).await;
    let (_, mut follower) = Tail::open(&folder.dir(ONE), 0).unwrap();
    driver.remove(ONE).await.unwrap();
    assert!(!folder.dir(ONE).exists());

    let kept = folder.kept().join("api/i-1-r3");
    let about = About::read(&kept).unwrap().unwrap();
    assert_eq!(about.folder(&folder.kept()), kept);
    let mut names: Vec<_> = std::fs::read_dir(&kept)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["about.json", "log"], "nothing else of the instance");
    let mode = std::fs::metadata(&kept).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0);
    let (lines, _) = Tail::open(&kept, 10).unwrap();
    assert!(lines[0].ends_with("stdout hello"), "{lines:?}");
    assert!(follower.read().unwrap().is_empty());
    follower.moved_to(kept.clone());
    logfile::append_note(&kept, nebula_domain::time::Millis(0), "more").unwrap();
    assert_eq!(follower.read().unwrap().len(), 1);

    // The same instance once more: neither output is lost.
    driver.start(folder.spec(ONE, "echo again")).await.unwrap();
    exit_of(&driver, ONE).await;
    driver.remove(ONE).await.unwrap();
    assert!(kept.exists() && folder.kept().join("api/i-1-r3.1/log").exists());
}

#[tokio::test]
async fn a_flood_is_dropped_and_told_while_the_program_goes_on() {
    let mut folder = Folder::new();
    folder.bounds = Bounds {
        segment_bytes: 64 * 1024,
        segments: 3,
        rate_bytes: 64 * 1024,
        ..Bounds::default()
    };
    let driver = folder.open();
    // Then silent: what was dropped is told without further output.
    let command = "yes 0123456789abcdef | head -n 400000; echo done > done; exec sleep 600";
    driver.start(folder.spec(ONE, command)).await.unwrap();
    let dir = folder.dir(ONE);
    let told = || {
        let bytes = std::fs::read(dir.join(logfile::DROPPED)).ok()?;
        serde_json::from_slice::<logfile::Dropped>(&bytes).ok()
    };
    let dropped = eventually("what was dropped is told", || {
        let done = folder.root.path().join("done").exists();
        told().filter(|dropped| done && dropped.lines > 300_000)
    })
    .await;
    let line = "2026-01-31T12:00:00.123Z stdout 0123456789abcdef\n".len() as u64;
    assert_eq!(dropped.bytes, dropped.lines * line);
    let segments = logfile::segments(&dir).unwrap();
    assert!(segments.len() <= 3, "{}", segments.len());
    let bytes: u64 = segments.iter().map(|segment| segment.bytes).sum();
    // One batch may go over.
    assert!(bytes < 3 * 64 * 1024 + 128 * 1024, "{bytes}");
    driver.stop(ONE, std::time::Duration::ZERO).await.unwrap();
    exit_of(&driver, ONE).await;
}
