//! `/v1/deployments/{name}/cache`: what the nodes' proxies keep of a deployment's answers.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State as Ex};
use axum::http::HeaderMap;
use nebula_domain::{Command, DeploymentName, Outcome, State, View};
use nebula_wire::api::{ApiError, CachePurged};

use crate::app::App;
use crate::error::{Answer, other_change};

/// How long the live nodes' proxies are waited for. Each hears of a change and says so within a second, and one that has fallen
/// silent is no longer alive by then.
const HEARD_WITHIN: Duration = Duration::from_secs(5);

/// Lets go of what is kept of a deployment's answers, on every node. Answers once the live nodes' proxies know of it.
#[utoipa::path(post, path = "/v1/deployments/{name}/cache/purge", params(("name" = String, Path)),
    responses((status = 200, body = CachePurged), (status = 404, body = ApiError), (status = 409, body = ApiError)))]
pub async fn purge(
    Ex(app): Ex<App>,
    Path(text): Path<String>,
    headers: HeaderMap,
) -> Answer<Json<CachePurged>> {
    let name: DeploymentName = text.parse()?;
    let command = Command::PurgeCache { name: name.clone() };
    // The outcome's, which is the same when the client asks again: tables are not made anew for whatever comes after it.
    let Outcome::CachePurged { revision } = app.change(&headers, command).await?.outcome else {
        return Err(other_change());
    };
    let mut view = app.view.clone();
    let all = view.wait_for(|view| heard(view, revision).behind.is_empty());
    // A view that will not change any more says as much as one that has not in time.
    let _ = tokio::time::timeout(HEARD_WITHIN, all).await;
    let heard = heard(&app.view(), revision);
    let state = app.registry.state();
    Ok(Json(CachePurged {
        name: name.to_string(),
        revision,
        nodes: heard.nodes,
        behind: heard.names(&state),
    }))
}

/// Who routes by a revision, of those that serve requests.
struct Heard {
    nodes: u32,
    behind: Vec<nebula_domain::NodeId>,
}

fn heard(view: &View, revision: u64) -> Heard {
    let mut heard = Heard {
        nodes: 0,
        behind: Vec::new(),
    };
    for (id, node) in view.nodes.iter().filter(|(_, node)| node.serves()) {
        match node.facts.routed_revision >= revision {
            true => heard.nodes += 1,
            false => heard.behind.push(*id),
        }
    }
    heard
}

impl Heard {
    fn names(&self, state: &State) -> Vec<String> {
        let name = |id| match state.nodes.get(id) {
            Some(node) => node.name.to_string(),
            None => format!("node {id}"),
        };
        self.behind.iter().map(name).collect()
    }
}

#[cfg(test)]
mod tests {
    use nebula_domain::NodeId;
    use nebula_domain::observed::NodeView;

    use super::*;

    #[test]
    fn the_live_are_waited_for_until_they_route_by_the_purge() {
        let mut view = View::default();
        for (id, alive, revision) in [(1, true, 7), (2, true, 6), (3, false, 2), (4, true, 9)] {
            let mut node = NodeView::unheard();
            (node.alive, node.facts.routed_revision) = (alive, revision);
            view.nodes.insert(NodeId(id), node);
        }
        let heard = heard(&view, 7);
        assert_eq!((heard.nodes, &heard.behind[..]), (2, &[NodeId(2)][..]));
        assert_eq!(heard.names(&State::default()), ["node 2"]);
    }
}
