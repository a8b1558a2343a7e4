//! What can be seen of a release on its way.

use crate::ids::NodeId;
use crate::observed::{Health, InstanceFacts, Phase, View};
use crate::runs::{Cause, Run, Verdict};
use crate::state::{Deployment, Desired, Instance, State};

/// Ends of one instance by itself that are no accident any more: it may have raced its database once.
pub const CRASHES: u32 = 3;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Instances that the wanted release is to have at this stage.
    pub wanted: u32,
    /// Its instances that take requests.
    pub ready: u32,
    /// Times its instances ended by themselves.
    pub restarts: u32,
    /// Instances of other releases (or of an earlier epoch) on live nodes that are meant to run.
    pub others: u32,
    /// What speaks against it whatever the stage, one sentence.
    pub trouble: Option<String>,
    /// The latest thing that one of its instances complains of, for when time runs out.
    pub complaint: Option<String>,
    /// An instance that ended by itself, with how it did.
    pub ended: Option<String>,
    /// The run that the stage waits for has succeeded.
    pub run_succeeded: bool,
    /// The judge has found something and looks once more: a stage that lasts for a time does not end meanwhile.
    pub is_suspected: bool,
}

/// Looks at one deployment.
pub fn look(state: &State, view: &View, deployment: &Deployment) -> Seen {
    let mut seen = Seen {
        wanted: match deployment.current().spec.is_static() {
            true => open_nodes(state, view),
            false => deployment.demand().new,
        },
        ..Seen::default()
    };
    if seen.take_in_run(state, deployment) {
        // Of the release itself nothing is there yet.
        return seen;
    }
    // One that was there before has a past of its own: the program that crashed last month speaks not against this.
    let rollout = deployment.rollout.as_ref();
    let since = rollout.map_or(0, |rollout| rollout.since_revision);
    let running = state.serving_of(&deployment.name);
    for instance in running.filter(|instance| instance.desired == Desired::Run) {
        if !view.is_alive(instance.node) || !state.nodes.contains_key(&instance.node) {
            continue;
        }
        if !deployment.is_current(instance) {
            seen.others += 1;
            continue;
        }
        let Some(facts) = view.instance(instance.node, instance.id) else {
            continue;
        };
        seen.ready += u32::from(facts.is_ready());
        seen.restarts = seen.restarts.saturating_add(facts.restarts);
        if instance.since_revision >= since {
            seen.take_in(&name_of(state, instance.node), instance, facts);
        }
    }
    seen
}

impl Seen {
    /// Whether the stage waits for a run, and what has become of that.
    fn take_in_run(&mut self, state: &State, deployment: &Deployment) -> bool {
        let stage = deployment.rollout.as_ref().map(|rollout| rollout.stage);
        let Some(stage) = stage.filter(|stage| stage.is_run()) else {
            return false;
        };
        let work = state.work.get(&deployment.name);
        let run = work.and_then(|work| work.run(stage.run()?));
        match run.map(Run::verdict) {
            Some(None) => {}
            Some(Some(Verdict::Succeeded)) => self.run_succeeded = true,
            Some(Some(_)) => self.trouble = run.map(|run| against(state, run)),
            None => self.trouble = Some("its run is not known any more".to_owned()),
        }
        true
    }

    fn take_in(&mut self, node: &str, instance: &Instance, facts: &InstanceFacts) {
        let id = instance.id;
        let said = match facts.reason.as_str() {
            "" => "ended by itself",
            reason => reason,
        };
        if facts.restarts > 0 {
            self.ended = Some(format!("instance {id} on node {node}: {said}"));
        }
        if facts.restarts >= CRASHES {
            let times = facts.restarts;
            self.trouble = Some(format!(
                "instance {id} on node {node}: {said} ({times} times)"
            ));
        } else if facts.phase == Phase::Running && facts.health == Health::Unhealthy {
            let said = match facts.reason.as_str() {
                "" => "does not answer its probe",
                reason => reason,
            };
            self.trouble = Some(format!("instance {id} on node {node}: {said}"));
        } else if !facts.is_ready() && !facts.reason.is_empty() {
            self.complaint = Some(format!("instance {id} on node {node}: {said}"));
        }
    }
}

fn name_of(state: &State, node: NodeId) -> String {
    let known = state.nodes.get(&node);
    known.map_or_else(|| node.to_string(), |node| node.name.to_string())
}

fn open_nodes(state: &State, view: &View) -> u32 {
    let open = state.nodes.values();
    let open = open.filter(|node| !node.draining && view.is_alive(node.id));
    u32::try_from(open.count()).unwrap_or(u32::MAX)
}

/// What speaks against a release whose run did not succeed.
fn against(state: &State, run: &Run) -> String {
    let what = match run.cause {
        Cause::Hook(hook) => format!("the hook {} ({})", hook.as_str(), run.number),
        _ => run.number.to_string(),
    };
    let did = match run.verdict() {
        Some(Verdict::Cancelled { .. }) => "was cancelled",
        _ => "failed",
    };
    let why = run.verdict().and_then(Verdict::why).unwrap_or_default();
    match run.attempts.last() {
        Some(last) => {
            let (instance, node) = (last.instance, name_of(state, last.node));
            format!("{what} {did}: {why} (instance {instance} on node {node})")
        }
        None => format!("{what} {did}: {why}"),
    }
}
