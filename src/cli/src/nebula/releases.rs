//! `nebula deploy history|diff|rollback|pause|resume|promote|abort`: what is done with releases.

use clap::Args;
use nebula_wire::api::{DeploymentSpec, ErrorCode, ReleaseInfo, Releases};
use serde::Serialize;
use serde_json::Value;

use crate::connect::ConnectFlags;
use crate::error::{CliError, Exit, Outcome};
use crate::manifest::may_be_secret;
use crate::output::Output;
use crate::render;
use crate::spec::deployment_name;
use crate::wait::WaitFlags;

#[derive(Debug, Args)]
pub struct RollBackArgs {
    pub name: String,
    /// The release that is to come back; the good one before the present one unless said otherwise
    pub release: Option<u32>,
    #[command(flatten)]
    pub wait: WaitFlags,
}

#[derive(Debug, Args)]
pub struct Diff {
    pub name: String,
    /// The older release
    pub from: u32,
    /// The newer one
    pub to: u32,
}

pub async fn history(name: &str, connect: &ConnectFlags, out: Output) -> Outcome {
    let name = deployment_name(name)?;
    let all = connect.client()?.releases(name.as_str()).await?;
    out.result(&all, render::releases);
    Ok(())
}

/// The kept releases of every deployment.
pub async fn histories(connect: &ConnectFlags, out: Output) -> Outcome {
    let client = connect.client()?;
    let mut all = Vec::new();
    for deployment in client.deployments().await?.deployments {
        match client.releases(&deployment.name).await {
            Ok(releases) => all.push(releases),
            // Removed meanwhile.
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    out.result(&all, |all| render::histories(all));
    Ok(())
}

/// One field that differs between two releases.
#[derive(Debug, PartialEq, Serialize)]
struct Difference {
    field: String,
    /// Absent: it has its default.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<Value>,
}

pub async fn diff(args: Diff, connect: &ConnectFlags, out: Output) -> Outcome {
    let name = deployment_name(&args.name)?;
    let all = connect.client()?.releases(name.as_str()).await?;
    let differences = differences(find(&all, args.from)?, find(&all, args.to)?);
    out.result(&differences, |differences| match differences.is_empty() {
        true => format!("releases {} and {} are the same", args.from, args.to),
        false => differences.iter().map(line).collect(),
    });
    Ok(())
}

fn find(all: &Releases, number: u32) -> Outcome<&ReleaseInfo> {
    let found = all.releases.iter().find(|release| release.number == number);
    found.ok_or_else(|| {
        CliError::new(
            Exit::Failed,
            ErrorCode::NotFound,
            format!(
                "'{}' has no release {number}, or it is no longer kept",
                all.name
            ),
            format!("see 'nebula deploy history {}'", all.name),
        )
    })
}

fn differences(from: &ReleaseInfo, to: &ReleaseInfo) -> Vec<Difference> {
    let mut found = Vec::new();
    let files = |release: &ReleaseInfo| Some(Value::from(release.artifact.clone()));
    compare("artifact", files(from), files(to), &mut found);
    let spec = |spec: &Option<DeploymentSpec>| serde_json::to_value(spec).ok();
    compare("", spec(&from.spec), spec(&to.spec), &mut found);
    found
}

/// Objects are compared field by field, everything else as a whole.
fn compare(at: &str, from: Option<Value>, to: Option<Value>, found: &mut Vec<Difference>) {
    if from == to {
        return;
    }
    if let (Some(Value::Object(mut from)), Some(Value::Object(mut to))) = (from.clone(), to.clone())
    {
        let mut keys: Vec<String> = from.keys().chain(to.keys()).cloned().collect();
        keys.sort();
        keys.dedup();
        for key in keys {
            let field = match at {
                "" => key.clone(),
                at => format!("{at}.{key}"),
            };
            compare(&field, from.remove(&key), to.remove(&key), found);
        }
        return;
    }
    found.push(Difference {
        field: at.to_owned(),
        from,
        to,
    });
}

/// Values of variables may be secrets, and a screen is seen by others: `--json` has them.
fn line(difference: &Difference) -> String {
    let Difference { field, from, to } = difference;
    if field.starts_with("env.") || may_be_secret(field) {
        let what = match (from, to) {
            (None, _) => "is new",
            (_, None) => "is gone",
            _ => "has another value",
        };
        return format!("  {field} {what}\n");
    }
    let shown = |value: &Option<Value>| match value {
        None => "(default)".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    };
    format!("  {field}: {} -> {}\n", shown(from), shown(to))
}

pub async fn roll_back(args: RollBackArgs, connect: &ConnectFlags, out: Output) -> Outcome {
    let name = deployment_name(&args.name)?;
    let client = connect.client()?;
    let deployed = client.roll_back(name.as_str(), args.release).await?;
    super::deploy::finish(&client, deployed, &args.wait, out, "rolled back").await
}

/// `pause`, `resume`, `promote` or `abort`.
pub async fn order(name: &str, order: &str, connect: &ConnectFlags, out: Output) -> Outcome {
    let name = deployment_name(name)?;
    let deployed = connect
        .client()?
        .order_rollout(name.as_str(), order)
        .await?;
    out.result(&deployed, |deployed| {
        let (name, release) = (&deployed.name, deployed.release);
        match order {
            "pause" => format!("release {release} of {name} is paused"),
            "resume" => format!("release {release} of {name} goes on"),
            "promote" => format!("release {release} of {name} is promoted"),
            _ => format!("the release of {name} is taken back: release {release} is wanted"),
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(number: u32, artifact: &str, spec: DeploymentSpec) -> ReleaseInfo {
        ReleaseInfo {
            number,
            created_at: String::new(),
            author: String::new(),
            message: String::new(),
            artifact: artifact.to_owned(),
            fate: "good".to_owned(),
            settled_at: None,
            why: None,
            wanted: false,
            spec: Some(spec),
        }
    }

    #[test]
    fn differences_are_told_field_by_field_and_secrets_are_not() {
        let env = |pairs: &[(&str, &str)]| {
            let own = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
            pairs.iter().map(own).collect()
        };
        let mut one = DeploymentSpec {
            kind: "service".into(),
            command: Some("run".into()),
            env: env(&[("KEY", "hush"), ("A", "1")]),
            ..DeploymentSpec::default()
        };
        let first = release(1, "aa", one.clone());
        one.command = Some("run --fast".into());
        one.env = env(&[("KEY", "other"), ("B", "1")]);
        one.resources.memory = Some("512Mi".into());
        let second = release(2, "bb", one);
        let found = differences(&first, &second);
        let text: String = found.iter().map(line).collect();
        assert_eq!(
            text,
            "  artifact: aa -> bb\n  command: run -> run --fast\n  env.A is gone\n  env.B is new\n  \
             env.KEY has another value\n  resources: (default) -> {\"memory\":\"512Mi\"}\n"
        );
        assert!(differences(&first, &first).is_empty());
    }
}
