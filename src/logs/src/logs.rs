//! The handle, and the task behind each stream: collect all tails, then follow all feeds.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::stream::{FuturesUnordered, SelectAll, StreamExt};
use nebula_domain::observed::View;
use nebula_domain::{DeploymentName, InstanceId, NodeId, State};
use nebula_drivers::logfile;
use nebula_mesh::Mesh;
use nebula_telemetry::Clock;
use nebula_wire::api::LogLine;
use nebula_wire::peer::Protocol;
use nebula_wire::peer::logs::{Line, Request, Source};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::LogsError;
use crate::feed::{self, Event};
use crate::local::Local;
use crate::merge::Window;
use crate::serve::Serve;
use crate::tail::{MAX_TAIL, Tail, Timed};

/// Lines to begin with when a query does not say.
pub const TAIL_DEFAULT: usize = 200;
/// Streams that this node serves at once, and, counted apart, those it answers for other nodes:
/// each holds open files and up to a tail of memory.
pub const READERS: usize = 64;
/// Lines that wait for the reader of a stream; its task stops reading while they do.
const OUT: usize = 256;
/// Events that wait in one node's feed.
const EVENTS: usize = 4;

#[derive(Debug, Clone)]
pub struct Config {
    /// Where the driver keeps a folder for each instance of this node.
    pub instances_dir: PathBuf,
    pub me: NodeId,
}

/// Which lines.
#[derive(Debug, Clone)]
pub struct Query {
    pub deployment: DeploymentName,
    /// Go on with new lines, for as long as the stream is held.
    pub follow: bool,
    /// The latest lines to begin with, at most [`MAX_TAIL`].
    pub tail: usize,
    /// Only this instance.
    pub instance: Option<InstanceId>,
}

/// Reads the output of instances, wherever they run. Cheap to clone.
#[derive(Clone)]
pub struct Logs {
    local: Local,
    mesh: Mesh,
    view: watch::Receiver<Arc<View>>,
    readers: Arc<Semaphore>,
    clock: Clock,
}

impl Logs {
    /// Begins to answer other nodes, too.
    pub fn start(
        config: Config,
        mesh: Mesh,
        state: watch::Receiver<Arc<State>>,
        view: watch::Receiver<Arc<View>>,
    ) -> Logs {
        let local = Local {
            me: config.me,
            instances_dir: config.instances_dir,
            state,
        };
        let serve = Serve {
            local: local.clone(),
            readers: Arc::new(Semaphore::new(READERS)),
        };
        mesh.serve(Protocol::Logs, Arc::new(serve));
        Logs {
            local,
            mesh,
            view,
            readers: Arc::new(Semaphore::new(READERS)),
            clock: Clock::system(),
        }
    }

    /// The lines of all nodes in the order of time; when following, then the new ones as they come
    /// (see [`crate::WINDOW`]). A node whose lines cannot be had is a line of the stream `nebula`.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn stream(&self, query: Query) -> LogStream {
        let (out, lines) = mpsc::channel(OUT);
        let mut task = JoinSet::new();
        let reader = Reader {
            logs: self.clone(),
            feeds: JoinSet::new(),
            asked: BTreeSet::new(),
            query,
            begun: logfile::time_text(self.clock.now()),
            out,
        };
        task.spawn(reader.run());
        LogStream { lines, _task: task }
    }
}

/// Lines as they become known. Dropping it ends everything that was done for it.
pub struct LogStream {
    lines: mpsc::Receiver<LogLine>,
    /// Aborted with the stream.
    _task: JoinSet<()>,
}

impl futures::Stream for LogStream {
    type Item = LogLine;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<LogLine>> {
        self.lines.poll_recv(context)
    }
}

/// A line that knows its node.
struct Placed {
    node: NodeId,
    line: Line,
}

impl Timed for Placed {
    fn time(&self) -> &str {
        self.line.time()
    }

    fn bytes(&self) -> usize {
        self.line.bytes()
    }
}

type Feed = Pin<Box<dyn futures::Stream<Item = (NodeId, Event)> + Send>>;

/// One stream's work.
struct Reader {
    logs: Logs,
    feeds: JoinSet<()>,
    asked: BTreeSet<NodeId>,
    query: Query,
    begun: String,
    out: mpsc::Sender<LogLine>,
}

/// The reader of the stream has gone.
struct Gone;

impl Reader {
    async fn run(mut self) {
        let readers = self.logs.readers.clone();
        let Ok(_reader) = readers.try_acquire() else {
            let text = format!(
                "this node has {READERS} log readers already (log_readers); ask another node, or later"
            );
            let _ = self.say(None, text).await;
            return;
        };
        // Only a reader that has gone ends a follower.
        let _: Result<(), Gone> = self.read().await;
    }

