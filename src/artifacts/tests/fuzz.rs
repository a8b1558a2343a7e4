//! Archives from anywhere: refused, or unpacked into their folder and nowhere else.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::symlink;
use std::path::Path;

use nebula_artifacts::archive::{inspect, pack, scan, unpack};
use nebula_artifacts::image;
use nebula_domain::image::ImageDigest;
use nebula_testkit::fuzz::{Target, repeats};
use sha2::Digest as _;
use tempfile::tempdir;

const BLOCK: usize = 512;
/// Of all files of an archive.
const MAX_BYTES: u64 = 64 * 1024;

fn packed(make: impl FnOnce(&Path)) -> Vec<u8> {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("index.html"), "hello").unwrap();
    make(dir.path());
    let mut bytes = Vec::new();
    pack(&scan(dir.path()).unwrap(), &mut bytes).unwrap();
    bytes
}

/// A mutated header is refused by its checksum alone, unless that is made right again (POSIX.1-2017, pax, ustar).
fn mend_checksums(bytes: &mut [u8]) {
    for block in bytes.chunks_exact_mut(BLOCK) {
        if &block[257..262] != b"ustar" {
            continue;
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

/// Bytes in all files; panics at what is neither a file, a folder nor a link.
fn content_bytes(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let sizes = entries.map(|entry| {
        let kind = entry.file_type().unwrap();
        match (kind.is_dir(), kind.is_file()) {
            (true, _) => content_bytes(&entry.path()),
            (_, true) => entry.metadata().unwrap().len(),
            _ => {
                assert!(kind.is_symlink());
                0
            }
        }
    });
    sizes.sum()
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

#[test]
fn fuzz_archives() {
    let corpus = vec![
        packed(|_| {}),
        packed(|dir| {
            fs::create_dir_all(dir.join("a/b")).unwrap();
            fs::write(dir.join("a/b/c.txt"), [7; 700]).unwrap();
            symlink("../index.html", dir.join("a/link")).unwrap();
        }),
        packed(|dir| {
            let long = "n".repeat(150);
            fs::write(dir.join(&long), "long").unwrap();
            symlink(&long, dir.join("short")).unwrap();
        }),
    ];
    let target = Target {
        name: "artifacts: archives",
        corpus,
        words: &[
            "../",
            "/",
            "./",
            "\0",
            "ustar",
            "a/b",
            "L",
            "K",
            "x",
            "index.html",
        ],
        max_bytes: 32 * 1024,
        // Every 512 bytes are a header at best, whose path may name 64 folders.
        allocated_per_byte: 64,
        allocated_bytes: 512 * 1024,
        understood_percent: 5,
    };
    let outside = tempdir().unwrap();
    let dir = outside.path().join("tree");
    let always = repeats();
    target.run(|input| {
        let mut archive = input.to_vec();
        mend_checksums(&mut archive);
        let taken = inspect(&archive[..], MAX_BYTES).is_ok();
        // Writing is slow, so it is for a share of them, of the refused ones as well. Which ones only hangs on the
        // input.
        let one_in = if taken { 8 } else { 64 };
        if always || hash(&archive).is_multiple_of(one_in) {
            let unpacked = unpack(&archive[..], &dir, MAX_BYTES);
            assert_eq!(unpacked.is_ok(), taken, "{unpacked:?}");
            assert!(content_bytes(&dir) <= MAX_BYTES);
            assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
            fs::remove_dir_all(&dir).unwrap();
        }
        taken
    });
}

/// A layer whose image vouches for it: whatever it says, what comes of it stays in its folder.
#[test]
fn fuzz_layers() {
    use common::{Entry, Image, gzip, layer, zstd};
    let plain = layer(&[
        ("a/b", Entry::File(0o755, &[7; 700])),
        ("l", Entry::Link("/a")),
        ("l/c", Entry::File(0o644, b"c")),
        ("h", Entry::Same("a/b")),
        (&"n".repeat(150), Entry::Folder),
    ]);
    let hiding = layer(&[
        ("a/x", Entry::File(0o644, b"x")),
        ("a/.wh.x", Entry::File(0o644, b"")),
        ("up", Entry::Link("../..")),
        ("up/y", Entry::Folder),
        (".wh..wh..opq", Entry::File(0o644, b"")),
    ]);
    let target = Target {
        name: "artifacts: layers of images",
        corpus: vec![gzip(&plain), zstd(&hiding), plain, hiding],
        words: &[
            "../", "/", "./", "\0", "ustar", ".wh.", "L", "K", "x", "2", "1", "path=",
        ],
        max_bytes: 32 * 1024,
        allocated_per_byte: 4096,
        // A window of zstd's.
        allocated_bytes: 160 * 1024 * 1024,
        understood_percent: 5,
    };
    let outside = tempdir().unwrap();
    let (tree, root) = (outside.path().join("tree"), outside.path().join("root"));
    fs::create_dir_all(tree.join("layers")).unwrap();
    target.run(|input| {
        let mut bytes = input.to_vec();
        mend_checksums(&mut bytes);
        let config = Image::new(vec![bytes.clone()]).config();
        let digest = ImageDigest(sha2::Sha256::digest(config.as_bytes()).into());
        fs::write(tree.join("config.json"), config).unwrap();
        fs::write(tree.join("layers/0000"), &bytes).unwrap();
        let unpacked = image::unpack(&tree, &root, digest, MAX_BYTES, &|_| Ok(()));
        if unpacked.is_ok() {
            assert!(
                content_bytes(&root) <= 64 * MAX_BYTES,
                "hard links count often"
            );
            fs::remove_dir_all(&root).unwrap();
        }
        // What was refused is the caller's to remove.
        let _ = fs::remove_dir_all(outside.path().join("root.contents"));
        let left = fs::read_dir(outside.path()).unwrap().count();
        assert_eq!(left, 1, "nothing but the tree");
        // Packed layers are whole only as they were: their digest is of what is in them.
        !matches!(unpacked, Err(image::ImageError::Damaged(_)))
    });
}
