//! What this node's proxy knows of a deployment beyond its route: how its instances do, how much is under way, what its
//! requests have earned in retries. Shared by all edge threads; it outlives tables.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use nebula_domain::http::HttpPolicy;
use nebula_domain::observed::Busy;
use nebula_domain::routes::Route;
use nebula_domain::traffic::Nanos;
use nebula_domain::traffic::balance::{Target, Targets};
use nebula_domain::traffic::instance::{HealthPolicy, Instance};
use nebula_domain::traffic::retry::Budget;
use nebula_domain::traffic::shed::{Arrival, Capacity, Gate};
use nebula_domain::{DeploymentName, InstanceId, NodeId};
use tokio::sync::Notify;

use crate::edge::Edge;
use crate::h1::RequestHead;
use crate::metrics::{Figures, ProxyMetrics};
use crate::pages::Problem;
use crate::trials::{Counting, Counts, Trials};

/// Deployments from which on those are looked for that no table has any more.
const SWEEP_FROM: usize = 256;

/// All deployments that have been asked for.
pub(crate) struct Services {
    me: NodeId,
    metrics: ProxyMetrics,
    pub(crate) trials: Arc<Trials>,
    known: RwLock<HashMap<DeploymentName, Arc<Service>>>,
    /// So many make the next sweep.
    sweep_at: Mutex<usize>,
    /// Instances that left a route while they had requests under way.
    leaving: Mutex<Vec<(InstanceId, Arc<Instance>)>>,
}

/// One deployment by one route: it is made anew with each that differs.
pub(crate) struct Service {
    pub(crate) route: Arc<Route>,
    /// One for each of the route's endpoints, in their order.
    pub(crate) targets: Targets,
    pub(crate) figures: Arc<Figures>,
    /// While a release of it is on its way.
    pub(crate) trial: Option<Arc<Counts>>,
    lasting: Arc<Lasting>,
}

/// What goes on from one route to the next.
#[derive(Default)]
struct Lasting {
    gate: Gate,
    /// Tells those that wait of a place.
    room: Notify,
    budget: Budget,
}

/// A request that was let in counts until this is dropped.
pub(crate) struct Admitted {
    lasting: Arc<Lasting>,
    /// It had to wait for its turn.
    pub(crate) waited: bool,
    /// By the newest route, if there is a newer one since it waited: it may have waited for an instance of that one.
    pub(crate) newest: Option<Arc<Service>>,
}

/// Stands in the queue until it is dropped, or was let in.
struct Waiting<'a> {
    lasting: &'a Lasting,
    admitted: bool,
}

impl Services {
    pub(crate) fn new(me: NodeId, metrics: ProxyMetrics) -> Services {
        Services {
            me,
            metrics,
            trials: Arc::default(),
            known: RwLock::default(),
            sweep_at: Mutex::new(SWEEP_FROM),
            leaving: Mutex::default(),
        }
    }

    /// Of the deployment that this route is of. `now` is since when instances count that were not there before.
    pub(crate) fn of(&self, route: &Arc<Route>, now: Nanos) -> Arc<Service> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(service) = known.get(&route.deployment)
            && Arc::ptr_eq(&service.route, route)
        {
            return Arc::clone(service);
        }
        drop(known);
        self.renew(route, now)
    }

    fn renew(&self, route: &Arc<Route>, now: Nanos) -> Arc<Service> {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let before = known.get(&route.deployment);
        if let Some(service) = before
            && Arc::ptr_eq(&service.route, route)
        {
            return Arc::clone(service);
        }
        let service = Arc::new(self.next(Arc::clone(route), before, now));
        if let Some(before) = before {
            self.note_leaving(before, route);
        }
        known.insert(route.deployment.clone(), Arc::clone(&service));
        let mut sweep_at = self.sweep_at.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= *sweep_at {
            // Nobody else has the route of a deployment that is gone.
            known.retain(|_, service| Arc::strong_count(&service.route) > 1);
            *sweep_at = (2 * known.len()).max(SWEEP_FROM);
        }
        service
    }

    fn note_leaving(&self, before: &Service, route: &Route) {
        let stays = |target: &&Target| route.endpoints.iter().any(|e| e.instance == target.id);
        let targets = before.targets.targets().iter();
        let gone = targets.filter(|target| !stays(target) && target.instance.load.in_flight() > 0);
        let gone = gone.map(|target| (target.id, Arc::clone(&target.instance)));
        let mut leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        leaving.extend(gone);
    }

    /// What these instances still have under way for clients of this node, whether a route has them or not.
    pub(crate) fn busy(&self, of: &BTreeSet<InstanceId>) -> BTreeMap<InstanceId, Busy> {
        let mut busy = BTreeMap::new();
        let mut add = |id: InstanceId, instance: &Instance| {
            if of.contains(&id)
                && let Some(now) = instance.load.busy()
            {
                let told = busy.entry(id).or_insert(now);
                *told = now.max(*told);
            }
        };
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        for target in known.values().flat_map(|service| service.targets.targets()) {
            add(target.id, &target.instance);
        }
        drop(known);
        let mut leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        leaving.retain(|(_, instance)| instance.load.in_flight() > 0);
        leaving.iter().for_each(|(id, instance)| add(*id, instance));
        busy
    }

    fn next(&self, route: Arc<Route>, before: Option<&Arc<Service>>, now: Nanos) -> Service {
        let kept = |id| {
            let targets = before?.targets.targets();
            let target = targets.iter().find(|target| target.id == id)?;
            Some(Arc::clone(&target.instance))
        };
        // The first ones that a proxy sees have been ready for longer than it can say.
        let since = if before.is_some() { now } else { 0 };
        let target = |endpoint: &nebula_domain::routes::Endpoint| Target {
            id: endpoint.instance,
            instance: kept(endpoint.instance).unwrap_or_else(|| Arc::new(Instance::new(since))),
            weight: 1,
            local: endpoint.node == self.me,
        };
        let targets = route.endpoints.iter().map(target).collect();
        let turn = before.map_or(0, |before| before.targets.turn());
        let figures = before.map(|before| Arc::clone(&before.figures));
        let name = Some(route.deployment.as_str());
        Service {
            figures: figures.unwrap_or_else(|| self.metrics.of(name)),
            targets: Targets::new(targets, turn),
            lasting: before.map_or_else(Arc::default, |before| Arc::clone(&before.lasting)),
            trial: self.trials.of(&route),
            route,
        }
    }
}

