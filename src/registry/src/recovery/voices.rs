//! Asks everybody who may still be there, and says whether they leave room for a recovery. Only silence counts
//! as loss: whoever answers in any way, and does not say that it misses a leader, is in the way.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::join_all;
use nebula_domain::NodeId;
use nebula_domain::recovery::Known;
use nebula_mesh::{CallError, Directory, DirectoryEntry, Net};
use nebula_wire::codec;
use nebula_wire::peer::Protocol;
use tokio::time::{Instant, sleep};

use super::Survivor;
use crate::error::RecoverError;
use crate::limits;
use crate::peers::{RaftAnswer, RaftRequest};

/// What became of a member that was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Voice {
    /// Nobody answers there.
    Silent,
    /// Its daemon runs and hears no leader; its log reaches so far.
    Leaderless(Known),
    /// It leads, or hears a leader.
    Led,
    /// It takes no questions from this node: it was removed.
    Refused(String),
    /// It answers and does not say.
    Unclear(String),
}

impl Survivor {
    /// Whom to ask, and where: all members that this node knows, and voters that the end of its log removes, which
    /// nobody may have confirmed.
    pub fn directory(&self) -> Directory {
        let voters = self.other_voters();
        let removed = self.removed.iter().filter(|(id, _)| voters.contains(id));
        let all = removed.map(|(id, node)| (id, &node.node));
        let entry = |(id, node): (&NodeId, &nebula_domain::state::Node)| {
            let entry = DirectoryEntry {
                quic: node.addresses.quic,
                role: node.role,
            };
            (*id, entry)
        };
        Directory {
            me: self.me,
            nodes: all.chain(&self.state.nodes).map(entry).collect(),
            next_node_id: self.state.next_node_id,
        }
    }

    /// Asks all members at once, again and again `during` this time, whether they hear a leader. This node's own
    /// configuration may be old: whoever votes now may be a worker in it.
    pub async fn ask(&self, net: &impl Net, during: Duration) -> BTreeMap<NodeId, Voice> {
        let until = Instant::now() + during;
        let mut members = self.other_voters();
        members.extend(self.state.nodes.keys().filter(|id| **id != self.me));
        let asked = members.into_iter().map(|id| async move {
            let voice = listen(net, id, until).await;
            (id, voice)
        });
        join_all(asked).await.into_iter().collect()
    }

    /// The voters that are there and too few to decide; an error if there is no need, or no right, to go on
    /// without the rest.
    pub fn judge(
        &self,
        voices: &BTreeMap<NodeId, Voice>,
    ) -> Result<BTreeSet<NodeId>, RecoverError> {
        let voters = self.other_voters();
        let mut led = BTreeSet::new();
        let mut there = BTreeMap::new();
        for (id, voice) in voices {
            match voice {
                Voice::Refused(reason) => {
                    return Err(RecoverError::Refused {
                        by: self.name_of(*id),
                        reason: reason.clone(),
                    });
                }
                Voice::Led => drop(led.insert(*id)),
                Voice::Leaderless(known) if voters.contains(id) => drop(there.insert(*id, *known)),
                Voice::Leaderless(_) | Voice::Unclear(_) | Voice::Silent => {}
            }
        }
        if !led.is_empty() {
            return Err(RecoverError::Led(self.names_of(&led)));
        }
        for (id, voice) in voices.iter().filter(|(id, _)| voters.contains(id)) {
            if let Voice::Unclear(reason) = voice {
                return Err(RecoverError::Unclear {
                    by: self.name_of(*id),
                    reason: reason.clone(),
                });
            }
        }
        let kept: BTreeSet<NodeId> = there.keys().copied().collect();
        if self.would_be_quorum(&kept) {
            return Err(RecoverError::Majority(self.names_of(&kept)));
        }
        let best = there.iter().max_by_key(|(_, known)| **known);
        if let Some((id, known)) = best.filter(|(_, known)| **known > self.known()) {
            return Err(RecoverError::KnowsMore {
                by: self.name_of(*id),
                term: known.term,
                index: known.index,
            });
        }
        // One that the end of the log removes stays removed.
        let member = |id: &NodeId| self.state.nodes.contains_key(id);
        Ok(kept.into_iter().filter(member).collect())
    }

    /// Whether these could decide together with this node, so that nothing is lost.
    pub(crate) fn would_be_quorum(&self, others: &BTreeSet<NodeId>) -> bool {
        let all = others.iter().chain([&self.me]);
        crate::elections::is_quorum(&all.map(|id| id.0).collect(), &self.configs)
    }

    /// For people.
    pub fn name_of(&self, id: NodeId) -> String {
        let removed = || self.removed.get(&id).map(|removed| &removed.node);
        let node = self.state.nodes.get(&id).or_else(removed);
        node.map_or_else(|| format!("node {id}"), |node| node.name.to_string())
    }

    fn names_of(&self, ids: &BTreeSet<NodeId>) -> String {
        let names: Vec<String> = ids.iter().map(|id| self.name_of(*id)).collect();
        names.join(", ")
    }
}

/// The latest word of a member until then; that it is led, or has nothing to say to this node, is its last.
async fn listen(net: &impl Net, id: NodeId, until: Instant) -> Voice {
    let mut latest = Voice::Silent;
    loop {
        match question(net, id).await {
            Voice::Silent => {}
            last @ (Voice::Led | Voice::Refused(_)) => return last,
            word => latest = word,
        }
        if Instant::now() >= until {
            return latest;
        }
        sleep(limits::RECOVERY_PAUSE).await;
    }
}

async fn question(net: &impl Net, id: NodeId) -> Voice {
    let question = match codec::encode(&RaftRequest::Known) {
        Ok(question) => question,
        Err(error) => return Voice::Unclear(error.to_string()),
    };
    let deadline = limits::RECOVERY_QUESTION;
    let called = net.call(id, Protocol::Raft, question.into(), deadline);
    match called.await {
        Ok(answer) => match codec::decode(&answer) {
            Ok(RaftAnswer::Known {
                silence: true,
                last,
            }) => Voice::Leaderless(Known {
                term: last.map_or(0, |id| id.leader_id.term),
                index: last.map_or(0, |id| id.index),
            }),
            Ok(RaftAnswer::Known { silence: false, .. }) => Voice::Led,
            Ok(RaftAnswer::Refused(reason)) => Voice::Refused(reason),
            Ok(_) => Voice::Unclear("it answers something else".to_owned()),
            Err(error) => Voice::Unclear(error.to_string()),
        },
        // A voter of the configuration without any address was removed by what the snapshot holds, which a majority
        // has decided.
        Err(CallError::Unreachable { .. } | CallError::UnknownNode(_)) => Voice::Silent,
        Err(CallError::Refused { reason, .. }) => Voice::Refused(reason),
        // Also a deadline: it is longer than that of a dial, so somebody has taken the connection.
        Err(error) => Voice::Unclear(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_outlives_the_dial_that_it_waits_for() {
        let dial = nebula_mesh::Limits::default().handshake_deadline;
        assert!(limits::RECOVERY_QUESTION > dial);
        assert!(limits::RECOVERY_ASKING >= 3 * dial);
    }
}
