//! nginx: one worker; files from its cache of open files, as its own tuning guide has it.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context;

use super::{Keep, Peer, Running};
use crate::proxy::proc::{self, Program, find};
use crate::proxy::stage::{API, SITE, Stage, free_address, user};

/// Where the next hop is, and how it is spoken to.
enum Next {
    Plain(SocketAddr),
    Tls(SocketAddr),
}

struct Addresses {
    http: SocketAddr,
    https: SocketAddr,
}

pub fn single(stage: &Stage) -> anyhow::Result<Running> {
    let (program, at) = start(stage, &Next::Plain(stage.upstream))?;
    Ok(running(vec![program], &at))
}

/// The first passes everything to the second over TLS, on connections that it keeps.
pub fn pair(stage: &Stage) -> anyhow::Result<Running> {
    let (back, behind) = start(stage, &Next::Plain(stage.upstream))?;
    let (front, at) = start(stage, &Next::Tls(behind.https))?;
    Ok(running(vec![front, back], &at))
}

fn running(programs: Vec<Program>, at: &Addresses) -> Running {
    Running {
        peer: Peer::Nginx,
        http: at.http,
        https: at.https,
        keep: Keep::Programs(programs),
    }
}

fn start(stage: &Stage, next: &Next) -> anyhow::Result<(Program, Addresses)> {
    let at = Addresses {
        http: free_address()?,
        https: free_address()?,
    };
    let folder = stage.folder("nginx")?;
    let file = folder.join("nginx.conf");
    std::fs::write(&file, configuration(stage, &folder, &at, next)?)?;
    let mut command = proc::command(find("nginx").context("nginx is here")?);
    command.args(["-e", "stderr", "-c"]).arg(file);
    Ok((Program::start(&mut command, &folder)?, at))
}

fn configuration(
    stage: &Stage,
    folder: &Path,
    at: &Addresses,
    next: &Next,
) -> anyhow::Result<String> {
    let (user, here) = (user()?, folder.display());
    let (http, https) = (at.http, at.https);
    let (chain, key) = (
        stage.certificate.chain.display(),
        stage.certificate.key.display(),
    );
    let site = stage.site.display();
    let (server, scheme) = match next {
        Next::Plain(address) => (address, "http"),
        Next::Tls(address) => (address, "https"),
    };
    Ok(format!(
        r#"daemon off; worker_processes 1; user {user}; pid {here}/nginx.pid; error_log stderr crit;
events {{ worker_connections 8192; }}
http {{
  access_log off; server_tokens off; sendfile on; tcp_nopush on; open_file_cache max=1000; default_type text/plain;
  keepalive_requests 1000000000;
  client_body_temp_path {here}/tmp; proxy_temp_path {here}/tmp; fastcgi_temp_path {here}/tmp; uwsgi_temp_path {here}/tmp; scgi_temp_path {here}/tmp;
  upstream next {{ server {server}; keepalive 64; keepalive_requests 1000000000; }}
  server {{
    listen {http}; listen {https} ssl http2; server_name {API};
    ssl_certificate {chain}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3;
    location / {{
      proxy_pass {scheme}://next; proxy_http_version 1.1; proxy_ssl_name {API}; proxy_ssl_server_name on; proxy_ssl_protocols TLSv1.3;
      proxy_set_header Connection ""; proxy_set_header Host $host; proxy_set_header X-Real-IP $remote_addr;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto $scheme;
    }}
  }}
  server {{ listen {http}; server_name {SITE}; root {site}; }}
}}
"#
    ))
}
