//! A state as bytes: a run of encoded pieces, each behind its length. One value of the codec is
//! bounded, a state is not.

use std::io;
use std::sync::Arc;

use nebula_domain::State;
use nebula_domain::events::{Event, Told};
use nebula_domain::ids::{InstanceId, NodeId, RequestId, TokenId};
use nebula_domain::names::{DeploymentName, SecretName};
use nebula_domain::runs::Work;
use nebula_domain::secret::Secret;
use nebula_domain::state::{
    Answer, Cluster, Deployment, Instance, JoinToken, Node, Recovery, Release,
};
use nebula_domain::volume::VolumeSets;
use nebula_wire::codec;
use serde::{Deserialize, Serialize};

/// Values of one map in one piece. A deployment with its releases is the largest; this many of a few
/// KiB stay far below the codec's limit.
const PIECE_ITEMS: usize = 256;
const LENGTH_BYTES: usize = 4;

#[derive(Serialize, Deserialize)]
enum Piece {
    Scalars {
        revision: u64,
        plan_revision: u64,
        cluster: Option<Cluster>,
        next_node_id: u64,
        next_instance_id: u64,
        level_in_force: u32,
    },
    Nodes(Vec<(NodeId, Node)>),
    JoinTokens(Vec<(TokenId, JoinToken)>),
    ApiTokens(Vec<([u8; 32], String)>),
    /// Without the releases, which follow one by one: the specs of all of them may be large.
    Deployments(Vec<(DeploymentName, Deployment)>),
    Releases(DeploymentName, Vec<Arc<Release>>),
    Instances(Vec<(InstanceId, Instance)>),
    Settings(Vec<(String, String)>),
    /// Oldest first.
    Remembered(Vec<(RequestId, Answer)>),
    /// The last piece: a state without it is cut off.
    End,
    /// Behind the end, so that the pieces of older snapshots keep their numbers.
    Recoveries(Vec<Recovery>),
    CachePurges(Vec<(DeploymentName, u64)>),
    Volumes(Vec<(DeploymentName, VolumeSets)>),
    /// One by one: the values of many may be large.
    Secrets(Vec<(SecretName, Secret)>),
    /// One deployment's runs with their attempts have some 30 KiB at most.
    Work(DeploymentName, Work),
    /// Oldest first.
    Events(Vec<Event>),
    Told {
        last: u64,
        told: Vec<(InstanceId, Told)>,
        dead: Vec<NodeId>,
    },
    Moving(Vec<InstanceId>),
}

pub fn encode(state: &State) -> io::Result<Vec<u8>> {
    // Named one by one, so that a field added to the state cannot be forgotten here.
    let State {
        revision,
        plan_revision,
        cluster,
        nodes,
        next_node_id,
        next_instance_id,
        join_tokens,
        api_tokens,
        deployments,
        instances,
        settings,
        remembered,
        recoveries,
        // It follows from the deployments.
        names: _,
        cache_purges,
        volumes,
        secrets,
        work,
        events,
        moving,
        level_in_force,
    } = state;
    let mut out = Vec::new();
    push(
        &mut out,
        &Piece::Scalars {
            revision: *revision,
            plan_revision: *plan_revision,
            cluster: cluster.clone(),
            next_node_id: *next_node_id,
            next_instance_id: *next_instance_id,
            level_in_force: *level_in_force,
        },
    )?;
    push_map(&mut out, nodes, Piece::Nodes)?;
    push_map(&mut out, join_tokens, Piece::JoinTokens)?;
    push_map(&mut out, api_tokens, Piece::ApiTokens)?;
    let without_releases = |(name, deployment): (&DeploymentName, &Deployment)| {
        let bare = Deployment {
            releases: Default::default(),
            ..deployment.clone()
        };
        (name.clone(), bare)
    };
    push_all(
        &mut out,
        deployments.iter().map(without_releases),
        Piece::Deployments,
    )?;
    for (name, deployment) in deployments {
        for release in &deployment.releases {
            push(
                &mut out,
                &Piece::Releases(name.clone(), vec![release.clone()]),
            )?;
        }
    }
    push_map(&mut out, instances, Piece::Instances)?;
    push_map(&mut out, settings, Piece::Settings)?;
    push_all(&mut out, remembered.iter(), Piece::Remembered)?;
    push_all(&mut out, recoveries.iter().cloned(), Piece::Recoveries)?;
    push_map(&mut out, cache_purges, Piece::CachePurges)?;
    push_map(&mut out, volumes, Piece::Volumes)?;
    for (name, secret) in secrets {
        push(
            &mut out,
            &Piece::Secrets(vec![(name.clone(), secret.clone())]),
        )?;
    }
    for (name, work) in work {
        push(&mut out, &Piece::Work(name.clone(), work.clone()))?;
    }
    push_all(&mut out, events.after(0).cloned(), Piece::Events)?;
    let told = events.told().iter().map(|(id, told)| (*id, told.clone()));
    push_all(&mut out, told, |told| Piece::Told {
        last: events.last(),
        told,
        dead: Vec::new(),
    })?;
    push(
        &mut out,
        &Piece::Told {
            last: events.last(),
            told: Vec::new(),
            dead: events.dead().collect(),
        },
    )?;
    push_all(&mut out, moving.iter().copied(), Piece::Moving)?;
    push(&mut out, &Piece::End)?;
    Ok(out)
}

