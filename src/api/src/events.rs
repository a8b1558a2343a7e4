//! `/v1/events`: what happened, oldest first, one JSON object per line. Numbers are the cluster's, so that a client that
//! has seen one goes on from there on any node.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Query, State as Ex};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use nebula_domain::events::{Event, Kinds};
use nebula_domain::excerpt::excerpt;
use nebula_domain::time::Millis;
use nebula_domain::{DeploymentName, NodeName, State};
use nebula_wire::api::{self, ApiError, ErrorCode};
use serde::Deserialize;
use tokio::sync::watch;

use crate::app::App;
use crate::error::Answer;
use crate::logs::{bad, millis_of};

/// A blank line so often tells a follower that this node is there still.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct EventQuery {
    /// Go on with new events until the client goes away. A blank line every ten seconds is a sign of life.
    #[serde(default)]
    pub follow: bool,
    /// Only events with a higher number.
    pub after: Option<u64>,
    /// Only so many of the latest.
    pub tail: Option<usize>,
    /// Only events from this time on: RFC 3339, or how long ago, such as `1h`.
    pub since: Option<String>,
    /// Only of this deployment.
    pub deployment: Option<String>,
    /// Only of this kind, or of all kinds that begin with the same words: `instance-ended`, `instance`.
    pub kind: Option<String>,
    /// Only about the node of this name, or what happened there.
    pub node: Option<String>,
}

/// What happened in the cluster, as far back as it is kept.
#[utoipa::path(get, path = "/v1/events", params(EventQuery),
    responses((status = 200, body = api::Event, content_type = "application/x-ndjson"), (status = 400, body = ApiError), (status = 404, body = ApiError)))]
pub async fn stream(Ex(app): Ex<App>, Query(query): Query<EventQuery>) -> Answer<Response> {
    let states = app.registry.watch();
    let (follow, after) = (query.follow, query.after.unwrap_or_default());
    let tail = query.tail.unwrap_or(usize::MAX);
    let wanted = wanted(query, app.clock.now())?;
    check(&states.borrow(), &wanted)?;
    let mut feed = Feed {
        states,
        wanted,
        after,
        lines: VecDeque::new(),
    };
    feed.take(tail);
    let lines = futures::stream::unfold(feed, move |mut feed| async move {
        let line = feed.next(follow).await?;
        Some((Ok::<_, Infallible>(line), feed))
    });
    let mut response = Response::new(Body::from_stream(lines));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/x-ndjson"),
    );
    Ok(response)
}

/// Which events are asked for.
#[derive(Debug, Default)]
struct Wanted {
    deployment: Option<DeploymentName>,
    kinds: Option<Kinds>,
    node: Option<NodeName>,
    since: Millis,
}

impl Wanted {
    fn fits(&self, event: &Event) -> bool {
        let at = event.node.as_ref().map(|node| &node.name);
        event.at >= self.since
            && self
                .kinds
                .as_ref()
                .is_none_or(|kinds| kinds.has(event.kind))
            && self.node.as_ref().is_none_or(|node| at == Some(node))
    }

    /// Those that fit, oldest first, `tail` of the latest at most.
    fn among(&self, state: &State, after: u64, tail: usize) -> Vec<api::Event> {
        let events = &state.events;
        let fits = |event: &&Event| self.fits(event);
        let mut found: Vec<api::Event> = match &self.deployment {
            Some(name) => {
                let own = events.after_of(name, after).rev();
                own.filter(fits).take(tail).map(told).collect()
            }
            None => events
                .after(after)
                .rev()
                .filter(fits)
                .take(tail)
                .map(told)
                .collect(),
        };
        found.reverse();
        found
    }
}

