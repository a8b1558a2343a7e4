//! Where the programs under test are: beside the test's own executable, built by the same cargo.

use std::path::PathBuf;
use std::process::Command;
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
fn build() {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let folder = folder();
        let target = folder.parent().expect("target/<profile> has a parent");
        let mut command = Command::new(cargo);
        command.args([
            "build",
            "--quiet",
            "--locked",
            "-p",
            "nebula-cli",
            "-p",
            "nebula-cluster-tests",
            "--bins",
        ]);
        command
            .arg("--target-dir")
            .arg(target)
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        if folder.ends_with("release") {
            command.arg("--release");
        }
        let status = command.status().expect("cargo runs");
        assert!(status.success(), "the programs under test do not build");
    });
}

/// One program of the workspace.
pub fn path(name: &str) -> PathBuf {
    build();
    folder().join(name)
}
