//! `nebula deploy cache`.

use nebula_wire::api::CachePurged;

use crate::connect::ConnectFlags;
use crate::error::{CliError, Outcome};
use crate::output::Output;
use crate::spec::deployment_name;

pub async fn purge(name: &str, connect: &ConnectFlags, out: Output) -> Outcome {
    let name = deployment_name(name)?;
    let purged = connect.client()?.purge_cache(name.as_str()).await?;
    if let Some(late) = late(&purged) {
        return Err(late);
    }
    out.result(&purged, |purged| {
        let nodes = if purged.nodes == 1 { "node" } else { "nodes" };
        let CachePurged { name, nodes: n, .. } = purged;
        format!("the cache of {name} is purged on {n} {nodes}")
    });
    Ok(())
}

/// Some node may still give what it has kept.
fn late(purged: &CachePurged) -> Option<CliError> {
    if purged.behind.is_empty() {
        return None;
    }
    let message = format!(
        "the purge of '{}' is decided, but not known in time to: {}",
        purged.name,
        purged.behind.join(", ")
    );
    let hint = "they let go of it as soon as they hear of it; see 'nodectl members'";
    Some(CliError::timed_out(message, hint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;

    #[test]
    fn a_node_that_has_not_heard_is_named() {
        let purged = |behind: &[&str]| CachePurged {
            name: "api".into(),
            revision: 7,
            nodes: 2,
            behind: behind.iter().map(|name| (*name).to_owned()).collect(),
        };
        assert_eq!(late(&purged(&[])), None);
        let late = late(&purged(&["n2", "n3"])).unwrap();
        assert_eq!(late.exit, Exit::TimedOut);
        assert!(late.error.message.ends_with("to: n2, n3"), "{late}");
    }
}