    async fn read(&mut self) -> Result<(), Gone> {
        let mut state = self.logs.local.state.clone();
        let nodes = self.nodes(&state.borrow_and_update());
        let tail = u32::try_from(self.query.tail.min(MAX_TAIL)).unwrap_or(u32::MAX);
        let mut collecting = FuturesUnordered::new();
        for node in nodes {
            collecting.push(collect(self.ask(node, tail), self.query.tail));
        }
        let mut all = Tail::new(self.query.tail);
        let mut live = SelectAll::new();
        while let Some(collected) = collecting.next().await {
            all.add(collected.lines);
            if let Some((node, error)) = collected.missing {
                self.say_missing(node, &error).await?;
            }
            live.extend(collected.feed);
        }
        drop(collecting);
        for placed in all.into_lines() {
            self.emit(placed).await?;
        }
        if !self.query.follow {
            return Ok(());
        }
        self.follow(live, state).await
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
                Some((node, event)) = live.next() => match event {
                    Event::Lines(lines) => {
                        let now = Instant::now();
                        for line in lines {
                            window.push(Placed { node, line }, now);
                        }
                    }
                    Event::Live => {}
                    Event::Missing(error) => self.say_missing(node, &error).await?,
                },
                () = sleep_until(due) => {}
                Ok(()) = state.changed() => {
                    let nodes = self.nodes(&state.borrow_and_update());
                    for node in nodes {
                        if !self.asked.contains(&node) {
                            // All that a new node has of this deployment is new.
                            live.push(self.ask(node, MAX_TAIL as u32));
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

    /// The nodes that may have lines: all, since what a gone instance left is known to its node
    /// alone; for one instance that is known, its own.
    fn nodes(&self, state: &State) -> Vec<NodeId> {
        let wanted = self.query.instance.and_then(|id| state.instances.get(&id));
        match wanted {
            Some(instance) => vec![instance.node],
            None => state.nodes.keys().copied().collect(),
        }
    }

    fn ask(&mut self, node: NodeId, tail: u32) -> Feed {
        self.asked.insert(node);
        let (sender, mut events) = mpsc::channel(EVENTS);
        let request = Request {
            deployment: self.query.deployment.clone(),
            instance: self.query.instance,
            tail,
            after: None,
            follow: self.query.follow,
        };
        let local = &self.logs.local;
        if node == local.me {
            self.feeds.spawn(feed::own(local.clone(), request, sender));
        } else {
            self.feeds.spawn(feed::other(
                self.logs.mesh.clone(),
                node,
                request,
                self.begun.clone(),
                local.state.clone(),
                sender,
            ));
        }
        futures::stream::poll_fn(move |context| {
            events
                .poll_recv(context)
                .map(|event| event.map(|event| (node, event)))
        })
        .boxed()
    }

    async fn emit(&self, Placed { node, line }: Placed) -> Result<(), Gone> {
        let line = LogLine {
            time: line.time,
            instance: line.instance.to_string(),
            node: self.name(node),
            release: line.release.0,
            stream: line.source.as_str().to_owned(),
            line: line.text,
        };
        self.out.send(line).await.map_err(|_| Gone)
    }

    async fn say_missing(&self, node: NodeId, error: &LogsError) -> Result<(), Gone> {
        let name = self.name(node);
        let believed = if self.logs.view.borrow().is_alive(node) {
            ""
        } else {
            " (it is down)"
        };
        let text = match error {
            LogsError::Refused(reason) => {
                format!("node {name} did not send its lines: {reason}")
            }
            LogsError::Lost => {
                format!("node {name} was lost{believed}; its lines are missing")
            }
            _ => format!("node {name} did not answer{believed}; its lines are missing"),
        };
        self.say(Some(node), text).await
    }

    /// A line of the platform's own, about no instance.
    async fn say(&self, node: Option<NodeId>, line: String) -> Result<(), Gone> {
        let line = LogLine {
            time: logfile::time_text(self.logs.clock.now()),
            instance: String::new(),
            node: self.name(node.unwrap_or(self.logs.local.me)),
            release: 0,
            stream: Source::Nebula.as_str().to_owned(),
            line,
        };
        self.out.send(line).await.map_err(|_| Gone)
    }

    fn name(&self, node: NodeId) -> String {
        let state = self.logs.local.state.borrow();
        match state.nodes.get(&node) {
            Some(member) => member.name.to_string(),
            None => node.to_string(),
        }
    }
}

struct Collected {
    lines: Vec<Placed>,
    missing: Option<(NodeId, LogsError)>,
    /// The feed after its tail.
    feed: Option<Feed>,
}

/// Reads one feed up to the end of its tail.
async fn collect(mut feed: Feed, keep: usize) -> Collected {
    let mut tail = Tail::new(keep);
    let mut missing = None;
    let mut open = false;
    while let Some((node, event)) = feed.next().await {
        match event {
            Event::Lines(lines) => {
                tail.add(lines.into_iter().map(|line| Placed { node, line }));
                continue;
            }
            Event::Live => {}
            Event::Missing(error) => missing = Some((node, error)),
        }
        open = true;
        break;
    }
    Collected {
        lines: tail.into_lines().into(),
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
