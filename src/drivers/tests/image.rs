//! Programs that bring their files along: they see those and none of the machine's, and write where the instance may.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use common::confined::{possible, text};
use common::{Folder, ONE, exit_of};
use nebula_domain::isolation::{Isolation, Profile};
use nebula_drivers::confine::{Mode, Settings};
use nebula_drivers::volume::Mount;
use nebula_drivers::{Driver as _, Exit, Image, StartSpec};

const TOOLS: [&str; 2] = ["/usr/bin/id", "/usr/bin/ldd"];

/// A root folder with a shell, what it needs, and one more file.
fn root(folder: &Folder) -> PathBuf {
    let root = folder.root.path().join("image");
    let put = |path: &Path| {
        let to = root.join(path.strip_prefix("/").unwrap());
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(path, to).unwrap();
    };
    for program in ["/bin/sh", "/bin/ls", "/bin/cat", "/usr/bin/id"] {
        put(Path::new(program));
        let needs = std::process::Command::new("ldd")
            .arg(program)
            .output()
            .unwrap();
        let needs = String::from_utf8(needs.stdout).unwrap();
        let paths = needs
            .split_whitespace()
            .filter(|word| word.starts_with('/'));
        paths.for_each(|path| put(Path::new(path)));
    }
    for dir in ["etc", "srv/app", "var/tmp", "var/lib", "proc", "opt"] {
        std::fs::create_dir_all(root.join(dir)).unwrap();
    }
    std::fs::write(
        root.join("etc/passwd"),
        "root:x:0:0::/:/bin/sh\napp:x:7:7::/:",
    )
    .unwrap();
    std::fs::write(root.join("etc/of-image"), "yes").unwrap();
    symlink("/etc", root.join("etc/everything")).unwrap();
    symlink("run", root.join("var/run")).unwrap();
    root
}

fn started(folder: &Folder, command: &str) -> StartSpec {
    let words = ["/bin/sh", "-c", "echo entry; echo \"$GREETING $KEPT\""];
    let env = [
        ("GREETING", "image"),
        ("KEPT", "kept"),
        ("PATH", "/bin:/usr/bin"),
    ];
    let image = Image {
        root: root(folder),
        workdir: "/srv/app".into(),
        entry: words.map(str::to_owned).to_vec(),
        env: env.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
    };
    let mut spec = folder.confined(ONE, "web", command);
    spec.env = BTreeMap::from([("GREETING".to_owned(), "deployment".to_owned())]);
    spec.image = Some(image);
    std::fs::write(spec.workdir.join("own"), "own").unwrap();
    spec
}

async fn lines(folder: &Folder, spec: StartSpec) -> (Exit, Vec<String>) {
    let driver = folder.confining(Settings::default());
    driver.start(spec).await.unwrap();
    let exit = exit_of(&driver, ONE).await;
    let lines = folder.lines(ONE);
    (exit, text(&lines).into_iter().map(str::to_owned).collect())
}

#[tokio::test]
async fn it_sees_the_image_and_nothing_of_the_machine() {
    if !possible(&TOOLS) {
        return;
    }
    let folder = Folder::new();
    let script = "pwd; cat own; echo; echo $HOME; cat /etc/of-image; echo; \
        ls /usr/bin/python3 /root /home /sys/class 2>/dev/null; echo none; \
        ls /; cat /etc/passwd; ls -d /etc/everything/of-image; cat /etc/resolv.conf >/dev/null && echo resolves";
    let (exit, said) = lines(&folder, started(&folder, script)).await;
    let said: Vec<&str> = said.iter().map(String::as_str).collect();
    assert_eq!(exit, Exit::Code(0), "{said:#?}");
    assert_eq!(said[..4], ["/srv/app", "own", "/srv/app", "yes"]);
    assert_eq!(said[4], "none", "{said:#?}");
    for name in [
        "bin", "dev", "etc", "opt", "proc", "run", "srv", "tmp", "var",
    ] {
        assert!(said.contains(&name), "{name}: {said:#?}");
    }
    for name in ["root", "home", "sys", "boot", "mnt"] {
        assert!(!said.contains(&name), "{name}: {said:#?}");
    }
    assert!(said.contains(&"app:x:7:7::/:"), "{said:#?}");
    assert!(
        said.iter().any(|line| line.starts_with("instance:x:")),
        "{said:#?}"
    );
    assert!(said.contains(&"/etc/everything/of-image"), "{said:#?}");
}

