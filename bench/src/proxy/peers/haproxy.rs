//! HAProxy: one thread, connections to the upstream shared by all clients.

use anyhow::Context;

use super::{Keep, Peer, Running};
use crate::proxy::proc::{self, Program, find};
use crate::proxy::stage::{Stage, free_address};

pub fn start(stage: &Stage) -> anyhow::Result<Running> {
    let (http, https) = (free_address()?, free_address()?);
    let folder = stage.folder("haproxy")?;
    let file = folder.join("haproxy.cfg");
    let (upstream, both) = (stage.upstream, stage.certificate.both.display());
    let text = format!(
        "global
  nbthread 1
  maxconn 8000
  ssl-default-bind-options ssl-min-ver TLSv1.2
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout http-keep-alive 60s
  option forwardfor
  http-reuse always
frontend front
  bind {http}
  bind {https} ssl crt {both} alpn h2,http/1.1
  http-request set-header X-Forwarded-Proto https if {{ ssl_fc }}
  http-request set-header X-Forwarded-Proto http if !{{ ssl_fc }}
  default_backend app
backend app
  server upstream {upstream}
"
    );
    std::fs::write(&file, text)?;
    let mut command = proc::command(find("haproxy").context("haproxy is here")?);
    command.args(["-db", "-f"]).arg(file);
    Ok(Running {
        peer: Peer::Haproxy,
        http,
        https,
        keep: Keep::Programs(vec![Program::start(&mut command, &folder)?]),
    })
}
