//! A user for every deployment, so that the kernel itself keeps their files and processes apart.
//!
//! Chosen once and written down (`<instances dir>/users.json`): a deployment has the same on this node for as long as the
//! node has instances of it, or the files that it wrote would be another's. The numbers are nobody's on this machine but
//! ours; `/etc/passwd` does not know them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nebula_domain::names::DeploymentName;
use serde::{Deserialize, Serialize};

use crate::record;

const FILE: &str = "users.json";

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Users(BTreeMap<DeploymentName, u32>);

impl Users {
    /// Of this node. A file that is not of our making is none; then `owners` says whose the work folders of the node's
    /// instances are.
    ///
    /// # Errors
    /// The file cannot be read, or the owners contradict each other: guessing would give a deployment another's files.
    pub(crate) fn load(
        instances_dir: &Path,
        owners: impl FnOnce() -> io::Result<Vec<(DeploymentName, u32)>>,
    ) -> io::Result<Users> {
        let bytes = match std::fs::read(instances_dir.join(FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Users::default()),
            read => read?,
        };
        match serde_json::from_slice(&bytes) {
            Ok(users) => Ok(users),
            Err(error) => {
                tracing::warn!(%error, "{FILE} is damaged: users are taken from the folders that they own");
                Users::of_owners(owners()?).ok_or_else(|| error.into())
            }
        }
    }

    /// None when a deployment has several users, or a user several deployments.
    fn of_owners(owners: Vec<(DeploymentName, u32)>) -> Option<Users> {
        let mut users = BTreeMap::new();
        for (deployment, user) in owners {
            if *users.entry(deployment).or_insert(user) != user {
                return None;
            }
        }
        let distinct: BTreeSet<u32> = users.values().copied().collect();
        (distinct.len() == users.len()).then_some(Users(users))
    }

    /// On the disk before anybody has the user: after a loss of power it would be given to another deployment.
    pub(crate) fn store(&self, instances_dir: &Path) -> io::Result<()> {
        record::write_synced(instances_dir, FILE, self)
    }

    pub(crate) fn of(&self, deployment: &DeploymentName) -> Option<u32> {
        self.0.get(deployment).copied()
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = u32> {
        self.0.values().copied()
    }

    /// The next that nobody has, and none of those that other nodes of the machine have given (`beside`) while there are
    /// others. When all are taken, deployments without an instance here lose theirs.
    pub(crate) fn choose(
        &mut self,
        deployment: &DeploymentName,
        range: Range,
        in_use: &BTreeSet<DeploymentName>,
        beside: &BTreeSet<u32>,
    ) -> Option<u32> {
        let free = |users: &Users| {
            let nowhere = users.free(range, beside);
            nowhere.or_else(|| users.free(range, &BTreeSet::new()))
        };
        let user = free(self).or_else(|| {
            self.0.retain(|name, _| in_use.contains(name));
            free(self)
        })?;
        self.0.insert(deployment.clone(), user);
        Some(user)
    }

    fn free(&self, range: Range, beside: &BTreeSet<u32>) -> Option<u32> {
        let taken: BTreeSet<u32> = self.all().chain(beside.iter().copied()).collect();
        let Range { first, count, seed } = range;
        // In 64 bits: a range may end where 32 do.
        let at = |n: u32| (u64::from(seed) + u64::from(n)) % u64::from(count.max(1));
        let user = |n: u32| first.saturating_add(u32::try_from(at(n)).unwrap_or_default());
        (0..count).map(user).find(|user| !taken.contains(user))
    }
}

/// The users of a node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Range {
    pub first: u32,
    /// Not none.
    pub count: u32,
    /// Where to begin: several nodes of one machine, as developers have them, should not choose the same.
    pub seed: u32,
}

impl Range {
    pub(crate) fn contains(&self, user: u32) -> bool {
        user.checked_sub(self.first)
            .is_some_and(|at| at < self.count)
    }
}

