//! The limits of a run while it lasts, and what they had to do with its end.

use std::time::Instant;

use nebula_domain::resources::Resources;

use crate::confine::cgroup::Groups;
use crate::confine::disk::{Watch, hidden};
use crate::driver::Exit;
use crate::record::SpecRecord;

/// What a shell says of a program that was killed (POSIX.1-2017, "Shell Command Language", 2.8.2): 128 and the signal.
const SHELL_KILLED: i32 = 128 + libc::SIGKILL;
const SHELL_FILE_SIZE: i32 = 128 + libc::SIGXFSZ;

pub(super) struct Limits {
    resources: Resources,
    groups: Groups,
    disk: Option<Watch>,
    is_over: bool,
    is_said: bool,
}

impl Limits {
    pub(super) fn new(spec: &SpecRecord, groups: Groups) -> Limits {
        let (resources, dir) = (spec.plan.resources, &spec.start.workdir);
        let watch = |limit| Watch::new(dir, limit, Instant::now());
        Limits {
            resources,
            groups,
            disk: resources.disk.map(watch),
            is_over: false,
            is_said: false,
        }
    }

    /// When to look again.
    pub(super) fn next(&self) -> Option<Instant> {
        self.disk.as_ref().map(Watch::next)
    }

    /// The instance takes more room than it may, and must end.
    pub(super) fn is_over(&mut self, now: Instant) -> bool {
        let me = i32::try_from(std::process::id()).unwrap_or(0);
        if let Some(watch) = &mut self.disk {
            self.is_over |= watch.turn(now, me);
        }
        self.is_over
    }

    /// What the exit does not tell of that, once.
    pub(super) fn say(&mut self) -> Option<String> {
        let is_hidden = self.disk.as_ref().is_some_and(Watch::is_hidden);
        (is_hidden && !std::mem::replace(&mut self.is_said, true)).then(hidden)
    }

    /// The end as it was seen, or the limit that was behind it.
    pub(super) fn explain(&self, seen: Exit) -> Exit {
        let killed = matches!(seen, Exit::Signal(libc::SIGKILL) | Exit::Code(SHELL_KILLED));
        let too_large = matches!(
            seen,
            Exit::Signal(libc::SIGXFSZ) | Exit::Code(SHELL_FILE_SIZE)
        );
        match self.resources.disk {
            Some(limit) if self.is_over || too_large => return Exit::OutOfDisk { limit },
            _ => {}
        }
        if killed && self.groups.memory_kills() > 0 {
            let limit = self.resources.memory;
            return Exit::OutOfMemory { limit };
        }
        seen
    }

    /// Nothing is left in the groups.
    pub(super) fn end(&self) {
        self.groups.remove();
    }
}
