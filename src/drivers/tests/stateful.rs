//! What an instance finds again, and what it is told by no file.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::time::Duration;

use common::{Folder, ONE, confined, exit_of, run_of};
use nebula_domain::ids::InstanceId;
use nebula_drivers::confine::Settings;
use nebula_drivers::process::ProcessDriver;
use nebula_drivers::volume::{self, Deleted, Mount};
use nebula_drivers::{Driver, DriverError, Exit, Secrets, StartSpec};

const TWO: InstanceId = InstanceId(2);

fn mount(folder: &Folder) -> Mount {
    let dir = folder.root.path().join("volumes");
    let place = volume::place(&dir, &"db".parse().unwrap(), 0);
    Mount {
        name: "data".parse().unwrap(),
        folder: place.join("data"),
        path: "/data".into(),
    }
}

/// With the volume, as a program that is confined.
fn keeping(folder: &Folder, instance: InstanceId, command: &str) -> StartSpec {
    StartSpec {
        volumes: vec![mount(folder)],
        ..folder.confined(instance, "db", command)
    }
}

async fn run_to_end(driver: &ProcessDriver, spec: StartSpec) -> Exit {
    let instance = spec.instance;
    driver.start(spec).await.unwrap();
    exit_of(driver, instance).await
}

#[tokio::test]
async fn a_confined_program_finds_its_volume_again_and_has_it_alone() {
    if !confined::possible(&[]) {
        return;
    }
    let folder = Folder::new();
    let driver = folder.confining(Settings::default());
    let write = "[ $NEBULA_VOLUME_DATA = /data ] && echo kept > /data/file && mkdir /data/more && echo $(id -u) > uid";
    assert_eq!(
        run_to_end(&driver, keeping(&folder, ONE, write)).await,
        Exit::Code(0)
    );
    let data = mount(&folder).folder.join("data");
    assert_eq!(
        std::fs::read_to_string(data.join("file")).unwrap(),
        "kept\n"
    );

    // The next instance reads, and holds on to it.
    let hold = "[ $(cat /data/file) = kept ] && rm -r /data/more && exec sleep 1000";
    driver.start(keeping(&folder, TWO, hold)).await.unwrap();
    common::eventually("it has begun", || {
        (!data.join("more").exists()).then_some(())
    })
    .await;
    let three = InstanceId(3);
    let refused = driver.start(keeping(&folder, three, "true")).await;
    let Err(DriverError::Start(why)) = refused else {
        panic!("{refused:?}");
    };
    assert!(why.contains("'data' is in use"), "{why}");
    let (volumes, name) = (folder.root.path().join("volumes"), "db".parse().unwrap());
    let delete = || volume::delete(&volumes, (&name, 0), || true).unwrap();
    assert_eq!(delete(), Deleted::InUse, "not under a program");

    // Nor by a daemon that has come later, until the program has ended.
    drop(driver);
    let driver = folder.confining(Settings::default());
    assert!(driver.start(keeping(&folder, three, "true")).await.is_err());
    driver.stop(TWO, Duration::ZERO).await.unwrap();
    exit_of(&driver, TWO).await;
    assert_eq!(
        run_to_end(&driver, keeping(&folder, three, "true")).await,
        Exit::Code(0)
    );
    assert_eq!(delete(), Deleted::All);
    assert!(!data.exists());
}

#[tokio::test]
async fn a_volume_is_not_shown_over_what_the_node_has_there() {
    if !confined::possible(&[]) {
        return;
    }
    let folder = Folder::new();
    let driver = folder.confining(Settings::default());
    let work = folder.work(ONE);
    for path in [
        work.clone(),
        work.join("below"),
        work.parent().unwrap().to_owned(),
    ] {
        let mut spec = keeping(&folder, ONE, "true");
        spec.volumes[0].path = path;
        let refused = driver.start(spec).await.unwrap_err().to_string();
        assert!(refused.contains("'data' cannot be at"), "{refused}");
    }
}

#[tokio::test]
async fn without_a_root_of_its_own_a_program_is_told_where_its_volume_is() {
    let folder = Folder::new();
    let driver = folder.open();
    let spec = StartSpec {
        volumes: vec![mount(&folder)],
        ..folder.spec(ONE, "echo kept > $NEBULA_VOLUME_DATA/file")
    };
    assert_eq!(run_to_end(&driver, spec).await, Exit::Code(0));
    assert!(mount(&folder).folder.join("data/file").exists());
}

/// Whether any file below a folder holds the text.
fn is_written(folder: &Path, text: &str) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .any(|path| match path.is_dir() {
            true => is_written(&path, text),
            false => {
                String::from_utf8_lossy(&std::fs::read(&path).unwrap_or_default()).contains(text)
            }
        })
}

#[tokio::test]
async fn a_secret_is_in_the_environment_and_in_no_file() {
    let folder = Folder::new();
    let driver = folder.open();
    // More than a pipe takes at once.
    let long = format!("hush-{}", "x".repeat(100_000));
    let secrets = [("SHORT", "hush"), ("LONG", long.as_str())];
    let secrets = secrets.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let spec = StartSpec {
        secrets: Secrets(secrets.into()),
        ..folder.spec(
            ONE,
            "[ $SHORT = hush ] && [ ${#LONG} = 100005 ] && touch right && exec sleep 1000",
        )
    };
    assert!(!format!("{spec:?}").contains("hush"));
    driver.start(spec).await.unwrap();
    let right = folder.root.path().join("right");
    common::eventually("it has them", || right.exists().then_some(())).await;
    assert!(!is_written(folder.root.path(), "hush"));
    assert!(
        is_written(folder.root.path(), "shim"),
        "the search finds what is there"
    );
    let arguments = std::fs::read(format!("/proc/{}/cmdline", folder.shim_pid(ONE))).unwrap();
    assert!(!String::from_utf8_lossy(&arguments).contains("hush"));
    assert!(run_of(&driver, ONE).unwrap().is_running());
    driver.stop(ONE, Duration::ZERO).await.unwrap();
    exit_of(&driver, ONE).await;
}
