//! The IO of the broker protocols: the connect limit, TIC, the cache of its parameters, and endpoint updates.
//!
//! Every connect here needs a slot from [`connects`], which is on disk by then.
//!
//! Tasks: one per tunnel with endpoint updates ([`endpoint_update`]), which ends with its handle. No other outlives a
//! call, except blocking file work, which ends by itself if its caller is dropped.

pub mod cache;
pub mod connects;
mod durable;
pub mod endpoint_update;
pub mod tic;

use anyhow::Context as _;

/// Runs blocking work on a thread for it.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let task = tokio::task::spawn_blocking(work);
    task.await.context("wait for work on files")?
}
