//! Machines as network namespaces on a bridge, for tests that cut cables. Needs root, `ip` and `nft`.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::Signal;

use crate::command::{self, Output};
use crate::{binaries, process};

/// Whether such tests can run here.
pub fn available() -> bool {
    let missing = if !nix::unistd::geteuid().is_root() {
        Some("root is needed to make network namespaces")
    } else if !works("ip", &["-V"]) {
        Some("'ip' (iproute2) is not installed")
    } else if !works("nft", &["--version"]) {
        Some("'nft' (nftables) is not installed")
    } else {
        None
    };
    if let Some(reason) = missing {
        assert!(
            std::env::var_os("NEBULA_TESTS_REQUIRE_TOOLS").is_none(),
            "cannot run: {reason}"
        );
        eprintln!("skipped: {reason}");
    }
    missing.is_none()
}

fn works(program: &str, args: &[&str]) -> bool {
    Command::new(program)
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

fn must(program: &str, args: &[&str]) {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    command::run(command).ok();
}

/// Machines `10.77.N.1`, `10.77.N.2`, … on one bridge, itself in a namespace of its own.
pub struct Network {
    id: u32,
    subnet: u8,
    machines: Vec<String>,
    daemons: Vec<Child>,
}

impl Network {
    pub fn new(machines: usize) -> Network {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let serial = NEXT.fetch_add(1, Ordering::SeqCst);
        let id = std::process::id().wrapping_mul(8).wrapping_add(serial) % 1_000_000;
        let subnet = u8::try_from(id % 250 + 1).expect("below 251");
        let mut network = Network {
            id,
            subnet,
            machines: Vec::new(),
            daemons: Vec::new(),
        };
        let hub = network.hub();
        must("ip", &["netns", "add", &hub]);
        must("ip", &["-n", &hub, "link", "add", "br0", "type", "bridge"]);
        must("ip", &["-n", &hub, "link", "set", "br0", "up"]);
        (0..machines).for_each(|_| network.add());
        network
    }

    fn hub(&self) -> String {
        format!("nbh{}", self.id)
    }

    fn add(&mut self) {
        let (index, hub) = (self.machines.len(), self.hub());
        let name = format!("nbm{}x{index}", self.id);
        let port = format!("p{index}");
        let address = format!("{}/24", self.address(index));
        must("ip", &["netns", "add", &name]);
        self.machines.push(name.clone());
        must(
            "ip",
            &[
                "-n", &hub, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns",
                &name,
            ],
        );
        must(
            "ip",
            &["-n", &hub, "link", "set", &port, "master", "br0", "up"],
        );
        must("ip", &["-n", &name, "addr", "add", &address, "dev", "eth0"]);
        must("ip", &["-n", &name, "link", "set", "eth0", "up"]);
        must("ip", &["-n", &name, "link", "set", "lo", "up"]);
    }

    /// A machine's address.
    pub fn address(&self, machine: usize) -> String {
        format!("10.77.{}.{}", self.subnet, machine + 1)
    }

    /// A program on a machine.
    pub fn command(&self, machine: usize, program: &str, args: &[&str]) -> Command {
        let path = binaries::path(program);
        let mut all = vec![
            "netns",
            "exec",
            &self.machines[machine],
            path.to_str().expect("UTF-8"),
        ];
        all.extend(args);
        command::prepare("ip".as_ref(), all)
    }

    /// A program on a machine, for the node with this data folder.
    pub fn run(&self, machine: usize, data_dir: &str, program: &str, args: &[&str]) -> Output {
        let mut command = self.command(machine, program, args);
        command.env("NEBULA_DATA_DIR", data_dir);
        command::run(command)
    }

    /// Starts a daemon that lives as long as this network.
    pub fn spawn(&mut self, machine: usize, args: &[&str], log: std::fs::File) {
        let mut command = self.command(machine, "nodectl", args);
        self.daemons.push(
            command
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .expect("nodectl runs"),
        );
    }

    /// Pulls a machine's cable: nothing in, nothing out, and nobody is told.
    pub fn cut(&self, machine: usize) {
        let rules = "table inet cut { chain i { type filter hook input priority 0; iif != lo drop; }; \
                     chain o { type filter hook output priority 0; oif != lo drop; }; }";
        must(
            "ip",
            &["netns", "exec", &self.machines[machine], "nft", rules],
        );
    }

    pub fn heal(&self, machine: usize) {
        must(
            "ip",
            &[
                "netns",
                "exec",
                &self.machines[machine],
                "nft",
                "delete table inet cut",
            ],
        );
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for daemon in &self.daemons {
            process::signal(daemon.id(), Signal::SIGINT);
        }
        for daemon in &mut self.daemons {
            for _ in 0..200 {
                if !matches!(daemon.try_wait(), Ok(None)) {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        for name in self.machines.iter().chain([&self.hub()]) {
            // Whatever still runs in it would keep the namespace.
            if let Ok(pids) = Command::new("ip").args(["netns", "pids", name]).output() {
                let text = String::from_utf8_lossy(&pids.stdout).into_owned();
                text.lines()
                    .filter_map(|l| l.parse().ok())
                    .for_each(|pid| process::signal(pid, Signal::SIGKILL));
            }
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}
