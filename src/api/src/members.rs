//! `/v1/members`: who belongs to the cluster.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query, State as Ex};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use nebula_domain::command::Rejection;
use nebula_domain::plan::{Room, rooms};
use nebula_domain::state::{Node, Role};
use nebula_domain::status::left_on;
use nebula_domain::{Command, NodeId, State};
use nebula_registry::{ProposeError, Status};
use nebula_wire::api::{
    ApiError, DrainStatus, ErrorCode, LabelChange, LeftInstance, Member, MemberStatus, Members,
    NodeLabels, NodeRoom,
};
use nebula_wire::convert;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::ToSchema;

use crate::app::{App, Consistency};
use crate::error::{Answer, Failure};

/// A change of voters takes two rounds, and an election when it is the leader that goes.
const HAND_OVER_DEADLINE: Duration = Duration::from_secs(10);
/// Before the leader is asked again whether the vote is taken.
const BREATH: Duration = Duration::from_millis(50);

/// Members with their part in the registry and how they are seen from this node.
#[utoipa::path(get, path = "/v1/members", params(Consistency), responses((status = 200, body = Members)))]
pub async fn list(Ex(app): Ex<App>, Query(consistency): Query<Consistency>) -> Answer<Response> {
    let read = app.read(consistency).await?;
    let mut status = app.registry.status().borrow().clone();
    // The last that was known is none: nobody takes a change now.
    status.leader = status.leader.filter(|_| status.quorum);
    let rooms = rooms(&read.state, &app.view());
    let members = read
        .state
        .nodes
        .values()
        .map(|node| member(&app, node, &status, rooms.get(&node.id)))
        .collect();
    let cluster_id = read
        .state
        .cluster
        .as_ref()
        .map(|c| c.id.to_string())
        .unwrap_or_default();
    let body = Members {
        cluster_id,
        leader: status.leader.map(|n| n.0),
        term: status.term,
        members,
    };
    Ok(read.answer(Json(body)))
}

pub(crate) fn room(room: Option<&Room>) -> NodeRoom {
    room.map_or_else(NodeRoom::default, |room| NodeRoom {
        instances: room.instances,
        instances_most: room.instances_most,
        memory_asked_bytes: room.asked.memory_bytes,
        memory_bytes: room.has.memory_bytes,
        cpu_asked_millis: room.asked.cpu_millis,
        cpu_millis: room.has.cpu_millis,
    })
}

fn member(app: &App, node: &Node, status: &Status, has: Option<&Room>) -> Member {
    let view = app.view();
    let seen = view.nodes.get(&node.id);
    let state = match seen.is_some_and(|n| n.alive) {
        _ if node.awaited_since.is_some() => MemberStatus::Joining,
        _ if seen.is_some_and(|n| n.returning) => MemberStatus::Restarting,
        false => MemberStatus::Dead,
        true if node.leaving => MemberStatus::Leaving,
        true if node.draining => MemberStatus::Draining,
        true => MemberStatus::Alive,
    };
    Member {
        id: node.id.0,
        name: node.name.to_string(),
        address: node.addresses.quic.to_string(),
        api: node.addresses.api.to_string(),
        edge: node.addresses.edge.to_string(),
        role: if status.voters.contains(&node.id) {
            "voter"
        } else {
            "learner"
        }
        .to_owned(),
        status: state,
        leader: status.leader == Some(node.id),
        version: seen.map(|n| n.facts.version.clone()).unwrap_or_default(),
        level: node.level,
        labels: convert::told_labels(&node.labels),
        room: room(has),
    }
}

