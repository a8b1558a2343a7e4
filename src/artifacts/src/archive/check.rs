//! The rules for names, shared by packing and unpacking.

use std::collections::HashMap;

use super::{ArchiveError, MAX_DEPTH, MAX_ENTRIES, MAX_LINK_BYTES, MAX_NAME_BYTES, MAX_PATH_BYTES};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// Named itself, or only as the parent of something.
    Folder {
        named: bool,
    },
    Other,
}

/// Takes in one name after the other and refuses the first that breaks a rule.
#[derive(Debug)]
pub(crate) struct Checker {
    /// By lower-cased path: the path as written, and what it is.
    seen: HashMap<String, (String, Seen)>,
    bytes: u64,
    max_bytes: u64,
    files: usize,
}

pub(crate) enum Item<'a> {
    Folder,
    File { size: u64 },
    Link { target: &'a str },
}

impl Checker {
    pub fn new(max_bytes: u64) -> Checker {
        Checker {
            seen: HashMap::new(),
            bytes: 0,
            max_bytes,
            files: 0,
        }
    }

    pub fn add(&mut self, path: &str, item: &Item<'_>) -> Result<(), ArchiveError> {
        check_path(path)?;
        for (end, _) in path.match_indices('/') {
            self.parent(&path[..end], path)?;
        }
        let seen = match item {
            Item::Folder => Seen::Folder { named: true },
            Item::File { size } => {
                self.bytes = self.bytes.saturating_add(*size);
                if self.bytes > self.max_bytes {
                    return Err(ArchiveError::TooLarge {
                        limit: self.max_bytes,
                    });
                }
                self.files += 1;
                Seen::Other
            }
            Item::Link { target } => {
                check_link(path, target)?;
                Seen::Other
            }
        };
        match self.seen.get_mut(&path.to_lowercase()) {
            None => self.insert(path, seen),
            Some((first, _)) if first != path => Err(ArchiveError::CaseClash {
                first: first.clone(),
                second: path.to_owned(),
            }),
            Some((_, known @ Seen::Folder { named: false })) if matches!(item, Item::Folder) => {
                *known = seen;
                Ok(())
            }
            Some(_) => Err(ArchiveError::Duplicate {
                path: path.to_owned(),
            }),
        }
    }

    /// An artifact has at least one file.
    pub fn finish(&self, what: &str) -> Result<(), ArchiveError> {
        if self.files == 0 {
            return Err(ArchiveError::Empty(what.to_owned()));
        }
        Ok(())
    }

    fn parent(&mut self, parent: &str, path: &str) -> Result<(), ArchiveError> {
        match self.seen.get(&parent.to_lowercase()) {
            None => self.insert(parent, Seen::Folder { named: false }),
            Some((first, _)) if first != parent => Err(ArchiveError::CaseClash {
                first: first.clone(),
                second: parent.to_owned(),
            }),
            Some((_, Seen::Folder { .. })) => Ok(()),
            Some((_, Seen::Other)) => Err(ArchiveError::BelowLink {
                path: path.to_owned(),
            }),
        }
    }

    fn insert(&mut self, path: &str, seen: Seen) -> Result<(), ArchiveError> {
        if self.seen.len() >= MAX_ENTRIES {
            return Err(ArchiveError::TooMany { limit: MAX_ENTRIES });
        }
        self.seen
            .insert(path.to_lowercase(), (path.to_owned(), seen));
        Ok(())
    }
}

fn check_path(path: &str) -> Result<(), ArchiveError> {
    let too_long = |actual, unit, limit, name| {
        Err(ArchiveError::TooLong {
            path: path.to_owned(),
            actual,
            unit,
            limit,
            name,
        })
    };
    if path.len() > MAX_PATH_BYTES {
        return too_long(
            path.len(),
            "bytes long",
            MAX_PATH_BYTES,
            "artifact_path_bytes",
        );
    }
    if path.starts_with('/') {
        return Err(ArchiveError::Escapes {
            path: path.to_owned(),
        });
    }
    let mut depth = 0;
    for name in path.split('/') {
        match name {
            ".." => {
                return Err(ArchiveError::Escapes {
                    path: path.to_owned(),
                });
            }
            "" | "." => {
                return Err(ArchiveError::BadName {
                    path: path.to_owned(),
                });
            }
            name if name.contains('\0') => {
                return Err(ArchiveError::BadName {
                    path: path.replace('\0', "\\0"),
                });
            }
            name if name.len() > MAX_NAME_BYTES => {
                return too_long(
                    name.len(),
                    "bytes long",
                    MAX_NAME_BYTES,
                    "artifact_name_bytes",
                );
            }
            _ => depth += 1,
        }
    }
    if depth > MAX_DEPTH {
        return too_long(depth, "folders deep", MAX_DEPTH, "artifact_depth");
    }
    Ok(())
}

