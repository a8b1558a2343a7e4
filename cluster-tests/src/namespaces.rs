//! Machines as network namespaces on a bridge, for tests that cut cables, or on a [`Relay`], for those that make them
//! slow. Needs root, `ip` and `nft`.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::Signal;

use crate::command::{self, Output};
use crate::lab::relay::{self, Relay};
use crate::{binaries, process};

/// Whether such tests can run here.
pub fn available() -> bool {
    let missing = if !nix::unistd::geteuid().is_root() {
        Some("root is needed to make network namespaces")
    } else if !binaries::works("ip", &["-V"]) {
        Some("'ip' (iproute2) is not installed")
    } else if !binaries::works("nft", &["--version"]) {
        Some("'nft' (nftables) is not installed")
    } else {
        None
    };
    binaries::unless_missing(missing)
}

/// Whether [`Network::relayed`] works here, too.
pub fn can_be_slow() -> bool {
    let device = Path::new("/dev/net/tun").exists();
    binaries::unless_missing((!device).then_some("there is no /dev/net/tun"))
}

fn must(program: &str, args: &[&str]) {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    command::run(command).ok();
}

/// Machines `10.77.N.1`, `10.77.N.2`, … on one bridge, itself in a namespace of its own, or on a relay.
pub struct Network {
    id: u32,
    subnet: u8,
    machines: Vec<String>,
    relay: Option<Relay>,
}

impl Network {
    pub fn new(machines: usize) -> Network {
        let mut network = Network::empty();
        let hub = network.hub();
        must("ip", &["netns", "add", &hub]);
        must("ip", &["-n", &hub, "link", "add", "br0", "type", "bridge"]);
        must("ip", &["-n", &hub, "link", "set", "br0", "up"]);
        for _ in 0..machines {
            let machine = network.add();
            network.plug_into_bridge(machine);
            network.bring_up(machine);
        }
        network
    }

    /// With a relay between the machines, whose choices follow from the seed.
    pub fn relayed(machines: usize, seed: u64) -> Network {
        let mut network = Network::empty();
        let mut devices = Vec::new();
        for _ in 0..machines {
            let machine = network.add();
            let path = Path::new("/run/netns").join(network.machine(machine));
            devices.push(relay::tun(&path, "eth0").expect("a TUN device"));
            network.bring_up(machine);
        }
        network.relay = Some(Relay::start(devices, seed));
        network
    }

    /// The relay between the machines, if there is one.
    pub fn relay(&self) -> Option<&Relay> {
        self.relay.as_ref()
    }

    fn empty() -> Network {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let serial = NEXT.fetch_add(1, Ordering::SeqCst);
        let id = std::process::id().wrapping_mul(8).wrapping_add(serial) % 1_000_000;
        let subnet = u8::try_from(id % 250 + 1).expect("below 251");
        Network {
            id,
            subnet,
            machines: Vec::new(),
            relay: None,
        }
    }

    fn hub(&self) -> String {
        format!("nbh{}", self.id)
    }

    fn add(&mut self) -> usize {
        let index = self.machines.len();
        let name = format!("nbm{}x{index}", self.id);
        must("ip", &["netns", "add", &name]);
        self.machines.push(name);
        index
    }

    fn plug_into_bridge(&self, machine: usize) {
        let (name, hub) = (&self.machines[machine], self.hub());
        let port = format!("p{machine}");
        must(
            "ip",
            &[
                "-n", &hub, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns",
                name,
            ],
        );
        must(
            "ip",
            &["-n", &hub, "link", "set", &port, "master", "br0", "up"],
        );
    }

    fn bring_up(&self, machine: usize) {
        let name = &self.machines[machine];
        let address = format!("{}/24", self.address(machine));
        must("ip", &["-n", name, "addr", "add", &address, "dev", "eth0"]);
        must("ip", &["-n", name, "link", "set", "eth0", "up"]);
        must("ip", &["-n", name, "link", "set", "lo", "up"]);
    }

    /// A machine's address.
    pub fn address(&self, machine: usize) -> String {
        format!("10.77.{}.{}", self.subnet, machine + 1)
    }

    /// The name of a machine's namespace.
    pub fn machine(&self, machine: usize) -> &str {
        &self.machines[machine]
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
}

impl Drop for Network {
    fn drop(&mut self) {
        let hub = self.relay.is_none().then(|| self.hub());
        for name in self.machines.iter().chain(&hub) {
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
