//! Stores of several nodes over real meshes.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use nebula_artifacts::archive::{self, Measured};
use nebula_artifacts::{ArtifactError, Artifacts, Config, ErrorKind};
use nebula_domain::{Digest, NodeId};
use nebula_testkit::{Cluster, Node, counted};
use tempfile::{TempDir, tempdir};

struct Site {
    bytes: Vec<u8>,
    measured: Measured,
}

fn site(files: usize, size: usize) -> Site {
    let dir = tempdir().unwrap();
    for n in 0..files {
        fs::write(dir.path().join(format!("{n}.html")), vec![n as u8; size]).unwrap();
    }
    let mut bytes = Vec::new();
    let manifest = archive::scan(dir.path()).unwrap();
    let measured = archive::pack(&manifest, &mut bytes).unwrap();
    Site { bytes, measured }
}

struct Store {
    node: Node,
    artifacts: Artifacts,
    dir: TempDir,
}

fn store(cluster: &mut Cluster, id: u64) -> Store {
    let node = cluster.add(id);
    let dir = tempdir().unwrap();
    let config = Config::new(dir.path().join("artifacts"));
    let artifacts = Artifacts::open(config, node.mesh.clone(), &node.metrics).unwrap();
    Store {
        node,
        artifacts,
        dir,
    }
}

impl Store {
    fn path(&self, rest: &str) -> std::path::PathBuf {
        self.dir.path().join("artifacts").join(rest)
    }

    fn blob(&self, digest: Digest) -> std::path::PathBuf {
        self.path(&format!("blobs/{digest}.tar"))
    }

    fn reopen(&self) -> Artifacts {
        let config = Config::new(self.dir.path().join("artifacts"));
        Artifacts::open(config, self.node.mesh.clone(), &self.node.metrics).unwrap()
    }
}

fn pieces(bytes: &[u8]) -> impl futures::Stream<Item = io::Result<Bytes>> + Send + use<> {
    let pieces: Vec<_> = bytes
        .chunks(10_000)
        .map(|piece| Ok(Bytes::copy_from_slice(piece)))
        .collect();
    futures::stream::iter(pieces)
}

