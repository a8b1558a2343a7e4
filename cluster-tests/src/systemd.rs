//! A machine that systemd runs: a real `systemd --system` as process 1 of namespaces of its own, with nothing
//! to start but what a test gives it. Needs root and the package `systemd`.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::command::{self, Output};
use crate::wait::{eventually, holds};
use crate::{binaries, process};

const SYSTEMD: &str = "/usr/lib/systemd/systemd";
/// Booting nothing takes well under a second.
const BOOT_DEADLINE: Duration = Duration::from_secs(30);

/// First outside the namespaces: a control group of the machine's own, which its systemd will take for the root.
/// Named hierarchies are the kernel's, so mounting it here shows the same one that the machine mounts later.
const OUTSIDE: &str = r#"
set -eu
mkdir "$FOLDER/cgroup"
mount -t cgroup -o none,name=systemd systemd "$FOLDER/cgroup" 2>/dev/null || mount -t cgroup2 cgroup2 "$FOLDER/cgroup"
mkdir "$FOLDER/cgroup/$GROUP"
echo $$ > "$FOLDER/cgroup/$GROUP/cgroup.procs"
exec unshare --fork --kill-child --pid --mount --uts --net --ipc --cgroup /bin/sh -c "$INSIDE"
"#;

/// Then inside: only this machine sees these mounts, so nothing of the host's is changed. `/var/lib` is empty, so
/// that the defaults of a fresh machine are what is tried.
const INSIDE: &str = r#"
set -eu
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/lib
mount -t tmpfs tmpfs /etc/systemd/system
mount --bind "$FOLDER/units" /usr/lib/systemd/system
mount --bind "$FOLDER/none" /usr/lib/systemd/system-generators
umount -R /sys/fs/cgroup 2>/dev/null || true
mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
mkdir /sys/fs/cgroup/systemd
if ! mount -t cgroup -o none,name=systemd systemd /sys/fs/cgroup/systemd; then
    umount /sys/fs/cgroup
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
fi
ip link set lo up
ip link add eth0 type veth peer name cable
ip addr add 192.0.2.1/24 dev eth0
ip link set eth0 up
ip link set cable up
ip route add default dev eth0
exec env -i container=test PATH="$PATH" SYSTEMD_LOG_TARGET=console "$SYSTEMD" --system --unit=multi-user.target
"#;

/// Afterwards: control groups outlive their processes.
const CLEAN_UP: &str = r#"
mount -t cgroup -o none,name=systemd systemd "$FOLDER/cgroup" 2>/dev/null || mount -t cgroup2 cgroup2 "$FOLDER/cgroup"
find "$FOLDER/cgroup/$GROUP" -depth -type d -exec rmdir {} +
"#;

/// What an ordinary system has below the unit of a service.
const TARGETS: [(&str, &str); 5] = [
    ("multi-user", "Requires=basic.target\nAfter=basic.target\n"),
    ("basic", "Requires=sysinit.target\nAfter=sysinit.target\n"),
    ("sysinit", ""),
    ("shutdown", ""),
    ("network-online", ""),
];

/// Whether such tests can run here.
pub fn available() -> bool {
    let missing = if !nix::unistd::geteuid().is_root() {
        Some("root is needed to boot a machine in namespaces")
    } else if !std::path::Path::new(SYSTEMD).exists() {
        Some("'systemd' is not installed")
    } else if !binaries::works("ip", &["-V"]) {
        Some("'ip' (iproute2) is not installed")
    } else {
        None
    };
    binaries::unless_missing(missing)
}

pub struct Machine {
    folder: TempDir,
    /// `unshare`, which waits for process 1 and takes it along when it is killed.
    outer: Child,
    /// Process 1 as it is called out here.
    init: u32,
}

impl Machine {
    /// Boots, and waits until systemd has nothing left to start.
    pub fn boot() -> Machine {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let make = |name: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(&path).expect("a folder in the temporary folder");
            path
        };
        make("none");
        let units = make("units");
        for (name, body) in TARGETS {
            let unit = format!("[Unit]\nDefaultDependencies=no\n{body}");
            let path = units.join(format!("{name}.target"));
            std::fs::write(path, unit).expect("write a unit");
        }
        // There is no journal: what services say is kept for a test that fails.
        let drop_in = format!(
            "[Service]\nStandardOutput=append:{}\n",
            log(&folder).display()
        );
        std::fs::write(make("units/service.d").join("log.conf"), drop_in).expect("write a drop-in");

        let boot = std::fs::File::create(folder.path().join("boot.log")).expect("a log file");
        let mut command = scripted(OUTSIDE, &folder);
        command
            .env("INSIDE", INSIDE)
            .env("SYSTEMD", SYSTEMD)
            .stdout(boot.try_clone().expect("a log file"))
            .stderr(boot);
        let outer = command.spawn().expect("unshare runs");
        let mut machine = Machine {
            folder,
            outer,
            init: 0,
        };
        machine.init = eventually(BOOT_DEADLINE, "process 1 is systemd", || {
            let children = process::children(machine.outer.id());
            let init = children.first().copied().ok_or("no process 1")?;
            let name = std::fs::read_to_string(format!("/proc/{init}/comm"));
            holds(name.as_deref().is_ok_and(|n| n == "systemd\n"), &name).map(|()| init)
        });
        eventually(BOOT_DEADLINE, "systemd has booted", || {
            let done = machine.run("systemctl", &["is-system-running"]);
            holds(done.stdout == "running\n", done.to_string())
        });
        machine
    }

    /// A program on the machine.
    pub fn run(&self, program: &str, args: &[&str]) -> Output {
        let init = self.init.to_string();
        let enter = ["--target", &init, "--all", "--", program];
        command::run(command::prepare(
            "nsenter".as_ref(),
            [&enter[..], args].concat(),
        ))
    }

    pub fn nodectl(&self, args: &[&str]) -> Output {
        self.run(&own("nodectl"), args)
    }

    pub fn nebula(&self, args: &[&str]) -> Output {
        self.run(&own("nebula"), args)
    }

    /// One property of a unit.
    pub fn property(&self, unit: &str, name: &str) -> String {
        let shown = self.run("systemctl", &["show", unit, "--value", "--property", name]);
        shown.ok().stdout.trim().to_owned()
    }

    /// A folder that both sides see, gone with the machine.
    pub fn scratch(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(&path).expect("a folder in the temporary folder");
        path
    }
}

fn own(program: &str) -> String {
    let path = binaries::path(program);
    path.to_str().expect("a UTF-8 path").to_owned()
}

fn log(folder: &TempDir) -> PathBuf {
    folder.path().join("services.log")
}

fn scripted(script: &str, folder: &TempDir) -> Command {
    let mut command = Command::new("unshare");
    command
        .args([
            "--mount",
            "--propagation",
            "private",
            "/bin/sh",
            "-c",
            script,
        ])
        .env("FOLDER", folder.path())
        .env("GROUP", folder.path().file_name().expect("a name"))
        .stdin(Stdio::null());
    command
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in [self.folder.path().join("boot.log"), log(&self.folder)] {
                let text = std::fs::read_to_string(&log).unwrap_or_default();
                eprintln!("--- {}\n{text}", log.display());
            }
        }
        // Process 1 goes with it, and with process 1 all others of its namespace.
        let _ = self.outer.kill();
        let _ = self.outer.wait();
        if self.init != 0 {
            eventually(BOOT_DEADLINE, "the machine is off", || {
                holds(!process::is_running(self.init), self.init)
            });
        }
        let _ = scripted(CLEAN_UP, &self.folder)
            .stderr(Stdio::null())
            .status();
    }
}
