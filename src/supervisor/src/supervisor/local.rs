//! What this node's proxy and probes are told of a program that runs here.

use std::sync::Arc;

use nebula_domain::observed::{LocalInstance, Surroundings};
use nebula_domain::spec::{ProbeKind, ProbeRole, Service, Workload};
use nebula_domain::{InstanceId, State};
use nebula_drivers::Run;

pub(super) fn local(
    state: &State,
    id: InstanceId,
    run: &Run,
    node_name: &str,
) -> Option<LocalInstance> {
    let instance = state.instances.get(&id).filter(|i| i.run.is_none())?;
    let release = state.release_of(instance)?;
    let Workload::Service(service) = &release.spec.workload else {
        return None;
    };
    Some(LocalInstance {
        deployment: instance.deployment.clone(),
        address: std::net::SocketAddr::from(([127, 0, 0, 1], run.port.unwrap_or(0))),
        surroundings: Arc::new(surroundings(service, node_name)),
        probes: Arc::new(service.probes()),
        run: run.run,
        started_at: run.started_at,
    })
}

/// An environment may be large, and is only needed by commands.
fn surroundings(service: &Service, node_name: &str) -> Surroundings {
    let commands = ProbeRole::ALL.into_iter().any(|role| {
        let probe = service.probe_of(role);
        probe.is_some_and(|probe| matches!(probe.kind, ProbeKind::Exec { .. }))
    });
    match commands {
        true => Surroundings {
            env: service.env.clone(),
            node: node_name.to_owned(),
        },
        false => Surroundings::default(),
    }
}