fn wanted(query: EventQuery, now: Millis) -> Result<Wanted, ApiError> {
    let deployment = query
        .deployment
        .as_deref()
        .map(str::parse::<DeploymentName>);
    let kinds = query.kind.as_deref().map(str::parse::<Kinds>).transpose();
    let kinds = kinds.map_err(|error| bad(error.to_string(), KINDS_HINT))?;
    let since = query.since.as_deref().map(|text| millis_of(text, now));
    let node = query.node.as_deref().map(|text| {
        text.parse::<NodeName>()
            .map_err(|error| bad(error.to_string(), "see 'nodectl members'"))
    });
    Ok(Wanted {
        deployment: deployment.transpose()?,
        kinds,
        node: node.transpose()?,
        since: since.transpose()?.unwrap_or_default(),
    })
}

const KINDS_HINT: &str = "write deployment, release, instance, node, setting or cluster, or one kind, such as instance-ended";

/// What is asked for must be known, or have been.
fn check(state: &State, wanted: &Wanted) -> Result<(), ApiError> {
    let unknown = |message: String, hint: &str| ApiError {
        code: ErrorCode::NotFound,
        ..bad(message, hint)
    };
    if let Some(name) = &wanted.deployment
        && !state.deployments.contains_key(name)
        && !state.events.knows(name)
    {
        let message = format!("there is no deployment named '{name}', and nothing is kept of one");
        return Err(unknown(message, "see 'nebula deploy list'"));
    }
    if let Some(name) = &wanted.node
        && !state.nodes.values().any(|node| node.name == *name)
        && !state
            .events
            .after(0)
            .any(|event| event.node.as_ref().is_some_and(|at| at.name == *name))
    {
        let message = format!(
            "there is no node named '{}', and nothing is kept of one",
            excerpt(name.as_str())
        );
        return Err(unknown(message, "see 'nodectl members'"));
    }
    Ok(())
}

/// One client's way through the history.
struct Feed {
    states: watch::Receiver<Arc<State>>,
    wanted: Wanted,
    /// Everything up to this number was looked at.
    after: u64,
    lines: VecDeque<Bytes>,
}

impl Feed {
    /// Looks at what is new.
    fn take(&mut self, tail: usize) {
        let state = self.states.borrow_and_update().clone();
        let last = state.events.last();
        // A node that lags behind the one that was asked before has nothing to say yet.
        if last <= self.after {
            return;
        }
        let new = self.wanted.among(&state, self.after, tail);
        self.lines.extend(new.iter().map(json_line));
        self.after = last;
    }

    /// The next line; none at the end, which a follower does not come to while this node runs.
    async fn next(&mut self, follow: bool) -> Option<Bytes> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Some(line);
            }
            if !follow {
                return None;
            }
            let after = self.after;
            let news = self.states.wait_for(|state| state.events.last() > after);
            match tokio::time::timeout(SIGN_OF_LIFE, news).await {
                Ok(Ok(_)) => {}
                Ok(Err(_)) => return None,
                Err(_) => return Some(Bytes::from_static(b"\n")),
            }
            self.take(usize::MAX);
        }
    }
}

fn told(event: &Event) -> api::Event {
    api::Event {
        seq: event.seq,
        time: nebula_logs::time_text(event.at),
        kind: event.kind.to_string(),
        deployment: event.deployment.as_ref().map(ToString::to_string),
        release: event.release.map(|release| release.0),
        instance: event.instance.map(|instance| instance.to_string()),
        node: event.node.as_ref().map(|node| node.name.to_string()),
        reason: event.reason.clone(),
        who: event.who.clone(),
    }
}

fn json_line(event: &api::Event) -> Bytes {
    let mut json = serde_json::to_vec(event).unwrap_or_default();
    json.push(b'\n');
    json.into()
}

#[cfg(test)]
mod tests {
    use nebula_domain::command::{Command, Request};
    use nebula_domain::events::Stamp;
    use nebula_domain::ids::{ClusterId, RequestId};
    use nebula_domain::state::{Addresses, Cluster};

    use super::*;

    const NOW: Millis = Millis(1_769_860_800_000);

    fn of(query: &str) -> Result<Wanted, ApiError> {
        let uri = format!("/x?{query}").parse().unwrap();
        let Query(query) = Query::<EventQuery>::try_from_uri(&uri).unwrap();
        wanted(query, NOW)
    }

