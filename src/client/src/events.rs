//! The events endpoint's stream, which goes on at another node when the one that was asked is gone.

use std::time::{Duration, Instant};

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use nebula_wire::api::Event;

use crate::lines::json_lines;
use crate::path::segment;
use crate::send::Call;
use crate::{Client, ClientError, limits};

/// Between two rounds through all addresses.
const PAUSE: Duration = Duration::from_millis(250);

/// Which events are wanted. What is none is every one that is kept.
#[derive(Debug, Clone, Default)]
pub struct EventQuery {
    /// Go on with new events as they happen.
    pub follow: bool,
    /// With higher numbers than this.
    pub after: Option<u64>,
    /// So many of the latest.
    pub tail: Option<usize>,
    /// From this time on: RFC 3339, or how long ago, such as `1h`.
    pub since: Option<String>,
    pub deployment: Option<String>,
    /// One kind, or the words that several begin with.
    pub kind: Option<String>,
    /// About this node, or what happened there.
    pub node: Option<String>,
}

impl EventQuery {
    fn path(&self) -> String {
        let mut path = format!("/v1/events?follow={}", self.follow);
        let after = self.after.map(|after| after.to_string());
        let tail = self.tail.map(|tail| tail.to_string());
        for (key, value) in [
            ("after", &after),
            ("tail", &tail),
            ("since", &self.since),
            ("deployment", &self.deployment),
            ("kind", &self.kind),
            ("node", &self.node),
        ] {
            if let Some(value) = value {
                path.push_str(&format!("&{key}={}", segment(value)));
            }
        }
        path
    }

    /// What is still wanted once this one was seen.
    fn seen(&mut self, seq: u64) {
        self.after = Some(seq);
        self.tail = None;
        self.since = None;
    }
}

type Lines = BoxStream<'static, Result<Event, ClientError>>;

async fn open(client: Client, path: String) -> Result<Lines, ClientError> {
    let until = Instant::now() + client.deadline;
    let answer = client.send(&Call::read(path), until).await?;
    Ok(json_lines(answer, "event", Some(limits::EVENTS_SILENCE)).boxed())
}

struct Following {
    client: Client,
    query: EventQuery,
    lines: Option<Lines>,
    /// Since when no node answers; none before the first has.
    lost: Option<Instant>,
}

impl Following {
    async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        loop {
            let lines = match &mut self.lines {
                Some(lines) => lines,
                None => match open(self.client.clone(), self.query.path()).await {
                    Ok(lines) => self.lines.insert(lines),
                    Err(error) if self.may_wait(&error) => {
                        tokio::time::sleep(PAUSE).await;
                        continue;
                    }
                    Err(error) => return Err(error),
                },
            };
            match lines.next().await {
                Some(Ok(event)) => {
                    self.query.seen(event.seq);
                    return Ok(Some(event));
                }
                Some(Err(error)) if !self.query.follow => return Err(error),
                None if !self.query.follow => return Ok(None),
                // Its node is gone, or was told to stop.
                Some(Err(_)) | None => {
                    self.lines = None;
                    self.lost = Some(Instant::now());
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// A cluster whose nodes are started again one after the other is there again soon.
    fn may_wait(&self, error: &ClientError) -> bool {
        let since = self.lost.filter(|_| error.is_temporary());
        since.is_some_and(|since| since.elapsed() < self.client.deadline)
    }
}

impl Client {
    /// What happened, oldest first. With `follow` it goes on until it is dropped, or no node has answered for a whole
    /// deadline; no event is missed and none comes twice, whichever nodes are asked.
    pub fn events(
        &self,
        query: EventQuery,
    ) -> impl Stream<Item = Result<Event, ClientError>> + Send + Unpin + use<> {
        let following = Following {
            client: self.clone(),
            query,
            lines: None,
            lost: None,
        };
        Box::pin(futures::stream::try_unfold(
            following,
            |mut following| async move {
                let event = following.next().await?;
                Ok(event.map(|event| (event, following)))
            },
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_is_not_asked_for_again() {
        let mut query = EventQuery {
            follow: true,
            since: Some("1h".into()),
            tail: Some(3),
            node: Some("a b".into()),
            ..EventQuery::default()
        };
        assert_eq!(
            query.path(),
            "/v1/events?follow=true&tail=3&since=1h&node=a%20b"
        );
        query.seen(7);
        assert_eq!(query.path(), "/v1/events?follow=true&after=7&node=a%20b");
    }
}
