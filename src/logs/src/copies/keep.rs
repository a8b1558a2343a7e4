//! The holder's side: takes another node's output, and says how far it has it.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nebula_domain::{InstanceId, NodeId};
use nebula_drivers::logfile::{self, About, SEGMENTS_MAX};
use nebula_mesh::{Peer, Service, Stream};
use nebula_wire::codec;
use nebula_wire::peer::log_copy::{
    BATCH_INSTANCES, FRAME_BYTES, Kept, Offer, PIECE_BYTES, Piece, Position,
};
use tokio::sync::Semaphore;

use crate::LogsError;
use crate::keeper::make_private;
use crate::places::{Places, dirs};

/// Nodes that send at the same time: rendezvous hashing gives few nodes more than a handful.
const SENDERS: usize = 64;
/// An owner that is silent for so long has gone.
pub(super) const IDLE: Duration = Duration::from_secs(60);
/// Longest name of a node; those that the registry takes are shorter.
const NAME_BYTES: usize = 255;

pub(crate) struct Keep {
    places: Arc<Places>,
    senders: Semaphore,
}

/// What is kept of one node.
struct Copies {
    owner: NodeId,
    places: Arc<Places>,
    ends: BTreeMap<InstanceId, Position>,
}

impl Keep {
    pub(crate) fn new(places: Arc<Places>) -> Keep {
        Keep {
            places,
            senders: Semaphore::new(SENDERS),
        }
    }

    async fn try_serve(&self, owner: NodeId, stream: &mut Stream) -> Result<(), LogsError> {
        let Ok(_sender) = self.senders.try_acquire() else {
            let reason = format!("{SENDERS} nodes send already (log_copy_senders)");
            stream
                .write_frame(codec::encode(&Kept::Refused(reason))?)
                .await?;
            return Ok(stream.finish().await?);
        };
        let places = self.places.clone();
        let mut copies = blocking(move || Copies::open(owner, places)).await?;
        loop {
            let offer = tokio::time::timeout(IDLE, stream.next_frame(FRAME_BYTES)).await;
            let Ok(Some(offer)) = offer.map_err(|_| LogsError::Timeout)? else {
                return Ok(());
            };
            let answer = match codec::decode(&offer)? {
                Offer::What { above } => copies.ends(above),
                Offer::Piece(piece) => {
                    let kept;
                    (kept, copies) = blocking(move || {
                        let kept = copies.take(&piece);
                        Ok((kept, copies))
                    })
                    .await?;
                    match kept {
                        Ok(end) => Kept::Until(end),
                        Err(error) => Kept::Refused(error.to_string()),
                    }
                }
            };
            stream.write_frame(codec::encode(&answer)?).await?;
        }
    }
}

#[async_trait]
impl Service for Keep {
    async fn serve(&self, peer: Peer, mut stream: Stream) {
        if let Err(error) = self.try_serve(peer.node, &mut stream).await {
            tracing::debug!(owner = %peer.node, %error, "a stream of output to keep ended early");
        }
    }
}

impl Copies {
    fn open(owner: NodeId, places: Arc<Places>) -> io::Result<Copies> {
        let mut ends = BTreeMap::new();
        for (_, deployment) in dirs(&places.copies_of(owner))? {
            for (_, dir) in dirs(&deployment)? {
                if let (Some(about), Some(end)) = (About::read(&dir)?, end_of(&dir)?) {
                    ends.insert(about.instance, end);
                }
            }
        }
        Ok(Copies {
            owner,
            places,
            ends,
        })
    }

    fn ends(&self, above: Option<InstanceId>) -> Kept {
        let ends = self.ends.iter().map(|(id, end)| (*id, *end));
        let above = ends.filter(|(id, _)| above.is_none_or(|above| *id > above));
        Kept::Ends(above.take(BATCH_INSTANCES).collect())
    }

    /// Adds a piece, if it goes on where the copy ends; the copy's end in any case.
    fn take(&mut self, piece: &Piece) -> Result<Position, LogsError> {
        let bytes = check(piece)?;
        let about = About {
            instance: piece.instance,
            deployment: piece.deployment.clone(),
            release: piece.release,
            node: Some(piece.node.clone()),
        };
        let dir = about.folder(&self.places.copies_of(self.owner));
        let end = self.ends.get(&piece.instance).copied();
        let fit = fit(piece, &bytes, &dir, end)?;
        if fit == Fit::No {
            let now = end_of(&dir)?;
            match now {
                Some(now) => self.ends.insert(piece.instance, now),
                None => self.ends.remove(&piece.instance),
            };
            return Ok(now.unwrap_or_default());
        }
        if !dir.exists() {
            make_private(&dir)?;
            about.write(&dir)?;
        }
        let current = logfile::current(&dir);
        match fit {
            // An empty one is left of a try that failed, as on a full disk: there is room already.
            Fit::Begins if fs::metadata(&current).is_ok_and(|about| about.len() > 0) => {
                begin(&dir)?;
            }
            Fit::Again => OpenOptions::new().write(true).open(&current)?.set_len(0)?,
            _ => {}
        }
        append(&current, piece.at.offset, &bytes)?;
        let end = Position {
            segment: piece.at.segment,
            offset: piece.at.offset + bytes.len() as u64,
        };
        self.ends.insert(piece.instance, end);
        Ok(end)
    }
}

