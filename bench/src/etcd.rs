//! Three etcd members on loopback, with their data on the same disk as ours.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nebula_cluster_tests::{eventually, http};
use tempfile::TempDir;

pub struct Etcd {
    pub clients: Vec<std::net::SocketAddr>,
    children: Vec<Child>,
    _folder: TempDir,
}

/// Why etcd cannot take part.
pub fn missing() -> Option<&'static str> {
    let found = Command::new("etcd")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if found.is_ok() {
        None
    } else {
        Some("'etcd' is not installed (Debian package etcd-server)")
    }
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Etcd {
    pub fn start() -> anyhow::Result<Etcd> {
        let folder = tempfile::Builder::new()
            .prefix("nebula-bench-etcd-")
            .tempdir()?;
        let mut ports = Vec::new();
        for _ in 0..3 {
            ports.push((free_port()?, free_port()?));
        }
        let members: Vec<String> = ports
            .iter()
            .enumerate()
            .map(|(i, (_, peer))| format!("e{i}=http://127.0.0.1:{peer}"))
            .collect();
        let members = members.join(",");
        let mut etcd = Etcd {
            clients: Vec::new(),
            children: Vec::new(),
            _folder: folder,
        };
        for (i, (client, peer)) in ports.iter().enumerate() {
            let client_url = format!("http://127.0.0.1:{client}");
            let peer_url = format!("http://127.0.0.1:{peer}");
            let child = Command::new("etcd")
                .args([
                    "--name",
                    &format!("e{i}"),
                    "--initial-cluster",
                    &members,
                    "--initial-cluster-state",
                    "new",
                ])
                .args([
                    "--listen-client-urls",
                    &client_url,
                    "--advertise-client-urls",
                    &client_url,
                ])
                .args([
                    "--listen-peer-urls",
                    &peer_url,
                    "--initial-advertise-peer-urls",
                    &peer_url,
                ])
                .args(["--log-level", "error", "--data-dir"])
                .arg(etcd._folder.path().join(format!("e{i}")))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()?;
            etcd.children.push(child);
            etcd.clients
                .push(std::net::SocketAddr::from(([127, 0, 0, 1], *client)));
        }
        for client in &etcd.clients {
            eventually(
                Duration::from_secs(30),
                "etcd is healthy",
                || match http::get(*client, "localhost", "/health") {
                    Ok(answer) if answer.text().contains("true") => Ok(()),
                    Ok(answer) => Err(answer.text()),
                    Err(error) => Err(error.to_string()),
                },
            );
        }
        Ok(etcd)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
