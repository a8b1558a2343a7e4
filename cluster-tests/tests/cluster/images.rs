//! Promise: a container image is deployed from an archive, runs on every node with its own files and environment, and is
//! updated like any other release. The archive is made here, of files of this machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use nebula_cluster_tests::cluster::DEADLINE;
use nebula_cluster_tests::wait::holds;
use nebula_cluster_tests::{Cluster, binaries, eventually, http};

const HOST: &str = "shop.example.test";

/// Makes what `docker save` would: the files below a folder as one layer, and a configuration.
const SAVE: &str = r#"
import hashlib, io, json, platform, sys, tarfile
root, out, greeting = sys.argv[1:]
def pack(fill):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        fill(archive)
    return file.getvalue()
def whole(archive):
    archive.add(root, arcname=".")
layer = pack(whole)
machine = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
config = json.dumps({
    "architecture": machine, "os": "linux",
    "config": {"Entrypoint": ["/app/echo-service"], "WorkingDir": "/app", "User": "shop",
        "Env": ["GREETING=" + greeting]},
    "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
}).encode()
manifest = json.dumps([{"Config": "config.json", "RepoTags": ["shop:" + greeting], "Layers": ["layer.tar"]}])
def image(archive):
    for name, data in [("config.json", config), ("manifest.json", manifest.encode()), ("layer.tar", layer)]:
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
open(out, "wb").write(pack(image))
"#;

/// The echo service and the libraries that it needs.
fn root(cluster: &Cluster) -> PathBuf {
    let root = cluster.scratch("root");
    let put = |from: &Path, to: &Path| {
        let to = root.join(to.strip_prefix("/").unwrap());
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(from, to).unwrap();
    };
    let program = binaries::path("echo-service");
    put(&program, Path::new("/app/echo-service"));
    let needs = Command::new("ldd").arg(&program).output().unwrap();
    let needs = String::from_utf8(needs.stdout).unwrap();
    for library in needs
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
    {
        put(Path::new(library), Path::new(library));
    }
    root
}

fn save(cluster: &Cluster, root: &Path, greeting: &str) -> String {
    let out = cluster.scratch("images").join(format!("{greeting}.tar"));
    let made = Command::new("python3")
        .args(["-c", SAVE])
        .args([root, &out])
        .arg(greeting)
        .status();
    assert!(made.unwrap().success());
    out.to_str().unwrap().to_owned()
}

fn all_say(cluster: &Cluster, greeting: &str) {
    for edge in cluster.edges() {
        eventually(DEADLINE, "the image's program answers", || {
            let answer = http::get(edge, HOST, "/").map_err(|e| e.to_string())?;
            holds(answer.text().contains(greeting), answer.text())
        });
    }
}

#[test]
fn an_image_is_deployed_on_three_nodes_and_updated() {
    let has = |program: &str| binaries::works(program, &["--version"]);
    let missing = (!has("python3") || !has("ldd")).then_some("'python3' or 'ldd' is not installed");
    if !binaries::unless_missing(missing) {
        return;
    }
    let cluster = Cluster::start(3);
    let root = root(&cluster);
    let (first, second) = (
        save(&cluster, &root, "first"),
        save(&cluster, &root, "second"),
    );
    let create = [
        "deploy",
        "create",
        "shop",
        "--tld",
        "example.test",
        "--timeout",
        "60s",
    ];
    cluster
        .nebula(&[&create[..], &["--image", "shop:latest"]].concat())
        .fails(2, "'shop:latest' is no file");
    cluster
        .nebula(&[&create[..], &["--image", &first, "--path", "."]].concat())
        .fails(2, "cannot be used with");

    cluster
        .nebula(&[&create[..], &["--image", &first, "--instances", "3"]].concat())
        .ok();
    all_say(&cluster, "first");
    let status = cluster.status("shop");
    assert_eq!(status["spec"]["image"]["name"], "shop:first", "{status}");
    let digest = status["spec"]["image"]["digest"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(digest.starts_with("sha256:"), "{status}");
    let told = cluster.nebula(&["deploy", "status", "shop"]).ok();
    assert!(
        told.stdout
            .contains(&format!("image: shop:first ({digest})")),
        "{told}"
    );
    let log = cluster.nebula(&["deploy", "logs", "shop"]).ok();
    assert!(
        log.stdout.contains("the image asks for user 'shop'"),
        "{log}"
    );

    // The deployment's own words go before the image's.
    cluster
        .nebula(&[
            "deploy",
            "update",
            "shop",
            "--image",
            &second,
            "--timeout",
            "60s",
        ])
        .ok();
    all_say(&cluster, "second");
    let diff = cluster.nebula(&["deploy", "diff", "shop", "1", "2"]).ok();
    assert!(
        diff.stdout
            .contains("image.name: shop:first -> shop:second"),
        "{diff}"
    );
    let history = cluster.nebula(&["deploy", "history", "shop"]).ok();
    assert!(history.stdout.contains("shop:second"), "{history}");
    cluster
        .nebula(&[
            "deploy",
            "update",
            "shop",
            "--env",
            "GREETING=ours",
            "--timeout",
            "60s",
        ])
        .ok();
    all_say(&cluster, "ours");

    // The same as a file.
    let folder = cluster.scratch("file");
    let text =
        format!("name = \"shop\"\nimage = \"{first}\"\ntld = \"example.test\"\ninstances = 3\n");
    std::fs::write(folder.join("nebula.toml"), text).unwrap();
    let file = folder.join("nebula.toml");
    let file = ["-f", file.to_str().unwrap()];
    let plan = cluster
        .nebula(&[&["deploy", "plan"], &file[..]].concat())
        .ok();
    assert!(plan.stdout.contains("image.name"), "{plan}");
    cluster
        .nebula(&[&["deploy", "apply", "--timeout", "60s"], &file[..]].concat())
        .ok();
    all_say(&cluster, "first");
    let plan = cluster
        .nebula(&[&["deploy", "plan"], &file[..]].concat())
        .ok();
    assert!(plan.stdout.contains("nothing would change"), "{plan}");
}