fn entries(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_is_kept_whole_or_not_at_all() {
    let mut cluster = Cluster::empty();
    let one = store(&mut cluster, 1);
    let site = site(5, 9_000);
    let digest = site.measured.digest;

    let broken = futures::StreamExt::chain(
        pieces(&site.bytes[..20_000]),
        futures::stream::iter([Err(io::Error::from(io::ErrorKind::ConnectionReset))]),
    );
    let error = one.artifacts.receive(digest, broken).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
    let cut = one
        .artifacts
        .receive(digest, pieces(&site.bytes[..20_000]))
        .await;
    assert_eq!(cut.unwrap_err().kind(), ErrorKind::DigestMismatch);
    let rubbish = b"this is no archive".repeat(100);
    let named = Digest(*blake3::hash(&rubbish).as_bytes());
    let error = one
        .artifacts
        .receive(named, pieces(&rubbish))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadArchive);
    assert_eq!(entries(&one.path("blobs")), 0);
    assert_eq!(entries(&one.path("tmp")), 0);
    assert!(!one.artifacts.has(digest));

    let meta = one
        .artifacts
        .receive(digest, pieces(&site.bytes))
        .await
        .unwrap();
    assert_eq!(meta.size_bytes, site.bytes.len() as u64);
    assert_eq!(one.artifacts.size(digest), Some(meta.size_bytes));
    assert_eq!(fs::read(one.blob(digest)).unwrap(), site.bytes);
    assert_eq!(entries(&one.path("tmp")), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_over_the_limit_is_refused() {
    let mut cluster = Cluster::empty();
    let node = cluster.add(1);
    let dir = tempdir().unwrap();
    let config = Config {
        max_artifact_bytes: 10_000,
        ..Config::new(dir.path().to_owned())
    };
    let artifacts = Artifacts::open(config, node.mesh.clone(), &node.metrics).unwrap();
    let site = site(2, 9_000);
    let error = artifacts
        .receive(site.measured.digest, pieces(&site.bytes))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert_eq!(entries(&dir.path().join("tmp")), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_taken_in_that_would_fill_the_disk() {
    let mut cluster = Cluster::empty();
    let one = store(&mut cluster, 1);
    let node = cluster.add(2);
    let dir = tempdir().unwrap();
    let config = Config {
        // More than any disk has.
        min_free_bytes: u64::MAX / 2,
        ..Config::new(dir.path().to_owned())
    };
    let full = Artifacts::open(config, node.mesh.clone(), &node.metrics).unwrap();
    let site = site(5, 9_000);
    let digest = site.measured.digest;
    let error = full.receive(digest, pieces(&site.bytes)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DiskFull, "{error}");
    one.artifacts
        .receive(digest, pieces(&site.bytes))
        .await
        .unwrap();
    let error = full.ensure(digest, &[NodeId(1)]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DiskFull, "{error}");
    assert_eq!(entries(&dir.path().join("tmp")), 0);
    // And whoever wants a copy there hears why there is none.
    let error = one.artifacts.replicate(digest, 2, &[NodeId(2)]).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotReplicated);
    assert!(error.to_string().contains("min_free_bytes"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_fetch_from_each_other_do_not_wait_for_each_other() {
    let mut cluster = Cluster::empty();
    let stores = [store(&mut cluster, 1), store(&mut cluster, 2)];
    let mut copies = Vec::new();
    for (n, here) in stores.iter().enumerate() {
        let there = stores[1 - n].node.id;
        for size in 0..30 {
            let site = site(1, 100_000 + 2 * size + n);
            let digest = site.measured.digest;
            here.artifacts
                .receive(digest, pieces(&site.bytes))
                .await
                .unwrap();
            copies.push(async move { here.artifacts.replicate(digest, 2, &[there]).await });
        }
    }
    let all = futures::future::join_all(copies);
    // Far below the time after which a peer that sends nothing is given up.
    let all = tokio::time::timeout(Duration::from_secs(10), all).await;
    for copied in all.expect("they wait for each other") {
        assert_eq!(copied.unwrap().len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_are_made_on_other_nodes() {
    let mut cluster = Cluster::empty();
    let one = store(&mut cluster, 1);
    let two = store(&mut cluster, 2);
    let three = store(&mut cluster, 3);
    let site = site(100, 2_000);
    let digest = site.measured.digest;
    let others = [NodeId(2), NodeId(3)];

    let missing = one.artifacts.replicate(digest, 2, &others).await;
    assert_eq!(missing.unwrap_err().kind(), ErrorKind::Missing);
    let began = Instant::now();
    one.artifacts
        .receive(digest, pieces(&site.bytes))
        .await
        .unwrap();
    let holders = one.artifacts.replicate(digest, 2, &others).await.unwrap();
    assert_eq!(holders.len(), 2);
    println!("received and replicated in {:?}", began.elapsed());
    // Also in the eyes of a node that has none itself.
    let everyone = [NodeId(1), NodeId(2), NodeId(3)];
    let held = three.artifacts.holders(digest, &everyone).await;
    let size = site.bytes.len() as u64;
    assert_eq!(held, holders.iter().map(|node| (*node, size)).collect());

    let began = Instant::now();
    let tree = three
        .artifacts
        .ensure(digest, &[NodeId(2), NodeId(1)])
        .await
        .unwrap();
    println!("fetched and unpacked in {:?}", began.elapsed());
    assert_eq!(tree, three.artifacts.trees_dir().join(digest.to_string()));
    assert_eq!(fs::read(tree.join("7.html")).unwrap(), vec![7; 2_000]);
    let manifest = fs::read(three.path(&format!("trees/{digest}.manifest"))).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(manifest["files"]["7.html"]["size"], 2_000);
    assert_eq!(
        manifest["files"]["7.html"]["blake3"],
        blake3::hash(&[7; 2_000]).to_hex().to_string()
    );
    // All hold it now; nothing is left to do.
    let all = one.artifacts.replicate(digest, 3, &others).await.unwrap();
    assert_eq!(all.len(), 3);
    two.node.mesh.close().await;
    let error = one
        .artifacts
        .replicate(digest, 4, &others)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotReplicated);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_who_want_one_artifact_fetch_it_once() {
    let mut cluster = Cluster::empty();
    let one = store(&mut cluster, 1);
    let two = store(&mut cluster, 2);
    let site = site(20, 50_000);
    let digest = site.measured.digest;
    one.artifacts
        .receive(digest, pieces(&site.bytes))
        .await
        .unwrap();
    let wants = (0..10).map(|_| two.artifacts.ensure(digest, &[NodeId(1)]));
    for result in futures::future::join_all(wants).await {
        result.unwrap();
    }
    counted(&one.node.metrics, "nebula_artifacts_sent_total", 1).await;
    assert!(
        one.node
            .metrics
            .encode()
            .contains("nebula_artifacts_sent_total 1\n")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_copies_are_put_aside_and_fetched_again() {
    let mut cluster = Cluster::empty();
    let one = store(&mut cluster, 1);
    let two = store(&mut cluster, 2);
    let three = store(&mut cluster, 3);
    let site = site(10, 30_000);
    let digest = site.measured.digest;
    one.artifacts
        .receive(digest, pieces(&site.bytes))
        .await
        .unwrap();
    one.artifacts
        .replicate(digest, 2, &[NodeId(2)])
        .await
        .unwrap();

    // Damage in the middle of a file: a valid archive, but another one.
    let mut bytes = site.bytes.clone();
    bytes[100_000] ^= 1;
    fs::write(two.blob(digest), &bytes).unwrap();
    // The sender notices, and the next source is asked.
    three
        .artifacts
        .ensure(digest, &[NodeId(2), NodeId(1)])
        .await
        .unwrap();
    counted(&two.node.metrics, "nebula_artifacts_quarantined_total", 1).await;
    assert!(!two.artifacts.has(digest));
    assert!(two.path(&format!("quarantine/{digest}.tar")).exists());
    assert_eq!(fs::read(three.blob(digest)).unwrap(), site.bytes);

    // Whoever unpacks notices too.
    fs::write(two.blob(digest), &bytes).unwrap();
    let tree = two.artifacts.ensure(digest, &[NodeId(1)]).await.unwrap();
    assert_eq!(fs::read(tree.join("3.html")).unwrap(), vec![3; 30_000]);
    assert_eq!(fs::read(two.blob(digest)).unwrap(), site.bytes);

    // With nobody left to ask, it says so.
    fs::write(one.blob(digest), &bytes).unwrap();
    let error = one.artifacts.ensure(digest, &[]).await.unwrap_err();
    assert!(matches!(error, ArtifactError::Missing { .. }), "{error:?}");
    assert_eq!(entries(&one.path("trees")), 0);
    assert_eq!(entries(&one.path("tmp")), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tree_that_is_not_whole_is_not_used() {
    let mut cluster = Cluster::empty();
    let one = store(&mut cluster, 1);
    let site = site(3, 100);
    let digest = site.measured.digest;
    one.artifacts
        .receive(digest, pieces(&site.bytes))
        .await
        .unwrap();
    let tree = one.artifacts.ensure(digest, &[]).await.unwrap();
    // A restart of the daemon keeps it.
    fs::write(one.path("tmp/leftover"), "x").unwrap();
    let again = one.reopen();
    assert!(tree.join("1.html").exists());
    assert_eq!(entries(&one.path("tmp")), 0);

    // A power cut: the marker is of another boot, and a file is torn.
    let marker = one.path(&format!("trees/{digest}.complete"));
    fs::write(&marker, "another boot").unwrap();
    fs::write(tree.join("1.html"), "").unwrap();
    assert_eq!(again.ensure(digest, &[]).await.unwrap(), tree);
    assert_eq!(fs::read(tree.join("1.html")).unwrap(), vec![1; 100]);

    // A crash while unpacking: no marker.
    fs::remove_file(&marker).unwrap();
    fs::write(tree.join("1.html"), "").unwrap();
    let again = one.reopen();
    assert!(!tree.exists());
    again.ensure(digest, &[]).await.unwrap();
    assert_eq!(fs::read(tree.join("1.html")).unwrap(), vec![1; 100]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nothing_needs_is_dropped_after_the_grace() {
    let mut cluster = Cluster::empty();
    let one = store(&mut cluster, 1);
    let (kept, dropped) = (site(3, 100), site(4, 100));
    for site in [&kept, &dropped] {
        let digest = site.measured.digest;
        one.artifacts
            .receive(digest, pieces(&site.bytes))
            .await
            .unwrap();
        one.artifacts.ensure(digest, &[]).await.unwrap();
    }
    let needed = BTreeSet::from([kept.measured.digest]);
    let now = SystemTime::now();
    let early = one.artifacts.collect(&needed, now).await.unwrap();
    assert_eq!(early, Default::default());
    let later = now + Duration::from_secs(3_700);
    let collected = one.artifacts.collect(&needed, later).await.unwrap();
    assert_eq!((collected.blobs, collected.trees), (1, 1));
    assert_eq!(collected.bytes, dropped.bytes.len() as u64);
    assert!(one.artifacts.has(kept.measured.digest));
    assert!(!one.artifacts.has(dropped.measured.digest));
    // The kept one's tree, manifest and marker.
    assert_eq!(entries(&one.path("trees")), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_is_compressed_once_and_goes_with_its_tree() {
    let mut cluster = Cluster::empty();
    let one = store(&mut cluster, 1);
    let dir = tempdir().unwrap();
    let css = "body { color: black }\n".repeat(200);
    let noise: Vec<u8> = (0..8_000u32)
        .flat_map(|n| blake3::hash(&n.to_le_bytes()).as_bytes()[..4].to_vec())
        .collect();
    for (path, content) in [
        ("style.css", css.as_bytes()),
        ("same.css", css.as_bytes()),
        ("own.js", css.as_bytes()),
        ("own.js.br", b"the author's"),
        ("photo.png", css.as_bytes()),
        ("noise.txt", &noise),
        ("small.css", &css.as_bytes()[..1000]),
    ] {
        fs::write(dir.path().join(path), content).unwrap();
    }
    std::os::unix::fs::symlink("style.css", dir.path().join("link.css")).unwrap();
    let mut bytes = Vec::new();
    let digest = archive::pack(&archive::scan(dir.path()).unwrap(), &mut bytes)
        .unwrap()
        .digest;
    one.artifacts.receive(digest, pieces(&bytes)).await.unwrap();
    one.artifacts.ensure(digest, &[]).await.unwrap();
    let packed = one.path(&format!("trees/{digest}.packed"));
    assert!(!packed.exists());

    one.artifacts.compress(digest);
    one.artifacts.compress(digest);
    let deadline = Instant::now() + Duration::from_secs(60);
    while !packed.exists() {
        assert!(Instant::now() < deadline, "nothing was compressed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(packed.join("index.json")).unwrap()).unwrap();
    let hash = blake3::hash(css.as_bytes()).to_hex().to_string();
    let files = index["files"].as_object().unwrap();
    assert_eq!(files.keys().collect::<Vec<_>>(), [&hash]);
    for coding in ["br", "gz", "zst"] {
        let form = fs::read(packed.join(format!("{hash}.{coding}"))).unwrap();
        assert!(form.len() < css.len() / 2);
        assert_eq!(files[&hash][coding]["size"], form.len());
        let hash = blake3::hash(&form).to_hex().to_string();
        assert_eq!(files[&hash_of(&css)][coding]["blake3"], hash);
    }
    assert_eq!(entries(&packed), 4);
    assert_eq!(entries(&one.path("tmp")), 0);
    let manifest = fs::read(one.path(&format!("trees/{digest}.manifest"))).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(manifest["links"], true);

    // Another boot: it goes and comes with the tree.
    let marker = one.path(&format!("trees/{digest}.complete"));
    fs::write(&marker, "another boot").unwrap();
    let again = one.reopen();
    assert!(!packed.exists());
    again.ensure(digest, &[]).await.unwrap();
    let later = SystemTime::now() + Duration::from_secs(3_700);
    fs::create_dir(&packed).unwrap();
    again.collect(&BTreeSet::new(), later).await.unwrap();
    assert_eq!(entries(&one.path("trees")), 0);
}

fn hash_of(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex().to_string()
}
