//! The owner's side: sends what instances write, off the path of everything else.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::Duration;

use nebula_actors::{BoxError, Reconciler};
use nebula_domain::{InstanceId, NodeId};
use nebula_drivers::logfile::{self, About};
use nebula_mesh::Stream;
use nebula_telemetry::Metrics;
use nebula_wire::codec;
use nebula_wire::peer::Protocol;
use nebula_wire::peer::log_copy::{
    BATCH_INSTANCES, FRAME_BYTES, Kept, Offer, PIECE_BYTES, Piece, Position,
};
use tokio::time::{Instant, timeout};

use super::holder;
use super::keep::IDLE;
use crate::LogsError;
use crate::logs::Logs;
use crate::metrics::Counters;
use crate::places::{Places, dirs};

/// Between two looks for what is new. What a machine takes with it when it dies is what was written since,
/// and what is on its way.
pub const COPY_EVERY: Duration = Duration::from_secs(1);
/// Output sent in a second, before compression: what several floods write, and little of a network.
pub const COPY_RATE_BYTES: u64 = 8 * 1024 * 1024;
/// A holder that has not taken a piece by then is tried again later.
const TAKEN_WITHIN: Duration = Duration::from_secs(5);
/// Zstandard's fastest level: logs shrink to a tenth with it.
const COMPRESSION: i32 = 1;

pub struct Copier {
    logs: Logs,
    counters: Counters,
    session: Option<Session>,
    /// A holder that failed, or does not know how, is left alone for a while.
    pause: Option<Instant>,
}

/// After a failure.
const PAUSE: Duration = Duration::from_secs(5);

struct Session {
    holder: NodeId,
    stream: Stream,
    /// When something was said last.
    used: Instant,
    ends: BTreeMap<InstanceId, Position>,
    /// Kept output that the holder has all of.
    done: BTreeSet<PathBuf>,
}

/// Some output, read.
struct Read {
    dir: PathBuf,
    about: About,
    at: Position,
    bytes: Vec<u8>,
}

impl Copier {
    pub fn new(logs: &Logs, metrics: &Metrics) -> Copier {
        Copier {
            logs: logs.clone(),
            counters: Counters::new(metrics),
            session: None,
            pause: None,
        }
    }

    /// The node that keeps this one's output now.
    fn holder(&self) -> Option<NodeId> {
        let state = self.logs.local.state.borrow();
        let view = self.logs.view.borrow();
        let members = state.nodes.keys().copied();
        holder(
            self.logs.local.me,
            members.filter(|node| view.is_alive(*node)),
        )
    }

    async fn open(&self, holder: NodeId) -> Result<Session, LogsError> {
        let mesh = &self.logs.mesh;
        let mut stream = mesh.open(holder, Protocol::LogCopy, TAKEN_WITHIN).await?;
        let mut ends = BTreeMap::new();
        loop {
            let above = ends.keys().next_back().copied();
            match exchange(&mut stream, &Offer::What { above }).await? {
                Kept::Ends(more) => {
                    let last = more.len() < BATCH_INSTANCES;
                    ends.extend(more);
                    if last {
                        break;
                    }
                }
                Kept::Refused(reason) => return Err(LogsError::Refused(reason)),
                Kept::Until(_) => {
                    return Err(LogsError::Refused("an answer to nothing".to_owned()));
                }
            }
        }
        Ok(Session {
            holder,
            stream,
            used: Instant::now(),
            ends,
            done: BTreeSet::new(),
        })
    }

