//! Desired state: everything the registry replicates. Cloning is cheap (persistent maps), so every
//! applied change is published as one immutable snapshot.

use std::net::SocketAddr;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet, Vector};
use serde::{Deserialize, Serialize};

use crate::command::{Outcome, Rejection};
use crate::events::Events;
use crate::http::Name;
use crate::ids::{
    ClusterId, Digest, InstanceId, NodeId, ReleaseNumber, RequestId, RunNumber, TokenId,
};
use crate::names::{DeploymentName, NodeName, SecretName};
use crate::placement::Labels;
use crate::rollout::Rollout;
use crate::runs::{Run, Work};
use crate::secret::{Secret, SecretVersions};
use crate::spec::Spec;
use crate::time::Millis;
use crate::volume::VolumeSets;

#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    /// Counts applied requests; what a client waits for, and what nodes say they have routed by.
    pub revision: u64,
    /// Counts changes to nodes, deployments and instances, to purges, volumes, secrets and runs, because tables are made anew
    /// and runs looked at when it moves; a plan made against another value is refused.
    pub plan_revision: u64,
    pub cluster: Option<Cluster>,
    pub nodes: OrdMap<NodeId, Node>,
    /// Ids below this one that are not in `nodes` belonged to nodes that were removed for good.
    pub next_node_id: u64,
    pub next_instance_id: u64,
    pub join_tokens: OrdMap<TokenId, JoinToken>,
    /// SHA-256 of each bearer token of the API, with its name.
    pub api_tokens: OrdMap<[u8; 32], String>,
    pub deployments: OrdMap<DeploymentName, Deployment>,
    pub instances: OrdMap<InstanceId, Instance>,
    pub settings: OrdMap<String, String>,
    pub remembered: Remembered,
    /// The latest times that the cluster was brought back without a majority of its voters, newest last.
    pub recoveries: Vector<Recovery>,
    /// Whose each name is that a current policy claims, so that nobody has to look through all deployments.
    /// It follows from them: see [`State::index_names`].
    pub names: OrdMap<Name, DeploymentName>,
    /// At which revision the response cache of a deployment was last purged: what a proxy has kept of its answers before is of no
    /// use any more.
    pub cache_purges: OrdMap<DeploymentName, u64>,
    /// Where the folders are that deployments keep, those of removed deployments included.
    pub volumes: OrdMap<DeploymentName, VolumeSets>,
    pub secrets: OrdMap<SecretName, Secret>,
    /// The runs of each deployment that has had any, or has a schedule.
    pub work: OrdMap<DeploymentName, Work>,
    /// What happened, for people; nothing is decided by it.
    pub events: Events,
    /// Running instances that give way as soon as another in their place is ready, because nodes were filled unevenly.
    pub moving: OrdSet<InstanceId>,
    /// The highest level that all members have understood at some time; 0 before there is a cluster. See [`State::level`].
    pub level_in_force: u32,
}

/// The name of the API token that `nodectl init` makes.
pub(crate) const INIT_TOKEN: &str = "init";

/// See [`State::edge_secret`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct EdgeSecret(pub [u8; 32]);

impl std::fmt::Debug for EdgeSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EdgeSecret(..)")
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    pub id: ClusterId,
    /// The CA's certificate (public).
    pub ca_pem: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    pub id: NodeId,
    pub name: NodeName,
    pub role: Role,
    pub addresses: Addresses,
    /// No new instances, and the present ones move away.
    pub draining: bool,
    /// About to be removed: votes no more. While it is a member it is heard, so that a leader can hand over.
    pub leaving: bool,
    /// Joined at this time and not heard of since: its machine may never have got the answer.
    pub awaited_since: Option<Millis>,
    /// What the operator says of it, for rules of placement.
    pub labels: Labels,
    /// What its program understands, as it said last ([`crate::level`]).
    pub level: u32,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Voter => "voter",
            Role::Worker => "worker",
        }
    }
}

