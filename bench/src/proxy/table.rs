//! A table of 10,000 names that is replaced under load. As many deployments would take an API hours, so the proxy runs
//! in this process, as the daemon runs it, and is given tables that the daemon's routing makes: rebuilt from a state and a
//! view in which the health of half of all instances has changed.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use nebula_domain::observed::{Health, LocalInstance, LocalInstances};
use nebula_domain::routes::{self, RouteTable};
use nebula_domain::state::Instance;
use nebula_domain::{InstanceId, NodeId, State, View};
use nebula_proxy::{Config, Proxy};
use nebula_routing::rebuilt;
use nebula_testkit::Cluster;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::half::paced;
use super::load::{Target, Way};
use super::results::{Replaced, Sample};
use super::rounds::{Effort, order};
use super::stage::Stage;
use crate::pick;

/// The name that is asked for; its instance stays healthy.
const HOST: &str = "app0.example.test";
/// As often as gossip can bring something new.
const REPLACE_EVERY: Duration = Duration::from_millis(200);
const DRAIN: Duration = Duration::from_secs(1);
/// For the rate that can be done.
const FULL_SECONDS: u64 = 2;

type Tables = watch::Sender<Arc<RouteTable>>;

pub fn run(stage: &Stage, effort: Effort, folder: &Path) -> anyhow::Result<Vec<Replaced>> {
    let (state, view) = pick::services()?;
    let first = routes::build(&state, &view);
    let route = first.route(HOST).context("a route")?;
    let kept = route.endpoints.first().context("an endpoint")?.instance;
    let other = half_ill(&view, kept);
    let (state, views) = (Arc::new(state), [Arc::new(other), Arc::new(view)]);
    let (tables, table) = watch::channel(Arc::new(first));
    let (_locals, locals) = watch::channel(Arc::new(locals(&state, stage)));

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let entered = runtime.enter();
    let node = Cluster::empty().add(1);
    let config = Config::new(
        node.id,
        ([127, 0, 0, 1], 0).into(),
        1,
        folder.to_owned(),
        folder.join("access.log"),
    );
    let bound = Proxy::bind(config, table, locals, node.mesh.clone(), &node.metrics)?;
    let address = bound.local_addr();
    let proxy = bound.spawn();
    drop(entered);

    let target = Target {
        address,
        host: HOST,
        path: "/small",
    };
    let full = Way::Plain.run(&target, FULL_SECONDS, folder)?;
    #[allow(clippy::cast_precision_loss)]
    let rate = full.requests as f64 / full.seconds / 2.0;
    let load = || paced(address, HOST, rate, effort.seconds, folder);
    let mut rounds = Vec::new();
    for round in 0..effort.rounds {
        let (mut still, mut replaced) = (None, None);
        for turn in order(2, round) {
            if turn == 0 {
                still = Some(load()?);
            } else {
                let next = |count: usize| (Arc::clone(&state), Arc::clone(&views[count % 2]));
                replaced = Some(while_replacing(&tables, runtime.handle(), next, load)?);
            }
        }
        let (replaced, replacements) = replaced.context("each round has both")?;
        rounds.push(Replaced {
            still: still.context("each round has both")?,
            replaced,
            replacements,
        });
    }
    runtime.block_on(proxy.drain(DRAIN));
    runtime.block_on(node.mesh.close());
    Ok(rounds)
}

/// Half of all instances not healthy, `kept` not among them.
fn half_ill(view: &View, kept: InstanceId) -> View {
    let mut view = view.clone();
    for node in view.nodes.values_mut() {
        for (i, (id, facts)) in node.instances.iter_mut().enumerate() {
            if i % 2 == 1 && *id != kept {
                facts.health = Health::Unhealthy;
            }
        }
    }
    view
}

/// All instances are the one upstream.
fn locals(state: &State, stage: &Stage) -> LocalInstances {
    let local = |instance: &Instance| LocalInstance {
        deployment: instance.deployment.clone(),
        address: stage.upstream,
        probes: Arc::default(),
        surroundings: Arc::default(),
        started_at: nebula_domain::time::Millis(0),
        run: 1,
    };
    let ids = state.instances_on(NodeId(1));
    ids.map(|instance| (instance.id, local(instance))).collect()
}

/// The load's figures, and how often the table was replaced meanwhile.
fn while_replacing(
    tables: &Tables,
    handle: &Handle,
    inputs: impl Fn(usize) -> (Arc<State>, Arc<View>) + Sync,
    load: impl FnOnce() -> anyhow::Result<Sample>,
) -> anyhow::Result<(Sample, usize)> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let replacing = scope.spawn(|| {
            let mut count = 0;
            while !over.load(Ordering::Relaxed) {
                let before = Arc::clone(&tables.borrow());
                let (state, view) = inputs(count);
                match handle.block_on(rebuilt(before, state, view)) {
                    Ok(next) => tables.send_replace(next),
                    Err(error) => return Err(error),
                };
                count += 1;
                thread::park_timeout(REPLACE_EVERY);
            }
            Ok(count)
        });
        let sample = load();
        over.store(true, Ordering::Relaxed);
        replacing.thread().unpark();
        let count = replacing
            .join()
            .map_err(|_| anyhow::anyhow!("a table was not built"))?;
        Ok((sample?, count.map_err(|error| anyhow::anyhow!(error))?))
    })
}
