//! Carries out the endpoint updates of tunnels: a task for each, which ends when its [`Updater`] is dropped.
//!
//! [`sixxs_core::broker::endpoint_update`] decides. [`store`] keeps the records, [`request`] has the protocol.

mod request;
mod store;

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use sixxs_core::{
    broker::{
        connects::Moment,
        endpoint_update::{EndpointUpdate, Failure, Next, Outcome, Report, State, Subject},
    },
    config,
    types::IfName,
};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tracing::{debug, info, warn};

pub use self::store::UpdateStore;
use super::connects::{self, Connects, Wait};
use crate::{
    host::{
        clock::{Clock, time_of_day},
        source_address::source_for,
    },
    netlink::Netlink,
};

/// The clock is read at least this often: timers stand still while the machine sleeps.
const LONGEST_SLEEP: Duration = Duration::from_secs(15);

/// A slot is requested again after this time: the clock or the record of connects may have changed.
const SLOT_RETRY: Duration = Duration::from_secs(60);

/// After an error on this host: a name that cannot be resolved, a file that cannot be written.
const LOCAL_RETRY: Duration = Duration::from_secs(10);

/// What the tasks need of the program.
#[derive(Clone)]
pub(crate) struct UpdateContext {
    /// The clock.
    pub(crate) clock: Clock,
    /// The connect limit of brokers.
    pub(crate) connects: Connects,
    /// The records.
    pub(crate) store: UpdateStore,
    /// Notified of each new report.
    pub(crate) notifier: Arc<Notify>,
}

/// The updates of a tunnel. When it is dropped, its task ends.
pub(crate) struct Updater {
    settings: config::EndpointUpdate,
    reports: watch::Receiver<Option<Published>>,
    clock: Clock,
    task: JoinHandle<()>,
}

impl Drop for Updater {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A report, with its time since boot.
#[derive(Clone, Debug)]
struct Published {
    report: Report,
    at: Duration,
}

impl Updater {
    /// Starts the task. `path_changes` counts changes of addresses and routes. `is_retry`: a person has asked for
    /// another attempt.
    pub(crate) fn start(
        name: IfName,
        settings: config::EndpointUpdate,
        is_retry: bool,
        context: UpdateContext,
        path_changes: watch::Receiver<u64>,
    ) -> Self {
        let (published, reports) = watch::channel(None);
        let clock = context.clock.clone();
        let task = Task {
            name,
            settings: settings.clone(),
            context,
            path_changes,
            published,
        };
        Self {
            settings,
            reports,
            clock,
            task: tokio::spawn(task.run(is_retry)),
        }
    }

    /// The settings that it was started with.
    pub(crate) const fn settings(&self) -> &config::EndpointUpdate {
        &self.settings
    }

    /// The present state; `None`: it has just been started.
    pub(crate) fn report(&self) -> Option<Report> {
        let Published { report, at } = self.reports.borrow().clone()?;
        let passed = self.clock.now().elapsed.saturating_sub(at);
        Some(Report {
            confirmed_ago: report.confirmed_ago.map(|ago| ago.saturating_add(passed)),
            next_in: report.next_in.map(|next| next.saturating_sub(passed)),
            ..report
        })
    }
}

/// The path to the broker, and what the broker is to send to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Path {
    source: Ipv4Addr,
    subject: Subject,
}

struct Task {
    name: IfName,
    settings: config::EndpointUpdate,
    context: UpdateContext,
    path_changes: watch::Receiver<u64>,
    published: watch::Sender<Option<Published>>,
}

impl Task {
    async fn run(mut self, is_retry: bool) {
        let mut update = loop {
            match self.start(is_retry).await {
                Ok(update) => break update,
                Err(error) => warn!("{}: endpoint update: {error:#}", self.name),
            }
            sleep(LOCAL_RETRY).await;
        };
        loop {
            // Changes from here on end the wait below.
            self.path_changes.mark_unchanged();
            let path = self.find_path().await;
            let now = self.now();
            let subject = path.as_ref().map(|path| path.subject);
            update.observe(subject.map_err(ToString::to_string), now);
            let next = update.next(now);
            self.publish(&update);
            match (next, path) {
                (Next::Send(subject), Ok(path)) if path.subject == subject => {
                    self.attempt(&mut update, path).await;
                    self.publish(&update);
                }
                (Next::Send(_), _) => {}
                (Next::Wait(limit), _) => self.wait(limit.unwrap_or(Duration::MAX)).await,
            }
        }
    }

    async fn start(&self, is_retry: bool) -> anyhow::Result<EndpointUpdate> {
        let now = self.moment()?;
        let record = self.context.store.load(&self.name, &self.settings, &now);
        let mut update = EndpointUpdate::new(record.await);
        if is_retry {
            update.retry(now.since_boot);
        }
        Ok(update)
    }

    fn moment(&self) -> anyhow::Result<Moment> {
        connects::Clock::now(&self.context.clock)
    }

