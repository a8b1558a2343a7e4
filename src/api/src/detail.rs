//! What the nodes that run a deployment's instances say of them, for its status.

use std::collections::BTreeMap;

use nebula_domain::observed::{self, Ended};
use nebula_domain::resources::Resources;
use nebula_domain::spec::Workload;
use nebula_domain::{DeploymentName, InstanceId, State};
use nebula_health::{Also, Report};
use nebula_wire::api::{Control, DeploymentStatus, InstanceDetail, LastEnd, ProbeHealth, Used};
use nebula_wire::peer::health::{Answer, Running};

use crate::app::App;
use crate::health;
use crate::node::rfc3339;

/// Asks them, and adds what they say.
pub async fn add(app: &App, state: &State, name: &DeploymentName, status: &mut DeploymentStatus) {
    let also = Also {
        history: false,
        runs: true,
    };
    let mut details = BTreeMap::new();
    for Report { node, answer } in app.probes.of(name, also).await {
        match answer {
            Ok(answer) => details.extend(of_node(state, answer)),
            Err(error) => status.silent.push(app.silent(state, node, error)),
        }
    }
    for instance in &mut status.instances {
        instance.detail = details.remove(&instance.id);
    }
}

fn of_node(state: &State, answer: Answer) -> BTreeMap<String, InstanceDetail> {
    let mut probes: BTreeMap<InstanceId, Vec<ProbeHealth>> = answer
        .instances
        .into_iter()
        .map(|probed| {
            let told = probed.probes.into_iter().map(health::probe).collect();
            (probed.instance, told)
        })
        .collect();
    let runs = answer.runs.into_iter();
    runs.map(|run| {
        let probes = probes.remove(&run.instance).unwrap_or_default();
        (run.instance.to_string(), detail(state, run, probes))
    })
    .collect()
}

fn detail(state: &State, run: Running, probes: Vec<ProbeHealth>) -> InstanceDetail {
    let instance = state.instances.get(&run.instance);
    let release = instance.and_then(|instance| state.release_of(instance));
    let resources = match release.map(|release| &release.spec.workload) {
        Some(Workload::Service(service)) => service.resources,
        _ => Resources::default(),
    };
    let usage = run.usage;
    InstanceDetail {
        run: run.run,
        since: rfc3339(run.since),
        used: Used {
            memory_bytes: usage.memory_bytes,
            memory_limit_bytes: resources.memory.map(|memory| memory.bytes()),
            cpu_millis: usage.cpu_millis,
            cpu_limit_millis: resources.cpu.map(|cpu| u64::from(cpu.millis())),
            pids: usage.pids,
            pids_limit: Some(u64::from(resources.pids)),
            memory_kills: usage.memory_kills,
        },
        isolation: run
            .held
            .into_iter()
            .map(|held| Control {
                what: held.what,
                holds: held.holds,
                detail: held.detail,
            })
            .collect(),
        probes,
    }
}

pub fn last_end(end: observed::LastEnd) -> LastEnd {
    let (how, number) = match end.how {
        Ended::Code(code) => ("exited", Some(code)),
        Ended::Signal(number) => ("signal", Some(number)),
        Ended::OutOfMemory => ("out_of_memory", None),
        Ended::OutOfDisk => ("out_of_disk", None),
        Ended::GivenUp => ("probes", None),
        Ended::Unseen => ("unseen", None),
        Ended::Reboot => ("reboot", None),
    };
    LastEnd {
        how: how.to_owned(),
        number,
        said: end.how.to_string(),
        at: rfc3339(end.at),
    }
}
