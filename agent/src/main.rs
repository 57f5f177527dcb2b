//! `depin-agent`: see the library.

use clap::Parser as _;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    // `depin-agent receipts …` reads the journal of a stopped agent, `prepare` readies a directory for one; everything else runs one.
    match std::env::args_os().nth(1).as_deref().and_then(std::ffi::OsStr::to_str) {
        Some("receipts") => {
            let options = depin_agent::ReceiptsOptions::parse_from(std::env::args_os().skip(1));
            depin_agent::run_receipts(&options)
        }
        Some("prepare") => {
            let options = depin_agent::PrepareOptions::parse_from(std::env::args_os().skip(1));
            depin_agent::run_prepare(&options)
        }
        _ => depin_agent::run().await,
    }
}
