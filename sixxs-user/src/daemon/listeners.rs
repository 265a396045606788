//! The listening sockets of the daemon: the control socket and the metrics exporter.
//!
//! Must not know the effects of requests.

use sixxs_core::config::Config;
use tokio::task::JoinHandle;
use tracing::warn;

use crate::{
    control::{self, DaemonHandle},
    host::files,
    host::paths::Paths,
    metrics::exporter::Exporter,
};

/// The control socket and the exporter.
pub(super) struct Listeners {
    paths: Paths,
    handle: DaemonHandle,
    control: Option<JoinHandle<()>>,
    /// Why there is no control socket.
    problem: Option<String>,
    exporter: Option<Exporter>,
}

impl Listeners {
    /// Nothing is served yet. Requests go to `handle`.
    pub(super) const fn new(paths: Paths, handle: DaemonHandle) -> Self {
        Self {
            paths,
            handle,
            control: None,
            problem: None,
            exporter: None,
        }
    }

    /// Opens the control socket, unless it is open. Without it the tunnels are still kept right; it is
    /// tried again each time that pins and maps are read back.
    pub(super) fn listen(&mut self) {
        if self.control.is_some() {
            return;
        }
        match control::listen(&self.paths.socket(), &self.paths.group, self.handle.clone()) {
            Ok(server) => {
                self.problem = None;
                self.control = Some(server);
            }
            Err(error) => {
                let problem = format!("no command reaches this daemon: {error:#}");
                if self.problem.is_none() {
                    warn!("{problem}");
                }
                self.problem = Some(problem);
            }
        }
    }

    /// Why there is no control socket.
    pub(super) const fn problem(&self) -> Option<&String> {
        self.problem.as_ref()
    }

    /// Serves metrics at the configured address, and nowhere else.
    pub(super) async fn export(&mut self, config: &Config) -> anyhow::Result<()> {
        let names = &config.metrics_hosts;
        if self.exporter.as_ref().map(Exporter::address) == config.metrics {
            let exporter = self.exporter.iter();
            exporter.for_each(|exporter| exporter.rename(names));
            return Ok(());
        }
        // Closed first, so that the same port can be served at another address.
        self.exporter = None;
        if let Some(address) = config.metrics {
            let requests = self.handle.requests.clone();
            self.exporter = Some(Exporter::serve(address, names, requests).await?);
        }
        Ok(())
    }

    /// Closes both.
    pub(super) fn close(self) -> anyhow::Result<()> {
        if let Some(server) = self.control {
            server.abort();
            files::remove_if_exists(&self.paths.socket())?;
        }
        Ok(())
    }
}
