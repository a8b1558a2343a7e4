//! Commands beside a confined program: they see what it sees, reach no more than it does, and nothing of them outlives its time.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::confined::{one_with, possible, with};
use common::{Folder, ONE, PATIENCE, eventually, exit_of, is_gone};
use nebula_domain::isolation::Network;
use nebula_domain::observed::Surroundings;
use nebula_domain::resources::Memory;
use nebula_drivers::confine::Settings;
use nebula_drivers::process::ProcessDriver;
use nebula_drivers::{Driver as _, DriverError, Exec as _, ExecSpec, SAID_BYTES, StartSpec};

/// A number that no other test sleeps for, and that is no beginning of another, so that its process is found out here.
fn mark(n: u32) -> String {
    format!("{}.{n:03}", 1000 + std::process::id())
}

fn command(command: &str) -> ExecSpec {
    ExecSpec {
        instance: ONE,
        command: command.to_owned(),
        surroundings: Arc::new(Surroundings {
            env: [("GREETING".to_owned(), "hi".to_owned())].into(),
            node: "a".to_owned(),
        }),
        timeout: PATIENCE,
    }
}

/// A program that says that it is up, by files, and sleeps for as long as its mark says.
async fn started(folder: &Folder, n: u32, change: impl FnOnce(&mut StartSpec)) -> ProcessDriver {
    let driver = folder.confining(Settings::default());
    let program = format!(
        "echo mine >/tmp/mine; echo $$ >pid; echo up >up; exec sleep {}",
        mark(n)
    );
    let mut spec = folder.confined(ONE, "api", &program);
    change(&mut spec);
    driver.start(spec).await.unwrap();
    let up = folder.work(ONE).join("up");
    eventually("it is up", || up.exists().then_some(())).await;
    driver
}

async fn said(driver: &ProcessDriver, text: &str) -> String {
    let ended = driver.exec(command(text)).await;
    ended.map_err(|error| error.to_string()).unwrap_err()
}

/// What the kernel says of a process, of the things that confine it.
fn facts(pid: i32) -> BTreeMap<String, String> {
    let at = std::path::PathBuf::from(format!("/proc/{pid}"));
    let mut facts = BTreeMap::new();
    for name in ["user", "mnt", "pid", "ipc", "uts", "net"] {
        let link = std::fs::read_link(at.join("ns").join(name)).unwrap();
        facts.insert(name.to_owned(), link.display().to_string());
    }
    const OF_STATUS: [&str; 10] = [
        "Uid",
        "Gid",
        "Groups",
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
    ];
    let status = std::fs::read_to_string(at.join("status")).unwrap();
    for line in status.lines() {
        let (name, value) = line.split_once(':').unwrap();
        if OF_STATUS.contains(&name) {
            facts.insert(name.to_owned(), value.trim().to_owned());
        }
    }
    for name in ["cgroup", "limits"] {
        let text = std::fs::read_to_string(at.join(name)).unwrap();
        facts.insert(name.to_owned(), text);
    }
    facts
}

#[tokio::test]
async fn all_that_confines_the_program_confines_the_command() {
    if !possible(&[]) {
        return;
    }
    for (n, network) in [(1, Network::Host), (2, Network::None)] {
        let folder = Folder::new();
        let driver = started(&folder, n, |spec| {
            spec.isolation.network = network;
            spec.resources.pids = 100;
            spec.resources.memory = Some(Memory::mib(64));
        })
        .await;
        let own = mark(n + 10);
        let asked = command(&format!("exec sleep {own}"));
        let (its, beside) = tokio::select! {
            ended = driver.exec(asked) => panic!("it sleeps: {ended:?}"),
            // Here, because the command is ended with the waiting for it.
            both = async {
                let (program, beside) = (one_with(&mark(n)).await, one_with(&own).await);
                (facts(program), facts(beside))
            } => both,
        };
        let mine = facts(std::process::id() as i32);
        assert_eq!(beside, its);
        for name in ["mnt", "pid", "ipc", "uts", "Uid", "CapBnd", "cgroup"] {
            assert_ne!(its[name], mine[name], "{name}");
        }
        assert_eq!(its["net"] == mine["net"], network == Network::Host);
    }
}