/// A member by id or by name. What is the id of one and the name of another is neither: a machine called `2` is not to
/// be taken for the second one.
pub fn find(state: &State, text: &str) -> Answer<NodeId> {
    let by_id: Option<NodeId> = text.parse().ok().filter(|id| state.nodes.contains_key(id));
    let mut named = state.nodes.values();
    let by_name = named.find(|node| node.name.as_str() == text);
    let by_name = by_name.map(|node| node.id);
    if let (Some(id), Some(other)) = (by_id, by_name)
        && id != other
    {
        return Err(Failure::new(
            ErrorCode::Conflict,
            format!("'{text}' is the id of one member and the name of node {other}"),
            "name the first by its name, the other by its id",
        ));
    }
    by_id.or(by_name).ok_or_else(|| {
        Failure::not_found(
            format!("there is no member '{text}'"),
            "see 'nodectl members'",
        )
    })
}

/// Removes a member for good: its certificate is refused from then on and its instances move.
#[utoipa::path(delete, path = "/v1/members/{node}", params(("node" = String, Path, description = "id or name")),
    responses((status = 204), (status = 404, body = ApiError), (status = 409, body = ApiError)))]
pub async fn remove(
    Ex(app): Ex<App>,
    Path(node): Path<String>,
    headers: HeaderMap,
) -> Answer<StatusCode> {
    let state = app.registry.state();
    // A client whose answer was lost asks again: it has its wish.
    let asked_before = app
        .request_id(&headers)?
        .and_then(|id| state.remembered.get(id));
    let gone = node.parse().is_ok_and(|id| state.was_removed(id));
    let node = match find(&state, &node) {
        Ok(node) => node,
        Err(_) if gone || matches!(asked_before, Some(Ok(_))) => return Ok(StatusCode::NO_CONTENT),
        Err(unknown) => return Err(unknown),
    };
    // A client that goes away half-way must not leave a member without its vote.
    let removal = tokio::spawn(async move {
        let request = app.request(&headers, Command::RemoveNode { node })?;
        let until = Instant::now() + HAND_OVER_DEADLINE;
        let leaving = hand_over_vote(&app, &headers, node, until).await?;
        loop {
            match app.propose(&headers, request.clone()).await {
                // Whether a node votes is the leader's to say: this one may hear of a change of voters later.
                Err(ProposeError::Rejected(Rejection::VoteNeeded(_))) if leaving => {
                    if Instant::now() >= until {
                        return Err(not_handed_over(&app, &headers, node).await);
                    }
                    tokio::time::sleep(BREATH).await;
                }
                proposed => return Ok(proposed?),
            }
        }
    });
    match removal.await {
        Ok(removed) => removed.map(|_| StatusCode::NO_CONTENT),
        Err(_) => Err(Failure::new(
            ErrorCode::Internal,
            "the removal ended unexpectedly",
            "see this node's log",
        )),
    }
}

/// The others refuse a node the moment its removal is applied, so a voter's vote is taken away first (the registry
/// insists on it): a leader could not hand over otherwise, and two voters could never become one. Whether there was,
/// or may have been, a vote to take.
async fn hand_over_vote(
    app: &App,
    headers: &HeaderMap,
    node: NodeId,
    until: Instant,
) -> Answer<bool> {
    let mut status = app.registry.status();
    let voters = status.borrow().voters.clone();
    let view = app.view();
    let may_vote = voters.contains(&node)
        || app.registry.state().nodes.get(&node).map(|n| n.role) == Some(Role::Voter);
    if !may_vote {
        return Ok(false);
    }
    let others = voters.iter().filter(|voter| **voter != node).count();
    let alive = voters
        .iter()
        .filter(|voter| **voter != node && view.serves(**voter))
        .count();
    if others > 0 && alive * 2 <= others {
        return Err(Failure::new(
            ErrorCode::Conflict,
            format!(
                "without node {node} only {alive} of {others} voters would be alive, which is no majority"
            ),
            "bring back the other voters first, or remove the dead ones",
        ));
    }
    set_leaving(app, headers, node, true).await?;
    let handed_over = status.wait_for(|status| !status.voters.contains(&node) && status.quorum);
    let in_time = tokio::time::timeout_at(until, handed_over).await.is_ok();
    if in_time {
        return Ok(true);
    }
    Err(not_handed_over(app, headers, node).await)
}

