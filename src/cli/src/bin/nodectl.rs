//! `nodectl`: make machines members of a cluster, and run the daemon.

fn main() -> std::process::ExitCode {
    nebula_cli::nodectl()
}
