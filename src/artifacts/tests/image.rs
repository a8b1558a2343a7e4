//! Container images: read from archives of either kind, unpacked into their root folder and nowhere else, or refused.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use common::{Entry, Image, gzip, layer, write, zstd};
use nebula_artifacts::archive::{measure, scan};
use nebula_artifacts::image::{ImageConfig, ImageError, Prepared, prepare, resolve, unpack};
use nebula_domain::image::ImageDigest;
use tar::EntryType;
use tempfile::{TempDir, tempdir};

const MAX_BYTES: u64 = 4 * 1024 * 1024;

struct Read {
    dir: TempDir,
    prepared: Prepared,
}

impl Read {
    fn tree(&self) -> PathBuf {
        self.dir.path().join("tree")
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn unpack(&self) -> Result<ImageConfig, ImageError> {
        let digest = self.prepared.image.digest;
        unpack(&self.tree(), &self.root(), digest, MAX_BYTES, &|_| Ok(()))
    }
}

fn read(archive: &[u8]) -> Result<Read, ImageError> {
    let dir = tempdir().unwrap();
    let file = write(dir.path(), "app.tar", archive);
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let prepared = prepare(&file, &tree, MAX_BYTES)?;
    Ok(Read { dir, prepared })
}

fn refused(archive: &[u8]) -> String {
    match read(archive) {
        Ok(_) => panic!("it was taken"),
        Err(error) => error.to_string(),
    }
}

fn lower() -> Vec<u8> {
    layer(&[
        ("./", Entry::Folder),
        ("bin/", Entry::Folder),
        ("bin/su", Entry::File(0o4755, b"su")),
        ("run", Entry::Same("bin/su")),
        ("lib", Entry::Link("usr/lib")),
        ("usr/lib/a", Entry::File(0o600, b"a")),
        ("etc/old", Entry::File(0o644, b"old")),
        ("etc/passwd", Entry::Link("/etc/shadow")),
        ("data/x", Entry::File(0o644, b"x")),
        ("dev/sda", Entry::Special(EntryType::Block)),
        ("pipe", Entry::Special(EntryType::Fifo)),
    ])
}

fn upper() -> Vec<u8> {
    layer(&[
        ("etc/.wh.old", Entry::File(0o644, b"")),
        ("lib/b", Entry::File(0o644, b"b")),
        ("data/.wh..wh..opq", Entry::File(0o644, b"")),
        ("data/y", Entry::File(0o644, b"y")),
        ("out", Entry::Link("../../../..")),
        ("out/escaped", Entry::File(0o644, b"inside")),
    ])
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn both_kinds_of_archives_are_the_same_image() {
    let mut image = Image::new(vec![lower(), upper()]);
    image.layers[1].0 = gzip(&upper());
    let saved = read(&image.saved("shop:1")).unwrap();
    let layout = read(&image.layout("registry.test/shop:1")).unwrap();
    assert_eq!(saved.prepared.image.name, "shop:1");
    assert_eq!(layout.prepared.image.name, "registry.test/shop:1");
    assert_eq!(saved.prepared.image.digest, layout.prepared.image.digest);
    let digest = |read: &Read| measure(&scan(&read.tree()).unwrap()).unwrap().digest;
    assert_eq!(digest(&saved), digest(&layout), "one artifact");
    let packed = read(&gzip(&image.saved("shop:1"))).unwrap();
    assert_eq!(digest(&saved), digest(&packed));
}

#[test]
fn layers_are_laid_over_each_other_and_their_tricks_come_to_nothing() {
    let mut image = Image::new(vec![lower(), upper()]);
    image.layers[0].0 = zstd(&lower());
    let read = read(&image.saved("a")).unwrap();
    assert_eq!(read.unpack().unwrap().entry, ["/run"]);
    let root = read.root();
    assert_eq!(text(&root.join("usr/lib/b")), "b");
    assert_eq!(text(&root.join("data/y")), "y");
    assert_eq!(text(&root.join("escaped")), "inside");
    for gone in ["etc/old", "data/x", "dev/sda", "pipe", "data/.wh..wh..opq"] {
        assert!(fs::symlink_metadata(root.join(gone)).is_err(), "{gone}");
    }
    let link = fs::read_link(root.join("etc/passwd")).unwrap();
    assert_eq!(
        link,
        Path::new("/etc/shadow"),
        "what it means is the program's business"
    );
    let about = |path: &str| fs::symlink_metadata(root.join(path)).unwrap();
    assert_eq!(about("bin/su").ino(), about("run").ino(), "a hard link");
    assert_eq!(
        about("bin/su").permissions().mode() & 0o7777,
        0o755,
        "no set-user-id"
    );
    assert_eq!(about("usr/lib/a").permissions().mode() & 0o7777, 0o644);
    assert_eq!(about("bin").permissions().mode() & 0o7777, 0o755);
    let left: Vec<_> = fs::read_dir(read.dir.path()).unwrap().collect();
    assert_eq!(
        left.len(),
        3,
        "the archive, the tree and the root: {left:?}"
    );

    let inside = |path: &str| resolve(&root, Path::new(path));
    assert_eq!(inside("/lib/x"), Some("usr/lib/x".into()));
    assert_eq!(inside("/out/data"), Some("data".into()));
    assert_eq!(inside("/bin/su"), None);
}

#[test]
fn names_of_any_kind_are_read() {
    let deep = format!("{}/file", "folder".repeat(20));
    let long = layer(&[
        (&deep, Entry::File(0o644, b"1")),
        ("link", Entry::Link(&deep)),
    ]);
    // The same as pax would have it.
    let mut builder = tar::Builder::new(Vec::new());
    let records = [("path", deep.as_bytes()), ("mtime", &b"1.5"[..])];
    builder.append_pax_extensions(records).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_size(1);
    header.set_mode(0o755);
    builder.append_data(&mut header, "cut", &b"2"[..]).unwrap();
    let pax = builder.into_inner().unwrap();
    let read = read(&Image::new(vec![long, pax]).saved("a")).unwrap();
    read.unpack().unwrap();
    assert_eq!(text(&read.root().join("link")), "2");
    assert!(!read.root().join("cut").exists());
}

#[test]
fn what_is_no_image_or_damaged_is_refused_by_a_sentence() {
    let dir = tempdir().unwrap();
    let none = prepare(Path::new("nginx:latest"), dir.path(), MAX_BYTES)
        .unwrap_err()
        .to_string();
    assert!(
        none.contains("'nginx:latest' is no file") && none.contains("docker save"),
        "{none}"
    );
    assert!(refused(b"").contains("is no image archive"));
    assert!(refused(&[7; 4096]).contains("is no image archive"));
    assert!(refused(&layer(&[("x", Entry::Folder)])).contains("is no image archive"));
    // Little to send, and no end of it on the disk.
    let bomb = gzip(&vec![0; 4 * MAX_BYTES as usize + 1]);
    assert!(refused(&bomb).contains("image_archive_bytes"));
    let many = layer(&[("manifest.json", Entry::File(0o644, br#"[]"#))]);
    assert!(refused(&many).contains("holds 0 images"));
    let lacks = br#"[{"Config":"c.json","Layers":[]}]"#;
    let lacks = layer(&[("manifest.json", Entry::File(0o644, lacks))]);
    assert!(refused(&lacks).contains("'c.json', which is not in it"));

    let mut image = Image::new(vec![lower()]);
    image.layers[0].0 = gzip(&upper());
    assert!(refused(&image.saved("a")).contains("layer 1 is sha256:"));
    let whole = Image::new(vec![lower()]).layout("a");
    let mut cut = whole.clone();
    let middle = whole.windows(3).position(|bytes| bytes == b"old").unwrap();
    cut[middle + 600] ^= 1;
    assert!(read(&cut).is_err(), "a changed blob");
    let mut odd = Image::new(vec![lower()]);
    odd.layers[0].0 = b"BZh9rest".to_vec();
    assert!(refused(&odd.saved("a")).contains("use gzip or zstd"));
}

#[test]
fn a_node_believes_nothing_but_the_digest() {
    let read = read(&Image::new(vec![lower(), upper()]).saved("a")).unwrap();
    let other = ImageDigest([1; 32]);
    let error = unpack(&read.tree(), &read.root(), other, MAX_BYTES, &|_| Ok(()));
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("the image is sha256:")
    );
    let tight = unpack(
        &read.tree(),
        &read.root(),
        read.prepared.image.digest,
        2048,
        &|_| Ok(()),
    );
    assert!(tight.unwrap_err().to_string().contains("artifact_bytes"));
    fs::remove_dir_all(read.dir.path().join("root.contents")).unwrap();
    let full = |_| Err("the disk is full".to_owned());
    let full = unpack(
        &read.tree(),
        &read.root(),
        read.prepared.image.digest,
        MAX_BYTES,
        &full,
    );
    assert_eq!(full.unwrap_err().to_string(), "the disk is full");
    fs::remove_dir_all(read.dir.path().join("root.contents")).unwrap();

    fs::write(
        read.tree().join("layers/0001"),
        layer(&[("x", Entry::Folder)]),
    )
    .unwrap();
    assert!(
        read.unpack()
            .unwrap_err()
            .to_string()
            .contains("layer 2 is sha256:")
    );
    assert!(!read.root().exists());
}

#[test]
fn a_small_layer_that_grows_without_end_is_stopped() {
    let zeros = vec![0; 16 * 1024 * 1024];
    let grown = layer(&[("zeros", Entry::File(0o644, &zeros))]);
    let mut image = Image::new(vec![grown.clone()]);
    image.layers[0].0 = gzip(&grown);
    assert!(image.layers[0].0.len() < 200_000);
    assert!(refused(&image.saved("a")).contains("artifact_bytes"));
}

#[test]
fn entries_that_cannot_be_meant_are_refused() {
    for (entries, why) in [
        (
            layer(&[("a", Entry::File(0o644, b"")), ("a/b", Entry::Folder)]),
            "below a file",
        ),
        (layer(&[("a", Entry::Same("none"))]), "hard link"),
        (
            layer(&[
                ("a", Entry::Link("b")),
                ("b", Entry::Link("a")),
                ("a/x", Entry::Folder),
            ]),
            "too many links",
        ),
        (
            layer(&[("x", Entry::Special(EntryType::GNUSparse))]),
            "sparse",
        ),
    ] {
        let read = read(&Image::new(vec![entries]).saved("a")).unwrap();
        let error = read.unpack().unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}
