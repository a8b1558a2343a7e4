//! What a request that was applied has changed, told as events: by comparing the state before with the one after, so that
//! whatever changes a deployment, an instance or a member is told, by which command it may.

use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use super::{Draft, Events, Kind, Place, Stamp};
use crate::command::Command;
use crate::ids::{InstanceId, NodeId, ReleaseNumber};
use crate::names::DeploymentName;
use crate::observed::Phase;
use crate::recovery::EVENTS_SKIPPED;
use crate::rollout::Stage;
use crate::settings::USER_PREFIX;
use crate::state::{Deployment, Desired, Fate, Instance, Node, Recovery, Release, State};

/// What the state was; cheap, since the maps are shared.
pub(crate) struct Before {
    pub nodes: OrdMap<NodeId, Node>,
    pub deployments: OrdMap<DeploymentName, Deployment>,
    pub instances: OrdMap<InstanceId, Instance>,
}

impl Before {
    pub(crate) fn of(state: &State) -> Before {
        Before {
            nodes: state.nodes.clone(),
            deployments: state.deployments.clone(),
            instances: state.instances.clone(),
        }
    }
}

/// Tells what became of the state by this request.
pub(crate) fn note(state: &mut State, before: &Before, command: &Command, stamp: &Stamp) {
    let mut drafts = Vec::new();
    of_command(command, &mut drafts);
    tell(state, before, drafts, stamp);
}

/// Tells that the cluster was brought back, under numbers that the lost side has not given out.
pub(crate) fn recovered(state: &mut State, before: &Before, recovery: &Recovery) {
    state.events.last += EVENTS_SKIPPED;
    let names: Vec<&str> = recovery
        .removed
        .iter()
        .map(|node| node.name.as_str())
        .collect();
    let draft = Draft {
        node: state.nodes.get(&recovery.by).map(place),
        ..Draft::new(Kind::ClusterRecovered)
    };
    let why = format!(
        "without {}; what was decided later is lost",
        names.join(", ")
    );
    let stamp = Stamp {
        at: recovery.at,
        node: Some(recovery.by),
        who: String::new(),
    };
    tell(state, before, vec![draft.why(why)], &stamp);
}

fn tell(state: &mut State, before: &Before, mut drafts: Vec<Draft>, stamp: &Stamp) {
    let mut events = std::mem::take(&mut state.events);
    let changes = Changes { before, now: state };
    changes.of_nodes(&mut drafts);
    changes.of_deployments(&mut drafts);
    changes.of_instances(&events, &mut drafts);
    changes.of_removals(&mut drafts);
    for draft in drafts {
        events.push(stamp, draft);
    }
    for change in before.instances.diff(&state.instances) {
        if let DiffItem::Remove(id, _) = change {
            events.told.remove(id);
        }
    }
    for change in before.nodes.diff(&state.nodes) {
        if let DiffItem::Remove(id, _) = change {
            events.dead.remove(id);
        }
    }
    state.events = events;
}

struct Changes<'a> {
    before: &'a Before,
    now: &'a State,
}

