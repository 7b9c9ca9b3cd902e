//! `bruit-sim`: see [`bruit_sim::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    bruit_sim::cli::main()
}
