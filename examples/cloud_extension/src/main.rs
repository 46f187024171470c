//! The control plane of a small private distribution: the open one, and billing.

use cloud_extension::Cloud;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    wrenn_control::Server::builder().version("cloud-1.0.0").extension(Cloud).run().await
}
