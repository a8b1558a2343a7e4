//! Keeps output within its bounds, and knows which of it is of deployments that are there now.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use nebula_actors::{BoxError, Reconciler};
use nebula_domain::time::Millis;
use nebula_domain::{InstanceId, State};
use nebula_drivers::Runs;
use nebula_drivers::logfile::{self, DROPPED, Dropped, SEGMENTS_MAX};
use nebula_telemetry::Metrics;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::logs::Logs;
use crate::metrics::Counters;
use crate::places::{Places, dirs};
use crate::retain::{File, Retention, Whose, surplus};

/// Between two looks at all files. A flood of many instances at their full rate adds some hundred MiB in that time.
const PERIOD: Duration = Duration::from_secs(10);

pub struct Keeper {
    logs: Logs,
    retention: Retention,
    runs: watch::Receiver<Arc<Runs>>,
    state: watch::Receiver<Arc<State>>,
    counters: Counters,
    due: Instant,
    counted: Option<Counted>,
}

/// What was written and dropped until now, of each instance's folder.
type Counted = BTreeMap<PathBuf, (u64, Dropped)>;

impl Keeper {
    /// `runs` are those of the driver of this node.
    pub fn new(
        logs: &Logs,
        retention: Retention,
        runs: watch::Receiver<Arc<Runs>>,
        metrics: &Metrics,
    ) -> Keeper {
        let mut state = logs.local.state.clone();
        // The first pass is for what was already there.
        state.mark_changed();
        Keeper {
            logs: logs.clone(),
            retention,
            runs,
            state,
            counters: Counters::new(metrics),
            due: Instant::now(),
            counted: None,
        }
    }

    fn follow_state(&mut self) -> io::Result<()> {
        let state = self.state.borrow_and_update().clone();
        let mut origins = self.logs.origins.borrow().as_ref().clone();
        let store = origins.follow(&state);
        if store {
            let path = self.logs.local.places.origins();
            make_private(&self.logs.local.places.logs)?;
            origins.store(&path)?;
        }
        self.logs.origins.send_replace(Arc::new(origins));
        Ok(())
    }

    async fn sweep(&mut self) -> Result<(), BoxError> {
        let places = self.logs.local.places.clone();
        let (retention, runs) = (self.retention, self.runs.borrow().clone());
        let (now, last) = (self.logs.clock.now(), self.counted.take());
        let assigned: BTreeSet<InstanceId> = {
            let (state, me) = (self.state.borrow(), self.logs.local.me);
            state.instances_on(me).map(|instance| instance.id).collect()
        };
        let swept = tokio::task::spawn_blocking(move || {
            let writes = |id: &InstanceId| may_write(*id, &assigned, &runs);
            sweep(&places, &retention, writes, last, now)
        });
        let swept = swept.await??;
        self.counters.written.inc_by(swept.written);
        self.counters.dropped_lines.inc_by(swept.dropped.lines);
        self.counters.dropped_bytes.inc_by(swept.dropped.bytes);
        self.counters.deleted.inc_by(swept.deleted);
        self.counters.kept("own", swept.own_bytes);
        self.counters.kept("copies", swept.copies_bytes);
        self.counted = Some(swept.counted);
        Ok(())
    }
}

#[async_trait::async_trait]
impl Reconciler for Keeper {
    async fn wake(&mut self) {
        tokio::select! {
            Ok(()) = self.state.changed() => {}
            () = tokio::time::sleep_until(self.due) => {}
        }
    }

    async fn pass(&mut self) -> Result<(), BoxError> {
        self.follow_state()?;
        if Instant::now() >= self.due {
            self.due = Instant::now() + PERIOD;
            self.sweep().await?;
        }
        Ok(())
    }
}

#[derive(Default)]
struct Swept {
    counted: Counted,
    written: u64,
    dropped: Dropped,
    deleted: u64,
    own_bytes: u64,
    copies_bytes: u64,
}

/// Whether output may yet come. An instance that waits to be started again is not over, and its latest words are why it
/// waits; one without a run may be about to have one.
fn may_write(id: InstanceId, assigned: &BTreeSet<InstanceId>, runs: &Runs) -> bool {
    assigned.contains(&id) || runs.get(&id).is_none_or(nebula_drivers::Run::is_running)
}

