//! Stands in for `nodectl shim DIR` in tests, which cannot build the command line's crate.
//! Not installed with the product.

fn main() -> std::process::ExitCode {
    match std::env::args_os().nth(1) {
        Some(dir) => nebula_drivers::shim::main(std::path::Path::new(&dir)),
        None => std::process::ExitCode::from(2),
    }
}
