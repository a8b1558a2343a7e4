//! Compressed forms of an artifact's files, as its store made them (`trees/<digest>.packed/`).

use std::collections::HashMap;
use std::io;
use std::path::Path;

use serde::Deserialize;

use super::manifest::Entry;
use super::negotiate::Coding;

/// Largest list that is read: three forms of each of an artifact's most files.
const INDEX_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// Which forms there are, by the hash of the file they are of.
#[derive(Debug, Default)]
pub(super) struct Packed {
    forms: HashMap<[u8; 32], Vec<(Coding, Entry)>>,
    /// Of the list, which is about what it takes in memory.
    pub(super) bytes: usize,
}

#[derive(Deserialize)]
struct Index {
    files: HashMap<String, Forms>,
}

#[derive(Deserialize)]
struct Forms {
    br: Option<Entry>,
    gz: Option<Entry>,
    zst: Option<Entry>,
}

impl Packed {
    /// `None` while the forms are not made yet.
    pub(super) fn read(dir: &Path) -> io::Result<Option<Packed>> {
        let path = dir.join("index.json");
        let size = match std::fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            found => found?.len(),
        };
        if size > INDEX_BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "the list of compressed files is over the limit (index_bytes_max)",
            ));
        }
        let bytes = std::fs::read(&path)?;
        let index: Index = serde_json::from_slice(&bytes)?;
        let mut forms = HashMap::with_capacity(index.files.len());
        for (hash, found) in index.files {
            let mut key = [0; 32];
            hex::decode_to_slice(&hash, &mut key).map_err(io::Error::other)?;
            let found = [
                (Coding::Brotli, found.br),
                (Coding::Zstd, found.zst),
                (Coding::Gzip, found.gz),
            ];
            let found = found
                .into_iter()
                .filter_map(|(coding, entry)| Some((coding, entry?)));
            forms.insert(key, found.collect());
        }
        Ok(Some(Packed {
            forms,
            bytes: bytes.len(),
        }))
    }

    pub(super) fn forms(&self, file: &[u8; 32]) -> &[(Coding, Entry)] {
        self.forms.get(file).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stores_format_is_read() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Packed::read(dir.path()).unwrap().is_none());
        let (of, hash) = ("ab".repeat(32), "cd".repeat(32));
        let form = format!(r#"{{"size": 7, "blake3": "{hash}"}}"#);
        let json = format!(r#"{{"files": {{"{of}": {{"br": {form}, "zst": {form}}}}}}}"#);
        std::fs::write(dir.path().join("index.json"), json).unwrap();
        let packed = Packed::read(dir.path()).unwrap().unwrap();
        let codings: Vec<_> = packed.forms(&[0xab; 32]).iter().map(|f| f.0).collect();
        assert_eq!(codings, [Coding::Brotli, Coding::Zstd]);
        assert_eq!(packed.forms(&[0xab; 32])[0].1.size, 7);
        assert!(packed.forms(&[1; 32]).is_empty());
        std::fs::write(dir.path().join("index.json"), "{").unwrap();
        assert!(Packed::read(dir.path()).is_err());
    }
}
