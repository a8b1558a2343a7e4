use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use nebula_drivers::logfile::About;
use nebula_wire::peer::log_search::{Filter as Said, Place};

use super::*;
use crate::places::Wanted;

fn write(dir: &Path, lines: &[(u32, &str)]) {
    fs::create_dir_all(dir).unwrap();
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .open(logfile::current(dir))
        .unwrap();
    for (second, text) in lines {
        writeln!(file, "2026-01-31T12:00:{second:02}.000Z stdout {text}").unwrap();
    }
}

struct Node {
    dir: tempfile::TempDir,
    places: Places,
}

impl Node {
    fn new() -> Node {
        let dir = tempfile::tempdir().unwrap();
        let places = Places {
            instances: dir.path().join("instances"),
            logs: dir.path().join("logs"),
        };
        Node { dir, places }
    }

    fn instance(&self, id: u64) -> PathBuf {
        self.places.instance(InstanceId(id))
    }

    fn kept(&self, root: &Path, id: u64, deployment: &str, lines: &[(u32, &str)]) {
        let about = About {
            instance: InstanceId(id),
            deployment: deployment.parse().unwrap(),
            release: ReleaseNumber(4),
            node: Some("n9".to_owned()),
        };
        let dir = about.folder(root);
        write(&dir, lines);
        about.write(&dir).unwrap();
    }

    fn folders(
        &self,
        said: Said,
        place: &Place,
        first: Option<u64>,
        known: &Releases,
    ) -> Vec<Folder> {
        let wanted = Wanted {
            deployment: &"api".parse().unwrap(),
            place,
            filter: &Filter::new(said).unwrap(),
            first: first.map(InstanceId),
            known,
            listed: &known.keys().copied().collect(),
        };
        self.places.folders(&wanted).unwrap()
    }

    fn open(&self, tail: usize, known: &Releases) -> (Vec<Written>, Files) {
        let folders = self.folders(Said::default(), &Place::Own, Some(0), known);
        Files::open(folders, &all(), tail, || false).unwrap()
    }
}

fn all() -> Filter {
    Filter::new(Said::default()).unwrap()
}

fn releases(instances: &[u64]) -> Releases {
    let instances = instances.iter();
    instances
        .map(|id| (InstanceId(*id), ReleaseNumber(1)))
        .collect()
}

fn texts(lines: &[Written]) -> Vec<&str> {
    lines
        .iter()
        .map(|written| written.line.text.as_str())
        .collect()
}

#[test]
fn the_tail_of_several_instances_is_in_order_and_no_longer_than_asked() {
    let node = Node::new();
    write(&node.instance(1), &[(1, "a"), (3, "c"), (5, "e")]);
    write(&node.instance(2), &[(2, "b"), (4, "d")]);
    write(&node.instance(3), &[(9, "of another deployment")]);
    let known = releases(&[1, 2, 4]);
    assert_eq!(texts(&node.open(10, &known).0), ["a", "b", "c", "d", "e"]);
    assert_eq!(texts(&node.open(2, &known).0), ["d", "e"]);
    assert!(node.open(0, &known).0.is_empty());
}

#[test]
fn the_latest_lines_that_match_are_found_however_old_they_are() {
    let node = Node::new();
    let dir = node.instance(1);
    let text = |n: u32| match n % 1000 {
        7 => format!("ERROR: {n}"),
        _ => format!("{n} {}", "x".repeat(90)),
    };
    let lines: Vec<String> = (0..20_000).map(text).collect();
    for part in lines.chunks(8_000) {
        let part: Vec<_> = part.iter().map(|line| (1, line.as_str())).collect();
        if logfile::current(&dir).exists() {
            for n in [2, 1] {
                let _ = fs::rename(logfile::numbered(&dir, n), logfile::numbered(&dir, n + 1));
            }
            fs::rename(logfile::current(&dir), logfile::numbered(&dir, 1)).unwrap();
        }
        write(&dir, &part);
    }
    let said = Said {
        grep: Some("^ERROR".to_owned()),
        ..Said::default()
    };
    let filter = Filter::new(said.clone()).unwrap();
    let known = releases(&[1]);
    let find = |tail| {
        let folders = node.folders(said.clone(), &Place::Own, Some(0), &known);
        Files::open(folders, &filter, tail, || false).unwrap().0
    };
    assert_eq!(texts(&find(2)), ["ERROR: 18007", "ERROR: 19007"]);
    let found = find(100);
    assert_eq!((found.len(), found[0].line.text.as_str()), (20, "ERROR: 7"));
}

