//! The example site that comes with the program.

use std::path::Path;
use std::time::{Duration, Instant};

use nebula_client::Client;
use nebula_wire::api::{CreateDeployment, DeploymentSpec, ErrorCode};

use super::edge;
use super::state::DevState;
use crate::error::{CliError, Outcome};
use crate::output::Output;
use crate::{pack, wait};

const FILES: [(&str, &str); 2] = [
    (
        "index.html",
        include_str!("../../../../../deploy/example-site/index.html"),
    ),
    (
        "style.css",
        include_str!("../../../../../deploy/example-site/style.css"),
    ),
];
const NAME: &str = "welcome";
/// RFC 6761: never a real domain.
const TLD: &str = "example.test";
/// Packing, uploading and serving a few files; generous for a machine that is busy.
const DEADLINE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(20);

pub fn host() -> String {
    format!("{NAME}.{TLD}")
}

/// Deploys the site, unless the cluster has it, and waits until every node serves it.
pub async fn deploy(client: &Client, state: &DevState, out: Output) -> Outcome {
    let folder =
        tempfile::tempdir().map_err(|e| CliError::io("cannot make a temporary folder", &e))?;
    write(folder.path()).map_err(|e| CliError::io("cannot write the example site", &e))?;
    let packed = pack::pack(folder.path()).await?;
    pack::upload(client, &packed, out).await?;
    let request = CreateDeployment {
        name: NAME.to_owned(),
        spec: DeploymentSpec {
            kind: "static".to_owned(),
            tld: Some(TLD.to_owned()),
            ..DeploymentSpec::default()
        },
        instances: 1,
        artifact: packed.digest(),
        author: String::new(),
        message: "the example site".to_owned(),
    };
    match client.create_deployment(&request).await {
        Ok(deployed) => {
            wait::rollout(client, &deployed, DEADLINE, out).await?;
        }
        Err(error) if error.code() == Some(ErrorCode::AlreadyExists) => {}
        Err(error) => return Err(error.into()),
    }
    served_everywhere(state).await
}

fn write(dir: &Path) -> std::io::Result<()> {
    FILES
        .iter()
        .try_for_each(|(name, content)| std::fs::write(dir.join(name), content))
}

async fn served_everywhere(state: &DevState) -> Outcome {
    let host = host();
    let until = Instant::now() + DEADLINE;
    for node in &state.nodes {
        let mut last = edge::status(&node.edge, &host).await;
        while last != Some(200) {
            if Instant::now() >= until {
                let answer =
                    last.map_or_else(|| "does not answer".to_owned(), |s| format!("answers {s}"));
                return Err(CliError::timed_out(
                    format!(
                        "{} {answer} for http://{host}/ after {} s",
                        node.name,
                        DEADLINE.as_secs()
                    ),
                    "see the nodes' logs",
                ));
            }
            tokio::time::sleep(PAUSE).await;
            last = edge::status(&node.edge, &host).await;
        }
    }
    Ok(())
}
