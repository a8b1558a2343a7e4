//! This node's answer to a request, whoever asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nebula_domain::{NodeId, State};
use nebula_wire::peer::log_search::{Found, Place, Search};
use nebula_wire::peer::logs::{BATCH_BYTES, BATCH_LINES};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::time::MissedTickBehavior;

use crate::LogsError;
use crate::files::{Files, POLL, SEARCH_WITHIN};
use crate::filter::Filter;
use crate::origins::Origins;
use crate::placed::Written;
use crate::places::{Folder, Places, Releases, Wanted};
use crate::tail::Timed;

/// Answers that wait for their reader. A full channel stops the reading of files, and the lines
/// wait there.
pub(crate) const ANSWERS: usize = 4;
/// While a search has found nothing yet, the asker hears so this often: it takes silence for a loss.
const SEARCHING_EVERY: Duration = Duration::from_millis(500);
/// Copies of further instances are looked for this often; nothing tells of them.
const COPIES_EVERY: Duration = Duration::from_secs(2);

/// What answering needs; cheap to clone.
#[derive(Clone)]
pub(crate) struct Local {
    pub(crate) me: NodeId,
    pub(crate) places: Arc<Places>,
    pub(crate) origins: watch::Receiver<Arc<Origins>>,
    pub(crate) state: watch::Receiver<Arc<State>>,
}

/// A reader's turn. Whatever looks at files for the reader holds it too: one that has gone leaves its turn to the next only
/// when nothing is done for it any more. None: it does not have one yet.
pub(crate) type Turn = Option<Arc<OwnedSemaphorePermit>>;

/// One request under way. Ends the search of its folders when it is dropped.
struct Work {
    local: Local,
    search: Arc<Search>,
    filter: Arc<Filter>,
    stop: Arc<AtomicBool>,
    turn: Turn,
}

impl Drop for Work {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Local {
    /// Sends the tail, [`Found::Live`], and, when following, what comes, until the reader goes
    /// away. A failure is the last answer.
    pub(crate) async fn answer(self, search: Search, answers: mpsc::Sender<Found>, turn: Turn) {
        let answered = async {
            let work = Work {
                local: self,
                filter: Arc::new(Filter::new(search.filter.clone())?),
                search: Arc::new(search),
                stop: Arc::default(),
                turn,
            };
            work.run(&answers).await
        };
        if let Err(error) = answered.await {
            tracing::warn!(%error, "log files cannot be read");
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            let reason = format!("{error}: {}", cause.unwrap_or_default());
            let _ = answers.send(Found::Refused(reason)).await;
        }
    }
}

impl Work {
    async fn run(mut self, answers: &mpsc::Sender<Found>) -> Result<(), LogsError> {
        let mut known = self.known();
        let (tail, mut files) = self.tail(known.clone(), answers).await?;
        send(answers, tail).await;
        if files.cut {
            let _ = answers.send(Found::Cut).await;
        }
        if answers.send(Found::Live).await.is_err() || !self.search.follow {
            return Ok(());
        }
        let mut looked = tokio::time::Instant::now();
        loop {
            let mut begun = Vec::new();
            let copies = self.search.place != Place::Own && looked.elapsed() >= COPIES_EVERY;
            if copies || self.local.state.has_changed().unwrap_or(false) {
                looked = tokio::time::Instant::now();
                known = self.known();
                let folders = self.folders(known.clone());
                let filter = self.filter.clone();
                let stopped = self.stopped();
                (begun, files) = self
                    .blocking(move || Ok((files.add(folders()?, &filter, stopped)?, files)))
                    .await?;
            }
            let (instances, filter) = (known.clone(), self.filter.clone());
            let places = self.local.places.clone();
            let added;
            (added, files) = self
                .blocking(move || Ok((files.read(&filter, &places, &instances)?, files)))
                .await?;
            let idle = added.is_none() && begun.is_empty();
            begun.extend(added.unwrap_or_default());
            if !send(answers, begun).await {
                return Ok(());
            }
            if idle {
                tokio::select! {
                    () = answers.closed() => return Ok(()),
                    () = tokio::time::sleep(POLL) => {}
                }
            } else if answers.is_closed() {
                return Ok(());
            }
        }
    }

