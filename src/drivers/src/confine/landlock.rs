//! Landlock (landlock(7)): the kernel itself refuses to open what is not on a short list, whatever mounts, links and
//! descriptors lead there. Behind a root folder of its own it is the second line; without one it is the first.
//!
//! It also keeps a program from abstract sockets of others, which no root folder hides (since Linux 6.12).

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, LandlockStatus, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use super::{Controls, Failure, Kind};

/// The newest whose rights were looked at here; an older kernel enforces those that it knows.
const KNOWN: ABI = ABI::V6;

/// What may be opened.
pub(crate) struct Rules {
    pub read: Vec<PathBuf>,
    /// Files there may be written as well, and none made.
    pub use_files: Vec<PathBuf>,
    pub write: Vec<PathBuf>,
    /// Processes of others may be signalled, as far as the kernel's other rules go.
    pub may_signal: bool,
}

/// Restricts the calling process and all that it starts. An error is a kernel that has Landlock and refuses it.
pub(crate) fn restrict(rules: &Rules, controls: &mut Controls) -> Result<(), Failure> {
    let status = enforce(rules).map_err(Failure::of(Kind::Landlock, "cannot restrict"))?;
    match status {
        Status::Missing => controls.lacks(Failure::new(Kind::Landlock, "this kernel has none")),
        Status::Partly => controls.held(Kind::Landlock, "files; as far as this kernel knows"),
        Status::Fully => controls.held(Kind::Landlock, "files, abstract sockets and signals"),
    }
    Ok(())
}

enum Status {
    Fully,
    Partly,
    Missing,
}

fn enforce(rules: &Rules) -> Result<Status, RulesetError> {
    let mut scope = Scope::from_all(KNOWN);
    if rules.may_signal {
        scope.remove(Scope::Signal);
    }
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(KNOWN))?
        .scope(scope)?
        .create()?;
    let in_use = AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::WriteFile | AccessFs::IoctlDev;
    let ruleset = allow(ruleset, &rules.read, AccessFs::from_read(KNOWN))?;
    let ruleset = allow(ruleset, &rules.use_files, in_use)?;
    let ruleset = allow(ruleset, &rules.write, AccessFs::from_all(KNOWN))?;
    let done = ruleset.restrict_self()?;
    Ok(match (done.landlock, done.ruleset) {
        (LandlockStatus::NotImplemented | LandlockStatus::NotEnabled, _)
        | (_, RulesetStatus::NotEnforced) => Status::Missing,
        (_, RulesetStatus::PartiallyEnforced) => Status::Partly,
        (_, RulesetStatus::FullyEnforced) => Status::Fully,
    })
}

fn allow(
    mut ruleset: RulesetCreated,
    paths: &[PathBuf],
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    for path in paths {
        // One that is not there needs no rule.
        let Ok(fd) = PathFd::new(path) else { continue };
        // A file has no entries to make or list: rights that are for folders are an error on it.
        let access = match path.is_dir() {
            true => access,
            false => access & AccessFs::from_file(KNOWN),
        };
        ruleset = ruleset.add_rule(PathBeneath::new(fd, access))?;
    }
    Ok(ruleset)
}

/// For a program with a root folder of its own, and for one without.
pub(crate) fn rules(own_root: bool, workdir: &Path, readable: Vec<PathBuf>) -> Rules {
    let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect::<Vec<_>>();
    let mut write = paths(&["/tmp", "/dev/shm"]);
    write.push(workdir.to_owned());
    let read = if own_root {
        paths(&["/"])
    } else {
        let mut read = paths(&["/etc", "/run/systemd/resolve", "/sys/devices/system/cpu"]);
        read.extend(readable);
        read
    };
    Rules {
        read,
        use_files: paths(&["/dev", "/proc"]),
        write,
        may_signal: false,
    }
}
