//! The events that the loop waits for: signals, netlink, drivers, leaks, requests and deadlines.
//!
//! Must not know the reactions to an event.

use std::{future::pending, sync::Arc, time::Duration};

use anyhow::Context as _;
use bytemuck::pod_read_unaligned;
use sixxs_common::layout::LeakEvent;
use tokio::{
    io::unix::AsyncFd,
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::{Instant, Interval, MissedTickBehavior, interval, sleep_until},
};
use tracing::{debug, warn};

use super::{inside_monitor::Tested, systemd::Watchdog, tunnels::AfterStop};
use crate::{
    bpf::{self, Debugging, LeakRing, Rings},
    control::{Quit, Request},
    driver::ChangeNotifier,
    host::prober::Probed,
    netlink::{Change, FilterWatcher, Watcher},
};

/// Pins and maps are read back at this interval, and a round follows, with or without events.
const READ_BACK_INTERVAL: Duration = Duration::from_secs(30);

/// Leaks and summaries are reported at this interval while there are any.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// The first report comes this long after the first leak. By then the cause is known.
const FIRST_REPORT: Duration = Duration::from_millis(200);

/// Tunnels are observed for echo replies at this interval.
const ECHO_INTERVAL: Duration = Duration::from_secs(10);

/// Limit of leaks taken from the ring at a time, before other events get their turn.
const LEAKS_AT_A_TIME: usize = 256;

/// Something has happened, or a deadline has passed.
pub(super) enum Event {
    /// SIGTERM or SIGINT.
    Terminate,
    /// SIGHUP.
    Hangup,
    /// The host's interfaces, addresses, routes or rules have changed.
    Change(Change),
    /// A driver reports something new.
    DriverReport,
    /// Drivers have stopped.
    Stopped(AfterStop),
    /// A probe has finished.
    Probed(Probed),
    /// The inside tests of a tunnel have finished.
    InsideTested(Tested),
    /// [`Deadlines::inside_test`].
    InsideTestDue,
    /// A packet filter has changed.
    FilterChanged,
    /// The kernel programs report leaks.
    Leaks(Vec<LeakEvent>),
    /// A client requests something.
    Request(Request),
    /// A client ends the daemon.
    Quit(Quit),
    /// [`Deadlines::round`].
    RoundDue,
    /// [`Deadlines::retry`].
    RetryDue,
    /// [`Deadlines::poll`].
    PollDue,
    /// [`Deadlines::trial`].
    TrialEnds,
    /// [`Deadlines::health`].
    HealthDue,
    /// [`Deadlines::unattributed`].
    UnattributedDue,
    /// Leaks and summaries must be reported.
    ReportsDue,
    /// Tunnels must be observed.
    EchoDue,
    /// Pins and maps must be read back.
    ReadBackDue,
}

/// The times at which the parts need the loop; `None`: they do not need it.
pub(super) struct Deadlines {
    /// The time of a requested round.
    pub(super) round: Option<Instant>,
    /// The time of a round that shows whether failures have ended.
    pub(super) retry: Option<Instant>,
    /// The time of the next search for detached programs.
    pub(super) poll: Instant,
    /// The end of a configuration on trial.
    pub(super) trial: Option<Instant>,
    /// The time of the next judgement of health.
    pub(super) health: Option<Instant>,
    /// The time of the next inside test.
    pub(super) inside_test: Option<Instant>,
    /// The time at which corrections without an event are reported.
    pub(super) unattributed: Option<Instant>,
    /// Whether leaks or summaries wait to be reported.
    pub(super) has_reports: bool,
}

