//! `nebula deploy apply|plan|init|schema`: deployments from a file.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use nebula_client::{Client, Consistency};
use nebula_wire::api::{
    CreateDeployment, Deployed, DeploymentPhase, DeploymentStatus, ErrorCode, PlacementQuestion,
    Scale, UpdateDeployment,
};
use serde::Serialize;

use super::deploy::{finish, taken};
use crate::connect::ConnectFlags;
use crate::error::{CliError, Exit, Outcome};
use crate::manifest::{self, Action, FILE, Manifest, Plan};
use crate::output::Output;
use crate::pack::{self, Packed};
use crate::spec::{Kind, deployment_name};
use crate::wait::WaitFlags;
use crate::{origin, site_rules};

#[derive(Debug, Args)]
pub struct FileFlags {
    /// The deployment's file
    #[arg(long, short, value_name = "FILE", default_value = FILE)]
    file: PathBuf,
    /// One of the file's environments, such as staging
    #[arg(long, value_name = "NAME")]
    env: Option<String>,
}

#[derive(Debug, Args)]
pub struct Apply {
    #[command(flatten)]
    from: FileFlags,
    /// Why, for the history
    #[arg(
        long,
        short,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    message: String,
    #[command(flatten)]
    wait: WaitFlags,
}

#[derive(Debug, Args)]
pub struct PlanFlags {
    #[command(flatten)]
    from: FileFlags,
    /// Exit with 6 when something would change
    #[arg(long)]
    exit_code: bool,
}

#[derive(Debug, Args)]
pub struct Init {
    /// Folder to look into and to write nebula.toml to
    #[arg(value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// What the deployment is to be called; found otherwise
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Replace a file that is there
    #[arg(long)]
    force: bool,
}

/// The file, what it deploys, and what is deployed.
struct Looked {
    client: Client,
    manifest: Manifest,
    packed: Packed,
    current: Option<DeploymentStatus>,
    plan: Plan,
}

impl Looked {
    fn creation(&self, message: String) -> CreateDeployment {
        CreateDeployment {
            name: self.manifest.name.to_string(),
            spec: self.manifest.spec.clone(),
            instances: self.manifest.instances.unwrap_or(1),
            artifact: self.packed.digest(),
            author: origin::author(),
            message,
        }
    }

    fn update(&self, current: &DeploymentStatus, message: String) -> UpdateDeployment {
        UpdateDeployment {
            spec: Some(self.manifest.spec.clone()),
            artifact: self.packed.digest(),
            based_on: Some(current.generation),
            author: origin::author(),
            message,
        }
    }
}

/// Reads everything and compares; nothing is sent and nothing changed.
async fn look(flags: &FileFlags, connect: &ConnectFlags) -> Outcome<Looked> {
    let variable = |name: &str| std::env::var(name).ok();
    let mut manifest = manifest::read(&flags.file, flags.env.as_deref(), &variable)?;
    let packed = match &manifest.image {
        Some(file) => pack::pack_image(file).await?,
        None => pack::pack_without(&manifest.folder, &manifest.left_out).await?,
    };
    manifest.spec.image = packed.image();
    let client = connect.client()?;
    // What a follower knows may be old, and then the change would be refused.
    let now = client.with_consistency(Consistency::Linearizable);
    let current = match now.deployment(manifest.name.as_str()).await {
        Ok(present) if present.phase == DeploymentPhase::Removing => return Err(taken(&present)),
        Ok(present) => Some(present),
        Err(error) if error.is_not_found() => None,
        Err(error) => return Err(error.into()),
    };
    let plan = manifest::difference(&manifest, &packed.digest(), current.as_ref())?;
    Ok(Looked {
        client,
        manifest,
        packed,
        current,
        plan,
    })
}

pub async fn plan(args: PlanFlags, connect: &ConnectFlags, out: Output) -> Outcome {
    let looked = look(&args.from, connect).await?;
    rehearse(&looked, out).await?;
    let unplaced = unplaced(&looked).await?;
    let plan = Plan {
        unplaced,
        ..looked.plan
    };
    out.result(&plan, Plan::text);
    if args.exit_code && !plan.changes_nothing() {
        return Err(CliError::new(
            Exit::Differs,
            ErrorCode::Conflict,
            format!("{} differs from the file", plan.name),
            "",
        ));
    }
    Ok(())
}

