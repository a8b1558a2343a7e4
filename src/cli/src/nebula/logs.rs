//! `nebula deploy logs`.

use futures::TryStreamExt;
use nebula_client::LogQuery;
use nebula_domain::InstanceId;
use nebula_domain::text::parse_duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::deploy_args::Logs;
use crate::connect::ConnectFlags;
use crate::error::{CliError, Outcome};
use crate::output::Output;
use crate::render;
use crate::spec::deployment_name;

/// For clap: a time as the API reads it too, so that a slip is found before anything is sent.
pub fn time(text: &str) -> Result<String, String> {
    let known = parse_duration(text).is_some() || OffsetDateTime::parse(text, &Rfc3339).is_ok();
    known.then(|| text.to_owned()).ok_or_else(|| {
        format!(
            "'{text}' is not a time: write how long ago, such as 15m or 2h, or a time, such as 2026-01-31T12:00:00Z"
        )
    })
}

pub async fn run(args: Logs, connect: &ConnectFlags, out: Output) -> Outcome {
    let name = deployment_name(&args.name)?;
    if let Some(instance) = &args.instance {
        instance.parse::<InstanceId>().map_err(|e| {
            CliError::usage(
                e.to_string(),
                format!("see 'nebula deploy status {name}' for its instances"),
            )
        })?;
    }
    let query = LogQuery {
        follow: args.follow,
        tail: args.tail,
        instance: args.instance,
        level: args.level.map(|level| level.to_string()),
        since: args.since,
        until: args.until,
        grep: args.grep,
        release: args.release,
        node: args.node,
        stream: args.stream,
        past: args.past,
    };
    let client = connect.client()?;
    let mut lines = client.logs(name.as_str(), &query).await?;
    let mut silent = true;
    while let Some(line) = lines.try_next().await? {
        silent = false;
        if out.is_json() {
            // One object per line whatever stdout is: it is a stream.
            out.line(&serde_json::to_string(&line).unwrap_or_default());
        } else {
            out.line(&render::log_line(&line, args.timestamps));
        }
    }
    if silent {
        // Not a failure: which instances there ever were is not known everywhere.
        let whose = query.instance.as_deref().unwrap_or(name.as_str());
        out.note(&format!("no such output of '{whose}' is kept"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_durations_or_rfc_3339() {
        for good in [
            "1h",
            "90s",
            "2026-01-31T12:00:00Z",
            "2026-01-31T12:00:00+01:00",
        ] {
            assert_eq!(time(good).as_deref(), Ok(good));
        }
        for bad in ["", "yesterday", "1", "2026-01-31", "-1h"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }
}
