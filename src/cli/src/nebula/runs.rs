//! `nebula deploy runs|run|cancel`: what runs to its end.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use clap::Args;
use futures::StreamExt;
use nebula_client::{Client, LogQuery};
use nebula_wire::api::{ErrorCode, Run};

use crate::connect::ConnectFlags;
use crate::error::{CliError, Exit, Outcome};
use crate::output::Output;
use crate::spec::deployment_name;
use crate::{duration, render, wait};

/// Between two looks at a run that goes on.
const PAUSE: Duration = Duration::from_millis(200);
/// The last lines of a run that is over are on their way for a moment.
const LAST_LINES: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub struct Begin {
    pub name: String,
    /// Return as soon as the cluster has taken it
    #[arg(long, conflicts_with = "follow")]
    pub no_wait: bool,
    /// Show its output while it goes on
    #[arg(long, short)]
    pub follow: bool,
    /// How long to wait; until it is over unless said otherwise
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub timeout: Option<Duration>,
}

#[derive(Debug, Args)]
pub struct Cancel {
    pub name: String,
    /// Such as run-3
    pub run: String,
}

pub async fn list(name: &str, connect: &ConnectFlags, out: Output) -> Outcome {
    let name = deployment_name(name)?;
    let runs = connect.client()?.runs(name.as_str()).await?;
    out.result(&runs, render::runs);
    Ok(())
}

pub async fn begin(args: Begin, connect: &ConnectFlags, out: Output) -> Outcome {
    let name = deployment_name(&args.name)?;
    let client = connect.client()?;
    let begun = client.start_run(name.as_str()).await?;
    if args.no_wait {
        out.result(&begun, |b| format!("{} of {} is asked for", b.run, b.name));
        return Ok(());
    }
    let watched = Watched {
        client: &client,
        name: name.as_str(),
        id: &begun.run,
        follow: args.follow,
        out,
    };
    let run = watched.until_over(args.timeout).await?;
    if run.state == "succeeded" {
        out.result(&run, |run| format!("{} of {name} succeeded", run.id));
        return Ok(());
    }
    let why = run.why.clone().unwrap_or_default();
    let instance = run.attempts.last().map(|last| last.instance.clone());
    let details = match (args.follow, instance) {
        (false, Some(instance)) => {
            wait::last_output_of(&client, name.as_str(), run.release, &instance).await
        }
        _ => Vec::new(),
    };
    Err(CliError::new(
        Exit::RolledBack,
        ErrorCode::Conflict,
        format!("{} of '{name}' {}: {why}", run.id, run.state),
        format!("see 'nebula deploy runs {name}' and 'nebula deploy logs {name}'"),
    )
    .with_details(details))
}

/// A run that somebody waits for.
struct Watched<'a> {
    client: &'a Client,
    name: &'a str,
    id: &'a str,
    follow: bool,
    out: Output,
}

impl Watched<'_> {
    async fn until_over(&self, timeout: Option<Duration>) -> Outcome<Run> {
        let start = Instant::now();
        let bar = self.out.steps_bar(1);
        let mut told = BTreeSet::new();
        let mut how_far = None;
        let mut lines = tokio::task::JoinSet::new();
        loop {
            let found = match self.client.runs(self.name).await {
                Ok(runs) => runs.runs.into_iter().find(|run| run.id == self.id),
                Err(error)
                    if error.is_not_found() && wait::is_gone(self.client, self.name).await =>
                {
                    bar.finish_and_clear();
                    return Err(wait::removed(
                        self.name,
                        &format!("before {} was over", self.id),
                    ));
                }
                // A node that has not applied it yet, or a cluster that is electing a leader.
                Err(error) if error.is_not_found() || error.is_temporary() => None,
                Err(error) => return Err(error.into()),
            };
            if let Some(run) = &found {
                how_far = wait::waits(run);
                let stands = how_far.clone();
                let stands = stands.unwrap_or_else(|| format!("{} is {}", run.id, run.state));
                bar.set_message(format!("{}: {stands}", self.name));
                for attempt in run.attempts.iter().filter(|_| self.follow) {
                    if told.insert(attempt.instance.clone()) {
                        let (client, name) = (self.client.clone(), self.name.to_owned());
                        lines.spawn(show(client, name, attempt.instance.clone(), self.out));
                    }
                }
            }
            if let Some(run) = found.filter(|run| run.ended_at.is_some()) {
                bar.finish_and_clear();
                let all = async { while lines.join_next().await.is_some() {} };
                // What follows goes on for as long as the instance is known: no longer than this.
                let _ = tokio::time::timeout(LAST_LINES, all).await;
                return Ok(run);
            }
            if let Some(timeout) = timeout.filter(|timeout| start.elapsed() >= *timeout) {
                bar.finish_and_clear();
                let (name, id) = (self.name, self.id);
                let why = how_far.map_or_else(String::new, |how_far| format!(": {how_far}"));
                return Err(CliError::timed_out(
                    format!(
                        "{id} of '{name}' is not over after {}{why}",
                        duration::show(timeout)
                    ),
                    format!("look again with 'nebula deploy runs {name}'"),
                ));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// An attempt's output as it comes.
async fn show(client: Client, name: String, instance: String, out: Output) {
    let query = LogQuery {
        follow: true,
        tail: Some(10_000),
        instance: Some(instance),
        ..LogQuery::default()
    };
    let Ok(mut lines) = client.logs(&name, &query).await else {
        return;
    };
    while let Some(Ok(line)) = lines.next().await {
        let line = render::log_line(&line, false);
        match out.is_json() {
            // The result alone is JSON.
            true => out.note(&line),
            false => out.line(&line),
        }
    }
}

pub async fn cancel(args: Cancel, connect: &ConnectFlags, out: Output) -> Outcome {
    let name = deployment_name(&args.name)?;
    let client = connect.client()?;
    client.cancel_run(name.as_str(), &args.run).await?;
    let told = serde_json::json!({ "name": name.to_string(), "run": args.run });
    out.result(&told, |_| {
        format!("{} of {name} is being cancelled", args.run)
    });
    Ok(())
}