    fn apply(state: &mut State, n: u64, command: Command) {
        let stamp = Stamp {
            at: Millis(NOW.0 + n),
            ..Stamp::default()
        };
        let request = Request {
            stamp,
            ..Request::new(RequestId(n.into()), command)
        };
        nebula_domain::apply(state, &request).unwrap();
    }

    /// Of a node that is drained again and again.
    fn state(drains: u64) -> State {
        let mut state = State::default();
        let address = "127.0.0.1:1".parse().unwrap();
        let init = Command::Init {
            cluster: Cluster {
                id: ClusterId("c".into()),
                ca_pem: String::new(),
            },
            name: "a".parse().unwrap(),
            addresses: Addresses {
                quic: address,
                api: address,
                edge: address,
            },
            api_token_sha256: [0; 32],
        };
        apply(&mut state, 1, init);
        for n in 0..drains {
            drain(&mut state, n);
        }
        state
    }

    fn drain(state: &mut State, n: u64) {
        let command = Command::SetDraining {
            node: nebula_domain::NodeId(1),
            draining: n.is_multiple_of(2),
        };
        apply(state, n + 2, command);
    }

    #[test]
    fn what_is_no_filter_or_unknown_is_refused_with_a_hint() {
        for bad in [
            "kind=loud",
            "since=soon",
            "deployment=No_Good",
            "node=No_Good",
        ] {
            let error = of(bad).unwrap_err();
            assert_eq!(error.code, ErrorCode::BadRequest, "{bad}");
            assert!(!error.hint.is_empty(), "{bad}");
        }
        let state = state(0);
        for unknown in ["deployment=api", "node=b"] {
            let error = check(&state, &of(unknown).unwrap()).unwrap_err();
            assert_eq!(error.code, ErrorCode::NotFound, "{unknown}");
        }
        assert!(check(&state, &of("node=a&kind=node").unwrap()).is_ok());
    }

    #[test]
    fn filters_and_the_tail_choose() {
        let state = state(4);
        let kinds = |query: &str, after, tail| {
            let found = of(query).unwrap().among(&state, after, tail);
            found
                .into_iter()
                .map(|event| event.kind)
                .collect::<Vec<_>>()
        };
        let all = [
            "node-joined",
            "node-arrived",
            "node-draining",
            "node-opened",
        ];
        assert_eq!(kinds("", 0, usize::MAX)[..4], all);
        assert_eq!(kinds("kind=node-opened", 0, usize::MAX).len(), 2);
        assert_eq!(kinds("node=a", 0, 1), ["node-opened"]);
        assert_eq!(kinds("", 5, usize::MAX), ["node-opened"]);
        let later = format!("since={}", nebula_logs::time_text(Millis(NOW.0 + 5)));
        assert_eq!(kinds(&later, 0, usize::MAX), ["node-opened"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_follower_on_a_node_that_lags_hears_everything_once() {
        let (sender, states) = watch::channel(Arc::new(state(1)));
        let mut feed = Feed {
            states,
            wanted: Wanted::default(),
            after: 4,
            lines: VecDeque::new(),
        };
        feed.take(usize::MAX);
        let blank = feed.next(true).await.unwrap();
        assert_eq!(
            &blank[..],
            b"\n",
            "a sign of life, and nothing that was seen elsewhere"
        );
        let mut now = (**sender.borrow()).clone();
        for n in 1..5 {
            drain(&mut now, n);
        }
        sender.send_replace(Arc::new(now));
        let mut seen = Vec::new();
        for _ in 0..3 {
            let line = feed.next(true).await.unwrap();
            let event: api::Event = serde_json::from_slice(&line).unwrap();
            seen.push(event.seq);
        }
        assert_eq!(seen, [5, 6, 7]);
        assert_eq!(&feed.next(true).await.unwrap()[..], b"\n");
        drop(sender);
        assert!(feed.next(true).await.is_none());
    }
}
