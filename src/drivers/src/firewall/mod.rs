//! What instances may reach by the machine's network: rules of nftables, in a table of this node's own, that judge the
//! users of deployments. An instance reaches the ports of its own deployment and the bridges to what that depends on;
//! everything else that Nebula listens on refuses it. `docs/isolation.md` is the same for people.
//!
//! The rules outlive the daemon, as instances do. They are in place before an instance's program begins, and are looked
//! after by [`Firewall::keep`]. Everything here blocks, at most for the time that nft(8) is given.

mod nft;
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nebula_domain::ids::InstanceId;

pub use rules::Cluster;
pub(crate) use rules::Grant;

use crate::confine::{Control, Kind};
use nft::Nft;
use rules::Rules;

/// All tables of nodes begin with it.
const PREFIX: &str = "nebula_";
/// Somebody who flushes the ruleset is not noticed sooner.
pub const LOOK_EVERY: Duration = Duration::from_secs(10);
/// After a failure starts do not try again at once: each would wait for the same.
const RETRY: Duration = Duration::from_secs(5);

/// A node's settings.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// As far as it is known before the driver is told of it again.
    pub cluster: Cluster,
    /// The program nft(8), where it is not the machine's.
    pub nft: Option<PathBuf>,
}

pub(crate) struct Firewall {
    table: String,
    nft: Option<PathBuf>,
    known: Mutex<Known>,
    /// Held while nft works.
    kernel: Mutex<Kernel>,
    /// Why the rules do not hold; `None` when they do, or none were needed yet.
    lacks: Mutex<Option<String>>,
}

/// What the rules are made of.
#[derive(Default)]
struct Known {
    users: BTreeSet<u32>,
    grants: BTreeMap<InstanceId, Grant>,
    cluster: Cluster,
}

/// What the kernel has, as far as this daemon knows.
#[derive(Default)]
struct Kernel {
    /// The rules that it took from this daemon last.
    text: Option<String>,
    /// How it lists them, to see whether somebody else changes them, and when that was looked at.
    listed: Option<(Vec<String>, Instant)>,
    failed: Option<Instant>,
}

/// The name of a node's table: by its folder, which no other node of the machine has, also after a restart.
fn table(instances_dir: &Path) -> io::Result<String> {
    let folder = std::fs::metadata(instances_dir)?;
    Ok(format!("{PREFIX}{:x}_{:x}", folder.dev(), folder.ino()))
}

/// Takes a node's rules away: nothing of it runs any more. Of a machine without nft(8), and for a user who is not root,
/// there are none.
pub(crate) fn remove(instances_dir: &Path) {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let Ok(table) = table(instances_dir) else {
        return;
    };
    let removed = Nft::find(None).and_then(|nft| nft.remove(&table));
    if let Err(error) = removed {
        tracing::debug!(table, error, "a node's network rules were not removed");
    }
}

impl Firewall {
    /// Nothing is changed in the kernel yet: rules of the daemon before this one stay in force until the first
    /// [`Firewall::ensure`] or [`Firewall::keep`].
    ///
    /// # Errors
    /// The folder cannot be looked at.
    pub fn new(config: Config, instances_dir: &Path) -> io::Result<Firewall> {
        Ok(Firewall {
            table: table(instances_dir)?,
            nft: config.nft,
            known: Mutex::new(Known {
                cluster: config.cluster,
                ..Known::default()
            }),
            kernel: Mutex::default(),
            lacks: Mutex::default(),
        })
    }

    /// Users of this node that may have processes.
    pub fn judge(&self, users: impl IntoIterator<Item = u32>) {
        lock(&self.known).users.extend(users);
    }

    /// From the next rules on the instance reaches what the grant says.
    pub fn admit(&self, instance: InstanceId, grant: Grant) {
        let mut known = lock(&self.known);
        known.users.insert(grant.user);
        known.grants.insert(instance, grant);
    }

    /// It runs no more. Its user stays judged.
    pub fn withdraw(&self, instance: InstanceId) {
        lock(&self.known).grants.remove(&instance);
    }