    fn now(&self) -> Duration {
        self.context.clock.now().elapsed
    }

    /// Waits for a change of the path, up to a limit.
    async fn wait(&mut self, limit: Duration) {
        let limit = limit.min(LONGEST_SLEEP);
        if let Ok(Err(_)) = timeout(limit, self.path_changes.changed()).await {
            // Nobody reports changes of the path any more: it is read from time to time.
            sleep(limit).await;
        }
    }

    async fn find_path(&self) -> anyhow::Result<Path> {
        let config::EndpointUpdate { remote, local4, .. } = self.settings;
        let source = source_for(remote.into(), local4)
            .with_context(|| format!("there is no path to the broker, {remote}"))?;
        let IpAddr::V4(source) = source else {
            anyhow::bail!("the path to the broker, {remote}, is none of IPv4");
        };
        let gateway = match sixxs_core::broker::endpoint_update::is_private(source) {
            true => Netlink::open()?.gateway4(source, remote).await?,
            false => None,
        };
        Ok(Path {
            source,
            subject: Subject::of(source, gateway),
        })
    }

    /// Reports the state; wakes the daemon if it is another one.
    fn publish(&self, update: &EndpointUpdate) {
        let at = self.now();
        let report = update.report(at);
        let mut is_new = false;
        self.published.send_modify(|published| {
            is_new = published
                .as_ref()
                .is_none_or(|Published { report: before, .. }| {
                    let before = (before.state, &before.sentence, before.sends_elsewhere);
                    before != (report.state, &report.sentence, report.sends_elsewhere)
                });
            *published = Some(Published { report, at });
        });
        if is_new {
            self.context.notifier.notify_one();
        }
    }

    /// Takes a slot and sends a request, unless something is in the way.
    async fn attempt(&mut self, update: &mut EndpointUpdate, path: Path) {
        let server = match request::server_address(&self.settings.url).await {
            Ok(server) => server,
            Err(error) => return update.hold(format!("{error:#}"), LOCAL_RETRY, self.now()),
        };
        let names = [
            self.settings.url.bare_host().to_owned(),
            server.ip().to_string(),
        ];
        let names = names.each_ref().map(String::as_str);
        match self.context.connects.take_each(&names).await {
            Ok(Ok(_slot)) => {}
            Ok(Err(wait)) => {
                let pause = wait.remaining.min(SLOT_RETRY);
                return update.hold(self.describe_wait(&wait), pause, self.now());
            }
            Err(error) => return update.hold(format!("{error:#}"), SLOT_RETRY, self.now()),
        }
        let now = self.now();
        let mut begun = update.clone();
        begun.begin(path.subject, now);
        if let Err(error) = self.save(&begun).await {
            let reason = format!("{error:#}; without this record nothing is sent");
            return update.hold(reason, SLOT_RETRY, now);
        }
        *update = begun;
        self.publish(update);
        let (outcome, detail) = self.send(path, server).await;
        update.end(outcome, detail, self.now());
        self.log(&update.report(self.now()));
        if let Err(error) = self.save(update).await {
            warn!("{}: {error:#}", self.name);
        }
    }

    /// Sends a request. Another path makes it useless: the answer would go to an address that this host has not.
    async fn send(
        &mut self,
        path: Path,
        server: std::net::SocketAddrV4,
    ) -> (Outcome, Option<String>) {
        let settings = self.settings.clone();
        let mut answered =
            std::pin::pin!(request::send(&settings, path.subject, path.source, server));
        loop {
            tokio::select! {
                biased;
                answer = &mut answered => return answer,
                changed = self.path_changes.changed() => {
                    if changed.is_err() {
                        return answered.await;
                    }
                }
            }
            if self.find_path().await.ok() != Some(path) {
                let words = "the address of this host has changed meanwhile".to_owned();
                return (Outcome::Failed(Failure::NoAnswer), Some(words));
            }
        }
    }

    async fn save(&self, update: &EndpointUpdate) -> anyhow::Result<()> {
        let now = self.moment()?;
        let store = &self.context.store;
        store.save(&self.name, update.record(), &now).await
    }

    /// Until when no request is allowed, and why.
    fn describe_wait(&self, wait: &Wait) -> String {
        let host = &self.settings.url.host;
        let seconds = self
            .context
            .clock
            .unix_seconds()
            .saturating_add(wait.seconds());
        match time_of_day(seconds) {
            Some(until) => format!("no connect to {host} until {until}: {}", wait.why),
            // The clock is far off.
            None => format!("{host}: {wait}"),
        }
    }

    fn log(&self, report: &Report) {
        let (name, sentence) = (&self.name, &report.sentence);
        match report.state {
            State::Current => info!("{name}: endpoint update: {sentence}"),
            // The daemon reports the problem.
            _ => debug!("{name}: endpoint update: {sentence}"),
        }
    }
}
