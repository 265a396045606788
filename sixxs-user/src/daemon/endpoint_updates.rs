//! The endpoint updates of tunnels: which run, and their state.
//!
//! Must not know drivers: a change of the settings does not restart a tunnel.
//!
//! Tasks: one that counts changes of the path, from the first tunnel with updates on; and those of
//! [`crate::broker::endpoint_update`]. All end with the [`EndpointUpdates`].

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use sixxs_core::{broker::endpoint_update::Report, config::Config, types::IfName};
use tokio::{sync::watch, task::JoinHandle, time::sleep};
use tracing::warn;

use crate::{
    broker::endpoint_update::{UpdateContext, Updater},
    netlink::PathWatcher,
};

/// Pause after a change of the path, since many addresses change at once.
const SETTLE_TIME: Duration = Duration::from_millis(20);

/// All updates.
pub(super) struct EndpointUpdates {
    context: UpdateContext,
    updaters: BTreeMap<IfName, Updater>,
    /// Tunnels for which a person has asked for another attempt.
    retries: BTreeSet<IfName>,
    path_changes: Option<PathChanges>,
}

/// Counts changes of the path.
struct PathChanges {
    count: watch::Receiver<u64>,
    task: JoinHandle<()>,
}

impl Drop for PathChanges {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl EndpointUpdates {
    /// None runs yet.
    pub(super) const fn new(context: UpdateContext) -> Self {
        Self {
            context,
            updaters: BTreeMap::new(),
            retries: BTreeSet::new(),
            path_changes: None,
        }
    }

    /// Runs the updates of the tunnels that are started, with the settings of this configuration.
    pub(super) fn follow(&mut self, config: &Config, started: &BTreeSet<IfName>) {
        let wanted: BTreeMap<_, _> = config
            .tunnels
            .iter()
            .filter(|tunnel| started.contains(&tunnel.name))
            .filter_map(|tunnel| Some((&tunnel.name, tunnel.update.as_ref()?)))
            .collect();
        self.updaters
            .retain(|name, updater| wanted.get(name) == Some(&updater.settings()));
        for (name, settings) in wanted {
            if self.updaters.contains_key(name) {
                continue;
            }
            let is_retry = self.retries.remove(name);
            let updater = Updater::start(
                name.clone(),
                settings.clone(),
                is_retry,
                self.context.clone(),
                self.path_changes(),
            );
            self.updaters.insert(name.clone(), updater);
        }
    }

    /// A person has started or restarted these tunnels: failures are over.
    pub(super) fn retry(&mut self, names: &[IfName]) {
        for name in names {
            self.updaters.remove(name);
            self.retries.insert(name.clone());
        }
    }

    /// The state of a tunnel's updates; `None`: it has none.
    pub(super) fn report(&self, name: &IfName) -> Option<Report> {
        self.updaters.get(name)?.report()
    }

    /// The failures, as messages.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        self.updaters.iter().filter_map(|(name, updater)| {
            let report = updater.report()?;
            let problem = report.problem()?;
            Some(format!("{name}: the endpoint update failed: {problem}"))
        })
    }

    fn path_changes(&mut self) -> watch::Receiver<u64> {
        let changes = self.path_changes.get_or_insert_with(|| {
            let (counter, count) = watch::channel(0);
            let task = tokio::spawn(async move {
                if let Err(error) = count_path_changes(&counter).await {
                    warn!("wait for changes of addresses: {error:#}");
                }
            });
            PathChanges { count, task }
        });
        changes.count.clone()
    }
}

async fn count_path_changes(counter: &watch::Sender<u64>) -> anyhow::Result<()> {
    let watcher = PathWatcher::subscribe()?;
    // One may have come before the subscription.
    counter.send_modify(|count| *count += 1);
    loop {
        watcher.changed().await?;
        counter.send_modify(|count| *count += 1);
        // A change during the pause is counted after it.
        sleep(SETTLE_TIME).await;
    }
}
