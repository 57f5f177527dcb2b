//! Compiles the protobuf files without an installed `protoc`.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Asked when it runs: clones that share build outputs may share this program, too.
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?);
    let files = ["proof", "enrollment", "configuration", "ledger"].map(|name| format!("depin/v1/{name}.proto"));
    println!("cargo::rerun-if-changed=depin/v1");
    let descriptors = protox::compile(&files, [root])?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