#[tokio::test]
async fn a_command_sees_what_the_program_sees_and_no_more() {
    if !possible(&[]) {
        return;
    }
    let folder = Folder::new();
    let secret = folder.root.path().join("node.key");
    std::fs::write(&secret, "secret").unwrap();
    let driver = started(&folder, 20, |_| ()).await;
    let all = "test $(cat /tmp/mine) = mine && test $PWD = $HOME && test -s up && kill -0 $(cat pid) \
        && grep -q sleep /proc/$(cat pid)/comm && test $(id -un) = instance && test $GREETING$NEBULA_NODE = hia \
        && echo x >made && echo x >/dev/shm/made && test $$ -lt 100";
    driver.exec(command(all)).await.unwrap();
    assert!(folder.work(ONE).join("made").exists());
    let secret = secret.display();
    for (what, refused) in [
        (format!("cat {secret}"), "No such file"),
        ("ls /root".to_owned(), "No such file"),
        ("cat /etc/shadow".to_owned(), "No such file"),
        ("echo x >/usr/bin/x".to_owned(), "Read-only"),
        (format!("kill -0 {}", std::process::id()), "No such process"),
        ("mount -t tmpfs none /tmp".to_owned(), ""),
    ] {
        let told = said(&driver, &what).await;
        assert!(told.contains(refused), "{what}: {told}");
    }
    // What the program left there, and what the first command did.
    driver.exec(command("test -s /dev/shm/made")).await.unwrap();
    // A daemon that took the program over does the same.
    drop(driver);
    let driver = folder.confining(Settings::default());
    driver.exec(command(all)).await.unwrap();
}

#[tokio::test]
async fn nothing_of_a_command_outlives_its_time() {
    if !possible(&["/usr/bin/setsid"]) {
        return;
    }
    let folder = Folder::new();
    let driver = started(&folder, 30, |_| ()).await;
    let (near, far) = (mark(31), mark(32));
    let all = format!("sleep {near} & setsid sleep {far} & echo waiting; sleep {near}");
    let limited = ExecSpec {
        timeout: Duration::from_millis(1500),
        ..command(&all)
    };
    let told = driver.exec(limited).await.unwrap_err().to_string();
    assert_eq!(told, "the command did not end within 1500 ms: waiting");
    let none = || (with(&near).is_empty() && with(&far).is_empty()).then_some(());
    eventually("it is gone with all that it started", none).await;

    // What it leaves behind is not waited for, and goes too.
    let leaving = format!("setsid sleep {far} >/dev/null & sleep {near} & echo left >left");
    driver.exec(command(&leaving)).await.unwrap();
    eventually("what it left is gone", none).await;

    // The one who asked has gone.
    let hanging = command(&format!("exec sleep {near}"));
    let pid = tokio::select! {
        _ = driver.exec(hanging) => unreachable!("it sleeps"),
        pid = one_with(&near) => pid,
    };
    is_gone(pid).await;

    // The program has not noticed, and no process of ours is left in there: the first, the program, the command's parent,
    // its shell, `ls` and `wc`.
    assert_eq!(with(&mark(30)).len(), 1);
    let count = said(&driver, "ls -d /proc/[0-9]* | wc -l; exit 1").await;
    assert!(count.parse::<u32>().unwrap() <= 6, "{count}");
}

#[tokio::test]
async fn what_a_command_says_is_bounded_and_its_end_is_told() {
    if !possible(&[]) {
        return;
    }
    let folder = Folder::new();
    let driver = started(&folder, 40, |_| ()).await;
    let much = said(&driver, "yes | head -c 3000000; echo last >&2; exit 1").await;
    assert_eq!(much, "y | y | last");
    let long = said(&driver, "head -c 100000 /dev/zero | tr '\\0' x; exit 1").await;
    assert_eq!(long, "x".repeat(SAID_BYTES));
    assert_eq!(said(&driver, "exit 3").await, "exited with code 3");
    assert_eq!(said(&driver, "kill -9 $$").await, "killed by SIGKILL");
}

#[tokio::test]
async fn the_end_of_the_instance_is_the_commands_end() {
    if !possible(&[]) {
        return;
    }
    let folder = Folder::new();
    let driver = started(&folder, 50, |_| ()).await;
    let own = mark(51);
    let asked = command(&format!("exec sleep {own}"));
    let stop = async {
        one_with(&own).await;
        driver.stop(ONE, PATIENCE).await.unwrap();
        exit_of(&driver, ONE).await;
    };
    let (ended, ()) = tokio::join!(driver.exec(asked), stop);
    let told = ended.unwrap_err().to_string();
    assert_eq!(told, "killed by SIGKILL");
    assert!(with(&own).is_empty());
    let ended = driver.exec(command("true")).await;
    assert!(
        matches!(ended, Err(DriverError::NotRunning(ONE))),
        "{ended:?}"
    );
    // Nothing is left that the node would have to clean up.
    let group = std::fs::read_to_string("/proc/mounts").unwrap();
    let pids = group
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .find(|at| at.ends_with("/pids"));
    if let Some(pids) = pids {
        let folder = std::fs::metadata(folder.instances()).unwrap();
        use std::os::unix::fs::MetadataExt as _;
        let node = format!("{pids}/nebula/{:x}-{:x}/i-1", folder.dev(), folder.ino());
        let node = std::path::Path::new(&node);
        eventually("its control group is gone", || {
            (!node.exists()).then_some(())
        })
        .await;
    }
}
