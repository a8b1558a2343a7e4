//! Traefik and Caddy: programs in Go, held to one core's worth of threads by `GOMAXPROCS`.

use std::process::Command;

use anyhow::Context;

use super::{Keep, Peer, Running};
use crate::proxy::proc::{self, Program, find};
use crate::proxy::stage::{API, SITE, Stage, free_address};

fn command(name: &str) -> anyhow::Result<Command> {
    let mut command = proc::command(find(name).context("the program is here")?);
    command.env("GOMAXPROCS", "1");
    Ok(command)
}

pub fn traefik(stage: &Stage) -> anyhow::Result<Running> {
    let (http, https) = (free_address()?, free_address()?);
    let folder = stage.folder("traefik")?;
    let (main, routes) = (folder.join("traefik.yml"), folder.join("routes.yml"));
    let text = format!(
        r#"global: {{ checkNewVersion: false, sendAnonymousUsage: false }}
log: {{ level: ERROR }}
entryPoints:
  plain: {{ address: "{http}" }}
  tls: {{ address: "{https}" }}
providers:
  file: {{ filename: "{}" }}
"#,
        routes.display()
    );
    std::fs::write(&main, text)?;
    let text = format!(
        r#"http:
  routers:
    plain: {{ rule: "Host(`{API}`)", entryPoints: [plain], service: app }}
    tls: {{ rule: "Host(`{API}`)", entryPoints: [tls], service: app, tls: {{}} }}
  services:
    app: {{ loadBalancer: {{ servers: [ {{ url: "http://{}" }} ] }} }}
tls:
  certificates:
    - {{ certFile: "{}", keyFile: "{}" }}
"#,
        stage.upstream,
        stage.certificate.chain.display(),
        stage.certificate.key.display()
    );
    std::fs::write(&routes, text)?;
    let mut command = command("traefik")?;
    command.arg(format!("--configFile={}", main.display()));
    Ok(Running {
        peer: Peer::Traefik,
        http,
        https,
        keep: Keep::Programs(vec![Program::start(&mut command, &folder)?]),
    })
}

pub fn caddy(stage: &Stage) -> anyhow::Result<Running> {
    let (http, https) = (free_address()?, free_address()?);
    let folder = stage.folder("caddy")?;
    let file = folder.join("Caddyfile");
    let (plain, tls) = (http.port(), https.port());
    let text = format!(
        r#"{{
	admin off
	auto_https off
	persist_config off
	log {{
		output discard
	}}
}}
http://{API}:{plain} {{
	bind 127.0.0.1
	reverse_proxy {upstream}
}}
http://{SITE}:{plain} {{
	bind 127.0.0.1
	root * "{site}"
	file_server
}}
https://{API}:{tls} {{
	bind 127.0.0.1
	tls "{chain}" "{key}"
	reverse_proxy {upstream}
}}
"#,
        upstream = stage.upstream,
        site = stage.site.display(),
        chain = stage.certificate.chain.display(),
        key = stage.certificate.key.display()
    );
    std::fs::write(&file, text)?;
    let mut command = command("caddy")?;
    command
        .args(["run", "--adapter", "caddyfile", "--config"])
        .arg(file)
        .env("XDG_DATA_HOME", &folder)
        .env("XDG_CONFIG_HOME", &folder);
    Ok(Running {
        peer: Peer::Caddy,
        http,
        https,
        keep: Keep::Programs(vec![Program::start(&mut command, &folder)?]),
    })
}