impl Changes<'_> {
    fn place(&self, id: NodeId) -> Option<Place> {
        let node = self
            .now
            .nodes
            .get(&id)
            .or_else(|| self.before.nodes.get(&id))?;
        Some(place(node))
    }

    fn of_nodes(&self, out: &mut Vec<Draft>) {
        for change in self.before.nodes.diff(&self.now.nodes) {
            match change {
                DiffItem::Add(_, node) => {
                    out.push(of_node(Kind::NodeJoined, node).why(node.role.as_str()));
                    if node.awaited_since.is_none() {
                        out.push(of_node(Kind::NodeArrived, node));
                    }
                }
                DiffItem::Remove(_, node) => {
                    let why = match node.awaited_since {
                        Some(_) => "it never arrived",
                        None => "",
                    };
                    out.push(of_node(Kind::NodeLeft, node).why(why));
                }
                DiffItem::Update {
                    old: (_, old),
                    new: (_, new),
                } => {
                    let mut when = |happened: bool, kind| {
                        if happened {
                            out.push(of_node(kind, new));
                        }
                    };
                    when(
                        old.awaited_since.is_some() && new.awaited_since.is_none(),
                        Kind::NodeArrived,
                    );
                    when(!old.draining && new.draining, Kind::NodeDraining);
                    when(old.draining && !new.draining, Kind::NodeOpened);
                    when(!old.leaving && new.leaving, Kind::NodeLeaving);
                    when(old.leaving && !new.leaving, Kind::NodeStays);
                    if old.role != new.role {
                        let why = format!("{} is {} now", old.role.as_str(), new.role.as_str());
                        out.push(of_node(Kind::NodeRole, new).why(why));
                    }
                }
            }
        }
    }

    fn of_deployments(&self, out: &mut Vec<Draft>) {
        for change in self.before.deployments.diff(&self.now.deployments) {
            match change {
                DiffItem::Add(_, new) => {
                    out.push(of_release(Kind::DeploymentCreated, new, new.current()));
                    if new.rollout.is_some() {
                        out.push(started(new, None));
                    }
                }
                DiffItem::Update {
                    old: (_, old),
                    new: (_, new),
                } => of_deployment(old, new, out),
                // After the last of its instances, see below.
                DiffItem::Remove(..) => {}
            }
        }
    }

    fn of_removals(&self, out: &mut Vec<Draft>) {
        for change in self.before.deployments.diff(&self.now.deployments) {
            if let DiffItem::Remove(name, old) = change {
                // One without instances goes at once.
                if !old.removing {
                    out.push(of(Kind::DeploymentRemoving, old));
                }
                out.push(Draft {
                    deployment: Some(name.clone()),
                    ..Draft::new(Kind::DeploymentRemoved)
                });
            }
        }
    }

    fn of_instances(&self, events: &Events, out: &mut Vec<Draft>) {
        for change in self.before.instances.diff(&self.now.instances) {
            match change {
                DiffItem::Add(_, new) => {
                    out.push(self.of_instance(Kind::InstancePlaced, new));
                }
                DiffItem::Update {
                    old: (_, old),
                    new: (_, new),
                } => {
                    if old.desired == Desired::Run && new.desired == Desired::Stop {
                        let (kind, why) = self.why_stopped(events, new);
                        out.push(self.of_instance(kind, new).why(why));
                    }
                }
                DiffItem::Remove(id, old) => {
                    let ended = events
                        .told
                        .get(id)
                        .is_some_and(|told| told.phase == Phase::Stopped);
                    let left = !self.now.nodes.contains_key(&old.node);
                    if left || (!ended && events.dead.contains_key(&old.node)) {
                        let why = match left {
                            true => "its node is no member any more",
                            false => "its node is dead",
                        };
                        out.push(self.of_instance(Kind::InstanceLost, old).why(why));
                    } else if !ended {
                        out.push(self.of_instance(Kind::InstanceStopped, old));
                    }
                }
            }
        }
    }

    fn of_instance(&self, kind: Kind, instance: &Instance) -> Draft {
        Draft {
            deployment: Some(instance.deployment.clone()),
            release: Some(instance.release),
            instance: Some(instance.id),
            node: self.place(instance.node),
            ..Draft::new(kind)
        }
    }

    /// A plan does not say why; what it follows from is still there.
    fn why_stopped(&self, events: &Events, instance: &Instance) -> (Kind, String) {
        let stopping = |why: &str| (Kind::InstanceStopping, why.to_owned());
        let Some(deployment) = self.now.deployments.get(&instance.deployment) else {
            return stopping("the deployment is gone");
        };
        if deployment.removing {
            return stopping("the deployment is being removed");
        }
        let node = self.now.nodes.get(&instance.node);
        let name = node.map_or_else(|| instance.node.to_string(), |node| node.name.to_string());
        if events.dead.contains_key(&instance.node) {
            return (Kind::InstanceMoved, format!("node {name} is dead"));
        }
        if instance.run.is_some() {
            // Runs do not move: how it ended is told of the run.
            return stopping("its attempt is over");
        }
        if node.is_some_and(|node| node.draining) {
            return (Kind::InstanceMoved, format!("node {name} is drained"));
        }
        if node.is_some_and(|node| node.leaving) {
            return (Kind::InstanceMoved, format!("node {name} is leaving"));
        }
        if !deployment.runs(instance, deployment.target) {
            return stopping(&format!("release {} takes its place", deployment.target));
        }
        if instance.epoch != deployment.epoch {
            return stopping("it is replaced by a new one");
        }
        let running = self.now.instances_of(&deployment.name);
        let running = running
            .filter(|other| other.desired == Desired::Run)
            .count();
        if !deployment.current().spec.is_static() && running >= deployment.scale as usize {
            return stopping(&format!("{} are wanted", deployment.scale));
        }
        (Kind::InstanceMoved, format!("node {name} is not to be had"))
    }
}

/// What no comparison shows.
fn of_command(command: &Command, out: &mut Vec<Draft>) {
    match command {
        // The users' own may change thousands of times a second.
        Command::SetSetting { key, .. } if !key.starts_with(USER_PREFIX) => {
            // Not the value: a history is read by more people than a setting.
            out.push(Draft::new(Kind::SettingSet).why(key));
        }
        Command::UnsetSetting { key } if !key.starts_with(USER_PREFIX) => {
            out.push(Draft::new(Kind::SettingUnset).why(key));
        }
        Command::PurgeCache { name } => out.push(Draft {
            deployment: Some(name.clone()),
            ..Draft::new(Kind::CachePurged)
        }),
        _ => {}
    }
}

fn place(node: &Node) -> Place {
    Place {
        id: node.id,
        name: node.name.clone(),
    }
}

fn of_node(kind: Kind, node: &Node) -> Draft {
    Draft {
        node: Some(place(node)),
        ..Draft::new(kind)
    }
}

