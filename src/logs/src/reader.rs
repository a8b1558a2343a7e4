//! The task behind each stream: collect all tails, then follow all feeds.
//!
//! A node that does not answer is stood in for by copies of its output. For the tail all nodes are asked for
//! what they have, since the holder may have changed; to follow, the present holder alone.

mod tell;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;

use futures::stream::{SelectAll, StreamExt};
use nebula_domain::{NodeId, State};
use nebula_wire::api::LogLine;
use nebula_wire::peer::log_search::{Place, Search};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::LogsError;
use crate::copies::holder;
use crate::feed::{self, Ask, Event};
use crate::filter::Filter;
use crate::local::Turn;
use crate::logs::{Logs, Query, READERS};
use crate::merge::Window;
use crate::placed::Placed;
use crate::seen::{Seen, Skip, United};
use crate::tail::{MAX_TAIL, Tail};

/// Events that wait in one feed.
const EVENTS: usize = 4;
/// Tails that are collected at once, of [`TAIL_BYTES`](crate::TAIL_BYTES) each; the others wait in their feeds.
const TAILS_AT_ONCE: usize = 8;

/// Where the lines of a feed come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Whose {
    Node(NodeId),
    /// Copies of this node's lines.
    CopyOf(NodeId),
}

type Feed = Pin<Box<dyn futures::Stream<Item = (Whose, Event)> + Send>>;

/// One stream's work.
pub(crate) struct Reader {
    logs: Logs,
    feeds: JoinSet<()>,
    asked: BTreeSet<NodeId>,
    query: Query,
    filter: Arc<Filter>,
    begun: String,
    seen: Seen,
    skips: BTreeMap<Whose, Skip>,
    /// Feeds of copies, with the node that holds them.
    copies: BTreeMap<NodeId, (NodeId, AbortHandle)>,
    out: mpsc::Sender<LogLine>,
    turn: Turn,
}

/// The reader of the stream has gone.
struct Gone;

impl Reader {
    pub(crate) fn new(
        logs: Logs,
        query: Query,
        filter: Arc<Filter>,
        begun: String,
        out: mpsc::Sender<LogLine>,
    ) -> Reader {
        Reader {
            logs,
            feeds: JoinSet::new(),
            asked: BTreeSet::new(),
            query,
            filter,
            begun,
            seen: Seen::default(),
            skips: BTreeMap::new(),
            copies: BTreeMap::new(),
            out,
            turn: None,
        }
    }

    pub(crate) async fn run(mut self) {
        let readers = self.logs.readers.clone();
        let Ok(turn) = readers.try_acquire_owned() else {
            let text = format!(
                "this node has {READERS} log readers already (log_readers); ask another node, or later"
            );
            let _ = self.say(None, text).await;
            return;
        };
        self.turn = Some(Arc::new(turn));
        // Only a reader that has gone ends a follower.
        let _: Result<(), Gone> = self.read().await;
    }

    async fn read(&mut self) -> Result<(), Gone> {
        let mut state = self.logs.local.state.clone();
        let now = state.borrow_and_update().clone();
        let alive = self.alive(&now);
        let keep = self.query.tail;
        let mut feeds: Vec<(NodeId, Feed)> = Vec::new();
        for node in self.nodes(&now) {
            feeds.push((node, self.ask_own(node, keep)));
        }
        let mut collecting = collected(feeds, keep);
        // Of nodes that do not live, or are members no more.
        let mut copied = Vec::new();
        if let Some(place) = self.copies_wanted(&now, &alive) {
            for node in &alive {
                copied.push((*node, self.ask_copies(*node, place.clone(), false)));
            }
        }
        let mut all = Tail::new(self.query.tail);
        let mut live = SelectAll::new();
        let mut missing = BTreeMap::new();
        while let Some(collected) = collecting.next().await {
            self.take(&mut all, collected.lines);
            if collected.cut {
                self.say_cut(collected.node).await?;
            }
            if let Some(error) = collected.missing {
                missing.insert(collected.node, error);
            }
            live.extend(collected.feed);
        }
        drop(collecting);
        for owner in missing.keys().filter(|node| alive.contains(node)) {
            for node in alive.iter().filter(|node| !missing.contains_key(node)) {
                copied.push((
                    *node,
                    self.ask_copies(*node, Place::CopiesOf(*owner), false),
                ));
            }
        }
        let mut copied = collected(copied, keep);
        let mut united = United::default();
        while let Some(collected) = copied.next().await {
            united.add(self.stand_ins(collected.lines, &missing, &now));
        }
        drop(copied);
        let copies = united.into_lines();
        let ends: BTreeMap<NodeId, String> = copies
            .iter()
            .map(|placed| (placed.node, placed.line.time.clone()))
            .collect();
        self.take(&mut all, copies);
        for (node, error) in &missing {
            self.say_missing(*node, error, ends.get(node)).await?;
        }
        for placed in all.into_lines() {
            self.emit(placed).await?;
        }
        if !self.query.follow {
            return Ok(());
        }
        for node in missing.into_keys() {
            live.extend(self.follow_copies(node));
        }
        self.follow(live, state).await
    }