/// Gives a folder and all in it to a user. Nothing runs in it meanwhile, and links are not followed. What is the user's
/// already is passed over, a folder with everything in it, since the folder itself is last: a start that took too long for
/// this goes on where the one before it was.
pub(crate) fn hand_over(dir: &Path, user: u32) -> io::Result<()> {
    if std::fs::symlink_metadata(dir)?.uid() == user {
        return Ok(());
    }
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let about = entry.metadata()?;
        if about.is_dir() {
            hand_over(&entry.path(), user)?;
        } else if about.uid() != user {
            std::os::unix::fs::lchown(entry.path(), Some(user), Some(user))?;
        }
    }
    std::os::unix::fs::lchown(dir, Some(user), Some(user))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: BTreeSet<u32> = BTreeSet::new();

    fn range(count: u32) -> Range {
        Range {
            first: 100,
            count,
            seed: 0,
        }
    }

    fn name(text: &str) -> DeploymentName {
        text.parse().unwrap()
    }

    #[test]
    fn a_user_is_one_deployments_and_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut users = Users::load(dir.path(), nobody).unwrap();
        let none = BTreeSet::new();
        assert_eq!(
            users.choose(&name("a"), range(2), &none, &NOBODY),
            Some(100)
        );
        assert_eq!(
            users.choose(&name("b"), range(2), &none, &NOBODY),
            Some(101)
        );
        users.store(dir.path()).unwrap();
        let read = Users::load(dir.path(), nobody).unwrap();
        assert_eq!(read, users);
        assert_eq!(
            (read.of(&name("b")), read.of(&name("c"))),
            (Some(101), None)
        );
    }

    #[test]
    fn only_those_without_an_instance_lose_theirs_and_only_when_all_are_taken() {
        let mut users = Users::default();
        let used = BTreeSet::from([name("b"), name("c")]);
        users.choose(&name("a"), range(2), &used, &NOBODY);
        users.choose(&name("b"), range(2), &used, &NOBODY);
        assert_eq!(
            users.choose(&name("c"), range(2), &used, &NOBODY),
            Some(100)
        );
        assert_eq!(
            (users.of(&name("a")), users.of(&name("b"))),
            (None, Some(101))
        );
        assert_eq!(users.choose(&name("d"), range(2), &used, &NOBODY), None);
    }

    #[test]
    fn nodes_begin_at_different_places_of_the_range() {
        let mut users = Users::default();
        let none = BTreeSet::new();
        let seeded = Range {
            seed: 12,
            ..range(5)
        };
        let chosen: Vec<_> = ["a", "b", "c", "d"]
            .iter()
            .filter_map(|deployment| users.choose(&name(deployment), seeded, &none, &NOBODY))
            .collect();
        assert_eq!(chosen, [102, 103, 104, 100]);
    }

    #[test]
    fn users_of_other_nodes_are_taken_last() {
        let mut users = Users::default();
        let (none, beside) = (BTreeSet::new(), BTreeSet::from([100, 101]));
        let mut choose = |of: &str| users.choose(&name(of), range(3), &none, &beside);
        assert_eq!(choose("a"), Some(102));
        assert_eq!(choose("b"), Some(100));
    }

    fn nobody() -> io::Result<Vec<(DeploymentName, u32)>> {
        Ok(Vec::new())
    }

    #[test]
    fn a_damaged_file_is_made_again_from_what_users_own() {
        let dir = tempfile::tempdir().unwrap();
        let load = |owners: &[(&str, u32)]| {
            let owners = owners.iter().map(|(of, user)| (name(of), *user));
            Users::load(dir.path(), || Ok(owners.collect()))
        };
        let mut users = Users::default();
        users.choose(&name("a"), range(9), &BTreeSet::new(), &NOBODY);
        users.choose(&name("b"), range(9), &BTreeSet::new(), &NOBODY);
        for damaged in ["", "{"] {
            std::fs::write(dir.path().join(FILE), damaged).unwrap();
            let again = load(&[("b", 101), ("a", 100), ("b", 101)]).unwrap();
            assert_eq!(again, users);
            load(&[("a", 100), ("b", 100)]).unwrap_err();
            load(&[("a", 100), ("a", 101)]).unwrap_err();
            let unread = || Err(io::ErrorKind::PermissionDenied.into());
            Users::load(dir.path(), unread).unwrap_err();
        }
        users.store(dir.path()).unwrap();
        assert_eq!(load(&[]).unwrap(), users, "the file is right");
    }

    #[test]
    fn a_hand_over_goes_on_where_it_was() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("work");
        std::fs::create_dir_all(top.join("given")).unwrap();
        for file in ["given/a", "b", "c"] {
            std::fs::write(top.join(file), "").unwrap();
        }
        let changed = |file: &str| {
            let about = std::fs::symlink_metadata(top.join(file)).unwrap();
            (about.uid(), about.ctime(), about.ctime_nsec())
        };
        // The first start got as far as this.
        hand_over(&top.join("given"), 100).unwrap();
        std::os::unix::fs::lchown(top.join("b"), Some(100), Some(100)).unwrap();
        let before = ["given", "given/a", "b"].map(changed);
        hand_over(&top, 100).unwrap();
        assert_eq!(["given", "given/a", "b"].map(changed), before);
        assert_eq!((changed("c").0, changed("").0), (100, 100));
    }
}