/// What a piece is to a copy that ends at `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fit {
    GoesOn,
    /// A new segment.
    Begins,
    /// The last segment once more: the owner's has become shorter than it was.
    Again,
    No,
}

fn fit(piece: &Piece, bytes: &[u8], dir: &Path, end: Option<Position>) -> io::Result<Fit> {
    let Some(end) = end else {
        return Ok(match piece.at.offset {
            0 => Fit::Begins,
            _ => Fit::No,
        });
    };
    if piece.at.offset > 0 {
        // Deleted by age or size in the meantime: what follows is a new beginning.
        let goes_on = piece.at == end && logfile::current(dir).exists();
        return Ok(if goes_on { Fit::GoesOn } else { Fit::No });
    }
    if piece.at.segment > end.segment {
        return Ok(Fit::Begins);
    }
    // Of a place that was passed already. The first line of a segment says when it was begun: where it is not known, the owner
    // has lost what it had, and begins anew.
    let length = bytes.iter().position(|b| *b == b'\n').unwrap_or(0);
    Ok(match with_first_line(dir, &bytes[..=length])? {
        None => Fit::Begins,
        Some(0) => Fit::Again,
        Some(_) => Fit::No,
    })
}

/// The number of the segment that begins with this line; 0 is the current one.
fn with_first_line(dir: &Path, line: &[u8]) -> io::Result<Option<u32>> {
    for n in 0..SEGMENTS_MAX {
        let file = match File::open(name(dir, n)) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            file => file?,
        };
        let mut first = vec![0; line.len()];
        match file.read_exact_at(&mut first, 0) {
            Ok(()) if first == line => return Ok(Some(n)),
            Err(error) if error.kind() != ErrorKind::UnexpectedEof => return Err(error),
            _ => {}
        }
    }
    Ok(None)
}

fn name(dir: &Path, n: u32) -> PathBuf {
    match n {
        0 => logfile::current(dir),
        n => logfile::numbered(dir, n),
    }
}

/// The piece's text. It was written by another node's programs, and its frame by another node.
fn check(piece: &Piece) -> Result<Vec<u8>, LogsError> {
    let bad = |what: &str| LogsError::Refused(format!("a piece of output {what}"));
    let plain = usize::try_from(piece.plain_bytes).unwrap_or(usize::MAX);
    if plain > PIECE_BYTES || piece.node.len() > NAME_BYTES {
        return Err(bad(&format!(
            "is over the limit of {PIECE_BYTES} bytes (log_copy_piece)"
        )));
    }
    let bytes = zstd::bulk::decompress(&piece.bytes, plain)
        .map_err(|_| bad("is not compressed as it should be"))?;
    if bytes.len() != plain || bytes.last() != Some(&b'\n') {
        return Err(bad("is not what it says"));
    }
    Ok(bytes)
}

fn end_of(dir: &Path) -> io::Result<Option<Position>> {
    let Some(newest) = logfile::segments(dir)?.pop() else {
        return Ok(None);
    };
    Ok(newest.begins.map(|segment| Position {
        segment,
        offset: newest.bytes,
    }))
}

