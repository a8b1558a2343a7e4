//! Machines that join a cluster and are removed from it, as people do it.

use serde_json::Value;

use super::{Cluster, DEADLINE, Member, free_ports};
use crate::command::nodectl;
use crate::process;
use crate::wait::{eventually, holds};

impl Cluster {
    /// A machine more, the last one; `role` is what its join token lets it become.
    pub fn join(&mut self, name: &str, role: &str) {
        let data_dir = self.scratch("joined").join(name);
        let [quic, api, edge] = free_ports().map(|port| format!("127.0.0.1:{port}"));
        let joined = eventually(DEADLINE, "a machine joins", || {
            let running = self.members.iter().find(|m| process::is_running(m.pid));
            let seed = running.ok_or("nobody runs")?.api.clone();
            let create = ["token", "create", "--role", role, "--json"];
            let made = self.nodectl(&create);
            holds(made.code == 0, &made)?;
            let token = made.json()["token"].as_str().unwrap_or_default().to_owned();
            let seed = seed.trim_start_matches("https://");
            let who = ["join", seed, "--token", &token, "--json", "--no-start"];
            let dir = data_dir.to_str().expect("UTF-8");
            let what = ["--name", name, "--data-dir", dir, "--quic-addr", &quic];
            let more = ["--api-addr", &api, "--edge-addr", &edge];
            let joined = nodectl([&who[..], &what, &more].concat());
            holds(joined.code == 0, &joined).map(|()| joined.json())
        });
        self.members.push(Member {
            name: name.to_owned(),
            id: joined["id"].as_u64().expect("a node id"),
            pid: 0,
            api: format!("https://{api}"),
            edge: edge.parse().expect("the edge is an address"),
            data_dir,
        });
        self.restart(self.members.len() - 1);
        self.write_apis();
    }

    /// Takes a machine out for good, and waits until its daemon has ended for it.
    pub fn remove(&mut self, index: usize) {
        let name = self.members[index].name.clone();
        eventually(DEADLINE, "a machine is removed", || {
            let done = self.nodectl(&["remove", &name]);
            let list = self.nodectl(&["members", "--json"]);
            let gone = list.code == 0 && !list.stdout.contains(&format!("\"{name}\""));
            holds(gone, format!("{done}{list}"))
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
