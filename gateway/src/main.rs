//! `depin-gateway`: see the library.

use clap::Parser as _;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os();
    // `depin-gateway ledger …` keeps the record of a stopped gateway; everything else runs one.
    if arguments.nth(1).is_some_and(|first| first == "ledger") {
        return depin_gateway::run_ledger(depin_gateway::LedgerOptions::parse_from(std::env::args_os().skip(1)));
    }
    depin_gateway::run(depin_gateway::Options::parse())
}
