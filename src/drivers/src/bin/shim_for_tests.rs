//! Stands in for `nodectl shim DIR [--beside]` in tests, which cannot build the command line's crate.
//! Not installed with the product.

fn main() -> std::process::ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match arguments.as_slice() {
        [dir] => nebula_drivers::shim::main(dir.as_ref()),
        [dir, flag] if flag == "--beside" => nebula_drivers::shim::beside::main(dir.as_ref()),
        _ => std::process::ExitCode::from(2),
    }
}
