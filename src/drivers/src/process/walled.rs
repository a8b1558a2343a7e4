//! The daemon's part of what a run may reach by the network: rules that are there before its program is.

use std::sync::Arc;

use nebula_domain::ids::InstanceId;
use nebula_domain::isolation::Network;

use super::{Inner, ProcessDriver, blocking};
use crate::confine::{Control, Controls, Failure, Kind, Plan};
use crate::driver::{DriverError, Run, StartSpec};
use crate::firewall::{Cluster, Grant};
use crate::record::StateRecord;

/// Takes back what was granted to a run that did not come to be, however its start ended.
pub(super) struct Walled<'a>(pub &'a Inner, pub InstanceId);

impl Drop for Walled<'_> {
    fn drop(&mut self) {
        let Walled(inner, instance) = self;
        if let Some(firewall) = &inner.firewall
            && !inner.is_running(*instance)
        {
            firewall.withdraw(*instance);
        }
    }
}

impl ProcessDriver {
    /// Brings the network rules up to date with what runs and with the cluster, makes them again when somebody has
    /// flushed them, and tells runs whether they hold. To be called when one of these has changed, and every
    /// [`LOOK_EVERY`](crate::firewall::LOOK_EVERY).
    pub async fn keep_firewall(&self, cluster: Cluster) {
        let inner = self.inner.clone();
        let kept = blocking(move || {
            if let Some(firewall) = &inner.firewall {
                firewall.set_cluster(cluster);
                // Logged, and told by the runs.
                let _ = firewall.keep();
                inner.tell_firewall();
            }
            Ok(())
        });
        if let Err(error) = kept.await {
            tracing::warn!(%error, "the network rules were not looked after");
        }
    }

    /// Takes the network rules away: nothing runs here any more.
    pub async fn remove_firewall(&self) {
        let inner = self.inner.clone();
        let removed = blocking(move || {
            if let Some(firewall) = &inner.firewall {
                firewall.remove();
            }
            Ok(())
        });
        if let Err(error) = removed.await {
            tracing::warn!(%error, "the network rules were not removed");
        }
    }
}

impl Inner {
    /// The plan with what the network rules are to this run. Without them it does not start when it is `strict`.
    pub(super) async fn wall(
        self: &Arc<Self>,
        spec: &StartSpec,
        mut plan: Plan,
    ) -> Result<Plan, DriverError> {
        let Some(user) = plan.user else {
            return Ok(plan);
        };
        let control = match (&self.firewall, spec.isolation.network) {
            (_, Network::None) => holds("it has no network of the machine's"),
            (None, Network::Host) => lacks("this node's setting instances.firewall is off"),
            (Some(firewall), Network::Host) => {
                firewall.admit(spec.instance, grant(user, spec));
                let (inner, instance) = (self.clone(), spec.instance);
                blocking(move || {
                    let firewall = inner.firewall.as_ref();
                    // Why not is what the control says.
                    let _ = firewall.map(|firewall| firewall.ensure());
                    Ok(firewall.and_then(|firewall| firewall.control_of(instance)))
                })
                .await?
                .unwrap_or_else(|| lacks("it was not admitted"))
            }
        };
        if plan.strict && !control.held {
            let failure = Failure::new(control.kind, control.detail);
            return Err(DriverError::Start(failure.to_string()));
        }
        plan.firewall = Some(control);
        Ok(plan)
    }

    /// What holds of a run as it is listed; one that runs is known to the rules from then on, one that ended no more.
    pub(super) fn isolation_of(
        &self,
        instance: InstanceId,
        state: &StateRecord,
        runs: bool,
    ) -> Controls {
        let mut isolation = state.isolation.clone();
        let Some(firewall) = &self.firewall else {
            return isolation;
        };
        if !runs {
            firewall.withdraw(instance);
            return isolation;
        }
        let plan = state.plan.as_ref();
        let plan = plan.filter(|plan| plan.isolation.network == Network::Host);
        if let Some(user) = plan.and_then(|plan| plan.user) {
            firewall.admit(
                instance,
                Grant {
                    user,
                    deployment: state.deployment.clone(),
                    port: state.port,
                    bridges: state.reach.clone(),
                },
            );
        }
        if let Some(control) = firewall.control_of(instance) {
            isolation.set(control);
        }
        isolation
    }

    fn tell_firewall(&self) {
        let Some(firewall) = &self.firewall else {
            return;
        };
        self.runs.send_if_modified(|runs| {
            let news: Vec<(InstanceId, Control)> = runs
                .iter()
                .filter(|(_, run)| run.is_running())
                .filter_map(|(id, run)| Some((*id, news(run, firewall.control_of(*id)?)?)))
                .collect();
            let changed = !news.is_empty();
            for (id, control) in news {
                if let Some(run) = Arc::make_mut(runs).get_mut(&id) {
                    run.isolation.set(control);
                }
            }
            changed
        });
    }
}

/// The control, when it is not what the run says.
fn news(run: &Run, control: Control) -> Option<Control> {
    let told = run.isolation.0.contains(&control);
    (!told).then_some(control)
}

fn grant(user: u32, spec: &StartSpec) -> Grant {
    Grant {
        user,
        deployment: spec.deployment.clone(),
        port: spec.port,
        bridges: spec.reach.clone(),
    }
}

fn holds(by: &str) -> Control {
    Control {
        kind: Kind::Firewall,
        held: true,
        detail: by.to_owned(),
    }
}

fn lacks(why: &str) -> Control {
    Control {
        kind: Kind::Firewall,
        held: false,
        detail: why.to_owned(),
    }
}
