//! The program itself: its command and its environment, which owe nothing to how the daemon was started.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use nebula_domain::volume::variable;
use nix::sys::signal::SigSet;

use crate::driver::StartSpec;
use crate::record::SpecRecord;

/// Finds whatever a run started, wherever it went.
pub(crate) const TOKEN: &str = "NEBULA_RUN";

/// What is passed on of the daemon's own environment: where programs and homes are, and in which
/// language and time zone people here read. Nothing else, because the rest may hold its secrets.
pub(crate) const PASSED_ON: [&str; 8] = [
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR",
];
/// Of those, what names things outside of a root folder of the program's own.
const OUTSIDE: [&str; 4] = ["HOME", "USER", "LOGNAME", "TMPDIR"];
/// As the shell's own default on Debian, with the administrator's folders.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The name of the program's user, where it has a root folder of its own.
pub(super) const USER_NAME: &str = "instance";

/// `/bin/sh -c <command>`. The shell stays the parent unless it chooses otherwise, so that
/// pipelines, lists and assignments mean what they mean in a script; a command that wants signals
/// for itself begins with `exec`. All of it is one session and one process group, which a stop
/// signals as a whole.
///
/// `apart`: in a root folder of its own. Returns only when it cannot be.
pub(super) fn become_it(spec: &SpecRecord, apart: bool) -> io::Error {
    let mut command = command(&spec.start, &spec.token, apart);
    command.stdin(Stdio::null());
    command.exec()
}

/// What is executed: the shell, or the program of an image.
pub(super) fn name(start: &StartSpec) -> &str {
    let image = start.image.as_ref().filter(|_| start.command.is_empty());
    let entry = image.and_then(|image| image.entry.first());
    entry.map_or("/bin/sh", String::as_str)
}

/// The command in its folder and environment: of the program, and of what is run beside it.
fn command(start: &StartSpec, token: &str, apart: bool) -> Command {
    let mut command = Command::new(name(start));
    match &start.image {
        Some(image) if start.command.is_empty() => command.args(image.entry.iter().skip(1)),
        _ => command.arg("-c").arg(&start.command),
    };
    command
        .current_dir(start.seen())
        .env_clear()
        .env("PATH", DEFAULT_PATH);
    for name in PASSED_ON {
        // An image is the same wherever it runs.
        let meant = start.image.is_none() && (!apart || !OUTSIDE.contains(&name));
        if let Some(value) = std::env::var_os(name).filter(|_| meant) {
            command.env(name, value);
        }
    }
    if apart {
        command
            .env("HOME", start.seen())
            .env("USER", USER_NAME)
            .env("LOGNAME", USER_NAME);
    }
    if let Some(image) = &start.image {
        command.envs(&image.env);
    }
    for volume in &start.volumes {
        command.env(variable(&volume.name), volume.seen(apart));
    }
    command
        .envs(&start.env)
        .envs(&start.secrets.0)
        .env("NEBULA_DEPLOYMENT", start.deployment.as_str())
        .env("NEBULA_INSTANCE", start.instance.to_string())
        .env("NEBULA_RELEASE", start.release.to_string())
        .env("NEBULA_NODE", &start.node)
        .env(TOKEN, token);
    if let Some(port) = start.port {
        command.env("PORT", port.to_string());
    }
    command
}

/// Default signals, none blocked: the program's, not the shim's.
#[allow(unsafe_code)]
pub(super) fn quiet_signals() -> nix::Result<()> {
    for number in 1..=libc::SIGRTMAX() {
        // SAFETY: SIG_DFL installs no handler. SIGKILL, SIGSTOP and the numbers that libc
        // keeps for itself are refused, which is as it should be.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
    SigSet::empty().thread_set_mask()
}

/// Takes back what came with the process through fork and exec. Descriptors that the daemon
/// inherited without close-on-exec (a test's pipe, a shell's redirection) must not stay open for as
/// long as the instance runs, and an ignored SIGCHLD would hide how children end.
#[allow(unsafe_code)]
pub(crate) fn forget_inheritance() {
    // SAFETY: called first thing by a process that has one thread and has opened nothing yet, so
    // that nobody owns a descriptor above standard error; SIG_DFL installs no handler.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32);
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
    }
}
