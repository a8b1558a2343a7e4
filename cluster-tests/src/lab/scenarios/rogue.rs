//! Peers that should be refused, then floods, while clients work.

use std::path::PathBuf;
use std::time::Duration;

use futures::future::try_join_all;
use nebula_domain::state::Addresses;
use nebula_domain::{Command, NodeId, Rejection};
use rand::Rng;
use tokio::time::Instant;

use super::{judge, summary};
use crate::lab::history::Clock;
use crate::lab::load::{Load, Plan};
use crate::lab::rogue::{Connected, Credentials, Forge, Rogue, Siege, floods, half_open, raft};
use crate::lab::{Lab, Processes, Run};

const REFUSED: &str = "nebula_mesh_refused_total";
const NOT_A_MEMBER: &str = "nebula_mesh_refused_total{reason=\"not_a_member\"}";
/// Of the mesh's codes for streams, as quinn tells of it.
const FOR_MEMBERS: &str = "by peer: error 2";
const REFUSED_PROPOSALS: &str = "nebula_registry_refused_proposals_total";
/// Two days are within the time in which a certificate that has ended may be renewed, two months are not.
const LATELY: Duration = Duration::from_secs(3 * 24 * 60 * 60);
const LONG_AGO: Duration = Duration::from_secs(60 * 24 * 60 * 60);
/// As many as a node lets a peer have.
const CONNECTIONS: usize = 6;

/// Data folders of machines whose keys are in the wrong hands.
pub struct Stolen {
    /// A member that does not vote.
    pub worker: PathBuf,
    pub worker_id: u64,
    /// One that was removed.
    pub removed: PathBuf,
}

/// All of it; `lasts` is of each flood.
pub async fn all(lab: &Processes, run: &mut Run, stolen: &Stolen, lasts: Duration) {
    let clock = Clock::default();
    let load = Load::start(lab, &clock, &Plan::new(run.part()));
    let mut siege = Siege::lay(lab, &load, &clock).await;
    let peers = refuse_certificates(&mut siege, stolen).await;
    peers.expect("certificates can be made");
    refuse_requests(&mut siege, stolen, run).await;
    withstand(&mut siege, stolen, run, lasts).await;
    let figures = siege.figures();
    drop(siege);
    let history = load.stop().await;
    let figures = serde_json::json!({ "attacks": figures, "load": summary(&history) });
    run.report(lab.kind(), &figures);
    judge(lab, run, &clock, history).await;
}

async fn connect(rogue: &Rogue, siege: &Siege<'_>) -> Vec<Connected> {
    let connections = siege.meshes.iter().map(|node| rogue.connect(*node));
    try_join_all(connections).await.expect("a member connects")
}

/// Certificates that let nobody in.
async fn refuse_certificates(siege: &mut Siege<'_>, stolen: &Stolen) -> anyhow::Result<()> {
    let leader = &siege.lab.cluster().members[siege.leader];
    let forge = Forge::of_voter(&leader.data_dir)?;
    let soon = Duration::from_secs(60);
    let (one, two) = (forge.node_name(1), forge.node_name(2));
    let refused = [
        ("a removed node", Credentials::of_node(&stolen.removed)?),
        ("another CA", forge.impostor()?.node(1)?),
        (
            "ended long ago",
            forge.sign(std::slice::from_ref(&one), LONG_AGO)?,
        ),
        ("two names", forge.sign(&[one, two.clone()], soon)?),
        ("no name", forge.sign(&[], soon)?),
        (
            "the CA's own name",
            forge.sign(&[two.replace("/node/2", "")], soon)?,
        ),
        (
            "another cluster",
            forge.sign(&["spiffe://elsewhere/node/1".to_owned()], soon)?,
        ),
    ];
    for (name, credentials) in refused {
        let rogue = Rogue::new(&credentials)?;
        for node in siege.meshes.clone() {
            let before = siege.counters(REFUSED).await;
            let how = rogue.refusal(node).await;
            let how = how.unwrap_or_else(|error| panic!("{name}: {error}"));
            eprintln!("{name}: refused by {how}");
            siege.has_grown(REFUSED, before).await;
        }
        siege.holds(name, siege.meshes.len() as u64).await;
    }
    // Let in to renew it, and for nothing else.
    let ended = forge.sign(&[forge.node_name(stolen.worker_id)], LATELY)?;
    only_renewal(siege, &Rogue::new(&ended)?, stolen.worker_id).await?;
    // An id that no node was given yet: the registry's latest entry may be about it, so it is heard, not followed.
    let unknown = 1000;
    let peers = connect(&Rogue::new(&forge.node(unknown)?)?, siege).await;
    for peer in &peers {
        turned_away(
            "an unknown node's proposal",
            raft::propose(peer, 1, setting()).await,
        );
    }
    for (name, request) in raft::requests(unknown)? {
        let reason = match name {
            "vote" | "silence" => "the sender is not known to be a voter",
            _ => "the sender is not known, and there is a leader",
        };
        for peer in &peers {
            raft::refused_for(
                peer,
                &format!("{name} of an unknown node"),
                &request,
                reason,
            )
            .await;
        }
        siege.holds("an id that is no member's", 1).await;
    }
    Ok(())
}