fn of(kind: Kind, deployment: &Deployment) -> Draft {
    Draft {
        deployment: Some(deployment.name.clone()),
        ..Draft::new(kind)
    }
}

/// With who made it and what they said of it.
fn of_release(kind: Kind, deployment: &Deployment, release: &Release) -> Draft {
    let author = &release.origin.author;
    Draft {
        release: Some(release.number),
        reason: release.origin.message.clone(),
        who: (!author.is_empty()).then(|| author.clone()),
        ..of(kind, deployment)
    }
}

/// A release is on its way, from that one if there was one.
fn started(deployment: &Deployment, from: Option<ReleaseNumber>) -> Draft {
    let number = deployment.target;
    let release = deployment.current();
    let is_new = deployment.newest().number == number;
    let message = &release.origin.message;
    let why = match from {
        Some(from) if is_new && message.is_empty() => format!("after release {from}"),
        Some(from) if is_new => format!("after release {from}: {message}"),
        Some(from) => format!("back from release {from}"),
        None => message.clone(),
    };
    let mut draft = of_release(Kind::ReleaseStarted, deployment, release).why(why);
    if !is_new {
        // Who made it long ago is not who wants it again.
        draft.who = None;
    }
    draft
}

fn of_deployment(old: &Deployment, new: &Deployment, out: &mut Vec<Draft>) {
    if !old.removing && new.removing {
        out.push(of(Kind::DeploymentRemoving, new));
        return;
    }
    if old.scale != new.scale {
        let why = format!("from {} to {}", old.scale, new.scale);
        out.push(of(Kind::DeploymentScaled, new).why(why));
    }
    let made = new.newest().number != old.newest().number;
    if old.epoch != new.epoch && !made {
        out.push(of(Kind::DeploymentRestarted, new));
    }
    // First what is over, then what begins, and what became of that at once.
    let newest = new.newest().number;
    for release in new
        .releases
        .iter()
        .filter(|release| !made || release.number != newest)
    {
        out.extend(of_fate(old, new, release));
    }
    of_rollout(old, new, made, out);
    if made {
        out.extend(of_fate(old, new, new.newest()));
    }
}

/// None unless it has changed.
fn of_fate(old: &Deployment, new: &Deployment, release: &Release) -> Option<Draft> {
    let before = old.release(release.number).map(|release| &release.fate);
    if before == Some(&release.fate) {
        return None;
    }
    let went_back = old.target == release.number && new.target != release.number;
    let back = format!("release {} is wanted again", new.target);
    let of = |kind, why: String| {
        Some(Draft {
            release: Some(release.number),
            ..of(kind, new).why(why)
        })
    };
    match &release.fate {
        Fate::Open => None,
        Fate::Good { .. } => of(Kind::ReleaseGood, String::new()),
        Fate::Failed { why, .. } if went_back => {
            of(Kind::ReleaseTakenBack, format!("{why}; {back}"))
        }
        Fate::Failed { why, .. } => of(Kind::ReleaseFailed, why.clone()),
        Fate::Aborted { .. } if went_back => of(Kind::ReleaseAborted, back),
        Fate::Aborted { .. } => of(Kind::ReleaseAborted, String::new()),
        Fate::Superseded { .. } => of(
            Kind::ReleaseSuperseded,
            format!("release {} came before it was out", new.target),
        ),
    }
}

fn of_rollout(old: &Deployment, new: &Deployment, made: bool, out: &mut Vec<Draft>) {
    let Some(rollout) = &new.rollout else {
        // A new policy takes no way: it holds at once.
        if made {
            out.push(started(new, Some(old.target)));
        }
        return;
    };
    let same = old.target == new.target && old.rollout.is_some() && !made;
    let Some(before) = old.rollout.as_ref().filter(|_| same) else {
        out.push(started(
            new,
            Some(old.target).filter(|from| *from != new.target),
        ));
        return;
    };
    let of = |kind| Draft {
        release: Some(new.target),
        ..of(kind, new)
    };
    match (before.paused, rollout.paused) {
        (None, Some(_)) => out.push(of(Kind::ReleasePaused)),
        (Some(_), None) => out.push(of(Kind::ReleaseResumed)),
        _ => {}
    }
    if before.stage != rollout.stage {
        out.push(of(Kind::ReleaseStep).why(stage(rollout.stage)));
    }
}

fn stage(stage: Stage) -> String {
    match stage {
        Stage::Before { .. } => "its first hook runs".to_owned(),
        Stage::Job { .. } => "it runs to its end".to_owned(),
        Stage::Replacing => "its instances take the place of the others".to_owned(),
        Stage::Beside => "all of its instances are started beside the others".to_owned(),
        Stage::Warm { .. } => "it has all requests, and the others are kept".to_owned(),
        Stage::Canary { step, since: None } => format!("step {} of the canary", step + 1),
        Stage::Canary { step, .. } => format!("step {} of the canary has its share", step + 1),
        Stage::Watching { .. } => "it is out, and is watched".to_owned(),
    }
}
