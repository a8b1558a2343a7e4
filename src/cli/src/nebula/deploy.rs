//! `nebula deploy`: check, upload, ask, wait, show.

use std::path::Path;

use nebula_client::{Client, Consistency};
use nebula_wire::api::{
    CreateDeployment, Deployed, DeploymentPhase, DeploymentSpec, DeploymentStatus, ErrorCode,
    UpdateDeployment,
};

use super::deploy_args::{Cache, Create, Deploy, Named, Remove, Scale, Update};
use super::{deploy_cache, logs, manifest, releases, runs};
use crate::connect::ConnectFlags;
use crate::error::{CliError, Exit, Outcome};
use crate::output::Output;
use crate::spec::{ChangeFlags, HttpChange, Kind, check_instances, deployment_name};
use crate::wait::WaitFlags;
use crate::{origin, pack, render, site_rules, wait};

pub async fn run(command: Deploy, connect: &ConnectFlags, out: Output) -> Outcome {
    match command {
        Deploy::Apply(args) => manifest::apply(args, connect, out).await,
        Deploy::Plan(args) => manifest::plan(args, connect, out).await,
        Deploy::Init(args) => manifest::init(&args, out),
        Deploy::Schema => {
            manifest::schema(out);
            Ok(())
        }
        Deploy::Create(args) => create(args, connect, out).await,
        Deploy::List { all: true } => releases::histories(connect, out).await,
        Deploy::List { all: false } => {
            let all = connect.client()?.deployments().await?;
            out.result(&all, render::deployments);
            Ok(())
        }
        Deploy::Status { name } => {
            let name = deployment_name(&name)?;
            let status = connect.client()?.deployment_detail(name.as_str()).await?;
            out.result(&status, render::deployment);
            Ok(())
        }
        Deploy::Health(args) => super::deploy_health::run(args, connect, out).await,
        Deploy::Logs(args) => logs::run(args, connect, out).await,
        Deploy::Events { name, choice } => {
            super::events::run(Some(&name), choice, connect, out).await
        }
        Deploy::Update(args) => update(args, connect, out).await,
        Deploy::Scale(args) => scale(args, connect, out).await,
        Deploy::Restart(args) => restart(args, connect, out).await,
        Deploy::Cache(Cache::Purge { name }) => deploy_cache::purge(&name, connect, out).await,
        Deploy::Remove(args) => remove(args, connect, out).await,
        Deploy::Runs { name } => runs::list(&name, connect, out).await,
        Deploy::Run(args) => runs::begin(args, connect, out).await,
        Deploy::Cancel(args) => runs::cancel(args, connect, out).await,
        Deploy::History { name } => releases::history(&name, connect, out).await,
        Deploy::Diff(args) => releases::diff(args, connect, out).await,
        Deploy::Rollback(args) => releases::roll_back(args, connect, out).await,
        Deploy::Pause { name } => releases::order(&name, "pause", connect, out).await,
        Deploy::Resume { name } => releases::order(&name, "resume", connect, out).await,
        Deploy::Promote { name } => releases::order(&name, "promote", connect, out).await,
        Deploy::Abort { name } => releases::order(&name, "abort", connect, out).await,
    }
}

async fn create(args: Create, connect: &ConnectFlags, out: Output) -> Outcome {
    let name = deployment_name(&args.name)?;
    let http = args.http.read()?;
    let mut spec = args.spec.to_spec(&http)?;
    let instances = args.spec.instances(args.instances)?;
    let Some(packed) = packed(args.path.as_deref(), args.spec.image.as_deref()).await? else {
        return Err(CliError::usage(
            "nothing is to be deployed",
            "add --path with a folder, or --image with an image's archive",
        ));
    };
    spec.image = packed.image();
    if let (Some(path), true) = (&args.path, spec.kind == Kind::Static.as_str()) {
        site_rules::warn(path, out);
    }
    let client = connect.client()?;
    // Asked before anything is sent; the cluster checks again when it takes the change.
    match client.deployment(name.as_str()).await {
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error.into()),
        Ok(present) => return Err(taken(&present)),
    }
    pack::upload(&client, &packed, out).await?;
    let request = CreateDeployment {
        name: name.to_string(),
        spec,
        instances,
        artifact: packed.digest(),
        author: origin::author(),
        message: args.message,
    };
    let deployed = client.create_deployment(&request).await?;
    finish(&client, deployed, &args.wait, out, "created").await
}