    pub fn set_cluster(&self, cluster: Cluster) {
        lock(&self.known).cluster = cluster;
    }

    /// What the rules are to a run; `None` for one that was not admitted.
    pub fn control_of(&self, instance: InstanceId) -> Option<Control> {
        let known = lock(&self.known);
        let admitted = known.grants.contains_key(&instance);
        drop(known);
        admitted.then(|| self.control())
    }

    fn control(&self) -> Control {
        let lacks = lock(&self.lacks).clone();
        Control {
            kind: Kind::Firewall,
            held: lacks.is_none(),
            detail: lacks.unwrap_or_else(|| format!("nftables, table inet {}", self.table)),
        }
    }

    /// The kernel has the rules for all that was admitted when this returns. A failure of a moment ago is told again.
    ///
    /// # Errors
    /// A sentence: nft(8) is missing, refuses or hangs.
    pub fn ensure(&self) -> Result<(), String> {
        let mut kernel = lock(&self.kernel);
        let text = self.text();
        if kernel.text.as_ref() == Some(&text) {
            return Ok(());
        }
        let recent = kernel.failed.filter(|at| at.elapsed() < RETRY);
        if let (Some(_), Some(why)) = (recent, lock(&self.lacks).clone()) {
            return Err(why);
        }
        self.apply(&mut kernel, text)
    }

    /// The same, and makes rules again that somebody else has changed or flushed. Looks for that every [`LOOK_EVERY`].
    ///
    /// # Errors
    /// As of [`Firewall::ensure`].
    pub fn keep(&self) -> Result<(), String> {
        let mut kernel = lock(&self.kernel);
        let text = self.text();
        if kernel.text.as_ref() != Some(&text) {
            return self.apply(&mut kernel, text);
        }
        match &kernel.listed {
            Some((_, at)) if at.elapsed() < LOOK_EVERY => return Ok(()),
            _ => {}
        }
        let words = Nft::find(self.nft.as_deref()).and_then(|nft| nft.words(&self.table));
        match (words, kernel.listed.take()) {
            (Ok(words), None) => kernel.listed = Some((words, Instant::now())),
            (Ok(words), Some((before, _))) if words == before => {
                kernel.listed = Some((words, Instant::now()));
            }
            (found, _) => {
                let error = found.err();
                tracing::warn!(
                    table = self.table,
                    error,
                    "this node's network rules were changed by somebody else: making them again"
                );
                return self.apply(&mut kernel, text);
            }
        }
        Ok(())
    }

    /// Nothing of this node runs any more.
    pub fn remove(&self) {
        let mut kernel = lock(&self.kernel);
        *kernel = Kernel::default();
        let nft = Nft::find(self.nft.as_deref());
        if let Err(error) = nft.and_then(|nft| nft.remove(&self.table)) {
            tracing::warn!(
                table = self.table,
                error,
                "this node's network rules were not removed"
            );
        }
    }

    /// Users that other nodes of this machine judge: one of them given here would be refused by their rules.
    pub fn users_beside(&self) -> BTreeSet<u32> {
        match Nft::find(self.nft.as_deref()) {
            Ok(nft) => nft.users_beside(&self.table, PREFIX),
            Err(_) => BTreeSet::new(),
        }
    }

    fn text(&self) -> String {
        let known = lock(&self.known);
        let rules = Rules {
            table: &self.table,
            users: &known.users,
            grants: &known.grants,
            cluster: &known.cluster,
        };
        rules.text()
    }

    fn apply(&self, kernel: &mut Kernel, text: String) -> Result<(), String> {
        *kernel = Kernel::default();
        let loaded = Nft::find(self.nft.as_deref()).and_then(|nft| nft.load(&text));
        let lacked = std::mem::replace(&mut *lock(&self.lacks), loaded.as_ref().err().cloned());
        match &loaded {
            Ok(()) => {
                if lacked.is_some() {
                    tracing::info!(table = self.table, "this node's network rules hold again");
                }
                kernel.text = Some(text);
            }
            Err(error) => {
                kernel.failed = Some(Instant::now());
                if lacked.as_ref() != Some(error) {
                    tracing::warn!(
                        table = self.table,
                        error,
                        "instances can reach what they do not depend on: the network rules cannot be made"
                    );
                }
            }
        }
        loaded
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::nft::tests::acting;
    use super::*;

    /// Writes down what it is asked, and does what a file beside it says.
    const ACTING: &str = r#"dir=$(dirname "$0")
echo "$*" >> "$dir/asked"
case "$1" in
  -f) cat > "$dir/rules";;
  *) cat "$dir/rules";;