#[test]
fn a_follower_is_told_of_output_that_was_rotated_away() {
    let node = Node::new();
    let dir = node.instance(1);
    write(&dir, &[(1, "a")]);
    let known = releases(&[1]);
    let (_, mut files) = node.open(10, &known);
    let begin = |offset: u64, text: &str| {
        let _ = fs::remove_file(logfile::previous(&dir));
        fs::rename(logfile::current(&dir), logfile::previous(&dir)).unwrap();
        let mark = format!("2026-01-31T12:00:02.000Z offset {offset}\n");
        fs::write(logfile::current(&dir), mark).unwrap();
        write(&dir, &[(3, text)]);
    };
    // The last two follow on one another: a mark of 36 bytes and a line of 34.
    for (offset, text) in [(100, "lost"), (200, "b"), (270, "c")] {
        begin(offset, text);
    }
    let mut lines = Vec::new();
    while let Some(read) = files.read(&all(), &node.places, &known).unwrap() {
        lines.extend(read);
    }
    let told: Vec<_> = lines
        .iter()
        .filter(|written| written.line.source == Source::Nebula)
        .collect();
    assert_eq!(told.len(), 1, "{lines:?}");
    assert!(
        told[0]
            .line
            .text
            .contains("bytes of output are missing here")
    );
    assert_eq!(texts(&lines)[1..], ["b", "c"]);
}

#[test]
fn follows_from_the_tail_on_and_takes_up_new_instances_whole() {
    let node = Node::new();
    write(&node.instance(1), &[(1, "a")]);
    let mut known = releases(&[1, 2]);
    let (tail, mut files) = node.open(0, &known);
    assert!(tail.is_empty());
    let read =
        |files: &mut Files, known: &Releases| files.read(&all(), &node.places, known).unwrap();
    assert_eq!(read(&mut files, &known), None);
    write(&node.instance(1), &[(2, "b")]);
    // Known from the beginning, with a folder only now.
    write(&node.instance(2), &[(1, "A")]);
    assert_eq!(texts(&read(&mut files, &known).unwrap()), ["A", "b"]);

    write(&node.instance(3), &[(3, "x"), (4, "y")]);
    known = releases(&[1, 2, 3]);
    let folders = node.folders(Said::default(), &Place::Own, Some(0), &known);
    assert_eq!(
        texts(&files.add(folders, &all(), || false).unwrap()),
        ["x", "y"]
    );
    write(&node.instance(3), &[(5, "z")]);
    assert_eq!(texts(&read(&mut files, &known).unwrap()), ["z"]);

    // Gone from the registry and from the disk.
    fs::remove_dir_all(node.instance(3)).unwrap();
    read(&mut files, &known);
    assert_eq!(files.open.len(), 3, "its folder may be on its way");
    read(&mut files, &releases(&[1, 2]));
    assert_eq!(files.open.len(), 2);
}

#[test]
fn an_instance_is_followed_to_where_its_output_is_kept() {
    let node = Node::new();
    write(&node.instance(1), &[(1, "a")]);
    let known = releases(&[1]);
    let (_, mut files) = node.open(10, &known);
    write(&node.instance(1), &[(2, "last")]);
    let kept = node.places.kept().join("api/i-1-r1");
    fs::create_dir_all(kept.parent().unwrap()).unwrap();
    fs::rename(node.instance(1), &kept).unwrap();
    write(&kept, &[(3, "later")]);
    let mut lines = Vec::new();
    for _ in 0..3 {
        let read = files.read(&all(), &node.places, &Releases::new()).unwrap();
        lines.extend(read.unwrap_or_default());
    }
    assert_eq!(texts(&lines), ["last", "later"]);
    files.read(&all(), &node.places, &Releases::new()).unwrap();
    assert!(files.open.is_empty());
}

