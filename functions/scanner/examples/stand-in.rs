//! The stand-in CLI as an executable that `cargo test` builds with this package's tests.

use std::process::ExitCode;

fn main() -> ExitCode {
    scanhook_stand_in::main()
}
