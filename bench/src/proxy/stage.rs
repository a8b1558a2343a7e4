//! What all proxies of a run have in common: the upstream, the files, the certificate.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use nebula_cluster_tests::http;
use nix::unistd::{Gid, Group, Uid, User};
use tempfile::TempDir;
use tokio_rustls::rustls::pki_types::CertificateDer;

use super::proc::{self, Program, find};

/// The upstream's name at every proxy.
pub const API: &str = "api.example.test";
/// The static site's name at every proxy that serves files.
pub const SITE: &str = "site.example.test";
/// What `/small` answers.
pub const SMALL: &str = "Hello, world!";
/// From a program's start to its first answer, on a busy machine.
const READY: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Paths and sizes of the upstream's files.
const UPSTREAM_FILES: [(&str, usize); 2] = [("10k", 10 * 1024), ("1m", 1024 * 1024)];
/// Paths and sizes of the site's files.
const SITE_FILES: [(&str, usize); 2] = [("1k.txt", 1024), ("1m.txt", 1024 * 1024)];

/// A certificate for both names, as each program wants to have it.
pub struct Certificate {
    pub chain: PathBuf,
    pub key: PathBuf,
    /// Both in one file.
    pub both: PathBuf,
    /// A folder with both and nothing else: `api.crt` and `api.key`.
    pub folder: PathBuf,
    pub der: CertificateDer<'static>,
}

pub struct Stage {
    /// nginx with one worker, for all proxies but Nebula's, whose instance is started in the same way from the same folder.
    pub upstream: SocketAddr,
    /// `sh start.sh` in it starts the upstream on `$PORT`.
    pub app: PathBuf,
    pub site: PathBuf,
    pub certificate: Certificate,
    _upstream: Program,
    folder: TempDir,
}

impl Stage {
    pub fn new() -> anyhow::Result<Stage> {
        let nginx = find("nginx").context("the upstream is nginx: apt install nginx")?;
        let folder = tempfile::Builder::new()
            .prefix("nebula-bench-proxy-")
            .tempdir()?;
        let made = |name: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir(&path).map(|()| path)
        };
        let (app, site) = (made("app")?, made("site")?);
        for (name, size) in UPSTREAM_FILES {
            std::fs::write(app.join(name), text(size))?;
        }
        for (name, size) in SITE_FILES {
            std::fs::write(site.join(name), text(size))?;
        }
        std::fs::write(app.join("nginx.conf.in"), UPSTREAM)?;
        std::fs::write(app.join("start.sh"), start_script(&nginx))?;
        let own = made("upstream")?;
        for name in ["nginx.conf.in", "start.sh"]
            .into_iter()
            .chain(UPSTREAM_FILES.map(|f| f.0))
        {
            std::fs::copy(app.join(name), own.join(name))?;
        }
        let upstream = free_address()?;
        let mut command = proc::command("sh");
        command
            .arg("start.sh")
            .current_dir(&own)
            .env("PORT", upstream.port().to_string());
        let program = Program::start(&mut command, &own)?;
        answers(upstream, API, "/small", SMALL.len()).with_context(|| program.said())?;
        Ok(Stage {
            upstream,
            app,
            site,
            certificate: certificate(folder.path())?,
            _upstream: program,
            folder,
        })
    }

    /// A new folder for one program's configuration.
    pub fn folder(&self, name: &str) -> anyhow::Result<PathBuf> {
        Ok(tempfile::Builder::new()
            .prefix(&format!("{name}-"))
            .tempdir_in(self.folder.path())?
            .keep())
    }
}

/// Waits until `path` is answered by 200 with so many bytes.
pub fn answers(address: SocketAddr, host: &str, path: &str, bytes: usize) -> anyhow::Result<()> {
    let until = Instant::now() + READY;
    loop {
        let last = match http::get(address, host, path) {
            Ok(answer) if answer.status == 200 && answer.body.len() == bytes => return Ok(()),
            Ok(answer) => format!("{} with {} bytes", answer.status, answer.body.len()),
            Err(error) => error.to_string(),
        };
        anyhow::ensure!(
            Instant::now() < until,
            "no 200 with {bytes} bytes for {host}{path} at {address}, but {last}"
        );
        std::thread::sleep(LOOK_EVERY);
    }
}

/// An address on loopback that is free at this moment.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Who runs this, as nginx's `user` wants it: its workers must read files of ours.
pub fn user() -> anyhow::Result<String> {
    let user = User::from_uid(Uid::effective())?.context("the user has a name")?;
    let group = Group::from_gid(Gid::effective())?.context("the group has a name")?;
    Ok(format!("{} {}", user.name, group.name))
}

/// Text that looks like some.
fn text(size: usize) -> Vec<u8> {
    let line = b"The quick brown fox jumps over the lazy dog; pack my box with five dozen jugs.\n";
    line.iter().copied().cycle().take(size).collect()
}

/// One worker, nothing logged, files from the cache, connections kept for good.
const UPSTREAM: &str = r#"daemon off; worker_processes 1; user @USER@; pid @HERE@/nginx.pid; error_log stderr crit;
events { worker_connections 8192; }
http {
  access_log off; sendfile on; tcp_nopush on; open_file_cache max=100; default_type text/plain;
  keepalive_requests 1000000000; keepalive_timeout 600s;
  client_body_temp_path @HERE@/tmp; proxy_temp_path @HERE@/tmp; fastcgi_temp_path @HERE@/tmp; uwsgi_temp_path @HERE@/tmp; scgi_temp_path @HERE@/tmp;
  server {
    listen 127.0.0.1:@PORT@; root @HERE@;
    location = / { return 200 "ready\n"; }
    location = /small { return 200 "Hello, world!"; }
  }
}
"#;

fn start_script(nginx: &Path) -> String {
    format!(
        r#"sed -e "s|@PORT@|$PORT|; s|@HERE@|$PWD|g; s|@USER@|$(id -un) $(id -gn)|" nginx.conf.in > nginx.conf &&
exec '{}' -e stderr -c "$PWD/nginx.conf"
"#,
        nginx.display()
    )
}

/// ECDSA on P-256, what most sites have; signed by itself.
fn certificate(folder: &Path) -> anyhow::Result<Certificate> {
    let made = rcgen::generate_simple_self_signed([API.to_owned(), SITE.to_owned()])?;
    let (chain_pem, key_pem) = (made.cert.pem(), made.signing_key.serialize_pem());
    let place = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).map(|()| path)
    };
    let own = folder.join("certificates");
    std::fs::create_dir(&own)?;
    std::fs::write(own.join("api.crt"), &chain_pem)?;
    std::fs::write(own.join("api.key"), &key_pem)?;
    std::fs::set_permissions(own.join("api.key"), std::fs::Permissions::from_mode(0o600))?;
    Ok(Certificate {
        folder: own,
        chain: place("chain.pem", &chain_pem)?,
        key: place("key.pem", &key_pem)?,
        both: place("both.pem", &format!("{chain_pem}{key_pem}"))?,
        der: made.cert.der().clone(),
    })
}
