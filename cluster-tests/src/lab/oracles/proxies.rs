//! Every proxy's table converges: all edges come to answer for a deployment, each from all of its ready instances.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::{Violation, violated};
use crate::lab::Lab;
use crate::lab::wait::ASK;

const INVARIANT: &str = "every proxy's table converges";
/// Generous: gossip takes two seconds to call a node dead or alive.
const CONVERGED: Duration = Duration::from_secs(30);
/// Requests for each instance in a row; each edge takes them in turn.
const TURNS: usize = 3;

/// How long it took.
pub async fn check(lab: &dyn Lab, name: &str) -> Result<Duration, Violation> {
    let begun = Instant::now();
    loop {
        let seen = look(lab, name).await;
        match seen {
            Ok(()) => return Ok(begun.elapsed()),
            Err(why) if begun.elapsed() > CONVERGED => {
                return violated(INVARIANT, why).map(|()| Duration::ZERO);
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn look(lab: &dyn Lab, name: &str) -> Result<(), String> {
    let path = format!("/v1/deployments/{name}?consistency=linearizable");
    let status = lab
        .api(0)
        .look(&path, ASK)
        .await
        .map_err(|e| e.to_string())?;
    let ready = ready(&status);
    if ready.is_empty() || status["ready"] != status["desired"] {
        return Err(format!("not all are ready: {status}"));
    }
    for node in 0..lab.nodes() {
        let mut answered = BTreeSet::new();
        for _ in 0..ready.len() * TURNS {
            let body = lab.fetch(node, name).await;
            let body = body.map_err(|e| format!("the edge of node {node}: {e}"))?;
            answered.extend(body.split_whitespace().last().map(str::to_owned));
        }
        if answered != ready {
            return Err(format!(
                "the edge of node {node} uses {answered:?}, ready are {ready:?}"
            ));
        }
    }
    Ok(())
}

fn ready(status: &Value) -> BTreeSet<String> {
    let instances = status["instances"].as_array().into_iter().flatten();
    instances
        .filter(|i| i["phase"] == "running" && i["health"] == "healthy")
        .filter_map(|i| i["id"].as_str().map(str::to_owned))
        .collect()
}
