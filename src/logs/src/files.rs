//! One request's view of this node's log files: the tail of each instance, then what is added.
//!
//! Blocking reads of bounded size; [`crate::local`] runs them on the blocking pool.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nebula_domain::{DeploymentName, InstanceId, ReleaseNumber};
use nebula_drivers::logfile;
use nebula_wire::peer::logs::{Line, Request, Source};
use serde::Deserialize;

use crate::tail::{Tail, Timed};

/// Between two looks at the files of a follower: below what a person notices, and a few system
/// calls per instance.
pub const POLL: Duration = Duration::from_millis(200);

/// Folders looked at for instances that the registry no longer knows. The supervisor removes them
/// soon after they end; more than these are left over from something that went wrong.
const GONE_MAX: usize = 1_000;

impl Timed for Line {
    fn time(&self) -> &str {
        &self.time
    }

    fn bytes(&self) -> usize {
        self.text.len()
    }
}

/// Which release each instance runs, of the deployment (and the instance) that was asked for.
pub(crate) type Releases = BTreeMap<InstanceId, ReleaseNumber>;

/// The readers of one request.
pub(crate) struct Files {
    root: PathBuf,
    open: BTreeMap<InstanceId, Followed>,
}

struct Followed {
    release: ReleaseNumber,
    place: logfile::Tail,
}

impl Files {
    /// The tail of all instances together, in the order of time, and the place after it.
    pub(crate) fn open(
        root: PathBuf,
        request: &Request,
        known: Releases,
    ) -> io::Result<(Vec<Line>, Files)> {
        let mut instances = gone(&root, request, &known)?;
        instances.extend(known);
        let keep = usize::try_from(request.tail).unwrap_or(usize::MAX);
        let mut tail = Tail::new(keep);
        let mut files = Files {
            root,
            open: BTreeMap::new(),
        };
        for (instance, release) in instances {
            let dir = files.root.join(instance.to_string());
            let (texts, place) = logfile::Tail::open(&dir, keep.min(crate::MAX_TAIL))?;
            let lines = texts
                .iter()
                .filter_map(|text| line(instance, release, text));
            tail.add(lines.filter(|line| {
                let after = request.after.as_ref();
                after.is_none_or(|after| line.time > *after)
            }));
            files.open.insert(instance, Followed { release, place });
        }
        Ok((tail.into_lines().into(), files))
    }

    /// Follows further instances; returns what they wrote before they were noticed.
    pub(crate) fn add(&mut self, known: &Releases) -> io::Result<Vec<Line>> {
        let mut begun = Vec::new();
        for (instance, release) in known {
            if self.open.contains_key(instance) {
                continue;
            }
            let dir = self.root.join(instance.to_string());
            let (texts, place) = logfile::Tail::open(&dir, crate::MAX_TAIL)?;
            begun.extend(
                texts
                    .iter()
                    .filter_map(|text| line(*instance, *release, text)),
            );
            let release = *release;
            self.open.insert(*instance, Followed { release, place });
        }
        Ok(begun)
    }

    /// Some of what was added since, at most [`logfile::READ_BYTES`] of each instance; empty when
    /// there is nothing new. An instance whose folder is gone is followed no more, unless it is
    /// still `known`: then its folder is yet to come.
    pub(crate) fn read(&mut self, known: &Releases) -> io::Result<Vec<Line>> {
        let mut added = Vec::new();
        let mut gone = Vec::new();
        for (instance, followed) in &mut self.open {
            let texts = followed.place.read()?;
            let over = texts.is_empty()
                && !known.contains_key(instance)
                && !self.root.join(instance.to_string()).exists();
            if over {
                gone.push(*instance);
            }
            let release = followed.release;
            added.extend(
                texts
                    .iter()
                    .filter_map(|text| line(*instance, release, text)),
            );
        }
        for instance in gone {
            self.open.remove(&instance);
        }
        added.sort_by(|a: &Line, b: &Line| a.time.cmp(&b.time));
        Ok(added)
    }
}

/// Text that is not of the log's format was not written by Nebula, and is left out.
fn line(instance: InstanceId, release: ReleaseNumber, text: &str) -> Option<Line> {
    let entry = logfile::parse(text)?;
    Some(Line {
        time: entry.time_text.to_owned(),
        instance,
        release,
        source: match entry.stream {
            logfile::Stream::Stdout => Source::Stdout,
            logfile::Stream::Stderr => Source::Stderr,
            logfile::Stream::Nebula => Source::Nebula,
        },
        text: entry.text.to_owned(),
    })
}

/// The part of an instance's `state.json` that outlives its record in the registry.
#[derive(Deserialize)]
struct Remains {
    deployment: DeploymentName,
    release: ReleaseNumber,
}

