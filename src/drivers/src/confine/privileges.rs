//! Giving up everything that makes a process more than its user: capabilities, groups, and the ways to gain them back.

use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::{Controls, Failure, Kind};

/// Capability numbers that a kernel may have: it says "no" to those that it lacks.
const CAPABILITIES: u32 = 64;

/// Empties all sets of capabilities. The bounding set is first: it takes a capability to empty it.
pub(crate) fn drop_all(user: Option<u32>, controls: &mut Controls) -> Result<(), Failure> {
    let bounding = empty_bounding_set();
    if let Some(id) = user {
        become_user(id).map_err(Failure::of(Kind::User, format!("user {id}")))?;
        controls.held(Kind::User, format!("user and group {id}"));
    }
    let failed = Failure::of(Kind::Privileges, "capset(2)");
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, none).map_err(failed)?;
    // Kernels before 4.3 have no ambient set.
    let _ = rustix::thread::clear_ambient_capability_set();
    nix::sys::prctl::set_no_new_privs().map_err(Failure::of(Kind::Privileges, "no_new_privs"))?;
    let how = match bounding {
        Ok(()) => "no capabilities, none to be had; no_new_privs",
        // Only CAP_SETPCAP may: a normal user without a namespace has none, and no capability to lose either.
        Err(_) => "no capabilities; no_new_privs",
    };
    controls.held(Kind::Privileges, how);
    Ok(())
}

fn empty_bounding_set() -> rustix::io::Result<()> {
    for number in 0..CAPABILITIES {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match rustix::thread::capability_is_in_bounding_set(capability) {
            Ok(true) => rustix::thread::remove_capability_from_bounding_set(capability)?,
            Ok(false) => {}
            // EINVAL: past the last one.
            Err(_) => break,
        }
    }
    Ok(())
}

/// Groups first, while they may still be changed.
fn become_user(id: u32) -> nix::Result<()> {
    let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
    setgroups(&[])?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)
}