/// Signals that concern the daemon.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Installs the handlers.
    pub(super) fn handle() -> anyhow::Result<Self> {
        // Without a handler they would end the daemon. SIG_IGN would be inherited by commands.
        for kind in [
            SignalKind::user_defined1(),
            SignalKind::user_defined2(),
            SignalKind::alarm(),
        ] {
            // The handler stays when the stream is dropped.
            drop(signal(kind)?);
        }
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn terminate(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Receiving ends of the daemon's channels.
pub(super) struct Receivers {
    /// Drivers that have stopped.
    pub(super) stopped: mpsc::Receiver<AfterStop>,
    /// Finished probes.
    pub(super) probed: mpsc::Receiver<Probed>,
    /// Finished inside tests.
    pub(super) tested: mpsc::Receiver<Tested>,
    /// Requests.
    pub(super) requests: mpsc::Receiver<Request>,
    /// Requests to end.
    pub(super) quits: mpsc::Receiver<Quit>,
}

/// All sources of events.
pub(super) struct Sources {
    signals: Signals,
    watcher: Arc<Watcher>,
    /// `None`: the kernel has no nftables, or does not report changes.
    filters: Option<FilterWatcher>,
    notifier: ChangeNotifier,
    leaks: AsyncFd<LeakRing>,
    debugging: Option<AsyncFd<Debugging>>,
    receivers: Receivers,
    watchdog: Watchdog,
    read_back: Interval,
    reports: Interval,
    echo: Interval,
}

impl Sources {
    /// Nothing has happened yet.
    pub(super) async fn new(
        signals: Signals,
        watcher: Arc<Watcher>,
        notifier: ChangeNotifier,
        rings: Rings,
        receivers: Receivers,
    ) -> anyhow::Result<Self> {
        let mut read_back = interval(READ_BACK_INTERVAL);
        read_back.tick().await;
        let delayed = |period| {
            let mut interval = interval(period);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        };
        Ok(Self {
            signals,
            watcher,
            filters: watch_filters(),
            notifier,
            leaks: bpf::wait_on(rings.events)?,
            debugging: rings.debugging.map(bpf::wait_on).transpose()?,
            receivers,
            watchdog: Watchdog::new(),
            read_back,
            reports: delayed(REPORT_INTERVAL),
            echo: delayed(ECHO_INTERVAL),
        })
    }

    /// Waits for the next event.
    pub(super) async fn next(&mut self, deadlines: &Deadlines) -> anyhow::Result<Event> {
        let Self {
            signals,
            watcher,
            filters,
            notifier,
            leaks,
            debugging,
            receivers,
            watchdog,
            read_back,
            reports,
            echo,
        } = self;
        loop {
            return Ok(tokio::select! {
                _ = signals.terminate.recv() => Event::Terminate,
                _ = signals.interrupt.recv() => Event::Terminate,
                _ = signals.hangup.recv() => Event::Hangup,
                change = watcher.changed() => {
                    Event::Change(change.context("wait for netlink events")?)
                }
                () = notifier.notified() => Event::DriverReport,
                Some(stopped) = receivers.stopped.recv() => Event::Stopped(stopped),
                Some(probed) = receivers.probed.recv() => Event::Probed(probed),
                Some(tested) = receivers.tested.recv() => Event::InsideTested(tested),
                () = filter_changed(filters.as_ref()) => Event::FilterChanged,
                Some(request) = receivers.requests.recv() => Event::Request(request),
                Some(quit) = receivers.quits.recv() => Event::Quit(quit),
                ready = leaks.readable_mut() => {
                    let mut ready = ready.context("wait for leak events")?;
                    if !deadlines.has_reports {
                        reports.reset_after(FIRST_REPORT);
                    }
                    let (events, is_empty) = take_leaks(ready.get_inner_mut());
                    if is_empty {
                        ready.clear_ready();
                    }
                    Event::Leaks(events)
                }
                () = at(deadlines.round) => Event::RoundDue,
                () = at(deadlines.retry) => Event::RetryDue,
                () = sleep_until(deadlines.poll) => Event::PollDue,
                () = at(deadlines.trial) => Event::TrialEnds,
                () = at(deadlines.health) => Event::HealthDue,
                () = at(deadlines.inside_test) => Event::InsideTestDue,
                () = at(deadlines.unattributed) => Event::UnattributedDue,
                _ = reports.tick(), if deadlines.has_reports => Event::ReportsDue,
                _ = echo.tick() => Event::EchoDue,
                _ = read_back.tick() => Event::ReadBackDue,
                // A task of its own would report that all is well while the loop hangs.
                () = watchdog.due() => {
                    watchdog.ping();
                    continue;
                }
                () = log_debugging(debugging.as_mut()) => continue,
            });
        }
    }

    /// Waits until `work` is done, or until a second signal cuts it short. Requests fail from now on: the
    /// daemon ends.
    pub(super) async fn finish<T>(
        self,
        work: impl AsyncFnOnce(mpsc::Receiver<AfterStop>) -> T,
    ) -> Option<T> {
        let Self {
            mut signals,
            mut watchdog,
            receivers,
            ..
        } = self;
        let Receivers {
            stopped, requests, ..
        } = receivers;
        drop(requests);
        tokio::select! {
            () = watchdog.keep_pinging() => None,
            done = work(stopped) => Some(done),
            () = signals.terminate() => {
                warn!("second request to end: running commands are killed");
                None
            }
        }
    }
}

fn watch_filters() -> Option<FilterWatcher> {
    match FilterWatcher::subscribe() {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            debug!("{error:#}");
            None
        }
    }
}

async fn filter_changed(watcher: Option<&FilterWatcher>) {
    let changed = match watcher {
        Some(watcher) => watcher.changed().await,
        None => pending().await,
    };
    if let Err(error) = changed {
        warn!("wait for changes of nftables: {error}");
        pending().await
    }
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => pending().await,
    }
}

/// Takes leaks from the ring. Returns whether the ring is empty now.
fn take_leaks(ring: &mut LeakRing) -> (Vec<LeakEvent>, bool) {
    let mut events = Vec::new();
    for _ in 0..LEAKS_AT_A_TIME {
        match ring.next() {
            Some(event) => events.extend(leak_event(&event)),
            None => return (events, true),
        }
    }
    (events, false)
}

/// The programs write whole events. Anything else does not come from them.
fn leak_event(bytes: &[u8]) -> Option<LeakEvent> {
    (bytes.len() == size_of::<LeakEvent>()).then(|| pod_read_unaligned(bytes))
}

/// Writes the debugging output of the programs to the log.
async fn log_debugging(log: Option<&mut AsyncFd<Debugging>>) {
    let Some(log) = log else {
        return pending().await;
    };
    match log.readable_mut().await {
        Ok(mut ready) => {
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
        Err(error) => {
            warn!("wait for the programs' log: {error}");
            pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::{Zeroable as _, bytes_of};

    use super::*;

    #[test]
    fn only_complete_leak_events_are_read() {
        let event = LeakEvent::zeroed();
        let bytes = bytes_of(&event);
        assert!(leak_event(bytes).is_some());
        assert!(leak_event(&bytes[1..]).is_none());
        assert!(leak_event(&[]).is_none());
        assert!(leak_event(&[bytes, &[0]].concat()).is_none());
    }
}
