//! Promise: the completions that the programs print work in a shell.

use std::process::Command;

use nebula_cluster_tests::{binaries, command};

/// What bash offers after `words`, the last of which is being typed.
fn offered(program: &str, words: &[&str]) -> String {
    let script = r#"
set -eu
source <("$1" completions bash)
name="${1##*/}"
shift
COMP_WORDS=("$name" "$@")
COMP_CWORD=$#
"_$name" "$name" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
echo "${COMPREPLY[@]}"
"#;
    let mut bash = Command::new("bash");
    bash.args(["--norc", "-c", script, "bash"])
        .arg(binaries::path(program))
        .args(words);
    command::run(bash).ok().stdout
}

#[test]
fn bash_completes_commands_and_flags() {
    assert_eq!(offered("nebula", &["deploy", "cr"]).trim(), "create");
    assert_eq!(offered("nodectl", &["mem"]).trim(), "members");
    let flags = offered("nebula", &["deploy", "update", "api", "--unset"]);
    assert_eq!(flags.trim(), "--unset-env --unset-name --unset-basic-auth");
}