/// What `apply` would be refused, `plan` is.
async fn rehearse(looked: &Looked, out: Output) -> Outcome {
    let client = &looked.client;
    let rehearsed = match (looked.plan.action, &looked.current) {
        (Action::Create, _) => {
            let request = looked.creation(String::new());
            client.rehearse_create(&request).await
        }
        (Action::Update, Some(current)) => {
            let request = looked.update(current, String::new());
            client.rehearse_update(&current.name, &request).await
        }
        (Action::Scale | Action::None | Action::Update, _) => return Ok(()),
    };
    match rehearsed {
        Ok(_) => Ok(()),
        // While a cluster is upgraded, the client may be newer than the node.
        Err(error) if error.is_unknown_action() => {
            out.note("this node's version cannot say whether the change would be refused");
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// Why not all instances would have places, as things stand.
async fn unplaced(looked: &Looked) -> Outcome<Option<String>> {
    let Manifest {
        name,
        spec,
        instances,
        ..
    } = &looked.manifest;
    if spec.kind == Kind::Static.as_str() {
        return Ok(None);
    }
    let current = looked.current.as_ref().filter(|c| c.kind == spec.kind);
    let question = PlacementQuestion {
        name: name.to_string(),
        instances: instances.unwrap_or(current.map_or(1, |current| current.desired)),
        resources: spec.resources.clone(),
        placement: spec.placement.clone(),
        port: spec.port,
    };
    Ok(looked.client.placement(&question).await?.unplaced)
}

#[derive(Serialize)]
struct Unchanged<'a> {
    unchanged: bool,
    #[serde(flatten)]
    status: &'a DeploymentStatus,
}

pub async fn apply(args: Apply, connect: &ConnectFlags, out: Output) -> Outcome {
    let looked = look(&args.from, connect).await?;
    if let (Action::None, Some(status)) = (looked.plan.action, &looked.current) {
        if args.wait.waits() && !is_good(status) {
            return again(&looked.client, status, &args.wait, out).await;
        }
        let unchanged = Unchanged {
            unchanged: true,
            status,
        };
        out.result(&unchanged, |_| {
            format!("{} is unchanged: release {}", status.name, status.release)
        });
        return Ok(());
    }
    let done = match looked.plan.action {
        Action::Create => "created",
        Action::Scale => "scaled",
        Action::Update | Action::None => "updated",
    };
    let deployed = change(&looked, args.message, out).await?;
    finish(&looked.client, deployed, &args.wait, out, done).await
}

fn is_good(status: &DeploymentStatus) -> bool {
    let wanted = status.releases.iter().find(|r| r.number == status.release);
    status.rollout.is_none() && wanted.is_none_or(|release| release.fate == "good")
}

/// What is to be there is there already, and not good yet: it is still on its way, or it has failed and stays.
async fn again(
    client: &Client,
    status: &DeploymentStatus,
    wait: &WaitFlags,
    out: Output,
) -> Outcome {
    let deployed = Deployed {
        name: status.name.clone(),
        generation: status.generation,
        release: status.release,
        urls: status.urls.clone(),
    };
    finish(client, deployed, wait, out, "unchanged").await
}

/// Does what the plan says.
async fn change(looked: &Looked, message: String, out: Output) -> Outcome<Deployed> {
    let Looked {
        client,
        manifest,
        packed,
        current,
        plan,
    } = looked;
    let name = manifest.name.as_str();
    let mut deployed = None;
    if plan.action != Action::Scale {
        if manifest.spec.kind == Kind::Static.as_str() {
            site_rules::warn(&manifest.folder, out);
        }
        pack::upload(client, packed, out).await?;
        deployed = Some(match current {
            None => client.create_deployment(&looked.creation(message)).await?,
            Some(current) => {
                let request = looked.update(current, message);
                client.update_deployment(name, &request).await?
            }
        });
    }
    match (plan.scale, deployed) {
        (None, Some(deployed)) => Ok(deployed),
        (Some(instances), deployed) => {
            // Against what was looked at, or what this has just made of it.
            let ours = deployed.as_ref().map(|deployed| deployed.generation);
            let based_on = ours.or(current.as_ref().map(|current| current.generation));
            let scale = Scale {
                instances,
                based_on,
            };
            Ok(client.scale_deployment(name, &scale).await?)
        }
        (None, None) => Err(CliError::failed("there is nothing to do", "try again")),
    }
}

#[derive(Serialize)]
struct Written<'a> {
    file: &'a Path,
    what: &'a str,
}

pub fn init(args: &Init, out: Output) -> Outcome {
    let name = args.name.as_deref().map(deployment_name).transpose()?;
    if !args.dir.is_dir() {
        return Err(CliError::usage(
            format!("'{}' is not a folder", args.dir.display()),
            "name the folder with what you want to deploy",
        ));
    }
    let file = args.dir.join(FILE);
    let first = manifest::first(&args.dir, name.as_ref());
    let mut options = OpenOptions::new();
    options.write(true);
    match args.force {
        true => options.create(true).truncate(true),
        false => options.create_new(true),
    };
    let written = options
        .open(&file)
        .and_then(|mut file| file.write_all(first.text.as_bytes()));
    match written {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(CliError::new(
                Exit::Failed,
                ErrorCode::AlreadyExists,
                format!("{} is there already", file.display()),
                "add --force to replace it",
            ));
        }
        Err(error) => {
            let what = format!("cannot write {}", file.display());
            return Err(CliError::io(what, &error));
        }
    }
    let written = Written {
        file: &file,
        what: &first.what,
    };
    out.result(&written, |w| {
        let file = w.file.display();
        format!(
            "{file} is written: {}\nread it, then: nebula deploy plan -f {file}",
            w.what
        )
    });
    Ok(())
}

pub fn schema(out: Output) {
    out.json(&manifest::schema());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_file_is_written_once() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("index.html"), "<h1>").unwrap();
        let args = |force| Init {
            dir: dir.path().to_owned(),
            name: Some("site".to_owned()),
            force,
        };
        let out = Output::new(true);
        init(&args(false), out).unwrap();
        let file = dir.path().join(FILE);
        let first = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, "mine").unwrap();
        let error = init(&args(false), out).unwrap_err();
        assert_eq!(error.exit, Exit::Failed);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
        init(&args(true), out).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), first);
        let nowhere = Init {
            dir: file,
            name: None,
            force: false,
        };
        assert_eq!(init(&nowhere, out).unwrap_err().exit, Exit::Usage);
    }
}