    /// Lines of copies that are wanted: of nodes that did not answer themselves.
    fn stand_ins(
        &self,
        mut lines: Vec<Placed>,
        missing: &BTreeMap<NodeId, LogsError>,
        state: &State,
    ) -> Vec<Placed> {
        lines.retain(|placed| {
            let answered = self.asked.contains(&placed.node) && !missing.contains_key(&placed.node);
            let name = self.query.node.as_deref();
            let named = name.is_none_or(|name| match state.nodes.get(&placed.node) {
                Some(member) => member.name.as_str() == name,
                None => placed.name.as_deref() == Some(name),
            });
            !answered && named
        });
        lines
    }

    fn take(&mut self, all: &mut Tail<Placed>, lines: Vec<Placed>) {
        lines.iter().for_each(|placed| self.seen.note(placed));
        all.add(lines);
    }

    async fn follow(
        &mut self,
        mut live: SelectAll<Feed>,
        mut state: watch::Receiver<Arc<State>>,
    ) -> Result<(), Gone> {
        let mut window = Window::new();
        loop {
            let due = window.due();
            tokio::select! {
                Some((from, event)) = live.next() => match event {
                    // What was on its way from a copy when the node itself came back, or another holder was asked.
                    _ if self.is_over(from) => {}
                    Event::Lines(lines) => {
                        let now = Instant::now();
                        for placed in lines {
                            let skip = self.skips.get_mut(&from);
                            if skip.is_none_or(|skip| skip.admits(&placed)) {
                                self.seen.note(&placed);
                                window.push(placed, now);
                            }
                        }
                    }
                    Event::Live => {}
                    Event::Cut => if let Whose::Node(node) = from { self.say_cut(node).await? },
                    Event::Missing(error) => live.extend(self.lost(from, &error).await?),
                    Event::Again => self.again(from),
                },
                () = sleep_until(due) => {}
                Ok(()) = state.changed() => {
                    let nodes = self.nodes(&state.borrow_and_update());
                    for node in nodes {
                        if !self.asked.contains(&node) {
                            // All that a new node has of this deployment is new.
                            live.push(self.ask_own(node, MAX_TAIL));
                        }
                    }
                }
                () = self.out.closed() => return Err(Gone),
            }
            for placed in window.release(Instant::now()) {
                self.emit(placed).await?;
            }
        }
    }

    fn is_over(&self, from: Whose) -> bool {
        matches!(from, Whose::CopyOf(owner) if !self.copies.contains_key(&owner))
    }

    /// A node's own lines end; copies of them go on. The holder of copies is lost: another may have some.
    async fn lost(&mut self, from: Whose, error: &LogsError) -> Result<Option<Feed>, Gone> {
        match from {
            Whose::Node(node) => {
                let copies = self.follow_copies(node);
                let lines = match copies {
                    Some(_) => "its lines go on as far as they were copied",
                    None => "its lines are missing",
                };
                self.say_lost(node, error, lines).await?;
                Ok(copies)
            }
            Whose::CopyOf(owner) => {
                let before = self.copies.get(&owner).map(|(node, _)| *node);
                Ok(match self.holder_of(owner) {
                    now if now == before => None,
                    _ => self.follow_copies(owner),
                })
            }
        }
    }

    fn again(&mut self, from: Whose) {
        let (Whose::Node(node) | Whose::CopyOf(node)) = from;
        self.skips.insert(from, self.seen.skip(node));
        if from == Whose::Node(node)
            && let Some((_, copies)) = self.copies.remove(&node)
        {
            copies.abort();
        }
    }

    fn holder_of(&self, owner: NodeId) -> Option<NodeId> {
        let state = self.logs.local.state.borrow().clone();
        holder(owner, self.alive(&state))
    }

    fn follow_copies(&mut self, owner: NodeId) -> Option<Feed> {
        if let Some((_, before)) = self.copies.remove(&owner) {
            before.abort();
        }
        let from = Whose::CopyOf(owner);
        self.skips.insert(from, self.seen.skip(owner));
        let node = self.holder_of(owner)?;
        let mut ask = self.ask(node, Place::CopiesOf(owner), MAX_TAIL, true);
        let since = feed::before(&self.begun);
        ask.search.filter.since = ask.search.filter.since.max(Some(since));
        let (feed, task) = self.spawn(from, ask);
        self.copies.insert(owner, (node, task));
        Some(feed)
    }

