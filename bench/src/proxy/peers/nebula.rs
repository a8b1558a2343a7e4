//! Nebula as people start it, with one edge thread. Its upstream is a deployment that starts the same nginx as all others have.

use anyhow::Context;
use nebula_cluster_tests::Cluster;

use super::{Keep, Layout, Peer, Running};
use crate::proxy::stage::Stage;

pub fn start(stage: &Stage, layout: Layout) -> anyhow::Result<Running> {
    let nodes = match layout {
        Layout::Single => 1,
        Layout::Pair => 2,
    };
    let certificates = stage.certificate.folder.to_str().context("a UTF-8 path")?;
    let flags = ["--edge-threads", "1", "--edge-certificates", certificates];
    let cluster = Cluster::start_with(nodes, &flags);
    let app = stage.app.to_str().context("a UTF-8 path")?;
    let site = stage.site.to_str().context("a UTF-8 path")?;
    // Both, so that the loads without TLS are not sent to TLS.
    let names = ["--tld", "example.test", "--redirect-https=both"];
    let tail = [&names[..], &["--wait", "--timeout", "60s"]].concat();
    let create = [
        "deploy",
        "create",
        "api",
        "--path",
        app,
        "--command",
        "sh start.sh",
    ];
    cluster.nebula(&[&create[..], &tail[..]].concat()).ok();
    if layout == Layout::Single {
        let create = ["deploy", "create", "site", "--path", site];
        cluster.nebula(&[&create[..], &tail[..]].concat()).ok();
    }
    // In a pair, the node that does not run the only instance.
    let status = cluster.status("api");
    let runs = status["instances"][0]["node"]
        .as_str()
        .context("an instance")?;
    let asked = cluster
        .members
        .iter()
        .find(|member| nodes == 1 || member.name != runs)
        .context("a node to ask")?;
    let (http, https) = (asked.edge, asked.edge_tls.context("an address for TLS")?);
    Ok(Running {
        peer: Peer::Nebula,
        http,
        https,
        keep: Keep::Nebula(Box::new(cluster)),
    })
}
