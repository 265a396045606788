//! The daemon: one task owns the state, everything else sends it messages.
//!
//! Tasks, besides the one in [`run`]:
//! * the control server ([`crate::control`]), which turns requests into [`Request`]s; it ends with
//!   the daemon;
//! * a driver's own tasks, where it has any ([`crate::driver`]);
//! * one for drivers that are being stopped, until they have: the daemon waits for it at its end;
//! * one that keeps the record of connects short, which ends with the daemon;
//! * the netlink connection ([`crate::netlink`]).
//!
//! Programs, maps, rules and routes stay in place when the daemon ends: enforcement outlives it.
//! Only `sixxs down` takes them away.

mod alerts;
mod answers;
mod culprit;
mod health;
mod leaks;
mod page;
mod reload;
mod report;
mod routes;
mod state;
mod systemd;
mod tamper_log;
mod tunnels;

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use sixxs_core::{
    config::Config,
    pace::{Pacer, Patrol},
};
use tokio::{
    io::unix::AsyncFd,
    signal::unix::{SignalKind, signal},
    sync::{broadcast, mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};
use tracing::{debug, info, warn};

use crate::{
    api,
    bpf::{self, HookChoice, Kernel, Rings},
    broker::connects::Connects,
    claim,
    clock::{self, Clock},
    control, driver,
    fd_store::FdStore,
    kernel,
    netlink::{Netlink, OthersChange, Watcher},
    paths::Paths,
    removal, run_dir,
};

pub use tunnels::Verb;

use state::{State, Ways};
use systemd::Watchdog;

/// Everything is looked at anew this often, events or not, and what is pinned is read back.
const RESYNC: Duration = Duration::from_secs(30);

/// The record of connects is looked at this often.
const PRUNE: Duration = Duration::from_secs(60);

/// A daemon that was started on demand waits so long for its first tunnel. It is looked at with each
/// resync.
const UNWANTED: Duration = Duration::from_secs(20);

/// Lines about leaks come this often while there are any.
const LEAK_LINES: Duration = Duration::from_secs(1);

/// Whether tunnels answer is looked at this often.
const ANSWERS: Duration = Duration::from_secs(10);

/// The first comes so long after the first leak: by then it is known what was missing, and why.
const FIRST_LEAK_LINE: Duration = Duration::from_millis(200);

/// Events read from the ring at a time, before others get their turn.
const EVENTS_AT_A_TIME: usize = 256;

/// Requests that may wait.
const WAITING: usize = 32;

/// How a daemon is to run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Which hook the programs use.
    pub hook: HookChoice,
    /// Whether to log what the programs say.
    pub program_log: bool,
    /// Whether the clock may be moved by request.
    pub movable_clock: bool,
    /// Whether to end when the last tunnel is stopped that was started by its account.
    pub on_demand: bool,
}

/// Why a daemon ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By order.
    Ordered,
    /// It had nothing to do any more.
    Idle,
}

/// What the control server asks of the daemon.
#[derive(Debug)]
pub enum Request {
    /// The whole picture.
    Status(oneshot::Sender<anyhow::Result<api::Status>>),
    /// All counters.
    Counters(oneshot::Sender<anyhow::Result<api::Counters>>),
    /// All metrics, as text.
    Metrics(oneshot::Sender<anyhow::Result<String>>),
    /// Alerts so far, and those to come.
    Alerts(oneshot::Sender<(Vec<api::Alert>, broadcast::Receiver<api::Alert>)>),
    /// What is missing.
    Plan(oneshot::Sender<anyhow::Result<api::Plan>>),
    /// Starts, stops or restarts tunnels.
    Tunnels(Verb, api::Names, oneshot::Sender<Result<(), String>>),
    /// What taking a configuration file over would change.
    Preview(
        api::CheckReload,
        oneshot::Sender<anyhow::Result<api::Preview>>,
    ),
    /// Takes the configuration file over; goes back after this time unless it is confirmed.
    Reload(Option<Duration>, oneshot::Sender<Result<(), String>>),
    /// The configuration is good.
    Confirm(oneshot::Sender<Result<(), String>>),
    /// Starts (true) or stops the tunnel of an account.
    Account(bool, api::AccountFile, oneshot::Sender<Result<(), String>>),
}