    /// The tail; the asker hears meanwhile that it is being looked for.
    async fn tail(
        &self,
        known: Releases,
        answers: &mpsc::Sender<Found>,
    ) -> Result<(Vec<Written>, Files), LogsError> {
        let (folders, filter) = (self.folders(known), self.filter.clone());
        let tail = usize::try_from(self.search.tail).unwrap_or(usize::MAX);
        let stopped = self.stopped();
        let found = self.blocking(move || Files::open(folders()?, &filter, tail, stopped));
        tokio::pin!(found);
        let mut tick = tokio::time::interval(SEARCHING_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick.reset();
        loop {
            tokio::select! {
                found = &mut found => return found,
                // One that does not keep up hears what waits for it.
                _ = tick.tick() => { let _ = answers.try_send(Found::Searching); }
                () = answers.closed() => self.stop.store(true, Ordering::Relaxed),
            }
            if answers.is_closed() {
                return found.await;
            }
        }
    }

    /// Whether a look at files that begins now has to end: nobody waits for it, or it takes too long.
    fn stopped(&self) -> impl Fn() -> bool + Send + use<> {
        let (stop, begun) = (self.stop.clone(), Instant::now());
        move || stop.load(Ordering::Relaxed) || begun.elapsed() >= SEARCH_WITHIN
    }

    async fn blocking<T, F>(&self, work: F) -> Result<T, LogsError>
    where
        T: Send + 'static,
        F: FnOnce() -> std::io::Result<T> + Send + 'static,
    {
        let turn = self.turn.clone();
        let work = move || {
            let done = work();
            drop(turn);
            done
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => Ok(result?),
            Err(error) => Err(LogsError::Read(std::io::Error::other(error))),
        }
    }

    /// Finds, when it is called, the folders that are meant now.
    fn folders(
        &self,
        known: Releases,
    ) -> impl FnOnce() -> std::io::Result<Vec<Folder>> + Send + use<> {
        let (search, filter) = (self.search.clone(), self.filter.clone());
        let places = self.local.places.clone();
        let (origins, state) = (self.local.origins.clone(), self.local.state.clone());
        move || {
            let listed = {
                let state = state.borrow();
                let instances = state.instances_of(&search.deployment);
                instances.map(|instance| instance.id).collect()
            };
            let first = origins.borrow().first(&search.deployment);
            places.folders(&Wanted {
                deployment: &search.deployment,
                place: &search.place,
                filter: &filter,
                first,
                known: &known,
                listed: &listed,
            })
        }
    }

    /// The instances on this node that are assigned now.
    fn known(&mut self) -> Releases {
        let state = self.local.state.borrow_and_update();
        state
            .instances_on(self.local.me)
            .filter(|instance| instance.deployment == self.search.deployment)
            .map(|instance| (instance.id, instance.release))
            .collect()
    }
}

/// In batches that fit a frame, each of one node's lines; whether the reader is still there.
async fn send(answers: &mpsc::Sender<Found>, lines: Vec<Written>) -> bool {
    let mut batch = Vec::new();
    let mut bytes = 0;
    let mut of = None;
    for Written { owner, line } in lines {
        let full = batch.len() == BATCH_LINES || bytes + line.bytes() > BATCH_BYTES;
        if (full || of != owner) && !batch.is_empty() {
            bytes = 0;
            let lines = std::mem::take(&mut batch);
            if answers.send(frame(of.take(), lines)).await.is_err() {
                return false;
            }
        }
        of = owner;
        bytes += line.bytes();
        batch.push(line);
    }
    batch.is_empty() || answers.send(frame(of, batch)).await.is_ok()
}

fn frame(owner: Option<(NodeId, String)>, lines: Vec<nebula_wire::peer::logs::Line>) -> Found {
    match owner {
        None => Found::Lines(lines),
        Some((owner, name)) => Found::Copied { owner, name, lines },
    }
}
