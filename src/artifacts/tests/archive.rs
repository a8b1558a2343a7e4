//! Packing and unpacking: round trips, and each refusal.
#![allow(clippy::unwrap_used)]

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use nebula_artifacts::archive::{self, ArchiveError as E, inspect, measure, pack, scan, unpack};
use proptest::prelude::*;
use tempfile::tempdir;

const MAX: u64 = 1 << 30;

fn packed(dir: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    pack(&scan(dir).unwrap(), &mut bytes).unwrap();
    bytes
}

fn refusal(make: impl FnOnce(&Path)) -> E {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("index.html"), "hello").unwrap();
    make(dir.path());
    let error = scan(dir.path()).unwrap_err();
    println!("{error}");
    error
}

#[test]
fn the_same_files_give_the_same_bytes() {
    let make = |order: &[&str]| {
        let dir = tempdir().unwrap();
        for name in order {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, name).unwrap();
        }
        dir
    };
    let a = make(&["b", "a/x", "c"]);
    let b = make(&["c", "b", "a/x"]);
    fs::set_permissions(b.path().join("b"), Permissions::from_mode(0o600)).unwrap();
    assert_eq!(packed(a.path()), packed(b.path()));
    fs::set_permissions(b.path().join("b"), Permissions::from_mode(0o755)).unwrap();
    assert_ne!(packed(a.path()), packed(b.path()));
    let measured = measure(&scan(a.path()).unwrap()).unwrap();
    let bytes = packed(a.path());
    assert_eq!(measured.size_bytes, bytes.len() as u64);
    assert_eq!(measured.digest.0, *blake3::hash(&bytes).as_bytes());
}

#[test]
fn links_modes_and_empty_folders_survive() {
    let dir = tempdir().unwrap();
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(200));
    fs::create_dir_all(dir.path().join("d".repeat(120))).unwrap();
    fs::create_dir(dir.path().join("empty")).unwrap();
    fs::write(dir.path().join(&long), "long").unwrap();
    fs::write(dir.path().join("run"), "#!").unwrap();
    fs::set_permissions(dir.path().join("run"), Permissions::from_mode(0o711)).unwrap();
    fs::hard_link(dir.path().join("run"), dir.path().join("same")).unwrap();
    symlink(&long, dir.path().join("short")).unwrap();
    symlink("../run", dir.path().join("empty/up")).unwrap();
    let out = tempdir().unwrap();
    let tree = out.path().join("tree");
    let unpacked = unpack(&packed(dir.path())[..], &tree, MAX).unwrap();
    assert_eq!(unpacked.files.len(), 3);
    assert_eq!(
        unpacked.files["run"].blake3,
        blake3::hash(b"#!").to_hex().to_string()
    );
    assert_eq!(fs::read_to_string(tree.join("short")).unwrap(), "long");
    assert_eq!(fs::read_to_string(tree.join("empty/up")).unwrap(), "#!");
    let mode = fs::metadata(tree.join("run")).unwrap().permissions().mode();
    assert_eq!(mode & 0o100, 0o100);
    assert_eq!(packed(dir.path()), packed(&tree));
}

#[test]
fn folders_that_cannot_be_deployed_are_refused_by_name() {
    assert!(
        matches!(refusal(|d| symlink("/etc/passwd", d.join("l")).unwrap()),
        E::LinkOutside { path, .. } if path == "l")
    );
    assert!(matches!(refusal(|d| symlink("../x", d.join("l")).unwrap()),
        E::LinkOutside { path, .. } if path == "l"));
    assert!(matches!(
        refusal(|d| fs::write(d.join("INDEX.html"), "").unwrap()),
        E::CaseClash { .. }
    ));
    assert!(matches!(
        refusal(|d| fs::write(d.join(std::ffi::OsStr::from_bytes(b"\xff")), "").unwrap()),
        E::NotUtf8 { .. }
    ));
    assert!(matches!(
        refusal(|d| {
            let all = nix::sys::stat::Mode::S_IRWXU;
            nix::unistd::mkfifo(&d.join("pipe"), all).unwrap();
        }),
        E::Special { path, what: "a named pipe" } if path == "pipe"
    ));
    assert!(matches!(
        refusal(|d| drop(std::os::unix::net::UnixListener::bind(d.join("s")).unwrap())),
        E::Special {
            what: "a socket",
            ..
        }
    ));
    assert!(matches!(
        refusal(|d| {
            let deep = d.join(vec!["d"; archive::MAX_DEPTH + 1].join("/"));
            fs::create_dir_all(deep).unwrap();
        }),
        E::TooLong { .. }
    ));
    let empty = tempdir().unwrap();
    assert!(matches!(scan(empty.path()), Err(E::Empty(_))));
    fs::create_dir(empty.path().join("only")).unwrap();
    assert!(matches!(scan(empty.path()), Err(E::Empty(_))));
    let file = empty.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(matches!(scan(&file), Err(E::NotAFolder(_))));
    assert!(matches!(
        scan(&empty.path().join("no")),
        Err(E::NoSuchFolder(_))
    ));
}

