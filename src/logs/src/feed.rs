//! One node's lines, as the asking node receives them: its own directly, another's over the mesh.

use std::sync::Arc;
use std::time::Duration;

use nebula_domain::{NodeId, State};
use nebula_drivers::logfile;
use nebula_mesh::{CallError, Mesh, Stream};
use nebula_wire::codec;
use nebula_wire::peer::Protocol;
use nebula_wire::peer::log_search::{Filter as Filters, Found, Place, Search};
use nebula_wire::peer::logs::{Answer, FRAME_BYTES, Line, Request};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use crate::LogsError;
use crate::files::SEARCH_WITHIN;
use crate::filter::Filter;
use crate::local::{ANSWERS, Local, Turn};
use crate::placed::Placed;
use crate::tail::MAX_TAIL;

/// A node that says nothing for this long while its tail is awaited is reported as missing.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// A node whose tail is not whole by then is reported as missing, however often it says that it is still searching.
const TAIL_WITHIN: Duration = SEARCH_WITHIN.saturating_add(ANSWER_WITHIN);
/// A follower asks a lost node again this often.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Lines this much older than the last one may still be missing: those of several instances are read one
/// after the other. What was seen already is left out by [`crate::seen`].
pub(crate) const LATE: Duration = Duration::from_secs(5);

/// What a feed reports.
pub(crate) enum Event {
    Lines(Vec<Placed>),
    /// The tail is complete.
    Live,
    /// The node has more output than it searches at once.
    Cut,
    /// No lines until further notice. The last event, unless the request follows.
    Missing(LogsError),
    /// After [`Event::Missing`]: the node answers again, from some line before the last one on.
    Again,
}

/// What is asked of one node.
#[derive(Clone)]
pub(crate) struct Ask {
    pub(crate) node: NodeId,
    pub(crate) search: Search,
    pub(crate) filter: Arc<Filter>,
}

impl Ask {
    /// `None`: nothing to report.
    fn event(&self, found: Found) -> Option<Event> {
        let placed = |node: NodeId, name: Option<String>, lines: Vec<Line>| {
            // Asked again, from a later time on.
            let since = self.search.filter.since.as_ref();
            let lines = lines.into_iter().filter(|line| {
                since.is_none_or(|since| line.time >= *since) && self.filter.wants(line)
            });
            let name = |line| Placed {
                node,
                name: name.clone(),
                line,
            };
            Event::Lines(lines.map(name).collect())
        };
        Some(match found {
            Found::Lines(lines) => placed(self.node, None, lines),
            Found::Copied { owner, name, lines } => placed(owner, Some(name), lines),
            Found::Searching => return None,
            Found::Cut => Event::Cut,
            Found::Live => Event::Live,
            Found::Refused(reason) => Event::Missing(LogsError::Refused(reason)),
        })
    }
}

/// Reports the lines that lie on this node.
pub(crate) async fn own(local: Local, ask: Ask, events: mpsc::Sender<Event>, turn: Turn) {
    let (sender, answers) = mpsc::channel(ANSWERS);
    let search = ask.search.clone();
    // Dropping the receiver ends the answer.
    let forward = forward(&ask, answers, &events);
    tokio::join!(local.answer(search, sender, turn), forward);
}

/// Ends when there is nothing more to report, or nobody to report to. A disk that hangs is a node that is missing.
async fn forward(ask: &Ask, mut answers: mpsc::Receiver<Found>, events: &mpsc::Sender<Event>) {
    let mut patience = Patience::new();
    let (mut live, mut missing) = (false, false);
    loop {
        let event = if live || missing {
            answers.recv().await.map(|answer| ask.event(answer))
        } else {
            match patience.wait(TAIL_WITHIN, answers.recv()).await {
                Ok(answer) => answer.map(|answer| ask.event(answer)),
                Err(error) => Some(Some(Event::Missing(error))),
            }
        };
        let Some(event) = event else { return };
        let Some(event) = event else { continue };
        live |= matches!(event, Event::Live);
        let is_missing = matches!(event, Event::Missing(_));
        let again = std::mem::replace(&mut missing, is_missing) && !is_missing;
        if (again && events.send(Event::Again).await.is_err())
            || events.send(event).await.is_err()
            || (is_missing && !ask.search.follow)
        {
            return;
        }
    }
}

