//! The IO around what brokers speak: the connect limit, TIC, and what it returned.
//!
//! Nothing here connects without a slot from [`connects`], which is on the disk by then.
//!
//! Tasks: none that outlive a call, but for blocking work on files that a caller who went away
//! leaves to end by itself.

pub mod cache;
pub mod connects;
mod durable;
pub mod tic;
pub(crate) mod tls;

use anyhow::Context as _;

/// Runs what blocks where it holds nobody up.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let task = tokio::task::spawn_blocking(work);
    task.await.context("wait for work on files")?
}