/// Makes room for a new segment, as the owner's shim does.
fn begin(dir: &Path) -> io::Result<()> {
    for n in (0..SEGMENTS_MAX - 1).rev() {
        match fs::rename(name(dir, n), name(dir, n + 1)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn append(path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    if file.metadata()?.len() != offset {
        return Err(io::Error::other("the copy is not as it was"));
    }
    let written = file.write_all(bytes);
    if written.is_err() {
        // Half a line would be read as part of the next one.
        let _ = file.set_len(offset);
    }
    written
}

async fn blocking<T, F>(work: F) -> Result<T, LogsError>
where
    T: Send + 'static,
    F: FnOnce() -> io::Result<T> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        Err(error) => Err(LogsError::Read(io::Error::other(error))),
    }
}

#[cfg(test)]
mod tests {
    use nebula_domain::ReleaseNumber;

    use super::*;

    fn piece(segment: u64, offset: u64, text: &str) -> Piece {
        Piece {
            instance: InstanceId(1),
            deployment: "api".parse().unwrap(),
            release: ReleaseNumber(2),
            node: "n1".to_owned(),
            at: Position { segment, offset },
            plain_bytes: text.len() as u32,
            bytes: zstd::bulk::compress(text.as_bytes(), 1).unwrap(),
        }
    }

    fn open(root: &Path) -> Copies {
        let places = Places {
            instances: root.join("instances"),
            logs: root.join("logs"),
        };
        Copies::open(NodeId(7), Arc::new(places)).unwrap()
    }

    const MARK: &str = "2026-01-31T12:00:00.000Z offset ";

    #[test]
    fn pieces_that_go_on_are_taken_and_others_are_told_where_to() {
        let root = tempfile::tempdir().unwrap();
        let mut copies = open(root.path());
        let first = format!("{MARK}0\na\n");
        let at = |segment, offset| Position { segment, offset };
        assert_eq!(copies.take(&piece(0, 9, "x\n")).unwrap(), at(0, 0));
        let end = first.len() as u64;
        assert_eq!(copies.take(&piece(0, 0, &first)).unwrap(), at(0, end));
        assert_eq!(
            copies.take(&piece(0, 0, &first)).unwrap(),
            at(0, end),
            "twice"
        );
        assert_eq!(copies.take(&piece(0, end, "b\n")).unwrap(), at(0, end + 2));
        assert_eq!(
            copies.take(&piece(0, end + 9, "c\n")).unwrap(),
            at(0, end + 2)
        );

        // The holder is started anew, and the owner's log was rotated.
        let mut copies = open(root.path());
        assert_eq!(
            copies.ends(None),
            Kept::Ends(vec![(InstanceId(1), at(0, end + 2))])
        );
        assert_eq!(copies.ends(Some(InstanceId(1))), Kept::Ends(vec![]));
        let second = format!("{MARK}{}\nc\n", end + 2);
        let begins = end + 2;
        let now = at(begins, second.len() as u64);
        assert_eq!(copies.take(&piece(begins, 0, &second)).unwrap(), now);
        assert_eq!(
            copies.take(&piece(0, end + 2, "d\n")).unwrap(),
            now,
            "of the one before"
        );
        let dir = root.path().join("logs/copies/7/api/i-1-r2");
        assert_eq!(logfile::segments(&dir).unwrap().len(), 2);
        let about = About::read(&dir).unwrap().unwrap();
        assert_eq!(about.node.as_deref(), Some("n1"));

        // Deleted here by age: the copy begins anew with what comes next.
        fs::remove_dir_all(&dir).unwrap();
        let second_end = second.len() as u64;
        assert_eq!(
            copies.take(&piece(begins, second_end, "e\n")).unwrap(),
            at(0, 0)
        );
        let third = format!("{MARK}900\nf\n");
        assert_eq!(copies.take(&piece(900, 0, &third)).unwrap().segment, 900);
    }

    #[test]
    fn what_is_not_as_it_says_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let mut copies = open(root.path());
        let mut refused = |change: &dyn Fn(&mut Piece)| {
            let mut bad = piece(0, 0, "some text\n");
            change(&mut bad);
            copies.take(&bad).unwrap_err();
        };
        refused(&|piece| piece.plain_bytes = 3);
        refused(&|piece| piece.plain_bytes = 30);
        refused(&|piece| piece.plain_bytes = u32::MAX);
        refused(&|piece| piece.bytes = b"no".to_vec());
        refused(&|p| *p = piece(0, 0, "no end"));
        refused(&|piece| piece.node = "n".repeat(1_000));
        assert!(!root.path().join("logs").exists());
    }

    #[test]
    fn a_disk_that_is_full_costs_no_segment() {
        let root = tempfile::tempdir().unwrap();
        let first = format!("{MARK}0\na\n");
        open(root.path()).take(&piece(0, 0, &first)).unwrap();
        let dir = root.path().join("logs/copies/7/api/i-1-r2");
        let (begins, second) = (first.len() as u64, format!("{MARK}{}\nb\n", first.len()));
        for _ in 0..20 {
            open(root.path()).take(&piece(begins, 0, &second)).unwrap();
            // As it is when nothing could be appended.
            fs::write(logfile::current(&dir), "").unwrap();
        }
        open(root.path()).take(&piece(begins, 0, &second)).unwrap();
        let kept = |n| fs::read_to_string(name(&dir, n)).unwrap();
        assert_eq!((kept(0), kept(1)), (second, first));
        assert!(!name(&dir, 2).exists());
    }

    #[test]
    fn an_owner_that_lost_its_output_is_followed_anew() {
        let root = tempfile::tempdir().unwrap();
        let mut copies = open(root.path());
        let first = format!("{MARK}0\na\nb\n");
        let end = copies.take(&piece(0, 0, &first)).unwrap();
        // Its machine came back with less than it had sent.
        let cut = format!("{MARK}0\na\n");
        let end_of_cut = copies.take(&piece(0, 0, &cut)).unwrap();
        assert!(end_of_cut < end);
        let end = copies.take(&piece(0, end_of_cut.offset, "c\n")).unwrap();
        let dir = root.path().join("logs/copies/7/api/i-1-r2");
        let kept = |n| fs::read_to_string(name(&dir, n)).unwrap();
        assert_eq!(kept(0), format!("{cut}c\n"));

        // Its files were deleted, and the next run began at nothing.
        let anew = "2026-01-31T13:00:00.000Z offset 0\nd\n";
        assert_eq!(copies.take(&piece(0, 0, anew)).unwrap().segment, 0);
        assert_eq!((kept(0), kept(1)), (anew.to_owned(), format!("{cut}c\n")));
        // What was there before is not taken twice.
        let now = copies.take(&piece(0, 0, &cut)).unwrap();
        assert_eq!(now.offset, anew.len() as u64);
        assert_ne!(now, end);
    }
}
