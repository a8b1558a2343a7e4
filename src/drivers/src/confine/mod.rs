//! What keeps an instance within its limits and away from everything else on the machine.
//!
//! The daemon decides ([`decide`]) and writes the [`Plan`] beside what to run; the shim carries it out between the
//! fork and the exec of the program, in this order, which is that of the tools that do the same (runc, bubblewrap):
//! control group, limits of a process, namespaces, root folder, user and capabilities, Landlock, system calls. Every
//! step either holds or is told: a [`Control`] for each is in the run's record. `docs/isolation.md` is the same for people.

pub(crate) mod cgroup;
mod control;
pub(crate) mod disk;
mod forgotten;
mod image;
pub(crate) mod landlock;
pub(crate) mod mounts;
pub(crate) mod namespaces;
pub(crate) mod privileges;
pub(crate) mod rlimits;
pub(crate) mod root;
pub(crate) mod seccomp;
pub(crate) mod users;

use std::path::PathBuf;

use nebula_domain::isolation::{Isolation, Network, Profile};
use nebula_domain::resources::Resources;
use serde::{Deserialize, Serialize};

pub use cgroup::Usage;
pub(crate) use control::Failure;
pub use control::{Control, Controls, Kind};

/// First of the users that instances run as: above what distributions give to people (60,000), to containers of
/// users (100,000 to 165,536, `useradd` and its /etc/subuid) and to systemd's dynamic users (below 65,536).
pub const DEFAULT_UID_FIRST: u32 = 200_000;
/// As many as a registry has deployments, and room for those that went.
pub const DEFAULT_UID_COUNT: u32 = 65_536;
/// Below the root of every hierarchy of control groups. Not below the daemon's own group: there a service manager could
/// not start the daemon again while its instances run (cgroups(7), "no internal processes").
pub const DEFAULT_CGROUP_PARENT: &str = "nebula";

/// A node's settings for all its instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub mode: Mode,
    pub uid_first: u32,
    pub uid_count: u32,
    /// Below the root of each hierarchy of control groups.
    pub cgroup_parent: PathBuf,
    /// Folders and files that every instance may read, besides the system's programs and libraries.
    pub readable: Vec<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            mode: Mode::Auto,
            uid_first: DEFAULT_UID_FIRST,
            uid_count: DEFAULT_UID_COUNT,
            cgroup_parent: DEFAULT_CGROUP_PARENT.into(),
            readable: Vec::new(),
        }
    }
}

/// How much of isolation a node insists on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// As the deployment asks. Under root that is everything; under a normal user, what can be had.
    #[default]
    Auto,
    /// Everything, or the instance does not start, whatever the deployment says.
    Required,
    /// Nothing but the limits.
    Off,
}

/// What becomes of an instance when a control cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Enforce {
    /// It does not start.
    All,
    /// It starts without, and the control is recorded as missing.
    Possible,
    /// No isolation is tried; limits are as with [`Enforce::Possible`].
    Limits,
}

/// Everything that a shim needs to know to confine one run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub enforce: Enforce,
    /// A control missing from the kernel, not only from this machine's settings, is refused too.
    pub strict: bool,
    pub isolation: Isolation,
    pub resources: Resources,
    /// The user and group of the program, when the daemon may choose one.
    pub user: Option<u32>,
    pub groups: cgroup::Groups,
    pub readable: Vec<PathBuf>,
    /// The rules of the machine's network, which are the daemon's part; none where the program has no user of its own.
    #[serde(default)]
    pub firewall: Option<Control>,
}

/// What is asked for and what the node allows, as one rule. The error is a sentence.
pub(crate) fn decide(mode: Mode, asked: Isolation, is_root: bool) -> Result<Enforce, String> {
    let enforce = enforce(mode, asked.profile, is_root)?;
    if enforce == Enforce::Limits && asked.network == Network::None {
        return Err(
            "the deployment asks for network 'none', which takes isolation: its own profile or this node's setting instances.isolation is without"
                .to_owned(),
        );
    }
    Ok(enforce)
}

/// An image's files take the place of the machine's: without a root folder of its own its program would run among those.
pub(crate) fn check_image(enforce: Enforce) -> Result<(), String> {
    match enforce {
        Enforce::All | Enforce::Possible => Ok(()),
        Enforce::Limits => Err(
            "images need a node that isolates: the deployment's profile or this node's setting instances.isolation is without"
                .to_owned(),
        ),
    }
}

fn enforce(mode: Mode, profile: Profile, is_root: bool) -> Result<Enforce, String> {
    match (mode, profile) {
        (Mode::Off, Profile::Strict) => Err(
            "the deployment asks for isolation 'strict', which this node's setting instances.isolation = \"off\" does not give"
                .to_owned(),
        ),
        (Mode::Required, Profile::None) => Err(
            "the deployment asks for isolation 'none', which this node's setting instances.isolation = \"required\" does not allow"
                .to_owned(),
        ),
        (Mode::Off, _) | (Mode::Auto, Profile::None) => Ok(Enforce::Limits),
        (Mode::Required, _) | (_, Profile::Strict) => Ok(Enforce::All),
        (Mode::Auto, Profile::Default) if is_root => Ok(Enforce::All),
        (Mode::Auto, Profile::Default) => Ok(Enforce::Possible),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stricter_of_node_and_deployment_wins_or_refuses() {
        use Profile::{Default, None, Strict};
        for (mode, profile, root, expected) in [
            (Mode::Auto, Default, true, Some(Enforce::All)),
            (Mode::Auto, Default, false, Some(Enforce::Possible)),
            (Mode::Auto, Strict, false, Some(Enforce::All)),
            (Mode::Auto, None, true, Some(Enforce::Limits)),
            (Mode::Required, Default, false, Some(Enforce::All)),
            (Mode::Required, None, true, Option::None),
            (Mode::Off, Default, true, Some(Enforce::Limits)),
            (Mode::Off, None, true, Some(Enforce::Limits)),
            (Mode::Off, Strict, true, Option::None),
        ] {
            let asked = |network| Isolation { profile, network };
            let decided = decide(mode, asked(Network::Host), root).ok();
            assert_eq!(decided, expected, "{mode:?} {profile:?} root: {root}");
            let alone = decide(mode, asked(Network::None), root).ok();
            let possible = expected.filter(|enforce| *enforce != Enforce::Limits);
            assert_eq!(alone, possible, "{mode:?} {profile:?} without a network");
        }
    }
}
