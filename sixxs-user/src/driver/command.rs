//! Tunnels that the user's commands bring up and down.
//!
//! `up` is run when the interface is not there, and `down` before it where there may be remains: of
//! an earlier run, of an `up` that failed, or of an interface that went. One command at a time.

use std::time::Duration;

use anyhow::Context as _;
use sixxs_core::{link::Link, tunnel::Driver as State};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::{self, Instant},
};
use tracing::debug;

use super::{Report, backoff::Backoff, process::Process};

/// After `up` has ended, the interface may take this long to appear.
const APPEARS: Duration = Duration::from_secs(30);

/// The interface at the daemon's last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Interface {
    /// Nobody has looked yet.
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
    Leave,
}

/// A tunnel made by commands. Dropped, it ends what it is at by force.
pub(super) struct Command {
    interface: watch::Sender<Interface>,
    order: oneshot::Sender<Order>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Command {
    /// Begins its work, which waits for the first look at the interface.
    pub(super) fn start(up: Vec<String>, down: Vec<String>, report: Report) -> Self {
        let (interface, seen) = watch::channel(Interface::Unknown);
        let (order, ordered) = oneshot::channel();
        let worker = Worker {
            up,
            down,
            interface: seen,
            report,
            at_work: AtWork(None),
        };
        Self {
            interface,
            order,
            task: tokio::spawn(worker.run(ordered)),
        }
    }

    pub(super) fn saw(&self, link: Option<&Link>) {
        self.interface.send_replace(match link {
            None => Interface::Absent,
            Some(link) if link.up => Interface::Up,
            Some(_) => Interface::Down,
        });
    }

    /// Ends `up` if it is at work, then runs `down`.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        self.end(Order::Stop).await
    }

    /// Lets the command that is at work end; no other is run.
    pub(super) async fn leave(self) -> anyhow::Result<()> {
        self.end(Order::Leave).await
    }

    async fn end(self, order: Order) -> anyhow::Result<()> {
        // The task waits for an order for as long as it lives; if it does not, its end says why.
        let _ordered = self.order.send(order);
        self.task.await.context("run the tunnel's commands")?
    }
}

/// The task's own.
struct Worker {
    up: Vec<String>,
    down: Vec<String>,
    interface: watch::Receiver<Interface>,
    report: Report,
    at_work: AtWork,
}

impl Worker {
    /// Keeps the interface there until ordered otherwise.
    async fn run(mut self, ordered: oneshot::Receiver<Order>) -> anyhow::Result<()> {
        let order = tokio::select! {
            order = ordered => order,
            never = self.keep() => never,
        };
        match order {
            Ok(Order::Stop) => {
                self.at_work.end().await;
                self.at_work.run(&self.down).await
            }
            Ok(Order::Leave) => self.at_work.wait().await,
            Err(_dropped) => Ok(()),
        }
    }

    async fn keep(&mut self) -> ! {
        let mut backoff = Backoff::default();
        match self
            .until(|interface| interface != Interface::Unknown)
            .await
        {
            Interface::Up => {}
            Interface::Absent | Interface::Unknown => self.make(false, &mut backoff).await,
            // Half-made, by an `up` that did not come to its end.
            Interface::Down => self.make(true, &mut backoff).await,
        }
        let is_there = |interface| interface != Interface::Absent;
        loop {
            self.report.say(State::Done);
            let made = Instant::now();
            if time::timeout(APPEARS, self.until(is_there)).await.is_ok() {
                self.until(|interface| !is_there(interface)).await;
            }
            let mut next = backoff;
            let pause = next.lost(made.elapsed());
            if time::timeout(pause, self.until(is_there)).await.is_ok() {
                // It came back by itself.
                continue;
            }
            backoff = next;
            self.report.say(State::Working(None));
            self.make(true, &mut backoff).await;
        }
    }

    /// Runs `up` until it succeeds, and `down` before that where there may be `remains`.
    async fn make(&mut self, mut remains: bool, backoff: &mut Backoff) {
        loop {
            if remains && let Err(error) = self.at_work.run(&self.down).await {
                // There may well have been nothing to take down.
                debug!("before the next try: {error:#}");
            }
            let Err(error) = self.at_work.run(&self.up).await else {
                return;
            };
            self.report.say(State::Retrying(format!("{error:#}")));
            time::sleep(backoff.failed()).await;
            remains = true;
        }
    }

    /// Waits until the interface is as wanted.
    async fn until(&mut self, wanted: impl Fn(Interface) -> bool) -> Interface {
        let seen = self.interface.wait_for(|seen| wanted(*seen)).await;
        let Ok(seen) = seen.map(|seen| *seen) else {
            // The driver was given up: its order ends this.
            return std::future::pending().await;
        };
        seen
    }
}

/// The command at work, if one is: outlives whoever waits for it.
struct AtWork(Option<Process>);

impl AtWork {
    /// Runs a command to its end; none when it is empty.
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
