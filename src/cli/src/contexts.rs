//! Named clusters in `~/.config/nebula/`: one cluster file each, and the name of the current one.

use std::path::{Path, PathBuf};

use nebula_node::{private_dir, write_private};
use nebula_wire::api::ClusterFile;

use crate::error::{CliError, Outcome};

const CURRENT: &str = "current";
const CONTEXTS: &str = "contexts";

/// `$XDG_CONFIG_HOME/nebula`, or `~/.config/nebula`.
pub fn default_dir() -> PathBuf {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config"));
    std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(home)
        .unwrap_or_else(|| PathBuf::from("/etc"))
        .join("nebula")
}

pub struct Contexts {
    dir: PathBuf,
}

impl Contexts {
    pub fn in_dir(dir: PathBuf) -> Contexts {
        Contexts { dir }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(CONTEXTS).join(format!("{name}.json"))
    }

    /// All names, sorted.
    pub fn names(&self) -> Outcome<Vec<String>> {
        let dir = self.dir.join(CONTEXTS);
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(CliError::io(format!("cannot read {}", dir.display()), &e)),
        };
        let mut names: Vec<_> = entries
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let name = name.strip_suffix(".json")?;
                check_name(name).is_ok().then(|| name.to_owned())
            })
            .collect();
        names.sort();
        Ok(names)
    }

    /// The name of the current context, if one was chosen.
    pub fn current(&self) -> Option<String> {
        let text = std::fs::read_to_string(self.dir.join(CURRENT)).ok()?;
        let name = text.trim();
        check_name(name).is_ok().then(|| name.to_owned())
    }

    /// The cluster file of a context that has to exist.
    pub fn path(&self, name: &str) -> Outcome<PathBuf> {
        check_name(name)?;
        let path = self.file(name);
        if path.is_file() {
            return Ok(path);
        }
        let known = self.names()?;
        let hint = if known.is_empty() {
            "add one with 'nebula context add NAME --file FILE'".to_owned()
        } else {
            format!("known are: {}", known.join(", "))
        };
        Err(CliError::usage(
            format!("there is no context '{name}'"),
            hint,
        ))
    }

    /// Keeps a copy of the cluster file. The first context becomes the current one.
    pub fn add(&self, name: &str, file: &ClusterFile, replace: bool) -> Outcome {
        check_name(name)?;
        let path = self.file(name);
        if path.exists() && !replace {
            return Err(CliError::usage(
                format!("there is already a context '{name}'"),
                "choose another name, or replace it with --replace",
            ));
        }
        let bytes = serde_json::to_vec_pretty(file)
            .map_err(|e| CliError::failed(format!("the context cannot be written: {e}"), ""))?;
        let write = || {
            private_dir(&self.dir.join(CONTEXTS))?;
            write_private(&path, &bytes)
        };
        write().map_err(|e| CliError::io(format!("cannot write {}", path.display()), &e))?;
        if self.current().is_none() {
            self.choose(name)?;
        }
        Ok(())
    }

    /// Makes a context the current one.
    pub fn choose(&self, name: &str) -> Outcome {
        self.path(name)?;
        let path = self.dir.join(CURRENT);
        write_private(&path, format!("{name}\n").as_bytes())
            .map_err(|e| CliError::io(format!("cannot write {}", path.display()), &e))
    }

    pub fn remove(&self, name: &str) -> Outcome {
        let path = self.path(name)?;
        std::fs::remove_file(&path)
            .map_err(|e| CliError::io(format!("cannot remove {}", path.display()), &e))?;
        if self.current().as_deref() == Some(name) {
            let current = self.dir.join(CURRENT);
            std::fs::remove_file(&current)
                .map_err(|e| CliError::io(format!("cannot remove {}", current.display()), &e))?;
        }
        Ok(())
    }
}

fn check_name(name: &str) -> Outcome {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if (1..=63).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(legal) {
        return Ok(());
    }
    Err(CliError::usage(
        format!("'{name}' is not a context name"),
        "use 1 to 63 letters, digits, '-', '_' and '.', not beginning with a dot",
    ))
}

/// Reads a file that points at a cluster.
pub fn read_cluster_file(path: &Path) -> Outcome<ClusterFile> {
    let hint = "use the file that 'nodectl init' or 'nodectl dev' wrote";
    let text = std::fs::read_to_string(path).map_err(|e| {
        CliError::usage(
            format!("cannot read the cluster file {}: {e}", path.display()),
            hint,
        )
    })?;
    serde_json::from_str(&text).map_err(|e| {
        CliError::usage(
            format!("{} is not a cluster file: {e}", path.display()),
            hint,
        )
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(id: &str) -> ClusterFile {
        ClusterFile {
            cluster_id: id.into(),
            apis: vec!["127.0.0.1:1".into()],
            ca: "ca".into(),
            token: "t".into(),
        }
    }

    #[test]
    fn contexts_are_added_chosen_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let contexts = Contexts::in_dir(dir.path().join("nebula"));
        assert!(contexts.names().unwrap().is_empty());
        assert_eq!(contexts.path("a").unwrap_err().exit as u8, 2);
        contexts.add("a", &file("one"), false).unwrap();
        contexts.add("b", &file("two"), false).unwrap();
        assert_eq!(contexts.names().unwrap(), ["a", "b"]);
        assert_eq!(
            contexts.current().as_deref(),
            Some("a"),
            "the first is chosen"
        );
        assert!(contexts.add("a", &file("x"), false).is_err());
        contexts.add("a", &file("x"), true).unwrap();
        let path = contexts.path("a").unwrap();
        assert_eq!(read_cluster_file(&path).unwrap().cluster_id, "x");
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        contexts.choose("b").unwrap();
        assert!(
            contexts
                .choose("c")
                .unwrap_err()
                .error
                .hint
                .contains("a, b")
        );
        contexts.remove("b").unwrap();
        assert_eq!(contexts.current(), None);
    }

    #[test]
    fn names_cannot_leave_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let contexts = Contexts::in_dir(dir.path().to_owned());
        for bad in ["", "..", "../x", "a/b", ".a", "a b", &"a".repeat(64)] {
            assert_eq!(
                contexts.add(bad, &file("x"), false).unwrap_err().exit as u8,
                2,
                "{bad}"
            );
        }
    }

    #[test]
    fn a_bad_cluster_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.json");
        assert!(read_cluster_file(&path).is_err_and(|e| e.to_string().contains("c.json")));
        std::fs::write(&path, "{}").unwrap();
        assert!(
            read_cluster_file(&path).is_err_and(|e| e.to_string().contains("not a cluster file"))
        );
    }
}
