//! `depin-agent`.

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    depin_agent::run().await
}
