//! The instances of one deployment: a table, and below it what does not fit a line.

use std::collections::BTreeMap;

use nebula_wire::api::{DeploymentStatus, InstanceDetail, InstanceStatus, SilentNode, Used};

use crate::output::table;

pub fn instances(d: &DeploymentStatus) -> String {
    let mut text = String::new();
    for SilentNode { node, reason } in &d.silent {
        text += &format!("  node {node} does not say how its instances are: {reason}\n");
    }
    if d.instances.is_empty() {
        return text;
    }
    let rows = d.instances.iter().map(row);
    text += &table(
        [
            "INSTANCE", "NODE", "RELEASE", "PHASE", "HEALTH", "PROBES", "MEMORY", "CPU", "PIDS",
            "RESTARTS", "LAST END", "REASON",
        ],
        rows,
    );
    text + &isolation(&d.instances)
}

fn row(i: &InstanceStatus) -> [String; 12] {
    let used = i.detail.as_ref().map(|detail| detail.used.clone());
    let Used {
        memory_bytes,
        memory_limit_bytes,
        cpu_millis,
        cpu_limit_millis,
        pids,
        pids_limit,
        ..
    } = used.unwrap_or_default();
    let number = |n: u64| n.to_string();
    [
        i.id.clone(),
        i.node.clone(),
        i.release.to_string(),
        i.phase.clone(),
        i.health.clone(),
        i.detail.as_ref().map_or_else(String::new, probes),
        beside(memory_bytes, memory_limit_bytes, bytes),
        beside(cpu_millis, cpu_limit_millis, |n| format!("{n}m")),
        beside(pids, pids_limit, number),
        i.restarts.to_string(),
        i.last_end
            .as_ref()
            .map_or_else(String::new, |end| format!("{} at {}", end.said, end.at)),
        i.reason.clone(),
    ]
}

/// `used / limit`, as far as both are known.
fn beside(used: Option<u64>, limit: Option<u64>, show: impl Fn(u64) -> String) -> String {
    match (used, limit) {
        (None, _) => String::new(),
        (Some(used), None) => show(used),
        (Some(used), Some(limit)) => format!("{} / {}", show(used), show(limit)),
    }
}

/// As limits are written: in MiB, or KiB when it is less than one.
fn bytes(n: u64) -> String {
    match n >> 20 {
        0 => format!("{}Ki", n >> 10),
        mib => format!("{mib}Mi"),
    }
}

/// All of them are well, or which is not.
fn probes(detail: &InstanceDetail) -> String {
    let ill = detail
        .probes
        .iter()
        .filter(|probe| probe.state != "passing");
    let ill: Vec<_> = ill
        .map(|probe| format!("{} {}", probe.probe, probe.state))
        .collect();
    match (detail.probes.is_empty(), ill.is_empty()) {
        (true, _) => String::new(),
        (false, true) => "passing".to_owned(),
        (false, false) => ill.join(", "),
    }
}

/// What holds and what does not. Most instances are alike, so each set is told once.
fn isolation(instances: &[InstanceStatus]) -> String {
    let mut sets: BTreeMap<(String, String), Vec<&str>> = BTreeMap::new();
    for instance in instances {
        let Some(detail) = &instance.detail else {
            continue;
        };
        let all = &detail.isolation;
        let held: Vec<_> = all
            .iter()
            .filter(|control| control.holds)
            .map(|control| control.what.as_str())
            .collect();
        let missing = all.iter().filter(|control| !control.holds);
        let missing: Vec<_> = missing
            .map(|control| format!("{} ({})", control.what, control.detail))
            .collect();
        let set = (held.join(", "), missing.join(", "));
        sets.entry(set).or_default().push(&instance.id);
    }
    let mut text = String::new();
    for ((held, missing), of) in sets {
        let of = of.join(", ");
        if !held.is_empty() {
            text += &format!("\nisolation of {of}: {held}");
        }
        if !missing.is_empty() {
            text += &format!("\nwithout, of {of}: {missing}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use nebula_wire::api::{Control, LastEnd, ProbeHealth};

    use super::*;

    fn instance(id: &str, detail: Option<InstanceDetail>) -> InstanceStatus {
        InstanceStatus {
            id: id.into(),
            node: "a".into(),
            node_id: 1,
            release: 1,
            phase: "running".into(),
            health: "healthy".into(),
            restarts: 1,
            reason: String::new(),
            secrets: Default::default(),
            last_end: Some(LastEnd {
                how: "out_of_memory".into(),
                number: None,
                said: "killed: out of memory".into(),
                at: "2026-01-01T00:00:00Z".into(),
            }),
            detail,
        }
    }

    fn detail(state: &str) -> InstanceDetail {
        let control = |what: &str, holds| Control {
            what: what.into(),
            holds,
            detail: "why".into(),
        };
        InstanceDetail {
            run: 2,
            since: "2026-01-01T00:00:01Z".into(),
            used: Used {
                memory_bytes: Some(3 << 20),
                memory_limit_bytes: Some(64 << 20),
                cpu_millis: Some(40),
                ..Used::default()
            },
            isolation: vec![control("own user", true), control("landlock", false)],
            probes: vec![ProbeHealth {
                probe: "readiness".into(),
                asks: "GET /".into(),
                state: state.into(),
                ok: Some(true),
                at: None,
                reason: String::new(),
                streak: 1,
            }],
        }
    }

    #[test]
    fn what_is_used_stands_beside_what_may_be_and_sets_are_told_once() {
        let all = [
            instance("i-1", Some(detail("passing"))),
            instance("i-2", Some(detail("failing"))),
            instance("i-3", None),
        ];
        let first = row(&all[0]).join("|");
        assert!(
            first.contains("passing|3Mi / 64Mi|40m||1|killed: out of memory at 2026"),
            "{first}"
        );
        assert!(row(&all[1]).contains(&"readiness failing".to_owned()));
        assert_eq!(row(&all[2])[5..9], ["", "", "", ""]);
        assert_eq!(
            isolation(&all),
            "\nisolation of i-1, i-2: own user\nwithout, of i-1, i-2: landlock (why)"
        );
    }
}