/// Reports the lines that lie on another node. When following, a lost node is asked again, from shortly
/// before the last line it sent (or from `begun`, when it never sent one), until it is no longer a member.
pub(crate) async fn other(
    mesh: Mesh,
    mut ask: Ask,
    begun: String,
    mut state: watch::Receiver<Arc<State>>,
    events: mpsc::Sender<Event>,
) {
    let follow = ask.search.follow;
    let mut asked = Asked {
        latest: None,
        missing: false,
    };
    loop {
        let ended = asked.ask(&mesh, &ask, &events).await;
        match ended {
            Ok(Ended::Reader) => return,
            Ok(Ended::Answer) if !follow => return,
            ended => {
                let error = ended.err().unwrap_or(LogsError::Lost);
                tracing::debug!(node = %ask.node, %error, "a node's log lines are missing");
                // Said once, however often it is asked again.
                if !std::mem::replace(&mut asked.missing, true)
                    && events.send(Event::Missing(error)).await.is_err()
                {
                    return;
                }
            }
        }
        if !follow {
            return;
        }
        // Everything since the last line is wanted now, not only the latest.
        ask.search.tail = u32::try_from(MAX_TAIL).unwrap_or(u32::MAX);
        let from = asked
            .latest
            .as_deref()
            .map_or_else(|| begun.clone(), before);
        ask.search.filter.since = ask.filter.said.since.clone().max(Some(from));
        tokio::select! {
            () = tokio::time::sleep(RETRY_AFTER) => {}
            () = events.closed() => return,
        }
        if !state.borrow_and_update().nodes.contains_key(&ask.node) {
            return;
        }
    }
}

/// So much before a line's time that nothing written with it is missed.
pub(crate) fn before(time: &str) -> String {
    match logfile::time_of(time) {
        Some(at) => logfile::time_text(nebula_domain::time::Millis(
            at.0.saturating_sub(u64::try_from(LATE.as_millis()).unwrap_or(u64::MAX)),
        )),
        None => time.to_owned(),
    }
}

enum Ended {
    /// The one who reads the events has gone.
    Reader,
    /// The node has said all it had to say.
    Answer,
}

struct Asked {
    latest: Option<String>,
    missing: bool,
}

impl Asked {
    async fn ask(
        &mut self,
        mesh: &Mesh,
        ask: &Ask,
        events: &mpsc::Sender<Event>,
    ) -> Result<Ended, LogsError> {
        let mut stream = mesh
            .open(ask.node, Protocol::LogSearch, ANSWER_WITHIN)
            .await?;
        let mut patience = Patience::new();
        let asked = stream.write_frame(codec::encode(&ask.search)?).await;
        let first = match asked {
            Ok(()) => next(&mut stream, &mut patience).await,
            Err(error) => Err(error.into()),
        };
        match first {
            // Of an older version, which does not know the protocol and keeps no copies.
            Ok(None)
            | Err(LogsError::Call(CallError::NotServed { .. } | CallError::Ended { .. })) => {
                match old(ask) {
                    Some(request) => self.ask_old(mesh, ask, request, events).await,
                    None => Ok(Ended::Answer),
                }
            }
            first => {
                self.read(&mut stream, first?, patience, events, |frame| {
                    Ok(ask.event(codec::decode(frame)?))
                })
                .await
            }
        }
    }

    async fn ask_old(
        &mut self,
        mesh: &Mesh,
        ask: &Ask,
        request: Request,
        events: &mpsc::Sender<Event>,
    ) -> Result<Ended, LogsError> {
        let mut stream = mesh.open(ask.node, Protocol::Logs, ANSWER_WITHIN).await?;
        stream.write_frame(codec::encode(&request)?).await?;
        let mut patience = Patience::new();
        let first = next(&mut stream, &mut patience).await?;
        self.read(&mut stream, first, patience, events, |frame| {
            let found = match codec::decode(frame)? {
                Answer::Lines(lines) => Found::Lines(lines),
                Answer::Live => Found::Live,
                Answer::Refused(reason) => Found::Refused(reason),
            };
            Ok(ask.event(found))
        })
        .await
    }