fn push(out: &mut Vec<u8>, piece: &Piece) -> io::Result<()> {
    let bytes = codec::encode(piece).map_err(io::Error::other)?;
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&bytes);
    Ok(())
}

fn push_map<K: Ord + Clone, V: Clone>(
    out: &mut Vec<u8>,
    map: &imbl::OrdMap<K, V>,
    piece: impl Fn(Vec<(K, V)>) -> Piece,
) -> io::Result<()> {
    push_all(out, map.iter().map(|(k, v)| (k.clone(), v.clone())), piece)
}

fn push_all<T>(
    out: &mut Vec<u8>,
    mut items: impl Iterator<Item = T>,
    piece: impl Fn(Vec<T>) -> Piece,
) -> io::Result<()> {
    loop {
        let some: Vec<T> = items.by_ref().take(PIECE_ITEMS).collect();
        if some.is_empty() {
            return Ok(());
        }
        push(out, &piece(some))?;
    }
}

pub fn decode(mut bytes: &[u8]) -> io::Result<State> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut last_event = 0;
    let mut state = State::default();
    loop {
        let (length, rest) = bytes
            .split_first_chunk::<LENGTH_BYTES>()
            .ok_or_else(|| bad("the snapshot is cut off"))?;
        let (piece, rest) = rest
            .split_at_checked(u32::from_be_bytes(*length) as usize)
            .ok_or_else(|| bad("the snapshot is cut off"))?;
        bytes = rest;
        match codec::decode(piece).map_err(io::Error::other)? {
            Piece::Scalars {
                revision,
                plan_revision,
                cluster,
                next_node_id,
                next_instance_id,
                level_in_force,
            } => {
                state.revision = revision;
                state.plan_revision = plan_revision;
                state.cluster = cluster;
                state.next_node_id = next_node_id;
                state.next_instance_id = next_instance_id;
                state.level_in_force = level_in_force;
            }
            Piece::Nodes(some) => state.nodes.extend(some),
            Piece::JoinTokens(some) => state.join_tokens.extend(some),
            Piece::ApiTokens(some) => state.api_tokens.extend(some),
            Piece::Deployments(some) => state.deployments.extend(some),
            Piece::Releases(name, some) => state
                .deployments
                .get_mut(&name)
                .ok_or_else(|| bad("the snapshot has a release without a deployment"))?
                .releases
                .extend(some),
            Piece::Instances(some) => state.instances.extend(some),
            Piece::Settings(some) => state.settings.extend(some),
            Piece::Remembered(some) => state.remembered.extend(some),
            Piece::Recoveries(some) => state.recoveries.extend(some),
            Piece::CachePurges(some) => state.cache_purges.extend(some),
            Piece::Volumes(some) => state.volumes.extend(some),
            Piece::Secrets(some) => state.secrets.extend(some),
            Piece::Work(name, work) => {
                state.work.insert(name, work);
            }
            Piece::Events(some) => {
                for event in some {
                    if event.seq <= last_event {
                        return Err(bad("the snapshot's events are out of order"));
                    }
                    last_event = event.seq;
                    state.events.extend([event]);
                }
            }
            Piece::Told { last, told, dead } => state.events.restore(last, told, dead),
            Piece::Moving(some) => state.moving.extend(some),
            Piece::End if bytes.is_empty() => {
                if state.deployments.values().any(|d| d.releases.is_empty()) {
                    return Err(bad("the snapshot has a deployment without a release"));
                }
                state.index_names();
                return Ok(state);
            }
            Piece::End => return Err(bad("the snapshot goes on after its end")),
        }
    }
}
