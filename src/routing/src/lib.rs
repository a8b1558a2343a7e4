//! The reconciler that turns desired state and the observed view into this node's route table.
//!
//! It only ever replaces the table by a newer one. Without a leader, or without quorum, its inputs
//! stand still or grow old, and the proxy goes on with the last table: the data plane outlives the
//! control plane.
#![cfg_attr(test, allow(clippy::unwrap_used))]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nebula_actors::{BoxError, Reconciler};
use nebula_domain::observed::View;
use nebula_domain::routes::RouteTable;
use nebula_domain::{InstanceId, NodeId, State};
use tokio::sync::watch;
use tokio::time::Instant;

/// Two tables are at least this far apart: a burst of changes (gossip of many instances at once)
/// makes one table, and a single change is still routed by at once.
pub const COALESCE: Duration = Duration::from_millis(20);

/// A table of thousands of names takes milliseconds to build, in which the threads that answer requests go first. Not the
/// lowest priority, so that a new table comes also where they want all cores.
const PRIORITY: i32 = 10;

/// Builds and publishes the [`RouteTable`] of one node.
pub struct Routing {
    me: NodeId,
    state: watch::Receiver<Arc<State>>,
    view: watch::Receiver<Arc<View>>,
    table: watch::Sender<Arc<RouteTable>>,
    /// When the last pass was made; none before the first.
    last_pass: Option<Instant>,
    /// What the published table was built from; none when another incarnation built it.
    built_from: Option<Inputs>,
    in_place: bool,
}

/// All that a table depends on. Gossip brings a new view every few moments (load, memory); most of
/// them leave this as it was, and then there is nothing to build.
#[derive(PartialEq)]
struct Inputs {
    /// Part of the comparison although no route may have changed: what this node has routed by is
    /// what lets a supervisor elsewhere stop an instance, so it must advance with every plan. Other
    /// changes (settings, tokens) name no instance and would only make every node gossip.
    plan_revision: u64,
    serving: BTreeSet<NodeId>,
    ready: BTreeSet<(NodeId, InstanceId)>,
}

impl Inputs {
    fn new(state: &State, view: &View) -> Inputs {
        let serving = view.nodes.iter().filter(|(_, node)| node.serves());
        Inputs {
            plan_revision: state.plan_revision,
            serving: serving.clone().map(|(id, _)| *id).collect(),
            ready: serving
                .flat_map(|(id, node)| {
                    let ready = node.instances.iter().filter(|(_, facts)| facts.is_ready());
                    ready.map(|(instance, _)| (*id, *instance))
                })
                .collect(),
        }
    }
}

impl Routing {
    pub fn new(
        me: NodeId,
        state: watch::Receiver<Arc<State>>,
        view: watch::Receiver<Arc<View>>,
        table: watch::Sender<Arc<RouteTable>>,
    ) -> Routing {
        Routing {
            me,
            state,
            view,
            table,
            last_pass: None,
            built_from: None,
            in_place: false,
        }
    }

    /// Builds tables where it runs, on no thread of their own: for simulations, whose runs are to repeat.
    pub fn in_place(self) -> Routing {
        Routing {
            in_place: true,
            ..self
        }
    }
}

#[async_trait]
impl Reconciler for Routing {
    async fn wake(&mut self) {
        // The first pass needs no reason: the table may be older than what is known by now.
        let Some(last_pass) = self.last_pass else {
            return;
        };
        tokio::select! {
            () = changed(&mut self.state) => {}
            () = changed(&mut self.view) => {}
        }
        tokio::time::sleep_until(last_pass + COALESCE).await;
    }

    async fn pass(&mut self) -> Result<(), BoxError> {
        self.last_pass = Some(Instant::now());
        let state = self.state.borrow_and_update().clone();
        let view = self.view.borrow_and_update().clone();
        let inputs = Inputs::new(&state, &view);
        if self.built_from.as_ref() == Some(&inputs) {
            return Ok(());
        }
        // Built from the one in force, so that unchanged routes go on with their turns.
        let before = Arc::clone(&self.table.borrow());
        let revision = state.revision;
        let next = match self.in_place {
            true => Arc::new(before.rebuild(&state, &view)),
            false => rebuilt(before, state, view).await?,
        };
        self.table.send_replace(next);
        tracing::debug!(node = %self.me, revision, "routing by a new table");
        self.built_from = Some(inputs);
        Ok(())
    }
}

/// The table behind `before`, built beside what goes on: requests are answered by `before` meanwhile, and wait for nothing.
pub async fn rebuilt(
    before: Arc<RouteTable>,
    state: Arc<State>,
    view: Arc<View>,
) -> Result<Arc<RouteTable>, BoxError> {
    let next = move || {
        // Without it, it only takes its share.
        let _ = rustix::process::setpriority_process(None, PRIORITY);
        Arc::new(before.rebuild(&state, &view))
    };
    // A thread of its own, as nothing may raise a priority again.
    let build = move || {
        let thread = std::thread::Builder::new().name("routing".to_owned());
        let built = thread.spawn(next)?.join();
        built.map_err(|_| "a table could not be built".into())
    };
    tokio::task::spawn_blocking(build).await?
}

/// A source that is gone never changes again; the table built from it stays in force.
async fn changed<T>(watch: &mut watch::Receiver<T>) {
    if watch.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
