//! Waiting on a cluster for a condition, in tokio's time.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Lab;
use super::api::{Api, Consistency};
use super::history::Clock;

/// What takes longer than this, on two busy cores and in a debug build, is broken.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// One question to one node.
pub const ASK: Duration = Duration::from_secs(4);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks until `look` gives something, and returns it.
///
/// # Panics
/// When the deadline passes, with what was waited for and what the last look saw.
pub async fn until<T>(
    deadline: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let end = Instant::now() + deadline;
    loop {
        match look().await {
            Ok(seen) => return seen,
            Err(last) if Instant::now() >= end => {
                panic!("within {deadline:?} not: {what}; last: {last}")
            }
            Err(_) => sleep(LOOK_EVERY).await,
        }
    }
}

/// Until a node answers a linearizable read: it has caught up and knows a leader that leads.
pub async fn ready(lab: &dyn Lab, node: usize) -> Duration {
    let (clock, mut api) = (Clock::default(), lab.api(node));
    until(
        DEADLINE,
        &format!("node {node} answers for the cluster"),
        async || {
            let asked = api.get("user.lab.ready", Consistency::Linearizable, ASK);
            asked.await.map_err(|e| e.to_string())
        },
    )
    .await;
    clock.now().at
}

pub async fn all_ready(lab: &dyn Lab) {
    for node in 0..lab.nodes() {
        ready(lab, node).await;
    }
}

/// The leader by one node's word, as an index.
pub async fn leader_by(api: &mut dyn Api, ids: &[u64]) -> Result<usize, String> {
    let asked = api.look("/v1/members", ASK).await;
    let list = asked.map_err(|e| e.to_string())?;
    let index = ids.iter().position(|id| list["leader"] == *id);
    index.ok_or_else(|| list.to_string())
}

pub fn ids(lab: &dyn Lab) -> Vec<u64> {
    (0..lab.nodes()).map(|node| lab.id(node)).collect()
}

/// The node that leads, by the word of a majority.
pub async fn leader(lab: &dyn Lab) -> usize {
    let ids = ids(lab);
    let mut apis: Vec<_> = (0..lab.nodes()).map(|node| lab.api(node)).collect();
    until(DEADLINE, "a leader that a majority follows", async || {
        let mut votes = vec![0; ids.len()];
        let mut heard = Vec::new();
        for api in &mut apis {
            let said = leader_by(api.as_mut(), &ids).await;
            if let Ok(leader) = &said {
                votes[*leader] += 1;
            }
            heard.push(said);
        }
        let chosen = votes.iter().position(|v| *v * 2 > ids.len());
        chosen.ok_or_else(|| format!("{heard:?}"))
    })
    .await
}
