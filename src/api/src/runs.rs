//! `/v1/deployments/{name}/runs`: what ran to its end, and what is to.

use axum::Json;
use axum::extract::{Path, Query, State as Ex};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use nebula_domain::ids::RunNumber;
use nebula_domain::runs::{Cause, How, Run, RunState, Verdict, Waiting, Work};
use nebula_domain::{Command, DeploymentName, NodeId, Outcome, State};
use nebula_wire::api::{self, ApiError, RunBegun, Runs};

use crate::app::{App, Consistency};
use crate::deployments::{name, unknown};
use crate::error::{Answer, Failure, other_change};
use crate::node::rfc3339;

fn node_name(state: &State, id: NodeId) -> String {
    let node = state.nodes.get(&id);
    node.map_or_else(|| id.to_string(), |node| node.name.to_string())
}

pub(crate) fn told(
    state: &State,
    waiting: &mut Waiting<'_>,
    name: &DeploymentName,
    run: &Run,
) -> api::Run {
    let (stands, why, ended_at) = match &run.state {
        RunState::Pending { .. } => ("pending", None, None),
        RunState::Running => ("running", None, None),
        RunState::Ending(verdict) => ("stopping", verdict.why(), None),
        RunState::Over { at, verdict } => {
            let stands = match verdict {
                Verdict::Succeeded => "succeeded",
                Verdict::Failed { .. } => "failed",
                Verdict::Missed { .. } => "missed",
                Verdict::Cancelled { .. } => "cancelled",
            };
            (stands, verdict.why(), Some(rfc3339(*at)))
        }
    };
    let latest = run.attempts.last().and_then(|attempt| attempt.end.as_ref());
    let before = latest.map(|(_, exit)| exit.said.as_str());
    let waits = matches!(run.state, RunState::Pending { .. });
    let why = match waits {
        true => {
            let now = waiting.why(name, run);
            let both = before.map(str::to_owned).into_iter().chain(now);
            Some(both.collect::<Vec<_>>().join("; ")).filter(|why| !why.is_empty())
        }
        false => why.map(str::to_owned),
    };
    api::Run {
        id: run.number.to_string(),
        release: run.release.0,
        cause: run.cause.to_string(),
        state: stands.to_owned(),
        why,
        asked_at: rfc3339(run.asked_at),
        due_at: match run.cause {
            Cause::Cron { due } => Some(rfc3339(due)),
            _ => None,
        },
        started_at: run.attempts.first().map(|first| rfc3339(first.started_at)),
        ended_at,
        attempts: run.attempts.iter().map(|a| attempt(state, a)).collect(),
    }
}

fn attempt(state: &State, attempt: &nebula_domain::runs::Attempt) -> api::Attempt {
    let end = attempt.end.as_ref();
    let (exit, number) = match end.map(|(_, exit)| exit.how) {
        None => (None, None),
        Some(How::Code(code)) => (Some("code"), Some(code)),
        Some(How::Signal(number)) => (Some("signal"), Some(number)),
        Some(How::Memory) => (Some("memory"), None),
        Some(How::Disk) => (Some("disk"), None),
        Some(How::Lost) => (Some("lost"), None),
    };
    api::Attempt {
        instance: attempt.instance.to_string(),
        node: node_name(state, attempt.node),
        started_at: rfc3339(attempt.started_at),
        ended_at: end.map(|(at, _)| rfc3339(*at)),
        exit: exit.map(str::to_owned),
        number,
        said: end.map(|(_, exit)| exit.said.clone()),
    }
}

/// The latest run, and when the next is due.
pub(crate) fn summary(
    state: &State,
    waiting: &mut Waiting<'_>,
    name: &DeploymentName,
) -> (Option<api::Run>, Option<String>) {
    let work = state.work.get(name);
    let last = work.and_then(Work::latest);
    let last = last.map(|run| told(state, waiting, name, run));
    (last, work.and_then(next))
}

fn next(work: &Work) -> Option<String> {
    work.cursor.as_ref()?.next.map(rfc3339)
}

/// The runs that go on, and the latest that are over.
#[utoipa::path(get, path = "/v1/deployments/{name}/runs", params(("name" = String, Path), Consistency),
    responses((status = 200, body = Runs), (status = 404, body = ApiError)))]
pub async fn list(
    Ex(app): Ex<App>,
    Path(text): Path<String>,
    Query(consistency): Query<Consistency>,
) -> Answer<Response> {
    let name = name(&text)?;
    let read = app.read(consistency).await?;
    if !read.state.deployments.contains_key(&name) {
        return Err(unknown(&name));
    }
    let work = read.state.work.get(&name).cloned().unwrap_or_default();
    let view = app.view();
    let mut waiting = Waiting::new(&read.state, &view, app.clock.now());
    // In the order in which they begin.
    let runs = work.runs.iter();
    let mut runs: Vec<_> = runs
        .map(|run| told(&read.state, &mut waiting, &name, run))
        .collect();
    runs.reverse();
    let answer = Runs {
        name: name.to_string(),
        runs,
        next_run_at: next(&work),
    };
    Ok(read.answer(Json(answer)))
}

/// Begins a run of a job or a cron deployment now.
#[utoipa::path(post, path = "/v1/deployments/{name}/runs", params(("name" = String, Path)),
    responses((status = 201, body = RunBegun), (status = 404, body = ApiError), (status = 409, body = ApiError)))]
pub async fn start(
    Ex(app): Ex<App>,
    Path(text): Path<String>,
    headers: HeaderMap,
) -> Answer<(StatusCode, Json<RunBegun>)> {
    let name = name(&text)?;
    let command = Command::StartRun {
        name: name.clone(),
        now: app.clock.now(),
    };
    let Outcome::RunBegun { run } = app.change(&headers, command).await?.outcome else {
        return Err(other_change());
    };
    let begun = RunBegun {
        name: name.to_string(),
        run: run.to_string(),
    };
    Ok((StatusCode::CREATED, Json(begun)))
}

/// Ends a run: SIGTERM, and SIGKILL after the grace of its deployment.
#[utoipa::path(delete, path = "/v1/deployments/{name}/runs/{run}",
    params(("name" = String, Path), ("run" = String, Path)),
    responses((status = 204), (status = 404, body = ApiError), (status = 409, body = ApiError)))]
pub async fn cancel(
    Ex(app): Ex<App>,
    Path((text, run)): Path<(String, String)>,
    headers: HeaderMap,
) -> Answer<StatusCode> {
    let name = name(&text)?;
    let run: RunNumber = run.parse().map_err(|e: nebula_domain::ids::ParseIdError| {
        Failure::from(ApiError::bad_request(
            e.to_string(),
            "see 'nebula deploy runs'",
        ))
    })?;
    let now = app.clock.now();
    app.change(&headers, Command::CancelRun { name, run, now })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}
