//! Where output lies on this node, and whose it is:
//!
//! ```text
//! instances/<i-N>/log …                                 of instances that run, or ended lately
//! logs/kept/<deployment>/<i-N>-r<R>/log …               of instances that are gone
//! logs/copies/<node>/<deployment>/<i-N>-r<R>/log …      of other nodes' instances
//! logs/origins.json                                     see [`crate::origins`]
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use nebula_domain::{DeploymentName, InstanceId, NodeId, ReleaseNumber};
use nebula_drivers::logfile::About;
use nebula_wire::peer::log_search::Place;

use crate::filter::Filter;

/// Folders looked at in one place for one request: more are left over from something that went wrong.
const FOLDERS_MAX: usize = 10_000;

/// Which release each instance runs, of the deployment that was asked for.
pub(crate) type Releases = BTreeMap<InstanceId, ReleaseNumber>;

#[derive(Debug, Clone)]
pub(crate) struct Places {
    pub(crate) instances: PathBuf,
    pub(crate) logs: PathBuf,
}

/// The output of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Folder {
    pub(crate) dir: PathBuf,
    pub(crate) instance: InstanceId,
    pub(crate) release: ReleaseNumber,
    /// Where it was written, when that is another node: its id, and its name then.
    pub(crate) owner: Option<(NodeId, String)>,
}

/// What one request is about.
pub(crate) struct Wanted<'a> {
    pub(crate) deployment: &'a DeploymentName,
    pub(crate) place: &'a Place,
    pub(crate) filter: &'a Filter,
    /// Instances with a lower id are of an earlier deployment of that name; none: there is none now.
    pub(crate) first: Option<InstanceId>,
    /// On this node, by the registry.
    pub(crate) known: &'a Releases,
    /// On all nodes.
    pub(crate) listed: &'a BTreeSet<InstanceId>,
}

impl Wanted<'_> {
    fn covers(&self, about: &About) -> bool {
        let said = &self.filter.said;
        let of_now = self.listed.contains(&about.instance)
            || self.first.is_some_and(|first| about.instance >= first);
        about.deployment == *self.deployment
            && self.filter.covers(about.instance, about.release)
            && (of_now || said.past || said.instance.is_some())
    }
}

impl Places {
    pub(crate) fn kept(&self) -> PathBuf {
        self.logs.join("kept")
    }

    pub(crate) fn copies(&self) -> PathBuf {
        self.logs.join("copies")
    }

    pub(crate) fn copies_of(&self, node: NodeId) -> PathBuf {
        self.copies().join(node.to_string())
    }

    pub(crate) fn origins(&self) -> PathBuf {
        self.logs.join("origins.json")
    }

    pub(crate) fn instance(&self, id: InstanceId) -> PathBuf {
        self.instances.join(id.to_string())
    }

    /// The folders that may have lines, those of the newest instances first.
    pub(crate) fn folders(&self, wanted: &Wanted<'_>) -> io::Result<Vec<Folder>> {
        let mut found = Vec::new();
        match wanted.place {
            Place::Own => self.own(wanted, &mut found)?,
            Place::CopiesOf(node) => self.copied(wanted, *node, &mut found)?,
            Place::CopiesBut(but) => {
                for (name, _) in dirs(&self.copies())? {
                    if let Ok(node) = name.parse::<NodeId>()
                        && !but.contains(&node)
                    {
                        self.copied(wanted, node, &mut found)?;
                    }
                }
            }
        }
        found.sort_by_key(|folder| std::cmp::Reverse(folder.instance));
        Ok(found)
    }

    fn own(&self, wanted: &Wanted<'_>, found: &mut Vec<Folder>) -> io::Result<()> {
        let known = wanted.known.iter();
        found.extend(
            known
                .filter(|(id, release)| wanted.filter.covers(**id, **release))
                .map(|(id, release)| Folder {
                    dir: self.instance(*id),
                    instance: *id,
                    release: *release,
                    owner: None,
                }),
        );
        for (name, dir) in dirs(&self.instances)? {
            let known = |id: InstanceId| wanted.known.contains_key(&id);
            if name.parse().is_ok_and(|id| !known(id)) {
                // Unreadable or half-made: an instance about which nothing can be said.
                let about = About::of_instance(&dir).unwrap_or(None);
                found.extend(about.and_then(|about| of(about, dir, None, wanted)));
            }
        }
        for (_, dir) in dirs(&self.kept().join(wanted.deployment.as_str()))? {
            let about = About::read(&dir).unwrap_or(None);
            found.extend(about.and_then(|about| of(about, dir, None, wanted)));
        }
        Ok(())
    }

    fn copied(
        &self,
        wanted: &Wanted<'_>,
        owner: NodeId,
        found: &mut Vec<Folder>,
    ) -> io::Result<()> {
        for (_, dir) in dirs(&self.copies_of(owner).join(wanted.deployment.as_str()))? {
            let about = About::read(&dir).unwrap_or(None);
            found.extend(about.and_then(|about| of(about, dir, Some(owner), wanted)));
        }
        Ok(())
    }
}

fn of(about: About, dir: PathBuf, owner: Option<NodeId>, wanted: &Wanted<'_>) -> Option<Folder> {
    wanted.covers(&about).then(|| Folder {
        dir,
        instance: about.instance,
        release: about.release,
        owner: owner.map(|id| (id, about.node.unwrap_or_else(|| id.to_string()))),
    })
}

/// The folders in a folder, with their names; none when it is not there.
pub(crate) fn dirs(dir: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if found.len() == FOLDERS_MAX {
            break;
        }
        if entry.file_type()?.is_dir() {
            let name = entry.file_name().to_string_lossy().into_owned();
            found.push((name, entry.path()));
        }
    }
    Ok(found)
}