/// Where a node is reached by others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    pub quic: SocketAddr,
    pub api: SocketAddr,
    pub edge: SocketAddr,
}

impl Addresses {
    pub fn ports(&self) -> [u16; 3] {
        [self.quic, self.api, self.edge].map(|address| address.port())
    }
}

/// What a node may become; the join token decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// May vote and may sign certificates.
    Voter,
    /// Runs instances and serves traffic; follows the registry as a learner.
    Worker,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    pub id: TokenId,
    /// SHA-256 of the secret, which has 256 random bits: a slow hash would add nothing.
    pub secret_sha256: [u8; 32],
    pub role: Role,
    pub created_at: Millis,
    pub expires_at: Millis,
    pub reusable: bool,
    pub used: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Deployment {
    pub name: DeploymentName,
    /// Grows with every change of what is wanted; a client waits for `>=` what it was told.
    pub generation: u64,
    /// Grows when running instances have to be replaced though their release stays (`deploy restart`).
    pub epoch: u64,
    /// Wanted copies. A static site has one on every node instead and ignores this.
    pub scale: u32,
    /// By number, newest last; never empty.
    #[serde(with = "crate::listed")]
    pub releases: Vector<Arc<Release>>,
    /// The release that is wanted: mostly the newest, an older one after a rollback. It is always kept.
    pub target: ReleaseNumber,
    /// The way from one release to the other, while it is under way.
    pub rollout: Option<Rollout>,
    /// The versions of its secrets that new instances get: the latest at its last release or restart.
    pub secrets: SecretVersions,
    /// Set by `deploy remove`: the record goes once its last instance is gone.
    pub removing: bool,
    /// The wanted release was stopped by its first hook, and there is none to go back to: no instance begins.
    pub halted: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    pub number: ReleaseNumber,
    pub spec: Spec,
    pub artifact: Digest,
    pub artifact_bytes: u64,
    pub created_at: Millis,
    /// Who made it, and why, in their words.
    pub origin: Origin,
    /// What became of it; the only part of a release that changes.
    pub fate: Fate,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The name of the API token, or of the machine's user; empty when unknown.
    pub author: String,
    /// At most [`crate::limits::MESSAGE_BYTES`]; may be empty.
    pub message: String,
}

/// What became of a release.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fate {
    /// On its way, or never got far enough to tell.
    #[default]
    Open,
    /// It was out and stood its time.
    Good { at: Millis },
    /// What spoke against it, one sentence.
    Failed { at: Millis, why: String },
    /// Somebody took it back before it was out.
    Aborted { at: Millis },
    /// A newer one came before it was out.
    Superseded { at: Millis },
}

impl Release {
    /// One of which nothing is known yet.
    pub fn new(
        number: ReleaseNumber,
        spec: Spec,
        (artifact, artifact_bytes): (Digest, u64),
        created_at: Millis,
    ) -> Release {
        Release {
            number,
            spec,
            artifact,
            artifact_bytes,
            created_at,
            origin: Origin::default(),
            fate: Fate::Open,
        }
    }

    /// Whether instances of the one are as good as instances of the other: they differ at most in how the proxy
    /// treats requests and in how a release takes over.
    pub fn runs_as(&self, other: &Release) -> bool {
        self.artifact == other.artifact && self.spec.workload == other.spec.workload
    }

    pub fn has_failed(&self) -> bool {
        matches!(self.fate, Fate::Failed { .. } | Fate::Aborted { .. })
    }
}

impl Deployment {
    /// One that was just made, with its first release.
    pub fn new(name: DeploymentName, scale: u32, release: Release) -> Deployment {
        Deployment {
            name,
            generation: 1,
            epoch: 1,
            scale,
            target: release.number,
            releases: Vector::unit(Arc::new(release)),
            rollout: None,
            secrets: SecretVersions::new(),
            removing: false,
            halted: false,
        }
    }