/// A target is some `..`, no more than lead to the top, and then names. A `..` after a name could lead
/// anywhere, because the name may itself be a link. Links are never above other entries, so the
/// leading `..` go up through real folders; and each link on the way obeys the same rule.
fn check_link(path: &str, target: &str) -> Result<(), ArchiveError> {
    let outside = || ArchiveError::LinkOutside {
        path: path.to_owned(),
        target: target.to_owned(),
    };
    if target.is_empty() || target.len() > MAX_LINK_BYTES || target.contains('\0') {
        return Err(outside());
    }
    if target.starts_with('/') {
        return Err(outside());
    }
    let depth = path.matches('/').count();
    let mut up = 0;
    let mut named = false;
    for name in target.split('/') {
        match name {
            "" | "." => {}
            ".." if named => return Err(outside()),
            ".." => up += 1,
            _ => named = true,
        }
    }
    if up > depth { Err(outside()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(checker: &mut Checker, path: &str) -> Result<(), ArchiveError> {
        checker.add(path, &Item::File { size: 1 })
    }

    #[test]
    fn names_stay_inside() {
        for bad in [
            "/etc/passwd",
            "../x",
            "a/../x",
            "a/..",
            "..",
            ".",
            "",
            "a//b",
            "a/./b",
            "a\0b",
        ] {
            assert!(add(&mut Checker::new(10), bad).is_err(), "{bad:?}");
        }
        for good in ["a", "a/b", "...", "..a", "a b", "ä/ö", "-x", "a\nb"] {
            assert!(add(&mut Checker::new(10), good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn links_stay_inside() {
        let link = |path: &str, target: &str| Checker::new(10).add(path, &Item::Link { target });
        for (path, target) in [
            ("l", "a"),
            ("d/l", "../a"),
            ("d/l", "a/b"),
            ("d/e/l", "../../a/"),
            ("l", "./a"),
        ] {
            assert!(link(path, target).is_ok(), "{path} -> {target}");
        }
        for (path, target) in [
            ("l", "/etc"),
            ("l", ".."),
            ("l", "../a"),
            ("d/l", "../../a"),
            ("d/l", "a/../b"),
            ("l", ""),
            ("l", "a\0"),
        ] {
            assert!(
                matches!(link(path, target), Err(ArchiveError::LinkOutside { .. })),
                "{path} -> {target}"
            );
        }
    }

    #[test]
    fn clashes_are_found() {
        let mut checker = Checker::new(100);
        add(&mut checker, "Read/Me").unwrap();
        assert!(matches!(
            add(&mut checker, "Read/me"),
            Err(ArchiveError::CaseClash { .. })
        ));
        assert!(matches!(
            add(&mut checker, "read/other"),
            Err(ArchiveError::CaseClash { .. })
        ));
        assert!(matches!(
            add(&mut checker, "Read/Me"),
            Err(ArchiveError::Duplicate { .. })
        ));
        assert!(matches!(
            add(&mut checker, "Read"),
            Err(ArchiveError::Duplicate { .. })
        ));
        assert!(matches!(
            add(&mut checker, "Read/Me/x"),
            Err(ArchiveError::BelowLink { .. })
        ));
        add(&mut checker, "GRÜN").unwrap();
        assert!(matches!(
            add(&mut checker, "grün"),
            Err(ArchiveError::CaseClash { .. })
        ));
        // A folder may be named after it was implied, once.
        checker.add("Read", &Item::Folder).unwrap();
        assert!(checker.add("Read", &Item::Folder).is_err());
    }

    #[test]
    fn limits_hold() {
        assert!(matches!(
            Checker::new(9).add("a", &Item::File { size: 10 }),
            Err(ArchiveError::TooLarge { limit: 9 })
        ));
        let deep = vec!["d"; MAX_DEPTH + 1].join("/");
        assert!(matches!(
            add(&mut Checker::new(9), &deep),
            Err(ArchiveError::TooLong { .. })
        ));
        let long = "x".repeat(MAX_NAME_BYTES + 1);
        assert!(matches!(
            add(&mut Checker::new(9), &long),
            Err(ArchiveError::TooLong { .. })
        ));
        let mut checker = Checker::new(u64::MAX);
        for n in 0..MAX_ENTRIES {
            add(&mut checker, &n.to_string()).unwrap();
        }
        assert!(matches!(
            add(&mut checker, "x"),
            Err(ArchiveError::TooMany { .. })
        ));
    }
}
