//! `depin-gateway`: see the library.

use clap::Parser as _;

fn main() -> anyhow::Result<()> {
    depin_gateway::run(depin_gateway::Options::parse())
}