esac
test ! -e "$dir/broken"
"#;

    struct Scene {
        dir: tempfile::TempDir,
        firewall: Firewall,
    }

    fn scene() -> Scene {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            nft: Some(acting(dir.path(), ACTING)),
            ..Config::default()
        };
        let firewall = Firewall::new(config, dir.path()).unwrap();
        Scene { dir, firewall }
    }

    impl Scene {
        fn asked(&self) -> usize {
            let asked = std::fs::read_to_string(self.dir.path().join("asked"));
            asked.unwrap_or_default().lines().count()
        }

        fn rules(&self) -> String {
            std::fs::read_to_string(self.dir.path().join("rules")).unwrap_or_default()
        }

        fn broken(&self, broken: bool) {
            let mark = self.dir.path().join("broken");
            match broken {
                true => std::fs::write(mark, "").unwrap(),
                false => std::fs::remove_file(mark).unwrap(),
            }
        }

        /// The time of the last look is over.
        fn later(&self) {
            let mut kernel = lock(&self.firewall.kernel);
            if let Some((_, at)) = &mut kernel.listed {
                *at = at.checked_sub(LOOK_EVERY).unwrap();
            }
        }
    }

    fn grant() -> Grant {
        Grant {
            user: 200_001,
            deployment: "web".parse().unwrap(),
            port: Some(20_001),
            bridges: vec![30_000],
        }
    }

    #[test]
    fn rules_are_made_when_they_change_and_not_again() {
        let scene = scene();
        let firewall = &scene.firewall;
        firewall.admit(InstanceId(1), grant());
        firewall.ensure().unwrap();
        assert!(scene.rules().contains("200001 . 20001"));
        firewall.ensure().unwrap();
        assert_eq!(scene.asked(), 1);
        let control = firewall.control_of(InstanceId(1)).unwrap();
        assert!(control.held, "{control:?}");

        firewall.withdraw(InstanceId(1));
        firewall.keep().unwrap();
        assert!(!scene.rules().contains("200001 . 20001"));
        assert!(scene.rules().contains("200001"), "it stays judged");
        assert_eq!(firewall.control_of(InstanceId(1)), None);
    }

    #[test]
    fn what_somebody_else_changes_is_made_again() {
        let scene = scene();
        let firewall = &scene.firewall;
        firewall.admit(InstanceId(1), grant());
        firewall.keep().unwrap();
        let rules = scene.rules();
        firewall.keep().unwrap();
        assert_eq!(scene.asked(), 2, "made, and listed");
        firewall.keep().unwrap();
        assert_eq!(scene.asked(), 2, "it is not time for another look");

        std::fs::write(scene.dir.path().join("rules"), "").unwrap();
        scene.later();
        firewall.keep().unwrap();
        assert_eq!(scene.rules(), rules);
        assert_eq!(scene.asked(), 4);
    }

    #[test]
    fn a_failure_is_told_and_starts_do_not_wait_for_it_again() {
        let scene = scene();
        let firewall = &scene.firewall;
        scene.broken(true);
        firewall.admit(InstanceId(1), grant());
        let why = firewall.ensure().unwrap_err();
        assert_eq!(firewall.ensure(), Err(why.clone()));
        assert_eq!(scene.asked(), 1);
        let control = firewall.control_of(InstanceId(1)).unwrap();
        assert!(!control.held && control.detail == why, "{control:?}");

        scene.broken(false);
        firewall.keep().unwrap();
        assert!(firewall.control_of(InstanceId(1)).unwrap().held);
    }
}
