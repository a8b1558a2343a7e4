//! Damage to files of a node that is down: what bad disks, bad copies and bad hands do.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rand::Rng;
use rand::rngs::StdRng;

/// What was done, for whoever looks into a failure.
#[derive(Debug)]
pub struct Damage {
    pub file: PathBuf,
    pub kind: Kind,
    pub at: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    FlippedBit,
    /// A sector of zeros in place of what was written.
    LostSector,
    /// A page of something else.
    WrongPage,
    /// Nothing from here on.
    Cut,
    Gone,
}

const SECTOR: u64 = 512;
const PAGE: u64 = 4096;

/// All regular files below a folder, in a steady order.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// One damage somewhere in what is written in the files below `dir`.
pub fn inflict(dir: &Path, rng: &mut StdRng) -> Damage {
    let all = files(dir);
    let file = all[rng.random_range(0..all.len())].clone();
    let bytes = std::fs::read(&file).expect("a file of the store");
    // Space that was never written to can hold no damage.
    let used: Vec<u64> = (0u64..)
        .zip(bytes.chunks(SECTOR as usize))
        .filter(|(_, sector)| sector.iter().any(|b| *b != 0))
        .map(|(n, _)| n * SECTOR)
        .collect();
    let kind = match rng.random_range(0..20) {
        0..10 => Kind::FlippedBit,
        10..14 => Kind::LostSector,
        14..17 => Kind::WrongPage,
        17..19 => Kind::Cut,
        _ => Kind::Gone,
    };
    let sector = used.get(rng.random_range(0..used.len().max(1)));
    let sector = sector.copied().unwrap_or(0);
    let inside = rng
        .random_range(0..SECTOR)
        .min(bytes.len().saturating_sub(1) as u64 - sector);
    let at = match kind {
        Kind::FlippedBit | Kind::Cut => sector + inside,
        Kind::LostSector => sector,
        Kind::WrongPage => sector - sector % PAGE,
        Kind::Gone => 0,
    };
    let open = OpenOptions::new().write(true).open(&file);
    let open = open.expect("a file of the store");
    let length = |most: u64| most.min(bytes.len() as u64 - at) as usize;
    let done = match kind {
        Kind::FlippedBit => {
            let byte = bytes.get(at as usize).copied().unwrap_or(0);
            open.write_all_at(&[byte ^ (1 << rng.random_range(0..8))], at)
        }
        Kind::LostSector => open.write_all_at(&vec![0; length(SECTOR)], at),
        Kind::WrongPage => {
            let page: Vec<u8> = (0..length(PAGE)).map(|_| rng.random()).collect();
            open.write_all_at(&page, at)
        }
        Kind::Cut => open.set_len(at),
        Kind::Gone => std::fs::remove_file(&file),
    };
    done.expect("the damage can be done");
    Damage { file, kind, at }
}
