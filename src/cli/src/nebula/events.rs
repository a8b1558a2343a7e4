//! `nebula events` and `nebula deploy events`: what happened, and why.

use clap::Args;
use futures::TryStreamExt;
use nebula_client::EventQuery;
use nebula_domain::events::Kinds;
use nebula_wire::api::Event;

use super::logs::time;
use crate::connect::ConnectFlags;
use crate::error::{CliError, Outcome};
use crate::output::Output;
use crate::spec::deployment_name;

/// Which events to show.
#[derive(Debug, Args)]
pub struct Choice {
    /// Go on with new events as they happen
    #[arg(long, short)]
    pub follow: bool,
    /// Only events from this time on: how long ago (15m, 2h), or RFC 3339
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub since: Option<String>,
    /// Only so many of the latest
    #[arg(long, value_name = "COUNT")]
    pub tail: Option<usize>,
    /// Only this kind, or all that begin with the same words: instance-ended, instance, release, node
    #[arg(long, value_name = "KIND", value_parser = kind)]
    pub kind: Option<String>,
    /// Only about this node, or what happened there
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
}

fn kind(text: &str) -> Result<String, String> {
    text.parse::<Kinds>()
        .map(|_| text.to_owned())
        .map_err(|error| {
            format!("{error}: write deployment, release, instance, node, setting or cluster, or one kind, such as instance-ended")
        })
}

/// Of one deployment, or of the whole cluster.
pub async fn run(
    name: Option<&str>,
    choice: Choice,
    connect: &ConnectFlags,
    out: Output,
) -> Outcome {
    let deployment = name.map(deployment_name).transpose()?;
    let query = EventQuery {
        follow: choice.follow,
        after: None,
        tail: choice.tail,
        since: choice.since,
        deployment: deployment.map(|name| name.to_string()),
        kind: choice.kind,
        node: choice.node,
    };
    let mut events = connect.client()?.events(query);
    let mut silent = true;
    while let Some(event) = events.try_next().await.map_err(CliError::from)? {
        silent = false;
        if out.is_json() {
            // One object per line whatever stdout is: it is a stream.
            out.line(&serde_json::to_string(&event).unwrap_or_default());
        } else {
            out.line(&line(&event));
        }
    }
    if silent {
        out.note("no such event is kept");
    }
    Ok(())
}

/// As wide as the longest kinds that are seen often.
const KIND_WIDTH: usize = 18;

fn line(event: &Event) -> String {
    let mut subject = Vec::new();
    subject.extend(event.deployment.clone());
    subject.extend(event.instance.clone());
    subject.extend(event.release.map(|release| format!("r{release}")));
    subject.extend(event.node.as_ref().map(|node| format!("@{node}")));
    let mut text = format!("{} {:KIND_WIDTH$}", event.time, event.kind);
    if !subject.is_empty() {
        text += &format!(" {}", subject.join(" "));
    }
    if !event.reason.is_empty() {
        // What programs and people write may be anything; a terminal obeys some of it.
        text += &format!(": {}", nebula_domain::loglevel::plain(&event.reason));
    }
    if !event.who.is_empty() {
        text += &format!(" (by {})", nebula_domain::loglevel::plain(&event.who));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_when_what_whose_why_and_by_whom() {
        let event = Event {
            seq: 7,
            time: "2026-01-01T00:00:00.000Z".into(),
            kind: "instance-ended".into(),
            deployment: Some("api".into()),
            release: Some(2),
            instance: Some("i-3".into()),
            node: Some("b".into()),
            reason: "killed: out of memory\u{7}".into(),
            who: String::new(),
        };
        assert_eq!(
            line(&event),
            "2026-01-01T00:00:00.000Z instance-ended     api i-3 r2 @b: killed: out of memory\\x07"
        );
        let event = Event {
            kind: "setting-set".into(),
            deployment: None,
            release: None,
            instance: None,
            node: None,
            reason: String::new(),
            who: "init".into(),
            ..event
        };
        assert!(
            line(&event).ends_with("setting-set        (by init)"),
            "{}",
            line(&event)
        );
    }

    #[test]
    fn kinds_are_checked_before_anything_is_sent() {
        assert_eq!(kind("instance").as_deref(), Ok("instance"));
        assert!(kind("loud").is_err_and(|error| error.contains("instance-ended")));
    }
}