pub(super) fn taken(present: &DeploymentStatus) -> CliError {
    if present.phase == DeploymentPhase::Removing {
        return CliError::new(
            Exit::Failed,
            ErrorCode::Conflict,
            format!("the deployment '{}' is still being removed", present.name),
            "wait until 'nebula deploy list' no longer shows it",
        );
    }
    CliError::new(
        Exit::Failed,
        ErrorCode::AlreadyExists,
        format!("a deployment named '{}' already exists", present.name),
        "choose another name, or use 'nebula deploy update'",
    )
}

async fn update(args: Update, connect: &ConnectFlags, out: Output) -> Outcome {
    let name = deployment_name(&args.name)?;
    if args.path.is_none() && args.change.is_empty() {
        return Err(CliError::usage(
            "nothing is to be updated",
            "add --path with the new files, --image with a new image, or flags about the program",
        ));
    }
    let http = args.change.read_http()?;
    args.change.check(&http)?;
    let packed = packed(args.path.as_deref(), args.change.spec.image.as_deref()).await?;
    let client = connect.client()?;
    // What a follower knows may be old, and then the change would be refused.
    let current = client
        .with_consistency(Consistency::Linearizable)
        .deployment(name.as_str())
        .await?;
    let mut spec = changed_spec(&args.change, &http, &current, args.path.is_some())?;
    if let (Some(spec), Some(image)) = (&mut spec, packed.as_ref().and_then(pack::Packed::image)) {
        spec.image = Some(image);
    }
    let based_on = spec.as_ref().map(|_| current.generation);
    let artifact = match packed {
        None => current.artifact,
        Some(packed) => {
            let kind = spec.as_ref().map_or(&current.kind, |spec| &spec.kind);
            if let (Some(path), true) = (&args.path, kind == Kind::Static.as_str()) {
                site_rules::warn(path, out);
            }
            pack::upload(&client, &packed, out).await?;
            packed.digest()
        }
    };
    let request = UpdateDeployment {
        spec,
        artifact,
        based_on,
        author: origin::author(),
        message: args.message,
    };
    let deployed = client.update_deployment(name.as_str(), &request).await?;
    finish(&client, deployed, &args.wait, out, "updated").await
}

/// What is to be deployed, if anything is.
async fn packed(folder: Option<&Path>, image: Option<&Path>) -> Outcome<Option<pack::Packed>> {
    Ok(match (folder, image) {
        (_, Some(file)) => Some(pack::pack_image(file).await?),
        (Some(folder), None) => Some(pack::pack(folder).await?),
        (None, None) => None,
    })
}

/// The whole new spec, or none to keep the current one. `folder`: it comes with a folder in place of an image.
fn changed_spec(
    flags: &ChangeFlags,
    http: &HttpChange,
    current: &DeploymentStatus,
    folder: bool,
) -> Outcome<Option<DeploymentSpec>> {
    let was_image = current
        .spec
        .as_ref()
        .is_some_and(|spec| spec.image.is_some());
    if flags.is_empty() && !(folder && was_image) {
        return Ok(None);
    }
    let spec = current.spec.as_ref().ok_or_else(|| {
        CliError::failed(
            "the node does not tell what the deployment is now",
            "use the same version on all machines",
        )
    })?;
    let image = spec.image.clone().filter(|_| !folder);
    let spec = DeploymentSpec {
        image,
        ..spec.clone()
    };
    flags.onto(&spec, http).map(Some)
}

