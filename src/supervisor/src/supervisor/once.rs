//! Attempts of runs: what runs once, and how it ended.

use std::collections::BTreeMap;

use nebula_domain::runs::{self, Cause, Hook, How};
use nebula_domain::spec::{Service, Spec, Workload};
use nebula_domain::state::Instance;
use nebula_domain::{InstanceId, State};
use nebula_drivers::Exit;

use crate::slot::{SIGKILL, Slot, Stage};

/// What peers are told of the end of an attempt. They are told for as long as it is assigned to this node: the record of
/// it is the driver's, which a daemon that is made anew reads again.
pub(super) fn exit(state: &State, id: InstanceId, slot: &Slot) -> Option<runs::Exit> {
    state.instances.get(&id)?.run?;
    let over = matches!(slot.stage, Stage::Over | Stage::Gone);
    slot.exit.filter(|_| over).map(told)
}

fn told(exit: Exit) -> runs::Exit {
    runs::Exit {
        how: match exit {
            Exit::Code(code) => How::Code(code),
            Exit::Signal(number) => How::Signal(number),
            Exit::OutOfMemory { .. } => How::Memory,
            Exit::OutOfDisk { .. } => How::Disk,
            Exit::Unseen | Exit::Reboot => How::Lost,
            // By this node itself, which has made sure that it is gone: no other has to try.
            Exit::Unheard => How::Signal(SIGKILL),
        },
        said: exit.to_string(),
    }
}

/// The program of an instance: its release's, or that of the hook which it is an attempt of.
pub(super) fn command(state: &State, instance: &Instance, spec: &Spec) -> Option<String> {
    let Workload::Service(service) = &spec.workload else {
        return None;
    };
    if instance.run.is_none() {
        return Some(service.command.clone());
    }
    match state.run_of(instance)?.cause {
        Cause::Hook(Hook::PreRelease) => spec.hooks.pre_release.clone(),
        Cause::Hook(Hook::PostRelease) => spec.hooks.post_release.clone(),
        Cause::Release | Cause::Person | Cause::Cron { .. } => Some(service.command.clone()),
    }
}

/// Its environment; an attempt knows whose it is, and what for.
pub(super) fn env(
    state: &State,
    instance: &Instance,
    service: &Service,
) -> BTreeMap<String, String> {
    let mut env = service.env.clone();
    if let Some(run) = state.run_of(instance) {
        env.insert("NEBULA_RUN_ID".to_owned(), run.number.to_string());
        env.insert("NEBULA_CAUSE".to_owned(), run.cause.to_string());
        if let Cause::Cron { due } = run.cause {
            env.insert("NEBULA_DUE".to_owned(), runs::told(due));
        }
    }
    env
}
