//! `nebula deploy health`: how the instances answer their probes.

use nebula_wire::api::{DeploymentHealth, InstanceHealth, ProbeHealth};

use super::deploy_args::Health;
use crate::connect::ConnectFlags;
use crate::error::Outcome;
use crate::output::{Output, table};
use crate::spec::deployment_name;

pub async fn run(args: Health, connect: &ConnectFlags, out: Output) -> Outcome {
    let name = deployment_name(&args.name)?;
    let client = connect.client()?;
    let health = client
        .deployment_health(name.as_str(), args.history)
        .await?;
    out.result(&health, |health| render(health, args.history));
    Ok(())
}

fn render(health: &DeploymentHealth, history: bool) -> String {
    let mut text = String::new();
    for silent in &health.silent {
        let (node, reason) = (&silent.node, &silent.reason);
        text.push_str(&format!(
            "node {node} does not say how its instances are: {reason}\n"
        ));
    }
    if health.instances.is_empty() {
        if health.silent.is_empty() {
            text.push_str(
                "no instance is probed: sites have no probes, and programs have them while they run\n",
            );
        }
        return text;
    }
    let rows = health.instances.iter().flat_map(|instance| {
        let probes = instance.probes.iter();
        probes.map(move |probe| row(instance, probe))
    });
    text += &table(
        [
            "INSTANCE", "NODE", "RUN", "PROBE", "ASKS", "STATE", "STREAK", "LAST", "REASON",
        ],
        rows,
    );
    if history {
        text.push_str("\n\nchanges, oldest first\n");
        let mut changes: Vec<_> = health
            .instances
            .iter()
            .flat_map(|instance| {
                instance
                    .history
                    .iter()
                    .map(move |change| (instance, change))
            })
            .collect();
        // RFC 3339 in UTC: the order of the text is the order of time.
        changes.sort_by(|(_, a), (_, b)| a.at.cmp(&b.at));
        let rows = changes.into_iter().map(|(instance, change)| {
            [
                change.at.clone(),
                instance.id.clone(),
                change.run.to_string(),
                change.probe.clone(),
                change.state.clone(),
                change.reason.clone(),
            ]
        });
        text += &table(
            ["TIME", "INSTANCE", "RUN", "PROBE", "STATE", "REASON"],
            rows,
        );
    }
    text
}

fn row(instance: &InstanceHealth, probe: &ProbeHealth) -> [String; 9] {
    let last = match (&probe.at, probe.ok) {
        (Some(at), Some(true)) => format!("ok {at}"),
        (Some(at), _) => format!("failed {at}"),
        (None, _) => String::new(),
    };
    [
        instance.id.clone(),
        instance.node.clone(),
        instance.run.to_string(),
        probe.probe.clone(),
        probe.asks.clone(),
        probe.state.clone(),
        probe.streak.to_string(),
        last,
        probe.reason.clone(),
    ]
}

#[cfg(test)]
mod tests {
    use nebula_wire::api::{ProbeChange, SilentNode};

    use super::*;

    #[test]
    fn every_probe_has_a_line_and_changes_come_in_their_order() {
        let change = |at: &str, state: &str| ProbeChange {
            at: at.into(),
            run: 1,
            probe: "liveness".into(),
            state: state.into(),
            reason: "GET /live answered 500".into(),
        };
        let instance = |id: &str, history| InstanceHealth {
            id: id.into(),
            node: "a".into(),
            release: 1,
            run: 1,
            probes: vec![ProbeHealth {
                probe: "readiness".into(),
                asks: "GET /up".into(),
                state: "failing".into(),
                ok: Some(false),
                at: Some("2026-01-01T00:00:03Z".into()),
                reason: "no connection to port 20001".into(),
                streak: 4,
            }],
            history,
        };
        let health = DeploymentHealth {
            name: "api".into(),
            instances: vec![
                instance("i-1", vec![change("2026-01-01T00:00:02Z", "failing")]),
                instance("i-2", vec![change("2026-01-01T00:00:01Z", "passing")]),
            ],
            silent: vec![SilentNode {
                node: "b".into(),
                reason: "it does not answer".into(),
            }],
        };
        let short = render(&health, false);
        assert!(short.starts_with("node b does not say"), "{short}");
        assert!(short.contains("no connection to port 20001"), "{short}");
        assert!(!short.contains("TIME"), "{short}");
        let nothing = DeploymentHealth {
            instances: vec![],
            ..health.clone()
        };
        assert!(!render(&nothing, false).contains("is probed"));
        let long = render(&health, true);
        let (first, second) = (long.find("00:00:01Z"), long.find("00:00:02Z"));
        assert!(first.is_some() && first < second, "{long}");
    }
}
