//! Where the programs under test are: beside the test's own executable, built by the same cargo.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// `target/<profile>`.
fn folder() -> PathBuf {
    let exe = std::env::current_exe().expect("a test knows its own executable");
    let folder = exe.parent().expect("an executable lies in a folder");
    // Tests lie in target/<profile>/deps, programs of this package in target/<profile>.
    let folder = if folder.ends_with("deps") {
        folder.parent().expect("deps has a parent")
    } else {
        folder
    };
    folder.to_owned()
}

/// Brings the programs up to date: `cargo test` does not build another package's programs.
fn build(which: &[&str]) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let folder = folder();
    let target = folder.parent().expect("target/<profile> has a parent");
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--locked"]);
    command.args(["-p", "nebula-cli", "-p", "nebula-cluster-tests"]);
    command.args(["--features", "nebula-cluster-tests/as-tested"]);
    command
        .args(which)
        .arg("--target-dir")
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    if folder.ends_with("release") {
        command.arg("--release");
    }
    // What cargo says of this test's package is none of the other packages' business: build scripts that look at it
    // (ring's) would be run again, and everything upon them built again, once here and once by the next `cargo test`.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    let status = command.status().expect("cargo runs");
    assert!(status.success(), "the programs under test do not build");
}

/// One program of the workspace, or of the folder that `NEBULA_TEST_BINARIES` names: an installed build.
pub fn path(name: &str) -> PathBuf {
    if let Some(installed) = std::env::var_os("NEBULA_TEST_BINARIES") {
        return PathBuf::from(installed).join(name);
    }
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| build(&["--bins"]));
    folder().join(name)
}

/// One of the programs that have named fault points: `nodectl-fault-points` and `raft-store`.
pub fn with_fault_points(name: &str) -> PathBuf {
    if let Some(installed) = std::env::var_os("NEBULA_TEST_BINARIES") {
        return PathBuf::from(installed).join(name);
    }
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        let features = "nebula-cli/fault-points,nebula-cluster-tests/fault-points";
        let bins = ["--bin", "nodectl-fault-points", "--bin", "raft-store"];
        build(&[&["--features", features][..], &bins].concat());
    });
    folder().join(name)
}

/// Whether a test can run: says `skipped` and why when something is missing, which is a failure when
/// `NEBULA_TESTS_REQUIRE_TOOLS` is set, as it is in CI.
pub fn unless_missing(missing: Option<&str>) -> bool {
    if let Some(reason) = missing {
        assert!(
            std::env::var_os("NEBULA_TESTS_REQUIRE_TOOLS").is_none(),
            "cannot run: {reason}"
        );
        eprintln!("skipped: {reason}");
    }
    missing.is_none()
}

/// Whether a program of this machine can be run.
pub fn works(program: &str, args: &[&str]) -> bool {
    Command::new(program)
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

/// The library that makes a daemon live in another time (Debian package `faketime`), unless it is missing here.
pub fn time_machine() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib")
        .into_iter()
        .flatten()
        .flatten();
    let libraries = folders.map(|folder| folder.path().join("faketime/libfaketime.so.1"));
    let library = libraries.into_iter().find(|path| path.exists());
    let missing = library
        .is_none()
        .then_some("libfaketime (Debian package 'faketime') is not installed");
    unless_missing(missing).then_some(library).flatten()
}