#[test]
fn a_change_between_the_passes_is_found() {
    for change in [
        |p: &Path| fs::write(p, "longer than before").unwrap(),
        |p: &Path| fs::write(p, "ab").unwrap(),
        |p: &Path| fs::remove_file(p).unwrap(),
        |p: &Path| {
            fs::remove_file(p).unwrap();
            symlink("/etc/hostname", p).unwrap();
        },
    ] {
        let dir = tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "before").unwrap();
        let manifest = scan(dir.path()).unwrap();
        measure(&manifest).unwrap();
        change(&path);
        let error = measure(&manifest).unwrap_err();
        assert!(
            matches!(&error, E::Changed { path } | E::Read { path, .. } if path == "file"),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn a_stream_is_the_archive() {
    use futures::TryStreamExt;
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("big"), vec![7; 1_000_000]).unwrap();
    let manifest = scan(dir.path()).unwrap();
    let expected = measure(&manifest).unwrap();
    let pieces: Vec<bytes::Bytes> = archive::stream(manifest.clone(), expected)
        .try_collect()
        .await
        .unwrap();
    assert_eq!(pieces.concat(), packed(dir.path()));
    fs::write(dir.path().join("big"), "small").unwrap();
    let broken: Result<Vec<bytes::Bytes>, _> =
        archive::stream(manifest, expected).try_collect().await;
    assert!(broken.is_err());
}

struct Forger(tar::Builder<Vec<u8>>);

impl Forger {
    fn new() -> Forger {
        Forger(tar::Builder::new(Vec::new()))
    }

    /// The name goes into the header unchecked.
    fn entry(mut self, kind: tar::EntryType, name: &str, target: &str, body: &[u8]) -> Forger {
        let mut header = tar::Header::new_gnu();
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_gnu_mut().unwrap().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(body.len() as u64);
        header.set_cksum();
        self.0.append(&header, body).unwrap();
        self
    }

    fn file(self, name: &str) -> Forger {
        self.entry(tar::EntryType::Regular, name, "", b"x")
    }

    fn link(self, name: &str, target: &str) -> Forger {
        self.entry(tar::EntryType::Symlink, name, target, b"")
    }

    fn verdict(self) -> Result<(), E> {
        let bytes = self.0.into_inner().unwrap();
        let out = tempdir().unwrap();
        let tree = out.path().join("inner/tree");
        fs::create_dir(out.path().join("inner")).unwrap();
        let unpacked = unpack(&bytes[..], &tree, MAX).map(|_| ());
        let inspected = inspect(&bytes[..], MAX);
        assert_eq!(unpacked.is_ok(), inspected.is_ok());
        let outside: Vec<_> = fs::read_dir(out.path()).unwrap().collect();
        assert_eq!(outside.len(), 1, "something was written outside");
        inspected
    }
}

#[test]
fn malicious_archives_are_refused() {
    use tar::EntryType as T;
    let new = Forger::new;
    assert!(new().file("a/b").file("./c").verdict().is_ok());
    assert!(matches!(
        new().file("../x").verdict(),
        Err(E::Escapes { .. })
    ));
    assert!(matches!(
        new().file("/tmp/x").verdict(),
        Err(E::Escapes { .. })
    ));
    assert!(matches!(
        new().file("a/../../x").verdict(),
        Err(E::Escapes { .. })
    ));
    assert!(matches!(
        new().file("a//x").verdict(),
        Err(E::BadName { .. })
    ));
    assert!(matches!(
        new().link("l", "..").file("l/x").verdict(),
        Err(E::LinkOutside { .. })
    ));
    assert!(matches!(
        new().link("l", "d").file("l/x").verdict(),
        Err(E::BelowLink { .. })
    ));
    assert!(matches!(
        new().file("l").link("l", "d").verdict(),
        Err(E::Duplicate { .. })
    ));
    assert!(matches!(
        new().file("a").file("a").verdict(),
        Err(E::Duplicate { .. })
    ));
    assert!(matches!(
        new().file("a").file("A").verdict(),
        Err(E::CaseClash { .. })
    ));
    assert!(matches!(
        new().file("d/a").file("D/b").verdict(),
        Err(E::CaseClash { .. })
    ));
    for kind in [
        T::Link,
        T::Char,
        T::Block,
        T::Fifo,
        T::GNUSparse,
        T::XHeader,
        T::XGlobalHeader,
    ] {
        let verdict = new().file("a").entry(kind, "b", "a", b"").verdict();
        assert!(
            matches!(verdict, Err(E::Special { .. })),
            "{kind:?}: {verdict:?}"
        );
    }
    let long = vec![b'x'; 100_000];
    let verdict = new()
        .entry(T::GNULongName, "././@LongLink", "", &long)
        .verdict();
    assert!(matches!(verdict, Err(E::TooLong { .. })));
    assert!(matches!(new().verdict(), Err(E::Empty(_))));
    assert!(matches!(
        inspect(&b"not a tar archive"[..], MAX),
        Err(E::Damaged(_))
    ));
}

#[test]
fn sizes_are_bounded_and_cut_archives_found() {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("a"), vec![1; 10_000]).unwrap();
    let bytes = packed(dir.path());
    assert!(matches!(
        inspect(&bytes[..], 9_999),
        Err(E::TooLarge { .. })
    ));
    assert!(inspect(&bytes[..], 10_000).is_ok());
    assert!(inspect(&bytes[..5_000], MAX).is_err());
    let mut header = bytes.clone();
    header[0] ^= 1;
    assert!(inspect(&header[..], MAX).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_packed_is_unpacked(
        files in prop::collection::btree_map(
            "[a-c]{1,3}(/[d-f]{1,2}){0,2}(/[g-iä ]{1,140})?",
            (prop::collection::vec(any::<u8>(), 0..2000), any::<bool>()),
            1..12,
        )
    ) {
        let dir = tempdir().unwrap();
        let mut written = Vec::new();
        for (name, (content, executable)) in &files {
            let path = dir.path().join(name);
            if fs::create_dir_all(path.parent().unwrap()).is_err() || path.exists() {
                continue;
            }
            let Ok(mut file) = fs::File::create_new(&path) else { continue };
            file.write_all(content).unwrap();
            let mode = if *executable { 0o755 } else { 0o644 };
            file.set_permissions(Permissions::from_mode(mode)).unwrap();
            written.push((name, content));
        }
        let manifest = scan(dir.path()).unwrap();
        prop_assert_eq!(manifest.files(), written.len());
        let bytes = packed(dir.path());
        let out = tempdir().unwrap();
        let tree = out.path().join("tree");
        let unpacked = unpack(&bytes[..], &tree, MAX).unwrap();
        for (name, content) in written {
            prop_assert_eq!(&fs::read(tree.join(name)).unwrap(), content);
            prop_assert_eq!(unpacked.files[name].size, content.len() as u64);
        }
        prop_assert_eq!(packed(&tree), bytes);
    }

    #[test]
    fn damage_never_panics_or_escapes(flips in prop::collection::vec((any::<usize>(), any::<u8>()), 1..20)) {
        let dir = tempdir().unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::write(dir.path().join("d/a"), vec![1; 700]).unwrap();
        symlink("d/a", dir.path().join("l")).unwrap();
        let mut bytes = packed(dir.path());
        for (at, flip) in flips {
            let at = at % bytes.len();
            bytes[at] ^= flip;
        }
        let out = tempdir().unwrap();
        let _ = unpack(&bytes[..], &out.path().join("tree"), MAX);
        prop_assert_eq!(fs::read_dir(out.path()).unwrap().count(), 1);
    }
}