impl Service {
    pub(crate) fn budget(&self) -> &Budget {
        &self.lasting.budget
    }

    /// Counts a request to the endpoint at this index, if that is evidence in a trial. What changes the protocol has no answer
    /// whose time says anything.
    pub(crate) fn counting(&self, endpoint: usize, head: &RequestHead) -> Option<Counting<'_>> {
        let counts = self.trial.as_ref()?;
        let side = self.route.side(endpoint)?;
        head.upgrade().is_none().then(|| counts.begin(side))
    }

    pub(crate) fn instances(&self) -> impl Iterator<Item = &Instance> {
        self.targets
            .targets()
            .iter()
            .map(|target| &*target.instance)
    }

    /// Whether an instance that is well can take one more; if none is well, any.
    fn has_room(&self, policy: &HttpPolicy, now: Nanos) -> bool {
        let per_instance = policy.capacity.per_instance;
        let health = health(policy, u32::MAX);
        let (mut well, mut room) = (false, self.route.endpoints.is_empty());
        for instance in self.instances() {
            let has_room = instance.load.in_flight() < per_instance;
            if instance.may_begin(&health, now) {
                if has_room {
                    return true;
                }
                well = true;
            }
            room |= has_room;
        }
        room && !well
    }

    /// Lets a request for this host in, at once or after its turn in the queue.
    pub(crate) async fn admit(
        &self,
        edge: &Edge,
        host: &[u8],
        now: Nanos,
    ) -> Result<Admitted, Problem> {
        let policy = &*self.route.policy;
        let capacity = &policy.capacity;
        let gate = &self.lasting.gate;
        let admitted = |waited, newest| Admitted {
            lasting: Arc::clone(&self.lasting),
            waited,
            newest,
        };
        let until = match gate.arrive(capacity, self.has_room(policy, now), now) {
            Arrival::Admitted => return Ok(admitted(false, None)),
            Arrival::Queued { until } => until,
            Arrival::Shed { .. } => return Err(self.overloaded(capacity)),
        };
        let mut waiting = Waiting {
            lasting: &self.lasting,
            admitted: false,
        };
        let now = || edge.now();
        let mut tables = edge.shared.table.clone();
        let turn = async {
            let mut newest = None;
            loop {
                let woken = self.lasting.room.notified();
                tokio::pin!(woken);
                // From here on nobody's leaving is missed.
                woken.as_mut().enable();
                let has_room = newest.as_deref().unwrap_or(self).has_room(policy, now());
                if gate.admit_waiting(capacity, has_room) {
                    return newest;
                }
                tokio::select! {
                    () = woken => {}
                    Ok(()) = tables.changed() => {
                        // A new instance has room for those that have waited since before.
                        let newer = edge.again(&self.route, host);
                        newest = newer.map(|route| edge.shared.services.of(&route, now()));
                    }
                }
            }
        };
        let wait = std::time::Duration::from_nanos(until.saturating_sub(now()));
        let Ok(newest) = tokio::time::timeout(wait, turn).await else {
            return Err(self.overloaded(capacity));
        };
        waiting.admitted = true;
        Ok(admitted(true, newest))
    }

    /// A place at an instance is free; its request may have others, or be on its way elsewhere.
    pub(crate) fn place_left(&self) {
        if self.lasting.gate.place_left() {
            self.lasting.room.notify_one();
        }
    }

    pub(crate) fn overloaded(&self, capacity: &Capacity) -> Problem {
        Problem::Overloaded {
            name: self.route.deployment.to_string(),
            retry_after: capacity.wait,
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if self.lasting.gate.leave() {
            self.lasting.room.notify_one();
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.admitted {
            return;
        }
        self.lasting.gate.give_up();
        // It may have been told of a place that it did not take.
        self.lasting.room.notify_one();
    }
}

/// What a policy says of its instances' health, with so many places at each.
pub(crate) fn health(policy: &HttpPolicy, per_instance: u32) -> HealthPolicy<'_> {
    HealthPolicy {
        ejection: policy.ejection.as_ref(),
        breaker: policy.breaker.as_ref(),
        per_instance,
    }
}