/// Every request of a certificate that has ended is turned away before it is read.
async fn only_renewal(siege: &mut Siege<'_>, ended: &Rogue, id: u64) -> anyhow::Result<()> {
    const NAME: &str = "ended lately";
    let requests = raft::requests(id)?;
    // One of them is a proposal.
    let each = requests.len() as u64 + 1;
    for node in siege.meshes.clone() {
        let before = siege.counters(NOT_A_MEMBER).await;
        // Of its own: the node lets such a connection stand for 10 s.
        let peer = ended.connect(node).await?;
        for (kind, request) in &requests {
            turned_away(
                &format!("{kind}, {NAME}"),
                raft::refusal(&peer, request).await,
            );
        }
        turned_away(NAME, raft::propose(&peer, 2, setting()).await);
        siege.has_grown(NOT_A_MEMBER, before + each - 1).await;
    }
    siege.holds(NAME, each * siege.meshes.len() as u64).await;
    Ok(())
}

/// The stream was ended with the code for what is for members only, and nothing else went wrong.
fn turned_away<T: std::fmt::Debug>(what: &str, answer: anyhow::Result<T>) {
    let error = match answer {
        Ok(answer) => panic!("{what} was answered: {answer:?}"),
        Err(error) => format!("{error:#}"),
    };
    assert!(error.contains(FOR_MEMBERS), "{what}: {error}");
}

fn setting() -> Command {
    Command::SetSetting {
        key: "user.rogue".to_owned(),
        value: "was here".to_owned(),
    }
}

/// Changes that a worker may not ask for by itself.
fn forbidden() -> Vec<Command> {
    let elsewhere = |port| ([127, 0, 0, 1], port).into();
    let addresses = Addresses {
        quic: elsewhere(1),
        api: elsewhere(2),
        edge: elsewhere(3),
    };
    let node = NodeId(1);
    vec![
        setting(),
        Command::UnsetSetting {
            key: "user.lab".to_owned(),
        },
        Command::Assign {
            plan_revision: 0,
            changes: Vec::new(),
        },
        Command::ForgetJoiner { node },
        Command::SetAddresses { node, addresses },
        Command::SetDraining {
            node,
            draining: true,
        },
        Command::SetLeaving {
            node,
            leaving: true,
        },
        Command::RemoveNode { node },
    ]
}

/// A worker that plays the leader, or an operator.
async fn refuse_requests(siege: &mut Siege<'_>, stolen: &Stolen, run: &mut Run) {
    let credentials = Credentials::of_node(&stolen.worker).expect("the worker's key");
    let rogue = Rogue::new(&credentials).expect("an endpoint");
    let peers = connect(&rogue, siege).await;
    let leader = siege.lab.id(siege.leader);
    // In its own name, and in the leader's.
    for author in [stolen.worker_id, leader] {
        for (kind, request) in raft::requests(author).expect("requests can be encoded") {
            let reason = match kind {
                "silence" => "a worker does not vote",
                _ if author == stolen.worker_id => "a worker does not vote",
                _ => "the sender is not the author",
            };
            for peer in &peers {
                raft::refused_for(peer, &format!("{kind} by {author}"), &request, reason).await;
            }
        }
        siege
            .holds("a worker that speaks Raft", peers.len() as u64 * 4)
            .await;
        let before = siege
            .counters("nebula_mesh_refused_total{reason=\"not_a_voter\"}")
            .await;
        let sign = raft::sign_of_life(author).expect("a sign can be encoded");
        for peer in &peers {
            peer.datagram(1, &sign).expect("a datagram");
            peer.message(1, &sign).await.expect("a message");
        }
        siege
            .has_grown("nebula_mesh_refused_total{reason=\"not_a_voter\"}", before)
            .await;
        siege
            .holds("a worker's signs of life", peers.len() as u64 * 2)
            .await;
    }
    for command in forbidden() {
        let before = siege.counter(siege.leader, REFUSED_PROPOSALS).await;
        let id = run.rng.random();
        let answer = raft::propose(&peers[siege.leader], id, command.clone()).await;
        let rejected = matches!(
            answer,
            Ok(Some(Err(Rejection::NotPermitted { node: NodeId(node), .. }))) if node == stolen.worker_id
        );
        assert!(rejected, "{command:?}: {answer:?}");
        let after = siege.counter(siege.leader, REFUSED_PROPOSALS).await;
        assert!(after > before, "{command:?} was not counted");
    }
    siege
        .holds("a worker's proposals", forbidden().len() as u64)
        .await;
}