/// What ends the daemon; `stop`: and stops the tunnels it started.
#[derive(Debug)]
pub struct Quit {
    /// Whether to stop the tunnels.
    pub stop: bool,
    /// Told when it is done.
    pub done: oneshot::Sender<()>,
}

/// Runs until a signal or a request ends it.
pub async fn run(paths: &Paths, config: Config, options: &Options) -> anyhow::Result<End> {
    for note in kernel::check()? {
        warn!("{note}");
    }
    let _lock = run_dir::lock(paths)?;
    let _claim = claim::namespace()?;
    raise_limit();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    // They would end the daemon. A handler that does nothing, and not SIG_IGN: that commands would inherit.
    for kind in [
        SignalKind::user_defined1(),
        SignalKind::user_defined2(),
        SignalKind::alarm(),
    ] {
        // The handler stays when the stream is dropped.
        drop(signal(kind)?);
    }

    // Subscribed before the first look, so that nothing falls between.
    let watcher = Arc::new(Watcher::subscribe()?);
    let netlink = Netlink::open()?;
    // Interfaces of tunnels that are not wanted any more, or not ours to make.
    let native = config.tunnels.iter().filter(|t| t.kind.is_native());
    let names = native.map(|tunnel| tunnel.name.clone()).collect();
    netlink.remove_marked(&names).await?;
    let bell = driver::Bell::default();
    let clock = Clock::default();
    let ledger_clock = Arc::new(clock.clone());
    let connects = Connects::with_clock(&paths.state_dir, config.connect_limit, ledger_clock);
    let services = driver::Services::new(
        bell.clone(),
        clock.clone(),
        connects.clone(),
        paths,
        FdStore::open(&names),
    );
    // What another run of ours carried waits for nothing.
    let tunnels = tunnels::start(&config, &services);
    let (mut kernel, rings) = Kernel::load(&paths.pin_dir, options.hook, options.program_log)
        .map_err(|error| anyhow::anyhow!("{error:#}; {}", kernel::why_no_bpf(&error)))?;
    kernel.take_over(&netlink).await?;
    for stranger in kernel.strangers()? {
        info!(
            "{} belongs to another network namespace and is left alone",
            stranger.display()
        );
    }
    let Rings { events, debugging } = rings;
    let mut events = bpf::wait_on(events)?;
    let mut debugging = debugging.map(bpf::wait_on).transpose()?;

    let (stopped_to, mut stopped) = mpsc::channel(WAITING);
    let (requests_to, mut requests) = mpsc::channel(WAITING);
    let mut state = State::new(
        paths.clone(),
        config,
        netlink,
        kernel,
        services,
        tunnels,
        Ways {
            stopped_to,
            requests_to: requests_to.clone(),
            watcher: Arc::clone(&watcher),
        },
    );
    // Nothing is taken for unwanted only because its driver has not spoken yet.
    state.know_from_before().await;
    state.reconcile().await?;
    state.begin_alerts()?;

    let pruning = tokio::spawn(prune(connects));
    let (quits_to, mut quits) = mpsc::channel(1);
    let ends = control::Daemon {
        requests: requests_to,
        quits: quits_to,
        clock: options.movable_clock.then_some(clock),
    };
    let mut server = listen(&mut state, &ends);
    let mut told_ready = false;
    let mut watchdog = Watchdog::new();

    let mut pacer = Pacer::default();
    let mut patrol = Patrol::default();
    let started = Instant::now();
    let mut resync = tokio::time::interval(RESYNC);
    resync.tick().await;
    let mut answers = tokio::time::interval(ANSWERS);
    answers.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut leak_lines = tokio::time::interval(LEAK_LINES);
    leak_lines.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut end = End::Ordered;
    let (stop_tunnels, quitter) = loop {
        if options.on_demand && state.is_idle(started.elapsed() > UNWANTED) {
            end = End::Idle;
            break (true, None);
        }
        if !told_ready && state.is_ready() {
            systemd::ready()?;
            told_ready = true;
        }
        match state.heard.take() {
            Some(true) => pacer.urgent(started.elapsed()),
            Some(false) => pacer.changed(started.elapsed()),
            None => {}
        }
        let due = pacer.due().map(|due| clock::after(started, due));
        let health_due = state.health_due();
        let unnamed_due = state.unnamed_due();
        let exit_ends = state.netlink.exit_ends().map(Instant::from_std);
        let look_again = exit_ends.into_iter().chain(state.fails_until()).min();
        tokio::select! {
            _ = terminate.recv() => break (false, None),
            _ = interrupt.recv() => break (false, None),
            changed = watcher.changed() => {
                let change = changed.context("wait for netlink events")?;
                if let Some(removal) = &change.removal {
                    state.removed(removal, false);
                }
                if change.others != OthersChange::Same {
                    state.netlink.others_routes_changed();
                }
                if change.is_new_link || change.others == OthersChange::More {
                    pacer.urgent(started.elapsed());
                } else {
                    pacer.changed(started.elapsed());
                }
            }
            () = sleep_until(due.unwrap_or(started)), if due.is_some() => {
                let since = pacer.begin(started.elapsed());
                let before = clock::processor_time()?;
                let corrections = state.tamper_log.corrections();
                state.reconcile_or_report().await;
                if let Some(since) = since && state.tamper_log.corrections() > corrections {
                    let repair = started.elapsed().saturating_sub(since);
                    state.repairs.observe(repair.as_secs_f64());
                }
                let took = clock::processor_time()?.saturating_sub(before);
                pacer.end(started.elapsed(), took);
            }
            () = sleep_until(look_again.unwrap_or(started)), if due.is_none() && look_again.is_some() => {
                pacer.changed(started.elapsed());
            }
            () = sleep_until(clock::after(started, patrol.due())) => {
                let before = clock::processor_time()?;
                let found = state.has_lost_a_program();
                let took = clock::processor_time()?.saturating_sub(before);
                patrol.went(started.elapsed(), took, found);
                if found {
                    state.attach_again().await;
                    pacer.changed(started.elapsed());
                }
            }
            _ = hangup.recv() => reload_by_signal(&mut state).await?,
            () = sleep_until(state.trial_ends().unwrap_or(started)), if state.trial_ends().is_some() => {
                state.go_back(tell_in_log("go back to the configuration before")).await;
            }
            // From the loop itself: a task of its own would say that all is well while this one hangs.
            () = watchdog.due() => watchdog.tell(),
            _ = resync.tick() => {
                state.restore();
                if server.is_none() {
                    server = listen(&mut state, &ends);
                }
                pacer.changed(started.elapsed());
            }
            () = bell.notified() => pacer.changed(started.elapsed()),
            Some(stopped) = stopped.recv() => state.stopped(stopped).await,
            guard = events.readable_mut() => {
                let mut guard = guard.context("wait for leak events")?;
                if !state.has_lines() {
                    leak_lines.reset_after(FIRST_LEAK_LINE);
                }
                let ring = guard.get_inner_mut();
                let mut left = EVENTS_AT_A_TIME;
                while left > 0 && let Some(event) = ring.next() {
                    state.leaked(&event);
                    left -= 1;
                }
                if left > 0 {
                    guard.clear_ready();
                }
            }
            _ = leak_lines.tick(), if state.has_lines() => {
                state.tell_leaks();
                state.summarize();
            }
            _ = answers.tick() => {
                let watched = state.watch_answers();
                if let Err(error) = watched.and_then(|()| state.report_health()) {
                    warn!("{error:#}");
                }
            }
            () = sleep_until(health_due.unwrap_or(started)), if health_due.is_some() => {
                if let Err(error) = state.report_health() {
                    warn!("{error:#}");
                }
            }
            () = sleep_until(unnamed_due.unwrap_or(started)), if unnamed_due.is_some() => {
                state.report_unnamed();
            }
            () = read_debugging(debugging.as_mut()) => {}
            Some(request) = requests.recv() => state.serve(request).await,
            Some(Quit { stop, done }) = quits.recv() => break (stop, Some(done)),
        }
    };
    info!(
        "{}",
        match (end, stop_tunnels) {
            (End::Idle, _) => "no tunnel is left: ending, and taking away what is enforced",
            (End::Ordered, true) =>
                "stopping all tunnels and ending; `sixxs down` takes away what is enforced",
            (End::Ordered, false) => "ending; what is enforced stays in place",
        }
    );
    systemd::stopping()?;
    // Whoever asks for anything from now on is told that the daemon is ending.
    drop(requests);
    tokio::select! {
        () = watchdog.keep_telling() => {}
        problems = state.end(stop_tunnels, stopped) => {
            problems.into_iter().for_each(|problem| warn!("{problem}"));
        }
        _ = terminate.recv() => warn!("told to end once more: commands at work are killed"),
        _ = interrupt.recv() => warn!("told to end once more: commands at work are killed"),
    }
    if let Some(done) = quitter {
        // Whoever asked may have gone.
        let _gone = done.send(());
    }
    if let Some(server) = server {
        server.abort();
        removal::file(&paths.socket())?;
    }
    pruning.abort();
    Ok(end)
}

