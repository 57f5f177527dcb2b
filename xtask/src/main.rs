//! `cargo xtask`: the project's commands. See `cargo xtask --help`.

use clap::Parser as _;

fn main() -> anyhow::Result<std::process::ExitCode> {
    xtask::run(xtask::Arguments::parse())
}
