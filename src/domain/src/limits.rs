//! The limits of desired state: each has a name, a value and a reason. What is over one is refused
//! with [`LimitExceeded`], never cut.

/// Something was larger than the limit with this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
#[error("{what} is {actual}, over the limit of {limit} ({name})")]
pub struct LimitExceeded {
    pub what: String,
    pub actual: u64,
    pub limit: u64,
    pub name: String,
}

/// One limit on a count or a size.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    pub name: &'static str,
    pub max: u64,
}

impl Limit {
    pub fn check(self, what: &str, actual: usize) -> Result<(), LimitExceeded> {
        let actual = actual as u64;
        if actual <= self.max {
            return Ok(());
        }
        Err(LimitExceeded {
            what: what.to_owned(),
            actual,
            limit: self.max,
            name: self.name.to_owned(),
        })
    }
}

/// A command line has to fit a spec that fits a log entry.
pub const COMMAND_BYTES: Limit = Limit {
    name: "command_bytes",
    max: 4 * 1024,
};
/// All names and values of a deployment's environment together; configuration, not content.
pub const ENV_BYTES: Limit = Limit {
    name: "env_bytes",
    max: 32 * 1024,
};
/// Copies of one deployment: beyond this a plan would not fit one log entry.
pub const INSTANCES_PER_DEPLOYMENT: Limit = Limit {
    name: "instances_per_deployment",
    max: 500,
};
/// What a registry on small machines is meant for; see `docs/scaling.md`.
pub const DEPLOYMENTS: Limit = Limit {
    name: "deployments",
    max: 10_000,
};
/// Volumes of one deployment: each is mounted and locked at every start.
pub const VOLUMES_PER_DEPLOYMENT: Limit = Limit {
    name: "volumes_per_deployment",
    max: 8,
};
/// A mount point's length in bytes; Linux itself takes a path of 4,095.
pub const VOLUME_PATH_BYTES: Limit = Limit {
    name: "volume_path_bytes",
    max: 255,
};
/// Deployments that one depends on: each is a listener on every node with an instance.
pub const DEPENDENCIES: Limit = Limit {
    name: "dependencies",
    max: 16,
};
/// One secret's value in bytes: passwords, keys, certificates with their chain. Linux takes 128 KiB in one variable.
pub const SECRET_BYTES: Limit = Limit {
    name: "secret_bytes",
    max: 32 * 1024,
};
/// Secrets in all.
pub const SECRETS: Limit = Limit {
    name: "secrets",
    max: 10_000,
};
/// Secrets of one deployment.
pub const SECRETS_PER_DEPLOYMENT: Limit = Limit {
    name: "secrets_per_deployment",
    max: 64,
};
/// Members that one gossip view is meant for.
pub const NODES: Limit = Limit {
    name: "nodes",
    max: 1_000,
};
/// Unexpired join tokens; expired ones are dropped when a new one is made.
pub const JOIN_TOKENS: Limit = Limit {
    name: "join_tokens",
    max: 1_000,
};
/// One setting's value; the registry holds settings, not files.
pub const SETTING_VALUE_BYTES: Limit = Limit {
    name: "setting_value_bytes",
    max: 4 * 1024,
};
/// Settings in all, those under `user.` included.
pub const SETTINGS: Limit = Limit {
    name: "settings",
    max: 100_000,
};
/// Changes that one plan may make; the scheduler plans again for the rest.
pub const CHANGES_PER_PLAN: Limit = Limit {
    name: "changes_per_plan",
    max: 256,
};
/// Labels of one node: a handful is in use anywhere, and each plan reads them.
pub const LABELS_PER_NODE: Limit = Limit {
    name: "labels_per_node",
    max: 32,
};
/// Rules on labels in each list of a deployment's placement.
pub const PLACEMENT_RULES: Limit = Limit {
    name: "placement_rules",
    max: 16,
};
/// Deployments in each list of a deployment's placement.
pub const PLACEMENT_NEIGHBOURS: Limit = Limit {
    name: "placement_neighbours",
    max: 16,
};
/// Instances that give way to another elsewhere at one time because nodes are filled unevenly. Each costs its node a start and
/// clients a change of address: a new node fills within minutes, and nobody notices.
pub const MOVES_AT_ONCE: Limit = Limit {
    name: "moves_at_once",
    max: 4,
};
/// Old releases kept with their artifacts for each deployment.
pub const RELEASES_KEPT: usize = 10;
/// What somebody says of a release, in bytes: a line or two, as in a commit's subject. It is kept with each release.
pub const MESSAGE_BYTES: Limit = Limit {
    name: "message_bytes",
    max: 1024,
};
/// The name of who makes a release, in bytes.
pub const AUTHOR_BYTES: Limit = Limit {
    name: "author_bytes",
    max: 128,
};

/// Outcomes remembered so that a repeated request is answered and not applied again: a client repeats
/// for 5 s, twice that for slow ones, at 5,000 changes a second.
pub const REQUESTS_REMEMBERED: usize = 50_000;
/// Events kept of one deployment, and as many of the cluster itself: some days of one that is well, the last hour of
/// one whose program ends again and again. One that is ill does not push out what is known of others.
pub const EVENTS_OF_ONE: usize = 256;
/// Events kept in all: some 2 MiB of memory and of each snapshot.
pub const EVENTS_KEPT: usize = 8_192;
/// Why something happened, in bytes: as much as gossip and probes say.
pub const EVENT_REASON_BYTES: usize = 512;
/// What one record of the leader's may tell; the rest comes with the next one.
pub const SIGHTINGS_PER_RECORD: Limit = Limit {
    name: "sightings_per_record",
    max: 128,
};
/// Latest recoveries that the state tells of; each has a handful of names.
pub const RECOVERIES_KEPT: usize = 8;