#[tokio::test]
async fn its_own_program_runs_with_its_environment_unless_the_deployment_says_otherwise() {
    if !possible(&TOOLS) {
        return;
    }
    let folder = Folder::new();
    let (exit, said) = lines(&folder, started(&folder, "")).await;
    assert_eq!(
        (exit, said),
        (
            Exit::Code(0),
            vec!["entry".to_owned(), "deployment kept".to_owned()]
        )
    );

    let folder = Folder::new();
    let mut spec = started(&folder, "");
    spec.image.as_mut().unwrap().entry = vec!["nothing".to_owned()];
    let driver = folder.confining(Settings::default());
    let error = driver.start(spec).await.unwrap_err().to_string();
    assert!(
        error.contains("cannot start nothing in /srv/app"),
        "{error}"
    );
}

#[tokio::test]
async fn it_writes_where_the_instance_may_and_the_image_stays_as_it_is() {
    if !possible(&TOOLS) {
        return;
    }
    let folder = Folder::new();
    let script = "for at in /srv/app /tmp /var/tmp /run /dev/shm /var/lib/db /srv/app/inner; do \
            echo x >$at/file && echo \"$at is writable\"; done; \
        for at in /etc /usr /opt /var/lib / /bin /srv; do \
            (echo x >$at/file) 2>/dev/null && echo \"$at is writable too\"; done; \
        echo $NEBULA_VOLUME_DATA; exit 0";
    let mut spec = started(&folder, script);
    let mount = |name: &str, path: &str| Mount {
        name: name.parse().unwrap(),
        folder: folder.root.path().join("volumes").join(name),
        path: path.into(),
    };
    spec.volumes = vec![
        mount("data", "/var/lib/db"),
        mount("inner", "/srv/app/inner"),
    ];
    let (image, work) = (spec.image.clone().unwrap().root, spec.workdir.clone());
    let (exit, said) = lines(&folder, spec).await;
    let writable: Vec<&String> = said.iter().filter(|l| l.ends_with("writable")).collect();
    assert_eq!((exit, writable.len()), (Exit::Code(0), 7), "{said:#?}");
    assert!(!said.iter().any(|line| line.ends_with("too")), "{said:#?}");
    assert_eq!(said.last().unwrap(), "/var/lib/db");
    assert_eq!(std::fs::read(work.join("file")).unwrap(), b"x\n");
    for volume in ["data", "inner"] {
        let file = folder
            .root
            .path()
            .join("volumes")
            .join(volume)
            .join("data/file");
        assert!(file.exists(), "{volume}");
    }
    for path in [
        "srv/app/file",
        "var/tmp/file",
        "var/lib/db/file",
        "run",
        "tmp",
    ] {
        assert!(!image.join(path).exists(), "{path}");
    }
}

#[tokio::test]
async fn links_of_the_image_lead_no_mount_out_of_it() {
    if !possible(&TOOLS) {
        return;
    }
    let folder = Folder::new();
    let outside = folder.root.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let mut spec = started(&folder, "echo ran");
    let image = spec.image.as_mut().unwrap();
    symlink(&outside, image.root.join("leads")).unwrap();
    image.workdir = "/leads/app".into();
    let driver = folder.confining(Settings::default());
    let error = driver.start(spec).await.unwrap_err().to_string();
    assert!(
        error.contains("/leads is no folder in the image"),
        "{error}"
    );
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
}

#[tokio::test]
async fn a_folder_of_the_image_that_is_a_link_shows_nothing_of_the_machine() {
    if !possible(&TOOLS) {
        return;
    }
    let folder = Folder::new();
    let outside = folder.root.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("passwd"), "outside:x:1:1::/:/bin/sh\n").unwrap();
    let spec = started(&folder, "cat /etc/passwd");
    let etc = spec.image.as_ref().unwrap().root.join("etc");
    std::fs::remove_dir_all(&etc).unwrap();
    symlink(&outside, &etc).unwrap();
    let driver = folder.confining(Settings::default());
    driver.start(spec).await.unwrap();
    assert_eq!(exit_of(&driver, ONE).await, Exit::Code(0));
    let lines = folder.lines(ONE).join("\n");
    assert!(lines.contains("root:x:0:0"), "{lines}");
    assert!(!lines.contains("outside"), "{lines}");
}

#[tokio::test]
async fn without_isolation_it_does_not_run() {
    let folder = Folder::new();
    for (mode, profile) in [(Mode::Off, Profile::Default), (Mode::Auto, Profile::None)] {
        let mut spec = folder.confined(ONE, "web", "echo ran");
        spec.isolation = Isolation {
            profile,
            ..Isolation::default()
        };
        spec.image = Some(Image {
            root: "/".into(),
            workdir: "/nebula".into(),
            entry: vec![],
            env: BTreeMap::new(),
        });
        let settings = Settings {
            mode,
            ..Settings::default()
        };
        let error = folder
            .confining(settings)
            .start(spec)
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("images need a node that isolates"),
            "{error}"
        );
    }
}
