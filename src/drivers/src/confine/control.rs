//! What holds for a run and what does not, and by which means: for the record, for `status`, and for a refused start.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Enforce;

/// One thing that an instance is kept to or from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Memory,
    Cpu,
    Pids,
    Files,
    Disk,
    /// A user of the deployment's own.
    User,
    /// Own mounts, process ids, message queues and host name.
    Namespaces,
    /// A root folder that holds only what is needed.
    Root,
    /// No network but a loopback of its own.
    Network,
    /// No capabilities, and no way to gain any.
    Privileges,
    Landlock,
    /// System calls that are refused.
    Seccomp,
    /// Of what Nebula listens on, only what the deployment depends on is reached: rules of the machine's network.
    Firewall,
}

impl Kind {
    /// Those that belong to isolation and need not be asked for one by one.
    pub(crate) const ISOLATION: [Kind; 7] = [
        Kind::User,
        Kind::Namespaces,
        Kind::Root,
        Kind::Privileges,
        Kind::Landlock,
        Kind::Seccomp,
        Kind::Firewall,
    ];

    /// All that keeps a program away from others, and that each of its processes has to be given.
    pub(crate) const APART: [Kind; 7] = [
        Kind::User,
        Kind::Namespaces,
        Kind::Root,
        Kind::Network,
        Kind::Privileges,
        Kind::Landlock,
        Kind::Seccomp,
    ];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Memory => "memory limit",
            Kind::Cpu => "cpu limit",
            Kind::Pids => "pids limit",
            Kind::Files => "files limit",
            Kind::Disk => "disk limit",
            Kind::User => "own user",
            Kind::Namespaces => "namespaces",
            Kind::Root => "own root folder",
            Kind::Network => "no network",
            Kind::Privileges => "no privileges",
            Kind::Landlock => "landlock",
            Kind::Seccomp => "seccomp",
            Kind::Firewall => "firewall",
        })
    }
}

/// One control of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    pub kind: Kind,
    pub held: bool,
    /// By which means it holds, or why it does not.
    pub detail: String,
}

/// All of a run, in the order in which they were put in place.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Controls(pub Vec<Control>);

impl Controls {
    pub fn missing(&self) -> impl Iterator<Item = &Control> {
        self.0.iter().filter(|control| !control.held)
    }

    pub fn holds(&self, kind: Kind) -> bool {
        let mut all = self.0.iter();
        all.any(|control| control.kind == kind && control.held)
    }

    /// Tells of every control that nothing was heard of.
    pub(crate) fn complete(&mut self, enforce: Enforce) {
        for kind in Kind::ISOLATION {
            if self.0.iter().all(|control| control.kind != kind) {
                let why = match (enforce, kind) {
                    (Enforce::Limits, _) => "isolation is off",
                    (_, Kind::User | Kind::Firewall) => "the daemon is not root",
                    _ => "it needs what is missing before it",
                };
                self.lacks(Failure::new(kind, why));
            }
        }
    }

    /// Instead of what was told of the same kind.
    pub(crate) fn set(&mut self, control: Control) {
        self.0.retain(|other| other.kind != control.kind);
        self.0.push(control);
    }

    pub(crate) fn held(&mut self, kind: Kind, by: impl Into<String>) {
        self.0.push(Control {
            kind,
            held: true,
            detail: by.into(),
        });
    }

    pub(crate) fn lacks(&mut self, failure: Failure) {
        self.0.push(Control {
            kind: failure.kind,
            held: false,
            detail: failure.why,
        });
    }
}

/// A control that this machine does not give.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub kind: Kind,
    pub why: String,
}

impl Failure {
    pub(crate) fn new(kind: Kind, why: impl Into<String>) -> Failure {
        Failure {
            kind,
            why: why.into(),
        }
    }

    /// `what: the error`.
    pub(crate) fn of<E: fmt::Display>(
        kind: Kind,
        what: impl fmt::Display,
    ) -> impl FnOnce(E) -> Failure {
        move |error| Failure::new(kind, format!("{what}: {error}"))
    }
}

/// The one sentence of a refused start.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "this machine does not give the {}: {}",
            self.kind, self.why
        )
    }
}