#[test]
fn what_gone_instances_left_is_found_unless_it_is_of_an_earlier_deployment() {
    let node = Node::new();
    let kept = node.places.kept();
    node.kept(&kept, 3, "api", &[(1, "old")]);
    node.kept(&kept, 7, "api", &[(2, "new")]);
    node.kept(&kept, 8, "web", &[(3, "web")]);
    fs::create_dir(kept.join("api/lost+found")).unwrap();
    let none = Releases::new();
    let find = |said: Said, first| {
        let folders = node.folders(said.clone(), &Place::Own, first, &none);
        let filter = Filter::new(said).unwrap();
        let (lines, _) = Files::open(folders, &filter, 10, || false).unwrap();
        lines
            .into_iter()
            .map(|written| written.line.text)
            .collect::<Vec<_>>()
    };
    assert_eq!(find(Said::default(), Some(5)), ["new"]);
    assert_eq!(find(Said::default(), Some(1)), ["old", "new"]);
    assert!(
        find(Said::default(), None).is_empty(),
        "there is no such deployment"
    );
    let past = Said {
        past: true,
        ..Said::default()
    };
    assert_eq!(find(past, None), ["old", "new"]);
    let one = |id| Said {
        instance: Some(InstanceId(id)),
        ..Said::default()
    };
    assert_eq!(find(one(3), Some(5)), ["old"]);
    assert!(find(one(8), Some(5)).is_empty(), "of another deployment");
    drop(node.dir);
}

#[test]
fn copies_are_found_by_their_owner() {
    let node = Node::new();
    for owner in [2, 3] {
        let root = node.places.copies_of(NodeId(owner));
        node.kept(&root, owner, "api", &[(1, &format!("of {owner}"))]);
    }
    let find = |place: Place| {
        let folders = node.folders(Said::default(), &place, Some(0), &Releases::new());
        let (lines, _) = Files::open(folders, &all(), 10, || false).unwrap();
        lines
    };
    let lines = find(Place::CopiesBut(vec![NodeId(3)]));
    assert_eq!(texts(&lines), ["of 2"]);
    assert_eq!(lines[0].owner, Some((NodeId(2), "n9".to_owned())));
    assert_eq!(texts(&find(Place::CopiesOf(NodeId(3)))), ["of 3"]);
    assert!(find(Place::Own).is_empty());
}

#[test]
fn a_search_ends_within_a_folder_when_it_has_to() {
    let node = Node::new();
    let lines: Vec<(u32, &str)> = (0..20_000).map(|_| (1, "x")).collect();
    write(&node.instance(1), &lines);
    let folders = || node.folders(Said::default(), &Place::Own, Some(0), &releases(&[1]));
    let asked = std::cell::Cell::new(0);
    let stop = || asked.replace(asked.get() + 1) >= 1_000;
    let (found, files) = Files::open(folders(), &all(), crate::MAX_TAIL, stop).unwrap();
    assert!(found.len() <= 1_000 && files.cut, "{}", found.len());
    assert!(asked.get() < 1_100, "{}", asked.get());
    let (found, files) = Files::open(folders(), &all(), crate::MAX_TAIL, || false).unwrap();
    assert!(found.len() == crate::MAX_TAIL && !files.cut);
}

#[test]
fn more_than_is_told_of_a_time_is_said_to_be_missing() {
    let node = Node::new();
    let text = "x".repeat(300);
    let write = |id, count| {
        let lines: Vec<(u32, &str)> = (0..count).map(|_| (5, "x")).collect();
        write(&node.instance(id), &[(1, text.as_str())]);
        write(&node.instance(id), &lines);
    };
    let is_cut = |ids: &[u64], since: Option<&str>, tail| {
        let said = Said {
            since: since.map(str::to_owned),
            ..Said::default()
        };
        let folders = node.folders(said.clone(), &Place::Own, Some(0), &releases(ids));
        let filter = Filter::new(said).unwrap();
        Files::open(folders, &filter, tail, || false).unwrap().1.cut
    };
    let since = Some("2026-01-31T12:00:05.000Z");
    write(1, 10_000);
    assert!(!is_cut(&[1], since, crate::MAX_TAIL));
    write(2, 1);
    assert!(is_cut(&[1, 2], since, crate::MAX_TAIL));
    write(3, 10_001);
    assert!(is_cut(&[3], since, crate::MAX_TAIL));
    assert!(!is_cut(&[3], since, 200), "so many were asked for");
    assert!(!is_cut(&[3], None, crate::MAX_TAIL));
}
