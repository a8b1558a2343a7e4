//! `nodectl` whose daemon ends at a named point that a test asks for.

fn main() -> std::process::ExitCode {
    nebula_cli::nodectl()
}