    /// Sends what is new, within the rate.
    async fn send(&self, session: &mut Session) -> Result<(), LogsError> {
        let node = self.name();
        let mut left = COPY_RATE_BYTES * COPY_EVERY.as_secs().max(1);
        // Each instance in turn, so that one that floods does not hold up the others.
        let mut passed = BTreeSet::new();
        loop {
            let places = self.logs.local.places.clone();
            let (ends, done) = (session.ends.clone(), session.done.clone());
            let skip = std::mem::take(&mut passed);
            let found =
                tokio::task::spawn_blocking(move || look(&places, &ends, done, &skip, left));
            let found = found.await.map_err(io::Error::other)??;
            session.done = found.done;
            if found.pieces.is_empty() {
                return session.stay().await;
            }
            session.used = Instant::now();
            passed = found.idle;
            for read in found.pieces {
                let plain = read.bytes.len() as u64;
                if plain > left {
                    return Ok(());
                }
                left -= plain;
                let before = session.ends.get(&read.about.instance).copied();
                let end = hand_over(&mut session.stream, &node, &read).await?;
                session.ends.insert(read.about.instance, end);
                match Some(end).cmp(&before) {
                    std::cmp::Ordering::Greater => {
                        self.counters.copied.inc_by(plain);
                    }
                    // It will not have it: then never, in this session.
                    std::cmp::Ordering::Equal => {
                        session.done.insert(read.dir);
                    }
                    // It has deleted what it had, and begins anew.
                    std::cmp::Ordering::Less => {}
                }
            }
        }
    }

    fn name(&self) -> String {
        let state = self.logs.local.state.borrow();
        let me = self.logs.local.me;
        let member = state.nodes.get(&me);
        member.map_or_else(|| me.to_string(), |member| member.name.to_string())
    }
}

impl Session {
    /// Says something now and then, so that the holder does not give the stream up.
    async fn stay(&mut self) -> Result<(), LogsError> {
        if self.used.elapsed() > IDLE / 3 {
            self.used = Instant::now();
            let above = Some(InstanceId(u64::MAX));
            exchange(&mut self.stream, &Offer::What { above }).await?;
        }
        Ok(())
    }
}

#[async_trait::async_trait]
impl Reconciler for Copier {
    async fn wake(&mut self) {
        tokio::time::sleep(COPY_EVERY).await;
    }

    async fn pass(&mut self) -> Result<(), BoxError> {
        let Some(holder) = self.holder() else {
            self.session = None;
            return Ok(());
        };
        let mut session = self
            .session
            .take()
            .filter(|session| session.holder == holder);
        if session.is_none() {
            if self.pause.is_some_and(|until| Instant::now() < until) {
                return Ok(());
            }
            self.pause = None;
        }
        let sent = async {
            let mut open = match session.take() {
                Some(open) => open,
                None => self.open(holder).await?,
            };
            self.send(&mut open).await?;
            Ok::<_, LogsError>(open)
        };
        match sent.await {
            Ok(open) => self.session = Some(open),
            // Of an older version, or dying: nothing that this node could mend.
            Err(error) => {
                self.counters.copy_failures.inc();
                tracing::debug!(%holder, %error, "a second node does not take output");
                self.pause = Some(Instant::now() + PAUSE);
            }
        }
        Ok(())
    }
}

async fn exchange(stream: &mut Stream, offer: &Offer) -> Result<Kept, LogsError> {
    let taken = async {
        stream.write_frame(codec::encode(offer)?).await?;
        let answer = stream.next_frame(FRAME_BYTES).await?;
        Ok(codec::decode(&answer.ok_or(LogsError::Lost)?)?)
    };
    timeout(TAKEN_WITHIN, taken)
        .await
        .map_err(|_| LogsError::Timeout)?
}

async fn hand_over(stream: &mut Stream, node: &str, read: &Read) -> Result<Position, LogsError> {
    let piece = Piece {
        instance: read.about.instance,
        deployment: read.about.deployment.clone(),
        release: read.about.release,
        node: node.to_owned(),
        at: read.at,
        plain_bytes: u32::try_from(read.bytes.len()).unwrap_or(u32::MAX),
        bytes: zstd::bulk::compress(&read.bytes, COMPRESSION)?,
    };
    match exchange(stream, &Offer::Piece(piece)).await? {
        Kept::Until(end) => Ok(end),
        Kept::Refused(reason) => Err(LogsError::Refused(reason)),
        Kept::Ends(_) => Err(LogsError::Lost),
    }
}

struct Found {
    pieces: Vec<Read>,
    /// Instances with nothing new.
    idle: BTreeSet<PathBuf>,
    done: BTreeSet<PathBuf>,
}

