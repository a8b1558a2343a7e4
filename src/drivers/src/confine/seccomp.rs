//! System calls that an instance may not make (seccomp(2)): those that change the machine, look into other processes, or
//! are a way into parts of the kernel that programs do not need. In the manner of Docker's default profile: an error, not
//! the end of the program, because many try such a call and go on without.
//!
//! A list of what is forbidden, closed at its end: what the kernel has learned since the list was made is unknown to
//! programs by `ENOSYS`, as on an older kernel.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, sock_filter,
};

use super::{Controls, Failure, Kind};

/// `mseal`, Linux 6.10: the last whose meaning was looked at for this list. Numbers are the same on all machines since
/// 424. Above it is also the second numbering of x86-64 (x32), by which the list could be gone around.
const LAST_KNOWN: u32 = 462;

const FORBIDDEN: &[i64] = &[
    // Mounts and roots.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_mount_setattr,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    // A file by its number, past every folder that is closed.
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    // Namespaces.
    libc::SYS_unshare,
    libc::SYS_setns,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    // The kernel itself.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_nfsservctl,
    libc::SYS_vhangup,
    libc::SYS_fanotify_init,
    libc::SYS_lookup_dcookie,
    // Names and time of the machine.
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    // Keys, which are not kept apart by namespaces.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // Much of the kernel behind one door, and a tool of attacks upon it.
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
];

#[cfg(target_arch = "x86_64")]
const FORBIDDEN_HERE: &[i64] = &[
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
    libc::SYS_ustat,
    libc::SYS_sysfs,
    libc::SYS__sysctl,
];
#[cfg(not(target_arch = "x86_64"))]
const FORBIDDEN_HERE: &[i64] = &[];

/// clone(2): each would make a namespace.
const NAMESPACES: [i32; 7] = [
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
];
/// Sockets to the program itself, to other machines, and to the kernel about addresses and routes.
const FAMILIES: [i32; 4] = [
    libc::AF_UNIX,
    libc::AF_INET,
    libc::AF_INET6,
    libc::AF_NETLINK,
];
/// ioctl_tty(2): typing for somebody else, and the same by the console's own door.
const TYPING: [u64; 2] = [0x5412, 0x541C];

/// From here on the calling process and all that it starts. It has `no_new_privs` already.
pub(crate) fn restrict(controls: &mut Controls) -> Result<(), Failure> {
    let cannot = |error| Failure::new(Kind::Seccomp, format!("cannot make the filter: {error}"));
    let apply = |filter: &BpfProgram| {
        seccompiler::apply_filter(filter).map_err(Failure::of(Kind::Seccomp, "seccomp(2)"))
    };
    let (unknown, forbidden) = filters().map_err(cannot)?;
    apply(&unknown)?;
    apply(&forbidden)?;
    controls.held(
        Kind::Seccomp,
        format!("{} system calls", FORBIDDEN.len() + FORBIDDEN_HERE.len()),
    );
    Ok(())
}

/// What is answered with `ENOSYS`, and what with `EPERM`. A filter has one answer; with both in force, each answers
/// what the other lets through.
fn filters() -> Result<(BpfProgram, BpfProgram), BackendError> {
    let refuse = |errno: i32| SeccompAction::Errno(errno.unsigned_abs());
    let arch = std::env::consts::ARCH.try_into()?;
    // The flags of clone3(2) lie in memory, where a filter cannot look. Without it libraries use clone(2).
    let hidden = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let unknown = SeccompFilter::new(hidden, SeccompAction::Allow, refuse(libc::ENOSYS), arch)?;
    let mut program = closed_at_the_end();
    program.extend(BpfProgram::try_from(unknown)?);

    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = FORBIDDEN
        .iter()
        .chain(FORBIDDEN_HERE)
        .map(|call| (*call, Vec::new()))
        .collect();
    let clones = NAMESPACES.iter().map(|flag| {
        let flag = u64::from(flag.unsigned_abs());
        one(0, SeccompCmpOp::MaskedEq(flag), flag)
    });
    rules.insert(libc::SYS_clone, clones.collect::<Result<_, _>>()?);
    let typing = TYPING.iter().map(|call| one(1, SeccompCmpOp::Eq, *call));
    rules.insert(libc::SYS_ioctl, typing.collect::<Result<_, _>>()?);
    let other = FAMILIES.iter().map(|family| {
        let family = u64::from(family.unsigned_abs());
        condition(0, SeccompCmpOp::Ne, family)
    });
    // Of netlink(7) the routing part only: others tell of every socket of the machine.
    let netlink = [
        condition(
            0,
            SeccompCmpOp::Eq,
            u64::from(libc::AF_NETLINK.unsigned_abs()),
        )?,
        condition(
            2,
            SeccompCmpOp::Ne,
            u64::from(libc::NETLINK_ROUTE.unsigned_abs()),
        )?,
    ];
    let sockets = vec![
        SeccompRule::new(other.collect::<Result<_, _>>()?)?,
        SeccompRule::new(netlink.into())?,
    ];
    rules.insert(libc::SYS_socket, sockets);
    let forbidden = SeccompFilter::new(rules, SeccompAction::Allow, refuse(libc::EPERM), arch)?;
    Ok((program, forbidden.try_into()?))
}

fn condition(index: u8, op: SeccompCmpOp, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, op, value)
}

fn one(index: u8, op: SeccompCmpOp, value: u64) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![condition(index, op, value)?])
}

/// bpf(4) by hand, since it is one comparison: a call above the last known one is answered with `ENOSYS`.
fn closed_at_the_end() -> BpfProgram {
    let step = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let greater = libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K;
    let answer = libc::BPF_RET | libc::BPF_K;
    let unknown = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();
    let code = |code: u32| u16::try_from(code).unwrap_or_default();
    vec![
        // The call's number is the first field of what a filter sees.
        step(code(load), 0, 0, 0),
        step(code(greater), 0, 1, LAST_KNOWN),
        step(code(answer), 0, 0, unknown),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_can_be_made_and_fit_the_kernels_limit() {
        // seccomp(2): BPF_MAXINSNS.
        const MOST: usize = 4096;
        let (unknown, forbidden) = filters().unwrap();
        assert!(unknown.len() < MOST && forbidden.len() < MOST);
        let all = || FORBIDDEN.iter().chain(FORBIDDEN_HERE);
        assert!(all().all(|call| *call <= i64::from(LAST_KNOWN)));
        let distinct: std::collections::BTreeSet<_> = all().collect();
        assert_eq!(distinct.len(), all().count());
    }
}
