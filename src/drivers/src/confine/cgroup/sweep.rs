//! Ending what runs left in control groups that nobody owns any more: their shim was killed, and the daemon with it.

use std::collections::BTreeSet;
use std::fs;

use nebula_domain::ids::InstanceId;

use super::Place;

/// Ends every group of this node whose instance is not in `running`.
pub(crate) fn sweep(place: &Place, running: &BTreeSet<InstanceId>) {
    let hierarchies = &place.hierarchies;
    let all = [
        &hierarchies.memory,
        &hierarchies.cpu,
        &hierarchies.cpuacct,
        &hierarchies.cpuset,
        &hierarchies.pids,
    ];
    let mut gone = BTreeSet::new();
    for hierarchy in all.into_iter().flatten() {
        // None: no instance ever had one here.
        let entries = fs::read_dir(hierarchy.mount.join(&place.folder));
        for entry in entries.into_iter().flatten().flatten() {
            let name = entry.file_name();
            let instance = name.to_str().and_then(|name| name.parse().ok());
            gone.extend(instance.filter(|instance: &InstanceId| !running.contains(instance)));
        }
    }
    for instance in gone {
        if let Err(error) = place.of(instance).end() {
            tracing::warn!(%instance, %error, "a control group of an instance that is gone cannot be removed");
        }
    }
}