/// The next piece of each instance, up to so many bytes together; newest instances first.
fn look(
    places: &Places,
    ends: &BTreeMap<InstanceId, Position>,
    mut done: BTreeSet<PathBuf>,
    skip: &BTreeSet<PathBuf>,
    mut left: u64,
) -> io::Result<Found> {
    let mut folders = Vec::new();
    for (name, dir) in dirs(&places.instances)? {
        if name.parse::<InstanceId>().is_ok() && !skip.contains(&dir) && !done.contains(&dir) {
            // Half-made: there is nothing to tell of it yet.
            let about = About::of_instance(&dir).unwrap_or(None);
            folders.extend(about.map(|about| (about, dir, false)));
        }
    }
    for (_, deployment) in dirs(&places.kept())? {
        for (_, dir) in dirs(&deployment)? {
            if !done.contains(&dir) {
                let about = About::read(&dir).unwrap_or(None);
                folders.extend(about.map(|about| (about, dir, true)));
            }
        }
    }
    folders.sort_by_key(|(about, ..)| std::cmp::Reverse(about.instance));
    let mut found = Found {
        pieces: Vec::new(),
        idle: skip.clone(),
        done: BTreeSet::new(),
    };
    for (about, dir, over) in folders {
        match next(&dir, ends.get(&about.instance).copied())? {
            Some((at, bytes)) => {
                left = left.saturating_sub(bytes.len() as u64);
                found.pieces.push(Read {
                    dir,
                    about,
                    at,
                    bytes,
                });
                if left == 0 {
                    break;
                }
            }
            None if over => {
                done.insert(dir);
            }
            None => {
                found.idle.insert(dir);
            }
        }
    }
    // Folders that are gone need not be remembered.
    done.retain(|dir| dir.exists());
    found.done = done;
    Ok(found)
}

/// Whole lines after a place in an instance's output.
fn next(dir: &std::path::Path, after: Option<Position>) -> io::Result<Option<(Position, Vec<u8>)>> {
    let all = logfile::segments(dir)?;
    let newest = all.len().saturating_sub(1);
    for (n, segment) in all.into_iter().enumerate() {
        let Some(begins) = segment.begins else {
            continue;
        };
        let end = begins + segment.bytes;
        let offset = match after {
            // Less than was copied: it was deleted or cut, and is written anew.
            Some(after) if n == newest && end < after.segment + after.offset => 0,
            Some(after) if begins < after.segment => continue,
            Some(after) if begins == after.segment => after.offset,
            _ => 0,
        };
        let want = segment.bytes.saturating_sub(offset).min(PIECE_BYTES as u64);
        let mut bytes = vec![0; usize::try_from(want).unwrap_or(0)];
        let got = read(&segment.file, &mut bytes, offset)?;
        let end = bytes[..got].iter().rposition(|b| *b == b'\n');
        if let Some(end) = end {
            bytes.truncate(end + 1);
            let at = Position {
                segment: begins,
                offset,
            };
            return Ok(Some((at, bytes)));
        }
    }
    Ok(None)
}

fn read(file: &std::fs::File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut got = 0;
    while got < bytes.len() {
        match file.read_at(&mut bytes[got..], offset + got as u64)? {
            0 => break,
            n => got += n,
        }
    }
    Ok(got)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_that_is_written_anew_is_sent_from_its_beginning() {
        let dir = tempfile::tempdir().unwrap();
        let text = "2026-01-31T12:00:00.000Z offset 0\na\nb\n";
        let write = |text: &str| std::fs::write(logfile::current(dir.path()), text).unwrap();
        let at = |segment, offset| Position { segment, offset };
        let next = |after| next(dir.path(), Some(after)).unwrap();
        write(text);
        let end = text.len() as u64;
        assert_eq!(
            next(at(0, end - 2)),
            Some((at(0, end - 2), b"b\n".to_vec()))
        );
        assert_eq!(next(at(0, end)), None);
        for before in [at(0, end + 1), at(end, 1)] {
            assert_eq!(next(before), Some((at(0, 0), text.into())));
        }
    }
}
