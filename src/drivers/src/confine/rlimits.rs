//! Limits that a process carries itself (setrlimit(2)), and its children after it.

use nebula_domain::resources::Resources;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::{Controls, Failure, Kind};

/// Open files of each process. The daemon's own limit may be lower than what was asked for: that one holds then.
pub(crate) fn limit_files(resources: &Resources, controls: &mut Controls) {
    let wanted = u64::from(resources.files);
    let set = match setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted) {
        // Raising it takes CAP_SYS_RESOURCE.
        Err(Errno::EPERM) => getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, most)| {
            let value = wanted.min(most);
            setrlimit(Resource::RLIMIT_NOFILE, value, value).map(|()| value)
        }),
        result => result.map(|()| wanted),
    };
    match set {
        Ok(value) if value == wanted => controls.held(Kind::Files, format!("{value}")),
        Ok(value) => controls.held(
            Kind::Files,
            format!("{value}, the daemon's own limit, which is lower than {wanted}"),
        ),
        Err(error) => controls.lacks(Failure::of(Kind::Files, "setrlimit(2)")(error)),
    }
}

/// The largest file. What all files together have is measured (see [`super::disk`]); between two measurements one
/// file cannot outgrow the limit.
pub(crate) fn limit_file_size(resources: &Resources) -> Result<(), Failure> {
    let Some(disk) = resources.disk else {
        return Ok(());
    };
    setrlimit(Resource::RLIMIT_FSIZE, disk.bytes(), disk.bytes())
        .map_err(Failure::of(Kind::Disk, "setrlimit(2)"))
}

/// Processes of the program's user, where no control group counts them. Only for a user that nobody else has: its
/// own, or the one of a user namespace (since Linux 5.14 a namespace counts for itself, user_namespaces(7)).
pub(crate) fn limit_processes(resources: &Resources) -> Result<(), Failure> {
    let pids = u64::from(resources.pids);
    setrlimit(Resource::RLIMIT_NPROC, pids, pids).map_err(Failure::of(Kind::Pids, "setrlimit(2)"))
}
