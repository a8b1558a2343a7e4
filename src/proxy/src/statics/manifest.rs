//! The list of an artifact's files: what may be served, with sizes and hashes.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::Deserialize;
use serde::de::Error as _;

/// Largest list that is read: the most files an artifact may have, with long names.
const MANIFEST_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// One regular file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) struct Entry {
    pub(crate) size: u64,
    /// BLAKE3 of the content.
    #[serde(rename = "blake3", deserialize_with = "hash")]
    pub(crate) hash: [u8; 32],
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct Manifest {
    /// By path relative to the tree, with `/` between the names.
    files: BTreeMap<String, Entry>,
    /// Whether there may be links, by which files have further paths.
    #[serde(default = "unknown")]
    pub(crate) links: bool,
}

/// Lists of an earlier version do not say.
fn unknown() -> bool {
    true
}

impl Manifest {
    pub(crate) fn file(&self, path: &str) -> Option<Entry> {
        self.files.get(path).copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.files.len()
    }

    /// The list and its length in bytes.
    pub(super) fn read(path: &Path) -> io::Result<(Manifest, usize)> {
        if std::fs::metadata(path)?.len() > MANIFEST_BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "the manifest is over the limit (manifest_bytes_max)",
            ));
        }
        let bytes = std::fs::read(path)?;
        Ok((serde_json::from_slice(&bytes)?, bytes.len()))
    }
}

#[cfg(test)]
impl<const N: usize> From<[&str; N]> for Manifest {
    fn from(paths: [&str; N]) -> Self {
        let entry = Entry {
            size: 1,
            hash: [0; 32],
        };
        let files = paths.map(|path| (path.to_owned(), entry)).into();
        let links = false;
        Manifest { files, links }
    }
}

fn hash<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
    let text = String::deserialize(deserializer)?;
    let mut hash = [0; 32];
    hex::decode_to_slice(&text, &mut hash).map_err(D::Error::custom)?;
    Ok(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stores_format_is_read() {
        let hash = "ab".repeat(32);
        let json = format!(r#"{{"files": {{"index.html": {{"size": 1, "blake3": "{hash}"}}}}}}"#);
        let manifest: Manifest = serde_json::from_str(&json).unwrap();
        let entry = manifest.file("index.html").unwrap();
        assert_eq!((entry.size, entry.hash), (1, [0xab; 32]));
        assert!(manifest.links);
        let json = r#"{"files": {}, "links": false}"#;
        assert!(!serde_json::from_str::<Manifest>(json).unwrap().links);
        let short = r#"{"files": {"a": {"size": 1, "blake3": "ab"}}}"#;
        assert!(serde_json::from_str::<Manifest>(short).is_err());
    }
}
