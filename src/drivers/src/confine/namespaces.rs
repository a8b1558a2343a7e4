//! Namespaces (namespaces(7)): mounts, process ids, message queues, host name; users when the daemon is not root, the
//! network where asked.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;

use nebula_domain::isolation::Network;
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{getegid, geteuid};

use super::{Controls, Failure, Kind};

/// Moves the calling process into new ones. The one of process ids is for the children that it has from now on.
pub(crate) fn enter(network: Network, own_users: bool) -> Result<(), Failure> {
    let ids = (geteuid(), getegid());
    let mut flags = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    if network == Network::None {
        flags |= CloneFlags::CLONE_NEWNET;
    }
    if own_users {
        // user_namespaces(7): made before the others, which then belong to it.
        flags |= CloneFlags::CLONE_NEWUSER;
    }
    unshare(flags).map_err(Failure::of(Kind::Namespaces, "unshare(2)"))?;
    if own_users {
        let (user, group) = ids;
        // The same user inside as outside. A group may be mapped only after setgroups(2) was given up.
        fs::write("/proc/self/setgroups", "deny")
            .and_then(|()| fs::write("/proc/self/uid_map", format!("{user} {user} 1")))
            .and_then(|()| fs::write("/proc/self/gid_map", format!("{group} {group} 1")))
            .map_err(Failure::of(Kind::Namespaces, "a map of users"))?;
    }
    if network == Network::None {
        raise_loopback().map_err(Failure::of(Kind::Network, "the loopback"))?;
    }
    Ok(())
}

pub(crate) fn record(network: Network, own_users: bool, controls: &mut Controls) {
    let users = if own_users { "user, " } else { "" };
    controls.held(
        Kind::Namespaces,
        format!("{users}mount, pid, ipc and uts namespaces"),
    );
    if network == Network::None {
        controls.held(Kind::Network, "a network namespace with a loopback");
    }
}

/// Those of a process (namespaces(7)), held open: they stay the same ones, whatever becomes of the process.
pub(crate) struct Namespaces(Vec<(File, CloneFlags)>);

/// In the order in which they are joined: one of users gives the right to the others, and from other mounts nothing is
/// found by its path any more.
const JOINED: [(&str, CloneFlags); 6] = [
    ("user", CloneFlags::CLONE_NEWUSER),
    ("net", CloneFlags::CLONE_NEWNET),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("pid", CloneFlags::CLONE_NEWPID),
    ("mnt", CloneFlags::CLONE_NEWNS),
];

impl Namespaces {
    /// Those of them that are not the caller's own.
    pub(crate) fn of(pid: i32) -> io::Result<Namespaces> {
        let mut found = Vec::new();
        for (name, flag) in JOINED {
            let open = |who: &str| File::open(format!("/proc/{who}/ns/{name}"));
            let (its, own) = match (open(&pid.to_string()), open("self")) {
                (Ok(its), Ok(own)) => (its, own),
                // A kernel without this kind of namespace.
                (_, Err(error)) if error.kind() == io::ErrorKind::NotFound => continue,
                (Err(error), _) | (_, Err(error)) => return Err(error),
            };
            let id = |file: &File| file.metadata().map(|m| (m.dev(), m.ino()));
            if id(&its)? != id(&own)? {
                found.push((its, flag));
            }
        }
        Ok(Namespaces(found))
    }

    /// Moves the calling process there, and into the root folder that belongs to the mounts. The one of process ids is
    /// for the children that it has from now on.
    pub(crate) fn join(&self) -> Result<(), Failure> {
        for needed in [CloneFlags::CLONE_NEWNS, CloneFlags::CLONE_NEWPID] {
            if self.0.iter().all(|(_, flag)| *flag != needed) {
                return Err(Failure::new(Kind::Namespaces, "the program has none"));
            }
        }
        for (namespace, flag) in &self.0 {
            setns(namespace, *flag).map_err(Failure::of(Kind::Namespaces, "setns(2)"))?;
        }
        Ok(())
    }
}

/// netdevice(7). Programs talk to themselves over 127.0.0.1.
#[allow(unsafe_code)]
fn raise_loopback() -> io::Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: a structure of integers and byte arrays, for which zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo\0") {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
    // SAFETY: the descriptor is open, and the structure is the one that this request reads.
    let set = unsafe { libc::ioctl(fd, libc::SIOCSIFFLAGS as libc::Ioctl, &request) };
    match set {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
