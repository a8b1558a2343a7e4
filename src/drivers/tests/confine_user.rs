//! Confinement by a daemon of a normal user, as developers run it: what can be had is, and the rest is told.
#![allow(clippy::unwrap_used)]

mod common;

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use common::confined::text;
use common::{Folder, ONE, exit_of, run_of};
use nebula_domain::isolation::Profile;
use nebula_domain::resources::{Memory, Resources};
use nebula_drivers::confine::{Controls, Kind, Settings};
use nebula_drivers::{Driver as _, Exec as _, ExecSpec, Exit, StartSpec};

/// Nobody's on this machine.
const USER: u32 = 64_321;
/// What the test is to expect, for the copy of it that is another user.
const INSIDE: &str = "NEBULA_TEST_INSIDE";

fn inside() -> Option<String> {
    std::env::var(INSIDE).ok()
}

/// Runs one test of this file again as a normal user; in a chroot there can be no user namespace (clone(2)).
fn again(test: &str, kind: &str) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: root is needed to be another user for a while");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let open = |path: &Path| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    open(folder.path());
    let copy = |from: &Path, name: &str| {
        let to = folder.path().join(name);
        std::fs::copy(from, &to).unwrap();
        open(&to);
        to
    };
    // Where they were built may be closed to others.
    let program = copy(&std::env::current_exe().unwrap(), "test");
    let shim = copy(common::shim().as_ref(), "shim");
    let own = folder.path().join("own");
    std::fs::create_dir(&own).unwrap();
    std::os::unix::fs::chown(&own, Some(USER), Some(USER)).unwrap();
    let root = folder.path().join("root");
    std::fs::create_dir(&root).unwrap();

    let mut command = if kind == "chroot" {
        let mut command = Command::new("unshare");
        let script = "mount --rbind / \"$ROOT\" && exec chroot --userspec=$USER:$USER --groups= \"$ROOT\" \"$@\"";
        command.args(["--mount", "sh", "-c", script, "sh"]);
        command.env("ROOT", &root).env("USER", USER.to_string());
        command.arg(&program);
        command
    } else {
        let mut command = Command::new(&program);
        command.uid(USER).gid(USER);
        command
    };
    let output = command
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, kind)
        .env("NEBULA_TEST_SHIM", shim)
        .env("TMPDIR", &own)
        .env("HOME", &own)
        .current_dir("/")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{error}");
    assert!(said.contains("1 passed"), "{said}");
}

async fn isolation(folder: &Folder, profile: Profile, command: &str) -> Controls {
    let driver = folder.confining(Settings::default());
    let mut spec = folder.confined(ONE, "api", command);
    spec.isolation.profile = profile;
    let resources = Resources {
        memory: Some(Memory::mib(64)),
        ..Resources::default()
    };
    let with_memory = profile == Profile::Default;
    driver
        .start(StartSpec {
            resources: if with_memory {
                resources
            } else {
                Resources::default()
            },
            ..spec
        })
        .await
        .unwrap();
    let exit = exit_of(&driver, ONE).await;
    assert_eq!(exit, Exit::Code(0), "{:#?}", folder.lines(ONE));
    run_of(&driver, ONE).unwrap().isolation
}

const COMMAND: &str = "echo x >made && cat made; id -u; cat \"$SECRET\" 2>/dev/null || echo refused; \
    ls -d /proc/[0-9]* | wc -l; grep NoNewPrivs /proc/self/status | cut -f2; echo y >/tmp/y && cat /tmp/y";