fn sweep(
    places: &Places,
    retention: &Retention,
    may_write: impl Fn(&InstanceId) -> bool,
    last: Option<Counted>,
    now: Millis,
) -> io::Result<Swept> {
    let mut swept = Swept::default();
    let mut own = Vec::new();
    for (name, dir) in dirs(&places.instances)? {
        let written = name.parse().is_ok_and(|id| may_write(&id));
        files(&dir, written, &mut own)?;
        swept.count(&dir, last.as_ref())?;
    }
    for (_, deployment) in dirs(&places.kept())? {
        for (_, dir) in dirs(&deployment)? {
            files(&dir, false, &mut own)?;
        }
    }
    let mut copies = Vec::new();
    for (_, node) in dirs(&places.copies())? {
        for (_, deployment) in dirs(&node)? {
            for (_, dir) in dirs(&deployment)? {
                files(&dir, false, &mut copies)?;
            }
        }
    }
    swept.own_bytes = own.iter().map(|file| file.bytes).sum();
    swept.copies_bytes = copies.iter().map(|file| file.bytes).sum();
    for files in [own, copies] {
        for file in surplus(files, retention, now) {
            swept.deleted += u64::from(delete(places, &file)?);
        }
    }
    Ok(swept)
}

impl Swept {
    /// Adds what was written to an instance's folder since the last look. At the first look of all, what is
    /// there was written under an earlier daemon.
    fn count(&mut self, dir: &Path, last: Option<&Counted>) -> io::Result<()> {
        let segments = logfile::segments(dir)?;
        let end = segments
            .last()
            .map_or(0, |newest| newest.begins.unwrap_or(0) + newest.bytes);
        let dropped: Dropped = fs::read(dir.join(DROPPED))
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        if let Some(last) = last {
            let (before, old) = last.get(dir).copied().unwrap_or_default();
            self.written += end.saturating_sub(before);
            self.dropped.lines += dropped.lines.saturating_sub(old.lines);
            self.dropped.bytes += dropped.bytes.saturating_sub(old.bytes);
        }
        self.counted.insert(dir.to_owned(), (end, dropped));
        Ok(())
    }
}