/// Instances of the deployment that only their folder still tells of.
fn gone(root: &Path, request: &Request, known: &Releases) -> io::Result<Releases> {
    let mut found = Releases::new();
    let entries = match std::fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(error),
    };
    for entry in entries.take(GONE_MAX) {
        let entry = entry?;
        let name = entry.file_name();
        let Some(instance) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if known.contains_key(&instance)
            || request.instance.is_some_and(|wanted| wanted != instance)
        {
            continue;
        }
        // Unreadable or half-made: an instance about which nothing can be said.
        let Ok(text) = std::fs::read(entry.path().join("state.json")) else {
            continue;
        };
        if let Ok(remains) = serde_json::from_slice::<Remains>(&text)
            && remains.deployment == request.deployment
        {
            found.insert(instance, remains.release);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::io::Write as _;

    use super::*;

    fn write(root: &Path, instance: u64, lines: &[(u32, &str)]) {
        let dir = root.join(InstanceId(instance).to_string());
        fs::create_dir_all(&dir).unwrap();
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(logfile::current(&dir))
            .unwrap();
        for (second, text) in lines {
            writeln!(file, "2026-01-31T12:00:{second:02}.000Z stdout {text}").unwrap();
        }
    }

    fn request(tail: u32) -> Request {
        Request {
            deployment: "api".parse().unwrap(),
            instance: None,
            tail,
            after: None,
            follow: true,
        }
    }

    fn releases(instances: &[u64]) -> Releases {
        let instances = instances.iter();
        instances
            .map(|id| (InstanceId(*id), ReleaseNumber(1)))
            .collect()
    }

    fn texts(lines: &[Line]) -> Vec<&str> {
        lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn the_tail_of_several_instances_is_in_order_and_no_longer_than_asked() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), 1, &[(1, "a"), (3, "c"), (5, "e")]);
        write(root.path(), 2, &[(2, "b"), (4, "d")]);
        write(root.path(), 3, &[(9, "of another deployment")]);
        let open = |request: &Request| {
            Files::open(root.path().to_owned(), request, releases(&[1, 2, 4])).unwrap()
        };
        assert_eq!(texts(&open(&request(10)).0), ["a", "b", "c", "d", "e"]);
        assert_eq!(texts(&open(&request(2)).0), ["d", "e"]);
        assert!(open(&request(0)).0.is_empty());
        let after = Request {
            after: Some("2026-01-31T12:00:03.000Z".to_owned()),
            ..request(10)
        };
        assert_eq!(texts(&open(&after).0), ["d", "e"]);
    }

    #[test]
    fn a_follower_is_told_of_output_that_was_rotated_away() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), 1, &[(1, "a")]);
        let known = releases(&[1]);
        let (_, mut files) =
            Files::open(root.path().to_owned(), &request(10), known.clone()).unwrap();
        let dir = root.path().join("i-1");
        let begin = |offset: u64, text: &str| {
            let _ = fs::remove_file(logfile::previous(&dir));
            fs::rename(logfile::current(&dir), logfile::previous(&dir)).unwrap();
            let mark = format!("2026-01-31T12:00:02.000Z offset {offset}\n");
            fs::write(logfile::current(&dir), mark).unwrap();
            write(root.path(), 1, &[(3, text)]);
        };
        // The last two follow on one another: a mark of 36 bytes and a line of 34.
        for (offset, text) in [(100, "lost"), (200, "b"), (270, "c")] {
            begin(offset, text);
        }
        let mut lines = Vec::new();
        loop {
            let read = files.read(&known).unwrap();
            if read.is_empty() {
                break;
            }
            lines.extend(read);
        }
        let told: Vec<_> = lines
            .iter()
            .filter(|l| l.source == Source::Nebula)
            .collect();
        assert_eq!(told.len(), 1, "{lines:?}");
        assert!(told[0].text.contains("bytes of output are missing here"));
        assert_eq!(texts(&lines)[1..], ["b", "c"]);
    }

    #[test]
    fn follows_from_the_tail_on_and_takes_up_new_instances_whole() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), 1, &[(1, "a")]);
        let mut known = releases(&[1, 2]);
        let (tail, mut files) =
            Files::open(root.path().to_owned(), &request(0), known.clone()).unwrap();
        assert!(tail.is_empty());
        assert!(files.read(&known).unwrap().is_empty());
        write(root.path(), 1, &[(2, "b")]);
        // Known from the beginning, with a folder only now.
        write(root.path(), 2, &[(1, "A")]);
        assert_eq!(texts(&files.read(&known).unwrap()), ["A", "b"]);

        write(root.path(), 3, &[(3, "x"), (4, "y")]);
        known = releases(&[1, 2, 3]);
        assert_eq!(texts(&files.add(&known).unwrap()), ["x", "y"]);
        write(root.path(), 3, &[(5, "z")]);
        assert_eq!(texts(&files.read(&known).unwrap()), ["z"]);

        // Gone from the registry and from the disk.
        fs::remove_dir_all(root.path().join("i-3")).unwrap();
        files.read(&known).unwrap();
        assert_eq!(files.open.len(), 3, "its folder may be on its way");
        files.read(&releases(&[1, 2])).unwrap();
        assert_eq!(files.open.len(), 2);
    }

    #[test]
    fn an_instance_that_only_its_folder_tells_of_is_found() {
        let root = tempfile::tempdir().unwrap();
        for (instance, deployment) in [(7, "api"), (8, "web")] {
            write(root.path(), instance, &[(instance as u32, deployment)]);
            let record = format!(r#"{{"deployment":"{deployment}","release":4,"env":{{}}}}"#);
            let dir = root.path().join(InstanceId(instance).to_string());
            fs::write(dir.join("state.json"), record).unwrap();
        }
        fs::create_dir(root.path().join("lost+found")).unwrap();
        let (tail, _) = Files::open(root.path().to_owned(), &request(10), Releases::new()).unwrap();
        assert_eq!(texts(&tail), ["api"]);
        assert_eq!(tail[0].release, ReleaseNumber(4));
        let other = Request {
            instance: Some(InstanceId(8)),
            ..request(10)
        };
        let (tail, _) = Files::open(root.path().to_owned(), &other, Releases::new()).unwrap();
        assert!(tail.is_empty(), "of another deployment");
    }
}