async fn scale(args: Scale, connect: &ConnectFlags, out: Output) -> Outcome {
    let name = deployment_name(&args.name)?;
    let instances = check_instances(args.instances)?;
    let client = connect.client()?;
    let scale = nebula_wire::api::Scale {
        instances,
        based_on: None,
    };
    let (flags, done) = (&args.wait, "scaled");
    if !flags.waits() {
        let deployed = client.scale_deployment(name.as_str(), &scale).await?;
        return finish(&client, deployed, flags, out, done).await;
    }
    let newest = client.with_consistency(Consistency::Linearizable);
    let before = newest.deployment(name.as_str()).await.ok();
    let deployed = client.scale_deployment(name.as_str(), &scale).await?;
    let is_failed =
        |before: &DeploymentStatus| before.release == deployed.release && wait::has_failed(before);
    if !before.as_ref().is_some_and(is_failed) {
        return finish(&client, deployed, flags, out, done).await;
    }
    let release = deployed.release;
    out.warn(&format!("release {release} had failed before"));
    let status = wait::scale_of_failed(&client, &deployed, flags.timeout, out).await?;
    tell(&status, out, done);
    Ok(())
}

async fn restart(args: Named, connect: &ConnectFlags, out: Output) -> Outcome {
    let name = deployment_name(&args.name)?;
    let client = connect.client()?;
    let deployed = client.restart_deployment(name.as_str()).await?;
    finish(&client, deployed, &args.wait, out, "restarted").await
}

#[derive(serde::Serialize)]
struct Removed<'a> {
    name: &'a str,
    /// Whether its last instance has ended already.
    removed: bool,
}

async fn remove(args: Remove, connect: &ConnectFlags, out: Output) -> Outcome {
    let Remove {
        named: args,
        volumes,
    } = args;
    let name = deployment_name(&args.name)?;
    let client = connect.client()?;
    client.remove_deployment(name.as_str()).await?;
    if volumes {
        match client.delete_volumes(name.as_str()).await {
            // It had none.
            Err(error) if error.is_not_found() => {}
            deleted => deleted?,
        }
    }
    let removed = args.wait.waits();
    if removed {
        wait::removal(&client, name.as_str(), args.wait.timeout, out).await?;
    }
    let answer = Removed {
        name: name.as_str(),
        removed,
    };
    out.result(&answer, |a| {
        let what = if a.removed {
            "removed"
        } else {
            "being removed"
        };
        format!(
            "{0} is {what}; its output is kept for a while: 'nebula deploy logs {0} --past'",
            a.name
        )
    });
    Ok(())
}

/// Waits if asked to, and says what came of the change.
pub(super) async fn finish(
    client: &Client,
    deployed: Deployed,
    flags: &WaitFlags,
    out: Output,
    done: &str,
) -> Outcome {
    if !flags.waits() {
        out.result(&deployed, |d| {
            format!(
                "{} is {done}: generation {}, release {}",
                d.name, d.generation, d.release
            )
        });
        return Ok(());
    }
    let status = wait::rollout(client, &deployed, flags.timeout, out).await?;
    tell(&status, out, done);
    Ok(())
}

fn tell(status: &DeploymentStatus, out: Output, done: &str) {
    out.result(status, |s| {
        if let Some(run) = s
            .last_run
            .as_ref()
            .filter(|_| ["job", "cron"].contains(&s.kind.as_str()))
        {
            let next = s.next_run_at.as_ref();
            let next = next.map_or_else(String::new, |at| format!(", next run at {at}"));
            return format!(
                "{} is {done}: release {}, {} {}{next}",
                s.name, s.release, run.id, run.state
            );
        }
        let urls: Vec<_> = s.urls.iter().map(|url| format!("\n  {url}")).collect();
        format!(
            "{} is {done}: release {}, {} of {} ready{}",
            s.name,
            s.release,
            s.ready,
            s.desired,
            urls.concat()
        )
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removal_s_json_says_whether_it_is_over() {
        let json = serde_json::to_value(Removed {
            name: "a",
            removed: true,
        })
        .unwrap();
        assert_eq!(json, serde_json::json!({"name": "a", "removed": true}));
    }
}
