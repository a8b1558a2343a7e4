//! Applying one request to desired state: the only way it ever changes.
//!
//! Every node applies the same requests in the same order and must end in the same state, so nothing
//! here may read a clock, draw a number, or depend on the order of a hash map. Each handler checks
//! everything first and changes the state only when nothing can fail any more.

mod assign;
mod dependencies;
mod deployments;
mod members;
mod names;
mod ports;
mod rollouts;
mod runs;
mod secrets;
mod volumes;

#[cfg(test)]
mod tests;

pub(crate) use members::drop_node;

use crate::command::{Command, Outcome, Rejection, Request};
use crate::events::{self, Before, Stamp};
use crate::excerpt::excerpt;
use crate::limits::SETTINGS;
use crate::settings;
use crate::state::State;
use deployments::New;

/// Applies a request once. The same request id again returns the first answer and changes nothing.
///
/// Accepted, it raises `revision`, and `plan_revision` when nodes, deployments, instances, purges, volumes, secrets or runs
/// changed.
/// Refused, it changes nothing but what is remembered. A [`Rejection::StalePlan`] or [`Rejection::StaleStep`] is not remembered:
/// revisions only grow, so the same one is refused again without help, and a busy scheduler would
/// push clients' answers out of memory.
pub fn apply(state: &mut State, request: &Request) -> Result<Outcome, Rejection> {
    if let Some(answer) = state.remembered.get(request.id) {
        return answer;
    }
    let before = Before::of(state);
    let others = (
        state.cache_purges.clone(),
        state.volumes.clone(),
        state.secrets.clone(),
        state.work.clone(),
        state.moving.clone(),
    );
    let answer = execute(state, &request.command, &request.stamp);
    if answer.is_ok() {
        state.revision += 1;
        events::note(state, &before, &request.command, &request.stamp);
        let planned_for = state.nodes.ptr_eq(&before.nodes)
            && state.deployments.ptr_eq(&before.deployments)
            && state.instances.ptr_eq(&before.instances)
            && state.cache_purges.ptr_eq(&others.0)
            && state.volumes.ptr_eq(&others.1)
            && state.secrets.ptr_eq(&others.2)
            && state.work.ptr_eq(&others.3)
            && state.moving.ptr_eq(&others.4);
        if !planned_for {
            state.plan_revision += 1;
        }
    }
    if !matches!(
        answer,
        Err(Rejection::StalePlan { .. } | Rejection::StaleStep(_))
    ) {
        state.remembered.insert(request.id, answer.clone());
    }
    answer
}

fn execute(state: &mut State, command: &Command, stamp: &Stamp) -> Result<Outcome, Rejection> {
    if state.cluster.is_none() && !matches!(command, Command::Init { .. }) {
        return Err(Rejection::NotInitialised);
    }
    match command {
        Command::Init {
            cluster,
            name,
            addresses,
            api_token_sha256,
        } => members::init(state, cluster, name, addresses, api_token_sha256),
        Command::Join {
            token,
            secret_sha256,
            now,
            name,
            addresses,
            level,
        } => members::join(
            state,
            (token, secret_sha256),
            *now,
            (name, addresses, *level),
        ),
        Command::SetAddresses { node, addresses } => {
            members::set_addresses(state, *node, addresses)
        }
        Command::SetLevel { node, level } => members::set_level(state, *node, *level),
        Command::SetLeaving { node, leaving } => members::set_leaving(state, *node, *leaving),
        Command::SetDraining { node, draining } => members::set_draining(state, *node, *draining),
        Command::SetLabels { node, set, remove } => members::set_labels(state, *node, set, remove),
        Command::RemoveNode { node } => members::remove(state, *node),
        Command::ForgetJoiner { node } => members::forget_joiner(state, *node),
        Command::CreateJoinToken { token, now } => members::create_token(state, token, *now),
        Command::RevokeJoinToken { token } => match state.join_tokens.remove(token) {
            Some(_) => Ok(Outcome::Done),
            None => Err(Rejection::TokenUnknown),
        },
        Command::CreateDeployment {
            name,
            spec,
            scale,
            artifact,
            artifact_bytes,
            origin,
            now,
        } => deployments::create(
            state,
            name,
            *scale,
            New {
                spec: Some(spec),
                artifact: (*artifact, *artifact_bytes),
                origin,
                now: *now,
            },
        ),
        Command::UpdateDeployment {
            name,
            based_on,
            spec,
            artifact,
            artifact_bytes,
            origin,
            now,
        } => deployments::update(
            state,
            (name, *based_on),
            New {
                spec: spec.as_ref(),
                artifact: (*artifact, *artifact_bytes),
                origin,
                now: *now,
            },
        ),
        Command::RollBack { name, to, now } => rollouts::roll_back(state, name, *to, *now),
        Command::OrderRollout { name, order, now } => rollouts::order(state, name, *order, *now),
        Command::StepRollout {
            name,
            release,
            seq,
            step,
            now,
        } => rollouts::step(state, name, (*release, *seq), step, *now),
        Command::StartRun { name, now } => runs::start(state, name, *now),
        Command::CancelRun { name, run, now } => runs::cancel(state, name, *run, *now),
        Command::StepRun {
            name,
            run,
            seq,
            step,
            now,
        } => runs::step(state, name, (*run, *seq), step, *now),
        Command::TickCron {
            name,
            release,
            seen_until,
            come,
            now,
        } => runs::tick(state, name, (*release, *seen_until), come, *now),
        Command::ScaleDeployment {
            name,
            scale,
            based_on,
        } => deployments::scale(state, (name, *based_on), *scale),
        Command::RestartDeployment { name, now } => deployments::restart(state, name, *now),
        Command::RemoveDeployment { name } => deployments::remove(state, name),
        Command::PurgeCache { name } => deployments::purge_cache(state, name),
        Command::SetSecret {
            name,
            sealed,
            author,
            now,
        } => secrets::set(state, name, sealed, author, *now),
        Command::DeleteSecret { name } => secrets::delete(state, name),
        Command::DeleteVolumes { name } => volumes::delete(state, name),
        Command::VolumesGone {
            node,
            name,
            ordinal,
        } => volumes::gone(state, *node, name, *ordinal),
        Command::SetSetting { key, value } => set(state, key, value),
        Command::UnsetSetting { key } => unset(state, key),
        Command::Assign {
            plan_revision,
            changes,
        } => assign::assign(state, *plan_revision, changes),
        Command::Record { sightings } => events::record(state, sightings, stamp),
    }
}

fn set(state: &mut State, key: &str, value: &str) -> Result<Outcome, Rejection> {
    settings::check(key, value)?;
    if !state.settings.contains_key(key) {
        SETTINGS.check("the number of settings", state.settings.len() + 1)?;
    }
    state.settings.insert(key.to_owned(), value.to_owned());
    Ok(Outcome::Done)
}

fn unset(state: &mut State, key: &str) -> Result<Outcome, Rejection> {
    settings::check_key(key)?;
    match state.settings.remove(key) {
        Some(_) => Ok(Outcome::Done),
        None => Err(Rejection::SettingUnset(excerpt(key))),
    }
}