/// Floods, one after the other.
async fn withstand(siege: &mut Siege<'_>, stolen: &Stolen, run: &mut Run, lasts: Duration) {
    let stranger = Credentials::of_node(&stolen.removed).expect("the removed node's key");
    let stranger = Rogue::new(&stranger).expect("an endpoint");
    let worker = Credentials::of_node(&stolen.worker).expect("the worker's key");
    let nodes = siege.meshes.clone();

    let flood = siege.clock.now();
    let sent = floods::initials(&stranger, &nodes, lasts, &mut run.rng).await;
    let sent = sent.expect("sockets");
    siege.withstood("first packets", flood, sent).await;

    let before = siege.counters("nebula_mesh_address_checks_total").await;
    let flood = siege.clock.now();
    let begun = nodes
        .iter()
        .map(|node| half_open::flood(&stranger, *node, lasts));
    let begun: u64 = try_join_all(begun).await.expect("sockets").iter().sum();
    siege.withstood("half-open handshakes", flood, begun).await;
    siege
        .has_grown("nebula_mesh_address_checks_total", before)
        .await;

    // As many connections as a peer may have; one endpoint for each, so that they share nothing here.
    let mut peers = Vec::new();
    for _ in 0..CONNECTIONS {
        let rogue = Rogue::new(&worker).expect("an endpoint");
        peers.extend(connect(&rogue, siege).await);
    }
    let until = || Instant::now() + lasts;
    let (flood, open) = (siege.clock.now(), until());
    let opened = peers.iter().map(|peer| floods::silent_streams(peer, open));
    let opened: u64 = try_join_all(opened).await.expect("streams").iter().sum();
    siege.withstood("silent streams", flood, opened).await;

    let budget = "nebula_mesh_refused_total{reason=\"frame_bytes_under_way\"}";
    let before = siege.counters(budget).await;
    let (flood, open) = (siege.clock.now(), until());
    let opened = peers
        .iter()
        .map(|peer| floods::unfinished_frames(peer, open));
    let opened: u64 = try_join_all(opened).await.expect("streams").iter().sum();
    siege.withstood("unfinished frames", flood, opened).await;
    siege.has_grown(budget, before).await;

    let (mut frames, mut noise) = (0, 0);
    let malformed = siege
        .counters("nebula_mesh_refused_total{reason=\"malformed\"}")
        .await;
    for peer in &peers[..nodes.len()] {
        frames += floods::broken_frames(peer, &mut run.rng)
            .await
            .expect("frames");
        noise += floods::garbage(peer, &mut run.rng).await.expect("garbage");
    }
    siege
        .has_grown("nebula_mesh_refused_total{reason=\"malformed\"}", malformed)
        .await;
    siege.holds("broken frames", frames).await;
    siege.holds("garbage on every protocol", noise).await;

    let (flood, mut sent) = (siege.clock.now(), 0);
    for peer in &peers[..nodes.len()] {
        sent += floods::gossip(peer, until(), &mut run.rng)
            .await
            .expect("messages");
    }
    siege.withstood("gossip", flood, sent).await;

    let sign = raft::sign_of_life(stolen.worker_id).expect("a sign can be encoded");
    let peers = &peers[..nodes.len()];
    let flood = siege.clock.now();
    let sent = floods::datagrams(peers, lasts, &sign, &mut run.rng).await;
    siege.withstood("datagrams", flood, sent).await;
}