    /// The release that is wanted.
    pub fn current(&self) -> &Arc<Release> {
        self.release(self.target)
            .or_else(|| self.releases.last())
            .expect("a deployment is created with a release and keeps the one that is wanted")
    }

    /// The newest release, wanted or not.
    pub fn newest(&self) -> &Arc<Release> {
        let newest = self.releases.last();
        newest.expect("a deployment is created with a release and keeps some")
    }

    pub fn release(&self, number: ReleaseNumber) -> Option<&Arc<Release>> {
        self.releases
            .iter()
            .find(|release| release.number == number)
    }

    /// The release to go back to, while another is on its way.
    pub fn fallback(&self) -> Option<&Arc<Release>> {
        self.release(self.rollout.as_ref()?.from?)
    }

    /// Whether an instance is of the wanted release and epoch.
    pub fn is_current(&self, instance: &Instance) -> bool {
        instance.epoch == self.epoch && self.runs(instance, self.target)
    }

    /// Whether an instance is as good as one of this release.
    pub fn runs(&self, instance: &Instance, number: ReleaseNumber) -> bool {
        instance.release == number
            || self.release(number).is_some_and(|wanted| {
                self.release(instance.release)
                    .is_some_and(|has| has.runs_as(wanted))
            })
    }

    pub(crate) fn set_fate(&mut self, number: ReleaseNumber, fate: Fate) {
        for release in self.releases.iter_mut() {
            if release.number == number {
                *release = Arc::new(Release {
                    fate: fate.clone(),
                    ..(**release).clone()
                });
            }
        }
    }

    /// The names that its policies claim besides [`Deployment::host`]: those of the wanted release, and while it is on
    /// its way those of the one it may have to give way to. Names are taken and given back with the change
    /// itself, whatever release is running.
    pub fn claimed_names(&self) -> Vec<Name> {
        if self.removing {
            return Vec::new();
        }
        let mut names = self.current().spec.http.names.clone();
        if let Some(fallback) = self.fallback() {
            for name in &fallback.spec.http.names {
                if !names.contains(name) {
                    names.push(name.clone());
                }
            }
        }
        names
    }

    /// `<name>.<tld>` of the wanted release.
    pub fn host(&self) -> String {
        format!("{}.{}", self.name, self.current().spec.tld)
    }
}

/// One assignment: this release of this deployment on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    pub id: InstanceId,
    pub deployment: DeploymentName,
    pub release: ReleaseNumber,
    pub epoch: u64,
    pub node: NodeId,
    pub desired: Desired,
    /// `State::revision` at which `desired` was last set. A supervisor stops the instance only once
    /// every live node has routed by a revision at least this high.
    pub since_revision: u64,
    /// What it was given, and is given again whenever it starts.
    pub secrets: SecretVersions,
    /// The run that it is an attempt of: it runs once, to its end, and serves nobody.
    pub run: Option<RunNumber>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Desired {
    Run,
    Stop,
}

/// The cluster was brought back on one survivor, by an operator's word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    pub at: Millis,
    pub by: NodeId,
    /// How far the survivor's log reached; what was decided beyond is lost.
    pub term: u64,
    pub index: u64,
    /// The lost voters, which are members no more.
    pub removed: Vec<RemovedNode>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedNode {
    pub id: NodeId,
    pub name: NodeName,
}

/// What became of a request.
pub type Answer = Result<Outcome, Rejection>;

/// Outcomes of the latest requests, oldest dropped first. By count and not by age, so that every node
/// drops the same ones. Refusals are rare and boxed: the map holds tens of thousands of outcomes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Remembered {
    outcomes: OrdMap<RequestId, Result<Outcome, Box<Rejection>>>,
    order: Vector<RequestId>,
}

impl Remembered {
    pub fn get(&self, id: RequestId) -> Option<Answer> {
        let answer = self.outcomes.get(&id)?;
        Some(answer.clone().map_err(|rejection| *rejection))
    }

