//! The handle: what a node's logs need, and the streams it gives out.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use nebula_domain::observed::View;
use nebula_domain::{DeploymentName, NodeId, State};
use nebula_drivers::logfile;
use nebula_mesh::Mesh;
use nebula_telemetry::Clock;
use nebula_wire::api::LogLine;
use nebula_wire::peer::Protocol;
use nebula_wire::peer::log_search::Filter as Said;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use crate::LogsError;
use crate::copies::Keep;
use crate::filter::Filter;
use crate::local::Local;
use crate::origins::Origins;
use crate::places::Places;
use crate::reader::Reader;
use crate::serve::Serve;
use crate::tail::MAX_TAIL;

/// Lines to begin with when a query does not say.
pub const TAIL_DEFAULT: usize = 200;
/// Streams that this node serves at once, and, counted apart, those it answers for other nodes:
/// each holds open files and up to a tail of memory.
pub const READERS: usize = 64;
/// Lines that wait for the reader of a stream; its task stops reading while they do.
const OUT: usize = 256;

#[derive(Debug, Clone)]
pub struct Config {
    /// Where the driver keeps a folder for each instance of this node.
    pub instances_dir: PathBuf,
    /// For the output of instances that are gone, and the copies of other nodes'.
    pub logs_dir: PathBuf,
    pub me: NodeId,
}

impl Config {
    /// Where a driver moves the output of instances that it removes.
    pub fn kept_dir(&self) -> PathBuf {
        self.places().kept()
    }

    pub(crate) fn places(&self) -> Places {
        Places {
            instances: self.instances_dir.clone(),
            logs: self.logs_dir.clone(),
        }
    }
}

/// Which lines.
#[derive(Debug, Clone)]
pub struct Query {
    pub deployment: DeploymentName,
    /// Go on with new lines, for as long as the stream is held.
    pub follow: bool,
    /// The latest lines to begin with, at most [`MAX_TAIL`].
    pub tail: usize,
    /// Only of instances that run or ran on the node of this name.
    pub node: Option<String>,
    pub filter: Said,
}

impl Query {
    /// The latest lines of all instances.
    pub fn new(deployment: DeploymentName) -> Query {
        Query {
            deployment,
            follow: false,
            tail: TAIL_DEFAULT,
            node: None,
            filter: Said::default(),
        }
    }
}

/// Reads the output of instances, wherever they run or ran. Cheap to clone.
#[derive(Clone)]
pub struct Logs {
    pub(crate) local: Local,
    pub(crate) mesh: Mesh,
    pub(crate) view: watch::Receiver<Arc<View>>,
    pub(crate) readers: Arc<Semaphore>,
    pub(crate) clock: Clock,
    pub(crate) origins: watch::Sender<Arc<Origins>>,
}

impl Logs {
    /// Begins to answer other nodes, too.
    pub fn start(
        config: Config,
        mesh: Mesh,
        state: watch::Receiver<Arc<State>>,
        view: watch::Receiver<Arc<View>>,
    ) -> Logs {
        let places = Arc::new(config.places());
        let mut known = Origins::load(&places.origins());
        known.follow(&state.borrow());
        let origins = watch::Sender::new(Arc::new(known));
        let local = Local {
            me: config.me,
            places,
            origins: origins.subscribe(),
            state,
        };
        for (protocol, plain) in [(Protocol::Logs, true), (Protocol::LogSearch, false)] {
            let serve = Serve {
                local: local.clone(),
                readers: Arc::new(Semaphore::new(READERS)),
                plain,
            };
            mesh.serve(protocol, Arc::new(serve));
        }
        mesh.serve(Protocol::LogCopy, Arc::new(Keep::new(local.places.clone())));
        Logs {
            local,
            mesh,
            view,
            readers: Arc::new(Semaphore::new(READERS)),
            clock: Clock::system(),
            origins,
        }
    }

    /// The lines of all nodes in the order of time; when following, then the new ones as they come
    /// (see [`crate::WINDOW`]). A node whose lines cannot be had is a line of the stream `nebula`.
    ///
    /// # Errors
    /// The filter's pattern is none.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn stream(&self, mut query: Query) -> Result<LogStream, LogsError> {
        let filter = Arc::new(Filter::new(query.filter.clone())?);
        query.tail = query.tail.min(MAX_TAIL);
        let (out, lines) = mpsc::channel(OUT);
        let mut task = JoinSet::new();
        let begun = logfile::time_text(self.clock.now());
        let reader = Reader::new(self.clone(), query, filter, begun, out);
        task.spawn(reader.run());
        Ok(LogStream { lines, _task: task })
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