/// The segments of a folder.
fn files(dir: &Path, running: bool, found: &mut Vec<File>) -> io::Result<()> {
    for n in 0..SEGMENTS_MAX {
        let path = match n {
            0 => logfile::current(dir),
            n => logfile::numbered(dir, n),
        };
        let about = match fs::metadata(&path) {
            Ok(about) => about,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let changed = about.modified()?.duration_since(UNIX_EPOCH);
        let changed = changed.unwrap_or_default().as_millis();
        found.push(File {
            path,
            bytes: about.len(),
            inode: (about.dev(), about.ino()),
            changed: Millis(u64::try_from(changed).unwrap_or(u64::MAX)),
            whose: match (running, n) {
                (false, _) => Whose::Ended,
                (true, 0) => Whose::Written,
                (true, _) => Whose::Running,
            },
        });
    }
    Ok(())
}

/// Deletes a segment, and the folder of gone output with its last one. False when another has its name by now: then it is
/// found again at the next look.
fn delete(places: &Places, file: &File) -> io::Result<bool> {
    match fs::symlink_metadata(&file.path) {
        Ok(about) if (about.dev(), about.ino()) != file.inode => return Ok(false),
        Ok(_) => fs::remove_file(&file.path)?,
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let above = file.path.parent();
    let Some(dir) = above.filter(|dir| dir.starts_with(&places.logs)) else {
        return Ok(true);
    };
    let mut left = Vec::new();
    files(dir, false, &mut left)?;
    if left.is_empty() {
        fs::remove_dir_all(dir)?;
        // Of the deployment, and of the node: only when nothing else is in them.
        for above in dir.ancestors().skip(1).take(2) {
            if fs::remove_dir(above).is_err() {
                break;
            }
        }
    }
    Ok(true)
}

pub(crate) fn make_private(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
}

#[cfg(test)]
mod tests {
    use nebula_domain::NodeId;
    use nebula_drivers::logfile::About;

    use super::*;

    #[test]
    fn old_and_surplus_output_is_deleted_with_its_empty_folders() {
        let root = tempfile::tempdir().unwrap();
        let places = Places {
            instances: root.path().join("instances"),
            logs: root.path().join("logs"),
        };
        let running = places.instance(InstanceId(1));
        let about = |id| About {
            instance: InstanceId(id),
            deployment: "api".parse().unwrap(),
            release: nebula_domain::ReleaseNumber(1),
            node: None,
        };
        let kept = about(2).folder(&places.kept());
        let copy = about(3).folder(&places.copies_of(NodeId(9)));
        for dir in [&running, &kept, &copy] {
            fs::create_dir_all(dir).unwrap();
            fs::write(logfile::current(dir), "x".repeat(100)).unwrap();
            fs::write(logfile::numbered(dir, 1), "x".repeat(100)).unwrap();
        }
        about(2).write(&kept).unwrap();
        let retention = Retention {
            total_bytes: 250,
            ..Retention::default()
        };
        let now = Millis(UNIX_EPOCH.elapsed().unwrap().as_millis() as u64);
        let first = sweep(&places, &retention, |_| true, None, now).unwrap();
        assert_eq!((first.own_bytes, first.copies_bytes), (400, 200));
        assert_eq!((first.deleted, first.written), (2, 0));
        assert!(!places.kept().exists() && copy.exists());
        fs::write(logfile::current(&running), "x".repeat(170)).unwrap();
        let late = now.plus(Retention::default().keep * 2);
        let last = Some(first.counted);
        let second = sweep(&places, &retention, |_| true, last, late).unwrap();
        assert_eq!((second.written, second.deleted), (70, 3));
        assert!(!places.copies().exists() || dirs(&places.copies()).unwrap().is_empty());
        assert!(logfile::current(&running).exists(), "it is written to");
    }

    #[test]
    fn a_file_that_took_the_name_of_another_is_not_deleted() {
        let root = tempfile::tempdir().unwrap();
        let places = Places {
            instances: root.path().join("instances"),
            logs: root.path().join("logs"),
        };
        let dir = places.instance(InstanceId(1));
        fs::create_dir_all(&dir).unwrap();
        fs::write(logfile::current(&dir), "newer").unwrap();
        fs::write(logfile::numbered(&dir, 1), "older").unwrap();
        let mut found = Vec::new();
        files(&dir, true, &mut found).unwrap();
        let retention = Retention {
            total_bytes: 0,
            ..Retention::default()
        };
        let surplus = surplus(found, &retention, Millis(0));
        assert_eq!(surplus.len(), 1);
        // The instance goes on in a new file meanwhile.
        fs::rename(logfile::numbered(&dir, 1), logfile::numbered(&dir, 2)).unwrap();
        fs::rename(logfile::current(&dir), logfile::numbered(&dir, 1)).unwrap();
        assert!(!delete(&places, &surplus[0]).unwrap());
        let left = |n| fs::read_to_string(logfile::numbered(&dir, n)).unwrap();
        assert_eq!((left(1), left(2)), ("newer".to_owned(), "older".to_owned()));
    }

    #[test]
    fn the_latest_output_of_an_instance_that_waits_for_its_next_start_stays() {
        let root = tempfile::tempdir().unwrap();
        let places = Places {
            instances: root.path().join("instances"),
            logs: root.path().join("logs"),
        };
        let run = nebula_drivers::Run {
            run: 3,
            deployment: "api".parse().unwrap(),
            release: nebula_domain::ReleaseNumber(1),
            port: Some(20_000),
            started_at: Millis(0),
            status: nebula_drivers::RunStatus::Ended {
                exit: nebula_drivers::Exit::Code(1),
                at: Millis(1),
            },
            isolation: nebula_drivers::confine::Controls::default(),
        };
        let runs: Runs = [1, 2].map(|id| (InstanceId(id), run.clone())).into();
        for id in [1, 2] {
            let dir = places.instance(InstanceId(id));
            fs::create_dir_all(&dir).unwrap();
            fs::write(logfile::current(&dir), "why it ended").unwrap();
        }
        let retention = Retention {
            total_bytes: 0,
            ..Retention::default()
        };
        let assigned = BTreeSet::from([InstanceId(1)]);
        let writes = |id: &InstanceId| may_write(*id, &assigned, &runs);
        sweep(&places, &retention, writes, None, Millis(0)).unwrap();
        let has_log = |id| logfile::current(&places.instance(InstanceId(id))).exists();
        assert!(has_log(1) && !has_log(2));
    }
}
