//! A folder that belongs to a deployment and outlives its instances.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::SpecError;
use crate::excerpt::excerpt;
use crate::limits::{VOLUME_PATH_BYTES, VOLUMES_PER_DEPLOYMENT};
use crate::names::VolumeName;

/// Folders of the system that an instance sees: nothing of its own lies in them.
const SYSTEM: [&str; 12] = [
    "/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/sbin",
    "/sys", "/usr",
];
/// Folders that hold others' things too; one below is fine.
const SHARED: [&str; 6] = ["/home", "/root", "/run", "/tmp", "/var", "/var/lib"];

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSpec {
    pub name: VolumeName,
    /// Where the program finds it, if it has a root folder of its own.
    pub path: String,
}

pub(super) fn check(volumes: &[VolumeSpec]) -> Result<(), SpecError> {
    VOLUMES_PER_DEPLOYMENT.check("the number of volumes", volumes.len())?;
    let mut names = BTreeSet::new();
    for (position, volume) in volumes.iter().enumerate() {
        let bad = |what: String| SpecError::BadVolume {
            name: volume.name.to_string(),
            what,
        };
        VOLUME_PATH_BYTES.check("the volume's path in bytes", volume.path.len())?;
        check_path(&volume.path).map_err(bad)?;
        if !names.insert(&volume.name) {
            return Err(bad("there are two of this name".to_owned()));
        }
        let before = volumes[..position].iter();
        if let Some(other) = before.into_iter().find(|other| overlap(other, volume)) {
            let what = format!(
                "its path {} and that of '{}' lie in each other",
                volume.path, other.name
            );
            return Err(bad(what));
        }
    }
    Ok(())
}

fn overlap(a: &VolumeSpec, b: &VolumeSpec) -> bool {
    is_within(&a.path, &b.path) || is_within(&b.path, &a.path)
}

/// Whether a path is another one, or below it.
fn is_within(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn check_path(path: &str) -> Result<(), String> {
    let shown = excerpt(path);
    let plain = path.strip_prefix('/').is_some_and(|rest| {
        rest.split('/')
            .all(|part| !matches!(part, "" | "." | "..") && !part.contains(char::is_control))
    });
    if !plain {
        return Err(format!(
            "its path '{shown}' has to be a whole one, such as /data, without '..' and without a slash at its end"
        ));
    }
    if SYSTEM.iter().any(|folder| is_within(path, folder)) {
        return Err(format!(
            "its path '{shown}' lies in the system's own folders; use such as /data"
        ));
    }
    if SHARED.contains(&path) {
        return Err(format!(
            "its path '{shown}' holds other things too; use a folder below it, or such as /data"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(name: &str, path: &str) -> VolumeSpec {
        VolumeSpec {
            name: name.parse().unwrap(),
            path: path.to_owned(),
        }
    }

    #[test]
    fn paths_are_whole_and_outside_of_the_system() {
        for good in ["/data", "/var/lib/postgresql/data", "/tmp/x", "/usrlocal"] {
            assert_eq!(check(&[volume("data", good)]), Ok(()), "{good}");
        }
        let long = format!("/{}", "x".repeat(300));
        for bad in [
            "", "/", "data", "/data/", "/a//b", "/a/../b", "/./a", "/a\nb", "/usr", "/usr/x",
            "/etc/app", "/proc", "/tmp", "/var", "/var/lib", &long,
        ] {
            assert!(check(&[volume("data", bad)]).is_err(), "{bad}");
        }
    }

    #[test]
    fn volumes_do_not_share_a_name_or_a_place() {
        assert!(check(&[volume("a", "/a"), volume("b", "/ab")]).is_ok());
        for bad in [
            [volume("a", "/a"), volume("a", "/b")],
            [volume("a", "/a"), volume("b", "/a")],
            [volume("a", "/a/b"), volume("b", "/a")],
            [volume("a", "/a"), volume("b", "/a/b")],
        ] {
            assert!(check(&bad).is_err(), "{bad:?}");
        }
        let many: Vec<_> = (0..9)
            .map(|n| volume(&format!("v{n}"), &format!("/v{n}")))
            .collect();
        assert!(matches!(check(&many), Err(SpecError::Limit(_))));
    }
}
