//! The `bruit` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    bruit::cli::main(std::env::args_os())
}
