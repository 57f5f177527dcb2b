//! `depin-agent`: see the library.

use clap::Parser as _;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    // `depin-agent receipts …` reads the journal of a stopped agent; everything else runs one.
    if std::env::args_os().nth(1).is_some_and(|first| first == "receipts") {
        let options = depin_agent::ReceiptsOptions::parse_from(std::env::args_os().skip(1));
        return depin_agent::run_receipts(&options);
    }
    depin_agent::run().await
}