    /// This node, and the members that are believed to live.
    fn alive(&self, state: &State) -> BTreeSet<NodeId> {
        let view = self.logs.view.borrow();
        let me = self.logs.local.me;
        let members = state.nodes.keys().copied();
        members
            .filter(|node| *node == me || view.is_alive(*node))
            .collect()
    }

    /// The members that may have lines: all, since what a gone instance left is known to its node
    /// alone; for one instance that is known, its own.
    fn nodes(&self, state: &State) -> Vec<NodeId> {
        let instance = self.query.filter.instance;
        let wanted = instance.and_then(|id| state.instances.get(&id));
        let name = self.query.node.as_deref();
        let nodes = state.nodes.values();
        nodes
            .filter(|node| wanted.is_none_or(|instance| instance.node == node.id))
            .filter(|node| name.is_none_or(|name| node.name.as_str() == name))
            .map(|node| node.id)
            .collect()
    }

    /// Which copies are asked for at once; none when every node that may have lines is believed to live.
    fn copies_wanted(&self, state: &State, alive: &BTreeSet<NodeId>) -> Option<Place> {
        let nodes = self.nodes(state);
        let one_instance =
            (self.query.filter.instance).is_some_and(|id| state.instances.contains_key(&id));
        let one_node = self.query.node.is_some() && !nodes.is_empty();
        if (one_instance || one_node) && nodes.iter().all(|node| alive.contains(node)) {
            return None;
        }
        Some(Place::CopiesBut(alive.iter().copied().collect()))
    }

    fn ask(&self, node: NodeId, place: Place, tail: usize, follow: bool) -> Ask {
        Ask {
            node,
            search: Search {
                deployment: self.query.deployment.clone(),
                tail: u32::try_from(tail).unwrap_or(u32::MAX),
                follow,
                place,
                filter: self.query.filter.clone(),
            },
            filter: self.filter.clone(),
        }
    }

    fn ask_own(&mut self, node: NodeId, tail: usize) -> Feed {
        self.asked.insert(node);
        let ask = self.ask(node, Place::Own, tail, self.query.follow);
        self.spawn(Whose::Node(node), ask).0
    }

    fn ask_copies(&mut self, node: NodeId, place: Place, follow: bool) -> Feed {
        let ask = self.ask(node, place, self.query.tail, follow);
        self.spawn(Whose::CopyOf(node), ask).0
    }

    fn spawn(&mut self, from: Whose, ask: Ask) -> (Feed, AbortHandle) {
        let (sender, mut events) = mpsc::channel(EVENTS);
        let local = self.logs.local.clone();
        let task = if ask.node == local.me {
            let turn = self.turn.clone();
            self.feeds.spawn(feed::own(local, ask, sender, turn))
        } else {
            let (mesh, begun) = (self.logs.mesh.clone(), self.begun.clone());
            self.feeds
                .spawn(feed::other(mesh, ask, begun, local.state, sender))
        };
        let feed = futures::stream::poll_fn(move |context| {
            events
                .poll_recv(context)
                .map(|event| event.map(|event| (from, event)))
        });
        (feed.boxed(), task)
    }
}

struct Collected {
    node: NodeId,
    lines: Vec<Placed>,
    cut: bool,
    missing: Option<LogsError>,
    /// The feed after its tail.
    feed: Option<Feed>,
}

/// Some at a time, because each tail that is not taken yet is in memory.
fn collected(
    feeds: Vec<(NodeId, Feed)>,
    keep: usize,
) -> Pin<Box<dyn futures::Stream<Item = Collected> + Send>> {
    let each = futures::stream::iter(feeds);
    let each = each.map(move |(node, feed)| collect(node, feed, keep));
    each.buffer_unordered(TAILS_AT_ONCE).boxed()
}

/// Reads one feed up to the end of its tail.
async fn collect(node: NodeId, mut feed: Feed, keep: usize) -> Collected {
    let mut tail = Tail::new(keep);
    let (mut missing, mut cut, mut open) = (None, false, false);
    while let Some((_, event)) = feed.next().await {
        match event {
            Event::Lines(lines) => {
                tail.add(lines);
                continue;
            }
            Event::Cut => {
                cut = true;
                continue;
            }
            Event::Again => continue,
            Event::Live => {}
            Event::Missing(error) => missing = Some(error),
        }
        open = true;
        break;
    }
    Collected {
        node,
        lines: tail.into_lines().into(),
        cut,
        missing,
        feed: open.then_some(feed),
    }
}

async fn sleep_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}
