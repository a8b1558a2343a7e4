//! `nebula`: deploy and look after applications.

fn main() -> std::process::ExitCode {
    nebula_cli::nebula()
}