    async fn read(
        &mut self,
        stream: &mut Stream,
        first: Option<bytes::Bytes>,
        mut patience: Patience,
        events: &mpsc::Sender<Event>,
        event: impl Fn(&[u8]) -> Result<Option<Event>, LogsError>,
    ) -> Result<Ended, LogsError> {
        let mut live = false;
        let mut frame = first;
        loop {
            let Some(bytes) = frame else {
                return if live {
                    Ok(Ended::Answer)
                } else {
                    Err(LogsError::Lost)
                };
            };
            if let Some(event) = event(&bytes)? {
                match &event {
                    Event::Missing(LogsError::Refused(reason)) => {
                        return Err(LogsError::Refused(reason.clone()));
                    }
                    Event::Lines(lines) => {
                        let latest = lines.iter().map(|placed| &placed.line.time).max();
                        if latest > self.latest.as_ref() {
                            self.latest = latest.cloned();
                        }
                    }
                    Event::Live => live = true,
                    _ => {}
                }
                let again = std::mem::take(&mut self.missing);
                if (again && events.send(Event::Again).await.is_err())
                    || events.send(event).await.is_err()
                {
                    return Ok(Ended::Reader);
                }
            }
            frame = if live {
                tokio::select! {
                    frame = stream.next_frame(FRAME_BYTES) => frame.map_err(|_| LogsError::Lost)?,
                    () = events.closed() => return Ok(Ended::Reader),
                }
            } else {
                next(stream, &mut patience).await?
            };
        }
    }
}

/// The next frame of a tail.
async fn next(
    stream: &mut Stream,
    patience: &mut Patience,
) -> Result<Option<bytes::Bytes>, LogsError> {
    let frame = stream.next_frame(FRAME_BYTES);
    Ok(patience.wait(ANSWER_WITHIN, frame).await??)
}

/// What is left of the time that a whole tail may take. While the lines are taken from here it does not pass.
struct Patience(Duration);

impl Patience {
    fn new() -> Patience {
        Patience(TAIL_WITHIN)
    }

    async fn wait<T>(
        &mut self,
        most: Duration,
        answer: impl Future<Output = T>,
    ) -> Result<T, LogsError> {
        let begun = Instant::now();
        let answer = timeout(most.min(self.0), answer).await;
        self.0 = self.0.saturating_sub(begun.elapsed());
        answer.map_err(|_| LogsError::Timeout)
    }
}

/// The same for a node without filters: of all its latest lines the wanted ones are chosen here.
fn old(ask: &Ask) -> Option<Request> {
    let search = &ask.search;
    let all = search.filter
        == Filters {
            instance: search.filter.instance,
            ..Filters::default()
        };
    (search.place == Place::Own).then(|| Request {
        deployment: search.deployment.clone(),
        instance: search.filter.instance,
        tail: match all {
            true => search.tail,
            false => u32::try_from(MAX_TAIL).unwrap_or(u32::MAX),
        },
        after: None,
        follow: search.follow,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(follow: bool) -> Ask {
        let said = Filters::default();
        Ask {
            node: NodeId(1),
            search: Search {
                deployment: "api".parse().unwrap(),
                tail: 10,
                follow,
                place: Place::Own,
                filter: said.clone(),
            },
            filter: Arc::new(Filter::new(said).unwrap()),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_only_searches_is_missing_and_may_come_back() {
        for follow in [false, true] {
            let (answers, from) = mpsc::channel(ANSWERS);
            let (events, mut told) = mpsc::channel(ANSWERS);
            let searching = async {
                for _ in 0..200 {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    if answers.send(Found::Searching).await.is_err() {
                        return;
                    }
                }
                answers.send(Found::Live).await.unwrap();
                drop(answers);
            };
            let ask = ask(follow);
            let forward = async {
                forward(&ask, from, &events).await;
                drop(events);
            };
            let told = async {
                let begun = Instant::now();
                let first = told.recv().await;
                assert!(matches!(first, Some(Event::Missing(LogsError::Timeout))));
                // Timers are exact to a millisecond.
                let late = begun.elapsed().saturating_sub(TAIL_WITHIN);
                assert!(begun.elapsed() >= TAIL_WITHIN && late < ANSWER_WITHIN);
                if follow {
                    assert!(matches!(told.recv().await, Some(Event::Again)));
                    assert!(matches!(told.recv().await, Some(Event::Live)));
                }
                assert!(told.recv().await.is_none());
            };
            tokio::join!(searching, forward, told);
        }
    }
}
