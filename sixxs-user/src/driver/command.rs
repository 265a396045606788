//! Tunnels that the user's commands bring up and down.
//!
//! `up` runs when the interface does not exist. `down` runs before it if something may be left: of an
//! earlier run, of an `up` that failed, or of an interface that was removed. One command runs at a time.

use std::time::Duration;

use anyhow::Context as _;
use sixxs_core::{link::Link, tunnel::DriverState};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::{self, Instant},
};
use tracing::debug;

use super::{StatusSender, backoff::Backoff, process::Process};

/// After `up` has ended, the interface must appear within this time.
const APPEARANCE_LIMIT: Duration = Duration::from_secs(30);

/// The interface, as of the daemon's last scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Interface {
    /// Not scanned yet.
    Unknown,
    Absent,
    Down,
    Up,
}

/// How the task is to end.
enum Order {
    /// Take the interface down.
    Stop,
    /// Leave it as it is.
    Detach,
}

/// A tunnel made by commands. Dropping it kills the running command.
pub(super) struct Command {
    interface: watch::Sender<Interface>,
    order: oneshot::Sender<Order>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Command {
    /// Starts its task, which waits for the first scan.
    pub(super) fn start(up: Vec<String>, down: Vec<String>, status: StatusSender) -> Self {
        let (interface, seen) = watch::channel(Interface::Unknown);
        let (order, ordered) = oneshot::channel();
        let worker = Worker {
            up,
            down,
            interface: seen,
            status,
            running: RunningCommand(None),
        };
        Self {
            interface,
            order,
            task: tokio::spawn(worker.run(ordered)),
        }
    }

    /// Passes it its interface.
    pub(super) fn observe_link(&self, link: Option<&Link>) {
        self.interface.send_replace(match link {
            None => Interface::Absent,
            Some(link) if link.up => Interface::Up,
            Some(_) => Interface::Down,
        });
    }

    /// Ends `up` if it is running, then runs `down`.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        self.end(Order::Stop).await
    }

    /// Lets the running command end; no other is started.
    pub(super) async fn detach(self) -> anyhow::Result<()> {
        self.end(Order::Detach).await
    }

    async fn end(self, order: Order) -> anyhow::Result<()> {
        // The task waits for an order as long as it lives. If it has ended, its result has the reason.
        let _ordered = self.order.send(order);
        self.task.await.context("run the tunnel's commands")?
    }
}

/// The state of the task.
struct Worker {
    up: Vec<String>,
    down: Vec<String>,
    interface: watch::Receiver<Interface>,
    status: StatusSender,
    running: RunningCommand,
}

impl Worker {
    /// Keeps the interface up until an order arrives.
    async fn run(mut self, ordered: oneshot::Receiver<Order>) -> anyhow::Result<()> {
        let order = tokio::select! {
            order = ordered => order,
            never = self.keep_up() => never,
        };
        match order {
            Ok(Order::Stop) => {
                self.running.end().await;
                self.running.run(&self.down).await
            }
            Ok(Order::Detach) => self.running.wait().await,
            Err(_dropped) => Ok(()),
        }
    }

    async fn keep_up(&mut self) -> ! {
        let mut backoff = Backoff::default();
        match self
            .until(|interface| interface != Interface::Unknown)
            .await
        {
            Interface::Up => {}
            Interface::Absent | Interface::Unknown => self.make(false, &mut backoff).await,
            // An `up` that failed has left the interface.
            Interface::Down => self.make(true, &mut backoff).await,
        }
        let is_there = |interface| interface != Interface::Absent;
        loop {
            self.status.set(DriverState::Done);
            let made = Instant::now();
            if time::timeout(APPEARANCE_LIMIT, self.until(is_there))
                .await
                .is_ok()
            {
                self.until(|interface| !is_there(interface)).await;
            }
            let mut next = backoff;
            let pause = next.after_loss(made.elapsed());
            if time::timeout(pause, self.until(is_there)).await.is_ok() {
                // Another program has made it again.
                continue;
            }
            backoff = next;
            self.status.set(DriverState::Working(None));
            self.make(true, &mut backoff).await;
        }
    }

    /// Runs `up` until it succeeds, and `down` before that if something may be left (`needs_down`).
    async fn make(&mut self, mut needs_down: bool, backoff: &mut Backoff) {
        loop {
            if needs_down && let Err(error) = self.running.run(&self.down).await {
                // Often there is nothing to take down.
                debug!("before the next try: {error:#}");
            }
            let Err(error) = self.running.run(&self.up).await else {
                return;
            };
            self.status.set(DriverState::Retrying(format!("{error:#}")));
            time::sleep(backoff.after_failure()).await;
            needs_down = true;
        }
    }

    /// Waits until the interface is in a wanted state, and returns that state.
    async fn until(&mut self, wanted: impl Fn(Interface) -> bool) -> Interface {
        let seen = self.interface.wait_for(|seen| wanted(*seen)).await;
        let Ok(seen) = seen.map(|seen| *seen) else {
            // The handle is dropped: its order ends this.
            return std::future::pending().await;
        };
        seen
    }
}

/// The running command, if there is one. It outlives the future that waits for it.
struct RunningCommand(Option<Process>);

impl RunningCommand {
    /// Runs a command to its end; an empty one is skipped.
    async fn run(&mut self, command: &[String]) -> anyhow::Result<()> {
        if command.is_empty() {
            return Ok(());
        }
        self.0 = Some(Process::start(command)?);
        self.wait().await
    }

    /// Waits for its end.
    async fn wait(&mut self) -> anyhow::Result<()> {
        let Some(process) = &mut self.0 else {
            return Ok(());
        };
        let outcome = process.wait().await;
        self.0 = None;
        outcome
    }

    /// Ends it.
    async fn end(&mut self) {
        if let Some(mut process) = self.0.take() {
            process.end().await;
        }
    }
}
