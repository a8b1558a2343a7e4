//! No process is left that no node owns: once all is well, what runs is what the cluster says runs, where it says.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::{Verdict, violated};
use crate::lab::Lab;
use crate::lab::wait::{ASK, ids};

const INVARIANT: &str = "no process is left that no node owns";
/// Instances have 10 s to end once they are told to.
const SETTLED: Duration = Duration::from_secs(40);

pub async fn check(lab: &dyn Lab) -> Verdict {
    let observer = lab.observer();
    let begun = Instant::now();
    loop {
        let owned = owned(lab).await;
        let running: BTreeSet<(String, usize)> = observer()
            .into_iter()
            .map(|r| (r.instance, r.node))
            .collect();
        if owned.as_ref() == Ok(&running) {
            return Ok(());
        }
        if begun.elapsed() > SETTLED {
            return violated(INVARIANT, format!("owned: {owned:?}, running: {running:?}"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Instances and the nodes that should run them.
async fn owned(lab: &dyn Lab) -> Result<BTreeSet<(String, usize)>, String> {
    let ids = ids(lab);
    let path = "/v1/deployments?consistency=linearizable";
    let list = lab
        .api(0)
        .look(path, ASK)
        .await
        .map_err(|e| e.to_string())?;
    let deployments = list["deployments"].as_array().into_iter().flatten();
    let instances = deployments.flat_map(|d| d["instances"].as_array().into_iter().flatten());
    let place = |i: &serde_json::Value| {
        let node = ids.iter().position(|id| i["node_id"] == *id)?;
        Some((i["id"].as_str()?.to_owned(), node))
    };
    Ok(instances.filter_map(place).collect())
}