async fn set_leaving(app: &App, headers: &HeaderMap, node: NodeId, leaving: bool) -> Answer<()> {
    let change = Command::SetLeaving { node, leaving };
    app.step(headers, change).await.map(|_| ())
}

/// Leaves the node a member, and as good a one as before.
async fn not_handed_over(app: &App, headers: &HeaderMap, node: NodeId) -> Failure {
    if let Err(failure) = set_leaving(app, headers, node, false).await {
        return failure;
    }
    Failure::new(
        ErrorCode::Timeout,
        format!(
            "the vote of node {node} was not handed over within {} s",
            HAND_OVER_DEADLINE.as_secs()
        ),
        "see 'nodectl members': a majority of the other voters has to be alive and have caught up",
    )
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
pub struct Drain {
    pub draining: bool,
}

/// Moves a member's instances elsewhere and gives it no new ones, or takes that back.
#[utoipa::path(post, path = "/v1/members/{node}/drain", request_body = Drain,
    params(("node" = String, Path, description = "id or name")),
    responses((status = 204), (status = 404, body = ApiError)))]
pub async fn drain(
    Ex(app): Ex<App>,
    Path(node): Path<String>,
    headers: HeaderMap,
    Json(body): Json<Drain>,
) -> Answer<StatusCode> {
    let node = find(&app.registry.state(), &node)?;
    app.change(
        &headers,
        Command::SetDraining {
            node,
            draining: body.draining,
        },
    )
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The instances that a member has still, and what keeps them there.
#[utoipa::path(get, path = "/v1/members/{node}/drain", params(("node" = String, Path, description = "id or name"), Consistency),
    responses((status = 200, body = DrainStatus), (status = 404, body = ApiError)))]
pub async fn drained(
    Ex(app): Ex<App>,
    Path(node): Path<String>,
    Query(consistency): Query<Consistency>,
) -> Answer<Response> {
    let read = app.read(consistency).await?;
    let id = find(&read.state, &node)?;
    let left = left_on(&read.state, &app.view(), id);
    let left = left.into_iter().map(|left| LeftInstance {
        id: left.id.to_string(),
        deployment: left.deployment.to_string(),
        phase: left.phase.to_string(),
        reason: left.reason,
        bound: left.bound,
    });
    let node = read.state.nodes.get(&id);
    let status = DrainStatus {
        id: id.0,
        name: node.map(|node| node.name.to_string()).unwrap_or_default(),
        draining: node.is_some_and(|node| node.draining),
        left: left.collect(),
    };
    Ok(read.answer(Json(status)))
}

/// Sets labels of a member and takes labels away; the others stay.
#[utoipa::path(post, path = "/v1/members/{node}/labels", request_body = LabelChange,
    params(("node" = String, Path, description = "id or name")),
    responses((status = 200, body = NodeLabels), (status = 400, body = ApiError), (status = 404, body = ApiError)))]
pub async fn label(
    Ex(app): Ex<App>,
    Path(node): Path<String>,
    headers: HeaderMap,
    Json(body): Json<LabelChange>,
) -> Answer<Json<NodeLabels>> {
    let state = app.registry.state();
    let id = find(&state, &node)?;
    let set = convert::labels(&body.set)?;
    let keys = body.remove.iter().map(|key| convert::label_key(key));
    let remove: Vec<_> = keys.collect::<Result<_, _>>()?;
    // What this node knows may be behind what the command is applied to; it is what the caller saw.
    let node = state.nodes.get(&id);
    let mut labels = node.map(|node| node.labels.clone()).unwrap_or_default();
    labels.extend(set.clone());
    labels.retain(|key, _| !remove.contains(key));
    let command = Command::SetLabels {
        node: id,
        set,
        remove,
    };
    app.change(&headers, command).await?;
    Ok(Json(NodeLabels {
        name: node.map(|node| node.name.to_string()).unwrap_or_default(),
        labels: convert::told_labels(&labels),
    }))
}