/// Opens the control socket. Where that cannot be, tunnels are kept right all the same, and it is tried again
/// with each resync.
fn listen(state: &mut State, ends: &control::Daemon) -> Option<JoinHandle<()>> {
    match control::listen(&state.paths.socket(), &state.paths.group, ends.clone()) {
        Ok(server) => {
            state.not_listening = None;
            Some(server)
        }
        Err(error) => {
            let problem = format!("no command reaches this daemon: {error:#}");
            if state.not_listening.is_none() {
                warn!("{problem}");
            }
            state.not_listening = Some(problem);
            None
        }
    }
}

/// Each native tunnel holds some six descriptors: hundreds need more than processes are given without
/// asking (1024), but not more than they are allowed.
fn raise_limit() {
    use nix::sys::resource::{Resource::RLIMIT_NOFILE, getrlimit, setrlimit};
    let raised =
        getrlimit(RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        debug!("raise the number of descriptors: {error}");
    }
}

/// Keeps the record of connects short, so that a reboot costs no waiting. What cannot be written now
/// is written a minute later; a connect that cannot be recorded is not made, and says so itself.
async fn prune(connects: Connects) {
    loop {
        let due = match connects.prune().await {
            Ok(due) => due.unwrap_or(PRUNE),
            Err(error) => {
                debug!("{error:#}");
                PRUNE
            }
        };
        sleep(due.clamp(Duration::from_secs(1), PRUNE)).await;
    }
}

/// Reads what the programs had to say, into the log.
async fn read_debugging(log: Option<&mut AsyncFd<bpf::Debugging>>) {
    let Some(log) = log else {
        return std::future::pending().await;
    };
    match log.readable_mut().await {
        Ok(mut guard) => {
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
        Err(error) => {
            warn!("wait for the programs' log: {error}");
            std::future::pending().await
        }
    }
}

/// `systemctl reload` and `kill -HUP`.
async fn reload_by_signal(state: &mut State) -> anyhow::Result<()> {
    systemd::reloading()?;
    state.reload(None, tell_in_log("reload")).await;
    systemd::reloaded()
}

/// For what nobody waits for the outcome of.
fn tell_in_log(what: &'static str) -> oneshot::Sender<Result<(), String>> {
    let (answer, outcome) = oneshot::channel::<Result<(), String>>();
    tokio::spawn(async move {
        match outcome.await {
            Ok(Ok(())) => info!("{what}: done"),
            Ok(Err(error)) => warn!("{what}: {error}"),
            // The daemon is ending.
            Err(_) => {}
        }
    });
    answer
}
