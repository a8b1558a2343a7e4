//! Which segments are deleted: what is too old, and then the oldest of what is too much. Pure.

use std::path::PathBuf;
use std::time::Duration;

use nebula_domain::time::Millis;

/// How much output a node keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Since a segment was last written to.
    pub keep: Duration,
    /// Of all instances that run or ran here, and once more so much of other nodes' copies. What is written
    /// to just now is never deleted, so that many instances may take more: one segment each.
    pub total_bytes: u64,
}

impl Default for Retention {
    fn default() -> Retention {
        Retention {
            keep: Duration::from_secs(30 * 24 * 60 * 60),
            total_bytes: 1024 * 1024 * 1024,
        }
    }
}

/// Whose a segment is; of what is too much the first goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Whose {
    /// Of an instance that has ended, or of another node's.
    Ended,
    /// An earlier one of an instance that runs.
    Running,
    /// It is written to.
    Written,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
    pub(crate) changed: Millis,
    pub(crate) whose: Whose,
    /// Device and number: a rotation gives names to other files.
    pub(crate) inode: (u64, u64),
}

/// The files to delete.
pub(crate) fn surplus(mut files: Vec<File>, retention: &Retention, now: Millis) -> Vec<File> {
    let mut bytes: u64 = files.iter().map(|file| file.bytes).sum();
    files.retain(|file| file.whose != Whose::Written);
    files.sort_by(|a, b| (a.whose, a.changed, &a.path).cmp(&(b.whose, b.changed, &b.path)));
    let mut deleted = Vec::new();
    let (old, young): (Vec<File>, Vec<File>) = files
        .into_iter()
        .partition(|file| now.since(file.changed) > retention.keep);
    for file in old {
        bytes -= file.bytes;
        deleted.push(file);
    }
    for file in young {
        if bytes <= retention.total_bytes {
            break;
        }
        bytes -= file.bytes;
        deleted.push(file);
    }
    deleted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(name: &str, bytes: u64, changed: u64, whose: Whose) -> File {
        File {
            path: name.into(),
            bytes,
            changed: Millis(changed),
            whose,
            inode: (0, 0),
        }
    }

    fn names(deleted: Vec<File>) -> Vec<String> {
        deleted
            .iter()
            .map(|file| file.path.display().to_string())
            .collect()
    }

    #[test]
    fn the_oldest_of_ended_instances_goes_first() {
        let files = vec![
            file("running", 40, 1, Whose::Running),
            file("written", 40, 0, Whose::Written),
            file("ended new", 40, 9, Whose::Ended),
            file("ended old", 40, 5, Whose::Ended),
        ];
        let retention = |total_bytes| Retention {
            keep: Duration::from_millis(100),
            total_bytes,
        };
        let after = |total, now| names(surplus(files.clone(), &retention(total), Millis(now)));
        assert!(after(160, 10).is_empty());
        assert_eq!(after(159, 10), ["ended old"]);
        assert_eq!(after(119, 10), ["ended old", "ended new"]);
        assert_eq!(after(0, 10), ["ended old", "ended new", "running"]);
        assert_eq!(after(160, 104), ["running"], "by age");
        assert_eq!(after(160, 1_000).len(), 3, "never what is written to");
    }

    proptest! {
        #[test]
        fn what_stays_is_young_and_not_too_much(
            of in prop::collection::vec((0u64..100, 0u64..100, 0usize..3), 0..40),
            keep in 0u64..100, total_bytes in 0u64..2_000,
        ) {
            let uses = [Whose::Ended, Whose::Running, Whose::Written];
            let files: Vec<File> = of
                .iter()
                .enumerate()
                .map(|(n, (bytes, changed, whose))| file(&n.to_string(), *bytes, *changed, uses[*whose]))
                .collect();
            let retention = Retention { keep: Duration::from_millis(keep), total_bytes };
            let deleted = surplus(files.clone(), &retention, Millis(100));
            let left: Vec<_> = files.iter().filter(|f| !deleted.contains(f)).collect();
            let bytes: u64 = left.iter().map(|f| f.bytes).sum();
            let deletable = left.iter().any(|f| f.whose != Whose::Written);
            prop_assert!(bytes <= total_bytes || !deletable);
            for file in left.iter().filter(|f| f.whose != Whose::Written) {
                prop_assert!(100 - file.changed.0 <= keep);
            }
        }
    }
}
