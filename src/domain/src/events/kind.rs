//! What an event is about, as one word that programs can filter by.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::excerpt::excerpt;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Kind {
            $($(#[$doc])* $name,)*
        }

        impl Kind {
            pub const ALL: &'static [Kind] = &[$(Kind::$name,)*];

            /// Lower case, words joined by hyphens; the first says what it is about.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Kind::$name => $text,)*
                }
            }
        }
    };
}

kinds! {
    DeploymentCreated = "deployment-created",
    DeploymentScaled = "deployment-scaled",
    /// Instances begin anew though their release stays.
    DeploymentRestarted = "deployment-restarted",
    DeploymentRemoving = "deployment-removing",
    DeploymentRemoved = "deployment-removed",
    CachePurged = "cache-purged",
    /// A release is on its way.
    ReleaseStarted = "release-started",
    ReleaseStep = "release-step",
    ReleasePaused = "release-paused",
    ReleaseResumed = "release-resumed",
    /// It is out, and stood its time.
    ReleaseGood = "release-good",
    /// Something spoke against it, and the one before is wanted again.
    ReleaseTakenBack = "release-taken-back",
    /// The same, and it stays.
    ReleaseFailed = "release-failed",
    ReleaseAborted = "release-aborted",
    ReleaseSuperseded = "release-superseded",
    InstancePlaced = "instance-placed",
    InstanceStarted = "instance-started",
    InstanceReady = "instance-ready",
    InstanceNotReady = "instance-not-ready",
    /// Its program ended by itself, or was ended because its probes gave it up.
    InstanceEnded = "instance-ended",
    InstanceRestarted = "instance-restarted",
    /// It cannot be started, and is tried again after a while.
    InstanceBackoff = "instance-backoff",
    /// Its node is lost or drained: another takes its place.
    InstanceMoved = "instance-moved",
    /// It is not wanted any more.
    InstanceStopping = "instance-stopping",
    InstanceStopped = "instance-stopped",
    /// Nobody saw it end: its node is no member any more.
    InstanceLost = "instance-lost",
    NodeJoined = "node-joined",
    /// It was heard of for the first time.
    NodeArrived = "node-arrived",
    NodeAlive = "node-alive",
    NodeDead = "node-dead",
    NodeDraining = "node-draining",
    NodeOpened = "node-opened",
    NodeLeaving = "node-leaving",
    NodeStays = "node-stays",
    NodeLeft = "node-left",
    NodeRole = "node-role",
    SettingSet = "setting-set",
    SettingUnset = "setting-unset",
    ClusterRecovered = "cluster-recovered",
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One kind, or all that begin with the same word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kinds(Vec<Kind>);

impl Kinds {
    pub fn has(&self, kind: Kind) -> bool {
        self.0.contains(&kind)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no kind of event")]
pub struct UnknownKind(String);

impl FromStr for Kinds {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Kinds, UnknownKind> {
        let fits = |kind: &&Kind| {
            let rest = kind.as_str().strip_prefix(text);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        };
        let kinds: Vec<Kind> = Kind::ALL.iter().filter(fits).copied().collect();
        match kinds.is_empty() {
            true => Err(UnknownKind(excerpt(text))),
            false => Ok(Kinds(kinds)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_named_in_full_or_by_its_first_words() {
        let of = |text: &str| text.parse::<Kinds>();
        for kind in Kind::ALL {
            assert_eq!(of(kind.as_str()).unwrap(), Kinds(vec![*kind]), "{kind}");
        }
        let release = of("release").unwrap();
        assert!(release.has(Kind::ReleaseStep) && !release.has(Kind::NodeDead));
        for bad in ["", "instance-", "inst", "Node", "node-deadly"] {
            assert!(of(bad).is_err(), "{bad}");
        }
        let distinct: std::collections::BTreeSet<_> =
            Kind::ALL.iter().map(|k| k.as_str()).collect();
        assert_eq!(distinct.len(), Kind::ALL.len());
    }
}
