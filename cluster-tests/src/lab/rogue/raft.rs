//! The registry's peer messages as an outsider writes them: the same bytes, from types of our own.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use nebula_domain::{Command, Request, RequestId};
use nebula_wire::codec;
use nebula_wire::peer::Protocol;
use nebula_wire::peer::registry::{Answer, Blob, Proposal, RegistryAnswer, RegistryRequest};
use serde::Serialize;

use super::Connected;

/// Higher than any honest one.
pub const HUGE_TERM: u64 = 1_000_000_000;

/// Term and node.
type LeaderId = (u64, u64);
type Vote = (LeaderId, bool);
type LogId = (LeaderId, u64);
type Membership = (Vec<BTreeSet<u64>>, BTreeMap<u64, ()>);

#[derive(Serialize)]
enum RaftRequest {
    Append(Vote, Option<LogId>, Vec<()>, Option<LogId>),
    Vote(Vote, Option<LogId>),
    Silence,
    Snapshot(
        Vote,
        (Option<LogId>, (Option<LogId>, Membership), String),
        u64,
        Blob,
        bool,
    ),
}

/// The sixth kind of a Raft answer.
const REFUSED: u8 = 5;

/// Everything that Raft asks of a node, by a candidate or leader of a huge term.
pub fn requests(author: u64) -> anyhow::Result<Vec<(&'static str, Vec<u8>)>> {
    let leader = (HUGE_TERM, author);
    let last = Some((leader, HUGE_TERM));
    let alone = (
        vec![BTreeSet::from([author])],
        BTreeMap::from([(author, ())]),
    );
    let meta = (last, (last, alone), "rogue".to_owned());
    let requests = [
        ("vote", RaftRequest::Vote((leader, false), last)),
        (
            "append",
            RaftRequest::Append((leader, true), None, Vec::new(), last),
        ),
        (
            "snapshot",
            RaftRequest::Snapshot((leader, true), meta, 0, Blob(vec![7; 1000]), true),
        ),
        ("silence", RaftRequest::Silence),
    ];
    let encoded = requests
        .iter()
        .map(|(name, r)| Ok((*name, codec::encode(r)?)));
    encoded.collect()
}

/// What the leader sends beside its appends.
pub fn sign_of_life(author: u64) -> anyhow::Result<Vec<u8>> {
    let vote: Vote = ((HUGE_TERM, author), true);
    Ok(codec::encode(&vote)?)
}

/// Why a Raft request was refused, if the node answered it at all. What cannot be read is refused as well: who asks
/// knows which reason is meant.
pub async fn refusal(peer: &Connected, request: &[u8]) -> anyhow::Result<String> {
    let answer = peer.ask(Protocol::Raft, request).await?;
    let (kind, reason): (u8, String) =
        codec::decode(&answer).with_context(|| format!("not a refusal: {answer:?}"))?;
    anyhow::ensure!(kind == REFUSED, "an answer of kind {kind}: {reason}");
    Ok(reason)
}

/// # Panics
/// When it was not refused for this reason.
pub async fn refused_for(peer: &Connected, what: &str, request: &[u8], reason: &str) {
    let said = refusal(peer, request).await;
    let said = said.unwrap_or_else(|error| panic!("{what}: {error:#}"));
    assert!(
        said.contains(reason),
        "{what} is refused for another reason: {said}"
    );
}

/// Hands a change on as followers do.
pub async fn propose(
    peer: &Connected,
    id: u128,
    command: Command,
) -> anyhow::Result<Option<Answer>> {
    let id = RequestId(id);
    let request = Blob(codec::encode(&Request::new(id, command))?);
    let proposal = Proposal {
        request,
        operator: None,
    };
    let request = RegistryRequest::Propose {
        proposals: vec![proposal],
        deadline_ms: 3000,
    };
    let answer = peer
        .ask(Protocol::Registry, &codec::encode(&request)?)
        .await?;
    Ok(match codec::decode(&answer)? {
        RegistryAnswer::Proposed(mut answers) => answers.pop(),
        _ => None,
    })
}
