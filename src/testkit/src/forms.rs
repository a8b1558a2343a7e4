//! Bytes as they were written when a level of formats came out, kept in files beside the tests that compare with them.

use std::fmt::Write as _;
use std::path::Path;

use nebula_wire::codec;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::fuzz::Kind;

/// What reads a `T`. What is read, and written again, says the same.
pub fn kind<T: Serialize + DeserializeOwned>() -> Kind {
    Kind {
        name: std::any::type_name::<T>(),
        read: read::<T>,
    }
}

fn read<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> bool {
    let Ok(value) = codec::decode::<T>(bytes) else {
        return false;
    };
    let again = codec::encode(&value).unwrap();
    let same: T = codec::decode(&again).unwrap();
    assert_eq!(codec::encode(&same).unwrap(), again);
    true
}

/// Compares with the lines that `formats/level-<level>/<name>` in the crate's folder has, and returns its bytes. With
/// `NEBULA_WRITE_FORMATS` set the file is written first, for a level that is not out yet.
///
/// # Panics
/// When a line is another one, or the file cannot be read.
pub fn keep(crate_dir: &str, level: u32, name: &str, lines: &[(String, Vec<u8>)]) -> Vec<Vec<u8>> {
    let mut text = String::new();
    for (what, bytes) in lines {
        writeln!(text, "{what} {}", hex::encode(bytes)).expect("a string takes everything");
    }
    let folder = Path::new(crate_dir).join(format!("formats/level-{level}"));
    let path = folder.join(name);
    if std::env::var_os("NEBULA_WRITE_FORMATS").is_some() {
        std::fs::create_dir_all(&folder).expect("the folder is made");
        std::fs::write(&path, &text).expect("the file is written");
    }
    let kept = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    for ((what, _), (now, then)) in lines.iter().zip(text.lines().zip(kept.lines())) {
        assert_eq!(
            now, then,
            "{what} is written otherwise than at level {level}"
        );
    }
    assert_eq!(text, kept, "{name} has other lines than at level {level}");
    let hex = kept.lines().filter_map(|line| line.rsplit_once(' '));
    hex.map(|(_, hex)| hex::decode(hex).expect("lines end in bytes"))
        .collect()
}
