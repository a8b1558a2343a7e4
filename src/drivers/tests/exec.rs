//! Commands beside a program, as exec probes run them.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Folder, ONE, PATIENCE, is_gone};
use nebula_domain::observed::Surroundings;
use nebula_drivers::process::ProcessDriver;
use nebula_drivers::{Driver, DriverError, Exec, ExecSpec, StartSpec};

fn command(command: &str, timeout: Duration) -> ExecSpec {
    ExecSpec {
        instance: ONE,
        command: command.to_owned(),
        surroundings: Arc::new(Surroundings {
            env: [("GREETING".to_owned(), "hi".to_owned())].into(),
            node: "a".to_owned(),
        }),
        timeout,
    }
}

async fn said(driver: &ProcessDriver, text: &str) -> String {
    let ended = driver.exec(command(text, PATIENCE)).await;
    ended.map_err(|error| error.to_string()).unwrap_err()
}

async fn started(folder: &Folder) -> ProcessDriver {
    let driver = folder.open();
    let spec = StartSpec {
        env: [("GREETING".to_owned(), "hi".to_owned())].into(),
        ..folder.spec(ONE, "exec sleep 1000")
    };
    driver.start(spec).await.unwrap();
    driver
}

#[tokio::test]
async fn a_command_runs_as_the_program_does_and_its_last_lines_are_the_reason() {
    let folder = Folder::new();
    let driver = started(&folder).await;
    driver.exec(command("true", PATIENCE)).await.unwrap();
    let root = folder.root.path().canonicalize().unwrap();
    let expected = format!("{} 20001 hi api i-1 r3 a", root.display());
    let show = "echo $(pwd -P) $PORT $GREETING $NEBULA_DEPLOYMENT $NEBULA_INSTANCE $NEBULA_RELEASE $NEBULA_NODE; exit 1";
    assert_eq!(said(&driver, show).await, expected);
    assert_eq!(
        said(&driver, "echo >&2; echo why >&2; echo more; exit 2").await,
        "why | more"
    );
    assert_eq!(said(&driver, "exit 3").await, "exited with code 3");
    assert_eq!(said(&driver, "kill -9 $$").await, "killed by SIGKILL");
    // More than a pipe holds.
    let much = said(&driver, "yes | head -c 1000000; exit 1").await;
    assert_eq!(much, "y | y | y");
    // A daemon that took the program over does the same.
    drop(driver);
    let driver = folder.open();
    assert_eq!(said(&driver, show).await, expected);
}

#[tokio::test]
async fn nothing_of_a_command_outlives_it() {
    let folder = Folder::new();
    let driver = started(&folder).await;
    let begun = Instant::now();
    let limit = Duration::from_millis(1500);
    let hanging = command(
        "sleep 1000 & echo $! > late; setsid sh -c 'echo $$ > away; exec sleep 1000' & echo waiting; sleep 1000",
        limit,
    );
    let ended = driver.exec(hanging).await;
    let told = ended.unwrap_err().to_string();
    assert_eq!(told, "the command did not end within 1500 ms: waiting");
    assert!(begun.elapsed() < PATIENCE);
    is_gone(folder.number("late").await).await;
    is_gone(folder.number("away").await).await;

    // What it leaves behind holds its output open, and is not waited for.
    let leaving = command(
        "sleep 1000 & echo $! > left; setsid sh -c 'echo $$ > far; exec sleep 1000' & while ! test -s far; do sleep 0.01; done",
        PATIENCE,
    );
    driver.exec(leaving).await.unwrap();
    is_gone(folder.number("left").await).await;
    is_gone(folder.number("far").await).await;

    // The one who asked has gone.
    let abandoned = command("echo $$ > gone; sleep 1000", PATIENCE);
    let pid = tokio::select! {
        _ = driver.exec(abandoned) => unreachable!("it sleeps"),
        pid = folder.number("gone") => pid,
    };
    is_gone(pid).await;
}

#[tokio::test]
async fn there_has_to_be_a_program() {
    let folder = Folder::new();
    let driver = folder.open();
    let ended = driver.exec(command("true", PATIENCE)).await;
    assert!(
        matches!(ended, Err(DriverError::NotRunning(ONE))),
        "{ended:?}"
    );
    let driver = {
        drop(driver);
        started(&folder).await
    };
    driver.stop(ONE, PATIENCE).await.unwrap();
    common::exit_of(&driver, ONE).await;
    let ended = driver.exec(command("true", PATIENCE)).await;
    assert!(
        matches!(ended, Err(DriverError::NotRunning(ONE))),
        "{ended:?}"
    );
}
