//! Machines that join a cluster and are removed from it, as people do it.

use serde_json::Value;

use super::{Cluster, DEADLINE, Member, free_ports};
use crate::command::{Output, nodectl};
use crate::process;
use crate::wait::{eventually, holds};

/// What those answer who have just lost a leader or a voter, and not a moment later.
const PASSING: [&str; 3] = ["no_quorum", "unavailable", "timeout"];
/// Of a member that is removed before its vote was handed over.
const VOTE_NEEDED: &str = "still votes";

/// What a command said on its failure, with `--json`.
fn error(output: &Output) -> Value {
    let mut lines = output.stderr.lines();
    let error = lines.find_map(|line| serde_json::from_str(line).ok());
    error.unwrap_or_default()
}

/// A command that succeeded, or one that is to be tried again, as an error.
///
/// # Panics
/// When it failed for a reason that does not pass.
fn done(output: Output) -> Result<Output, String> {
    if output.code == 0 {
        return Ok(output);
    }
    let error = error(&output);
    let text = |key: &str| error[key].as_str().unwrap_or_default();
    let passes = PASSING.contains(&text("code")) || text("message").contains(VOTE_NEEDED);
    assert!(passes, "it does not help to try again: {output}");
    Err(output.to_string())
}

impl Cluster {
    /// A machine more, the last one; `role` is what its join token lets it become.
    pub fn join(&mut self, name: &str, role: &str) {
        let data_dir = self.scratch("joined").join(name);
        let [quic, api, edge] = free_ports().map(|port| format!("127.0.0.1:{port}"));
        let joined = eventually(DEADLINE, "a machine joins", || {
            let running = self.members.iter().find(|m| process::is_running(m.pid));
            let seed = running.ok_or("nobody runs")?.api.clone();
            let create = ["token", "create", "--role", role, "--json"];
            let made = done(self.nodectl(&create))?;
            let token = made.json()["token"].as_str().unwrap_or_default().to_owned();
            let seed = seed.trim_start_matches("https://");
            let who = ["join", seed, "--token", &token, "--json", "--no-start"];
            let dir = data_dir.to_str().expect("UTF-8");
            let what = ["--name", name, "--data-dir", dir, "--quic-addr", &quic];
            let more = ["--api-addr", &api, "--edge-addr", &edge];
            let joined = nodectl([&who[..], &what, &more].concat());
            done(joined).map(|joined| joined.json())
        });
        self.members.push(Member {
            name: name.to_owned(),
            id: joined["id"].as_u64().expect("a node id"),
            pid: 0,
            api: format!("https://{api}"),
            edge: edge.parse().expect("the edge is an address"),
            edge_tls: None,
            data_dir,
        });
        self.restart(self.members.len() - 1);
        self.write_apis();
    }

    /// Takes a machine out for good, and waits until its daemon has ended for it.
    pub fn remove(&mut self, index: usize) {
        let name = self.members[index].name.clone();
        eventually(DEADLINE, "a machine is removed", || {
            let removed = self.nodectl(&["remove", &name, "--json"]);
            // The answer to the one before may have been lost, or the list be behind.
            if error(&removed)["code"] != "not_found" {
                done(removed)?;
            }
            let list = done(self.nodectl(&["members", "--json"]))?;
            holds(!list.stdout.contains(&format!("\"{name}\"")), list)
        });
        self.wait_gone(index);
        self.members.remove(index);
        self.write_apis();
    }

    /// A cluster file of our own, with those who are members now.
    fn write_apis(&mut self) {
        let text = std::fs::read(&self.cluster_file).expect("the cluster file");
        let mut file: Value = serde_json::from_slice(&text).expect("the cluster file is JSON");
        let apis = self
            .members
            .iter()
            .map(|m| m.api.trim_start_matches("https://"));
        file["apis"] = apis.collect::<Vec<_>>().into();
        self.cluster_file = self.scratch("clusters").join("members.json");
        std::fs::write(&self.cluster_file, file.to_string()).expect("a cluster file");
    }
}
