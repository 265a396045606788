//! The listening sockets of the daemon: the control socket, and the servers of the metrics and the page.
//!
//! Must not know the effects of requests.

use std::sync::Arc;

use sixxs_core::config::Config;
use tokio::task::JoinHandle;
use tracing::warn;

use crate::{
    control::{self, DaemonHandle},
    host::files,
    host::paths::Paths,
    http::{Server, Site},
};

/// The control socket and the servers.
pub(super) struct Listeners {
    paths: Paths,
    handle: DaemonHandle,
    control: Option<JoinHandle<()>>,
    /// Why there is no control socket.
    problem: Option<String>,
    servers: Vec<Server>,
    /// What the servers serve, while there are any.
    site: Option<Arc<Site>>,
}

impl Listeners {
    /// Nothing is served yet. Requests go to `handle`.
    pub(super) const fn new(paths: Paths, handle: DaemonHandle) -> Self {
        Self {
            paths,
            handle,
            control: None,
            problem: None,
            servers: Vec::new(),
            site: None,
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

    /// Serves the metrics and the page at the configured addresses, and nowhere else.
    pub(super) async fn export(&mut self, config: &Config) -> anyhow::Result<()> {
        let metrics = config.metrics.map(|at| ("metrics", at));
        let page = config.page.map(|at| ("the page", at));
        let wanted: Vec<_> = [metrics, page].into_iter().flatten().collect();
        // Closed first, so that the same port can be served at another address.
        for server in std::mem::take(&mut self.servers) {
            if wanted.iter().any(|(_, at)| *at == server.address()) {
                server.rename(&config.metrics_hosts);
                self.servers.push(server);
            } else {
                server.close().await;
            }
        }
        if wanted.is_empty() {
            self.site = None;
        }
        let mut outcome = Ok(());
        for (what, address) in wanted {
            if self.servers.iter().any(|known| known.address() == address) {
                continue;
            }
            let (paths, requests) = (&self.paths, &self.handle.requests);
            let site = self
                .site
                .get_or_insert_with(|| Arc::new(Site::start(paths, requests.clone())));
            let server =
                Server::serve(what, address, &config.metrics_hosts, Arc::clone(site)).await;
            match server {
                Ok(server) => self.servers.push(server),
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        outcome
    }

    /// Closes all.
    pub(super) async fn close(self) -> anyhow::Result<()> {
        for server in self.servers {
            server.close().await;
        }
        if let Some(server) = self.control {
            server.abort();
            files::remove_if_exists(&self.paths.socket())?;
        }
        Ok(())
    }
}