    pub(crate) fn insert(&mut self, id: RequestId, answer: Answer) {
        if self.outcomes.insert(id, answer.map_err(Box::new)).is_none() {
            self.order.push_back(id);
        }
        while self.order.len() > crate::limits::REQUESTS_REMEMBERED {
            if let Some(oldest) = self.order.pop_front() {
                self.outcomes.remove(&oldest);
            }
        }
    }

    /// All of them, oldest first: the order in which [`Extend`] takes them back.
    pub fn iter(&self) -> impl Iterator<Item = (RequestId, Answer)> + '_ {
        self.order
            .iter()
            .filter_map(|id| Some((*id, self.get(*id)?)))
    }

    pub fn len(&self) -> usize {
        self.order.len()
    }

    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

impl Extend<(RequestId, Answer)> for Remembered {
    fn extend<I: IntoIterator<Item = (RequestId, Answer)>>(&mut self, answers: I) {
        for (id, answer) in answers {
            self.insert(id, answer);
        }
    }
}

impl State {
    /// What all nodes' proxies sign with, and nobody outside knows: derived from what the registry keeps of the first
    /// API token, which is random and told to nobody. None before the cluster has begun, or once that token is gone.
    pub fn edge_secret(&self) -> Option<EdgeSecret> {
        const PURPOSE: &str = "nebula 2026 edge secret";
        let first = self.api_tokens.iter().find(|(_, name)| *name == INIT_TOKEN);
        first.map(|(hash, _)| EdgeSecret(blake3::derive_key(PURPOSE, hash)))
    }

    /// Ids at or above the next one may belong to nodes that joined after this state was current.
    pub fn was_removed(&self, node: NodeId) -> bool {
        node.0 < self.next_node_id && !self.nodes.contains_key(&node)
    }

    /// The instance gives way to no other any more.
    pub(crate) fn stays(&mut self, id: InstanceId) {
        // What is not there must not look like a change.
        if self.moving.contains(&id) {
            self.moving.remove(&id);
        }
    }

    pub fn instances_of<'a>(
        &'a self,
        name: &'a DeploymentName,
    ) -> impl Iterator<Item = &'a Instance> + 'a {
        self.instances
            .values()
            .filter(move |instance| instance.deployment == *name)
    }

    /// Those that are not attempts of a run.
    pub fn serving_of<'a>(
        &'a self,
        name: &'a DeploymentName,
    ) -> impl Iterator<Item = &'a Instance> + 'a {
        self.instances_of(name)
            .filter(|instance| instance.run.is_none())
    }

    /// The run that an instance is an attempt of.
    pub fn run_of(&self, instance: &Instance) -> Option<&Run> {
        self.work.get(&instance.deployment)?.run(instance.run?)
    }

    pub fn instances_on(&self, node: NodeId) -> impl Iterator<Item = &Instance> + '_ {
        self.instances
            .values()
            .filter(move |instance| instance.node == node)
    }

    /// Makes `names` anew from the deployments, for a state that was put together from its parts.
    pub fn index_names(&mut self) {
        let claims = |deployment: &Deployment| {
            let names = deployment.claimed_names();
            names
                .into_iter()
                .map(|name| (name, deployment.name.clone()))
                .collect::<Vec<_>>()
        };
        self.names = self.deployments.values().flat_map(claims).collect();
    }

    /// The release an instance runs, while it is kept.
    pub fn release_of(&self, instance: &Instance) -> Option<&Arc<Release>> {
        self.deployments
            .get(&instance.deployment)?
            .release(instance.release)
    }

    /// Artifacts that a kept release or an assigned instance still needs.
    pub fn needed_artifacts(&self) -> std::collections::BTreeSet<Digest> {
        self.deployments
            .values()
            .flat_map(|d| d.releases.iter())
            .map(|r| r.artifact)
            .collect()
    }
}
