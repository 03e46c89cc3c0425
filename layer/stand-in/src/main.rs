//! The stand-in as an executable of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    scanhook_stand_in::main()
}