#[tokio::test]
async fn with_user_namespaces() {
    if inside().is_none() {
        return again("with_user_namespaces", "plain");
    }
    let folder = Folder::new();
    let secret = folder.root.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    let command = COMMAND.replace("$SECRET", secret.to_str().unwrap());
    let held = isolation(&folder, Profile::Default, &command).await;
    let lines = folder.lines(ONE);
    let lines = text(&lines);
    assert_eq!(lines[..3], ["x", &USER.to_string(), "refused"]);
    let processes: u32 = lines[3].parse().unwrap();
    assert!(processes < 10, "{processes}");
    assert_eq!(lines[4..], ["1", "y"]);
    for kind in [
        Kind::Namespaces,
        Kind::Root,
        Kind::Privileges,
        Kind::Seccomp,
        Kind::Pids,
        Kind::Files,
    ] {
        assert!(held.holds(kind), "{kind}: {held:?}");
    }
    // Told, not refused.
    let missing: Vec<Kind> = held.missing().map(|control| control.kind).collect();
    assert_eq!(missing, [Kind::Memory, Kind::User, Kind::Firewall]);

    let folder = Folder::new();
    isolation(&folder, Profile::Strict, "true").await;
    let driver = folder.confining(Settings::default());
    let mut spec = folder.confined(ONE, "api", "true");
    spec.isolation.profile = Profile::Strict;
    spec.resources.memory = Some(Memory::mib(64));
    spec.run = 2;
    let error = driver.start(spec).await.unwrap_err().to_string();
    assert!(error.contains("memory limit"), "{error}");
}

#[tokio::test]
async fn without_user_namespaces() {
    if inside().is_none() {
        return again("without_user_namespaces", "chroot");
    }
    let folder = Folder::new();
    let secret = std::env::var("HOME").unwrap() + "/secret";
    std::fs::write(&secret, "secret").unwrap();
    // Landlock leaves /tmp to everybody: what is to be refused lies elsewhere only if the test's folder does.
    let command = COMMAND.replace("$SECRET", "/var/log/none");
    let held = isolation(&folder, Profile::Default, &command).await;
    let lines = folder.lines(ONE);
    assert_eq!(text(&lines)[..3], ["x", &USER.to_string(), "refused"]);
    for kind in [Kind::Privileges, Kind::Seccomp] {
        assert!(held.holds(kind), "{kind}: {held:?}");
    }
    let missing: Vec<Kind> = held.missing().map(|control| control.kind).collect();
    for kind in [
        Kind::Memory,
        Kind::Pids,
        Kind::Namespaces,
        Kind::User,
        Kind::Root,
    ] {
        assert!(missing.contains(&kind), "{kind}: {held:?}");
    }

    let driver = folder.confining(Settings::default());
    let mut spec = folder.confined(ONE, "api", "true");
    spec.isolation.profile = Profile::Strict;
    spec.run = 2;
    let error = driver.start(spec).await.unwrap_err().to_string();
    assert!(
        error.starts_with("this machine does not give the "),
        "{error}"
    );
}

/// A command beside a program of this user: namespaces of users are joined by whoever made them.
#[tokio::test]
async fn a_command_beside_the_program() {
    if inside().is_none() {
        return again("a_command_beside_the_program", "plain");
    }
    let folder = Folder::new();
    let secret = folder.root.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    let driver = folder.confining(Settings::default());
    let spec = folder.confined(
        ONE,
        "api",
        "echo mine >/tmp/mine; echo up >up; exec sleep 1000",
    );
    driver.start(spec).await.unwrap();
    let up = folder.work(ONE).join("up");
    common::eventually("it is up", || up.exists().then_some(())).await;
    let asked = |command: String| ExecSpec {
        instance: ONE,
        command,
        surroundings: Default::default(),
        timeout: common::PATIENCE,
    };
    let held = run_of(&driver, ONE).unwrap().isolation;
    assert!(held.holds(Kind::Namespaces), "{held:?}");
    let all = "test $(cat /tmp/mine) = mine && test -s up && grep -q nebula-init /proc/1/comm && echo x >made";
    driver.exec(asked(all.to_owned())).await.unwrap();
    let read = format!("cat {}", secret.display());
    let told = driver.exec(asked(read)).await.unwrap_err().to_string();
    assert!(told.contains("No such file"), "{told}");
}
