//! Starts the daemon: opens netlink, loads the programs, starts the drivers and composes the parts.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use sixxs_core::{config::Config, types::IfName};
use tokio::{sync::mpsc, time::sleep};
use tracing::{debug, info};

use super::{
    Options,
    alerts::Alerts,
    daemon::Daemon,
    endpoint_updates::EndpointUpdates,
    enforcer::{Enforcer, Parts},
    event::{Receivers, Signals, Sources},
    history::History,
    inside_monitor::{self, InsideMonitor, Tested},
    inside_test::Shared,
    intent::Intent,
    listeners::Listeners,
    operations::Operations,
    outside_test,
    probes::{self, Probes},
    reconciler::Reconciler,
    reload::Trial,
    tunnels::{AfterStop, Tunnels},
};
use crate::{
    bpf::{Kernel, Rings},
    broker::connects::Connects,
    control::DaemonHandle,
    driver::{ChangeNotifier, DriverContext},
    host::clock::Clock,
    host::drop_trace,
    host::fd_store::FdStore,
    host::kernel_support,
    host::paths::Paths,
    host::prober::Probed,
    netlink::{Netlink, Watcher},
};

/// Limit of requests that wait.
const WAITING: usize = 32;

/// The record of connects is pruned at least this often.
const PRUNE_INTERVAL: Duration = Duration::from_secs(60);

/// Starts everything, and runs a round.
pub(super) async fn start(
    paths: &Paths,
    config: Config,
    options: &Options,
) -> anyhow::Result<(Daemon, Sources)> {
    raise_descriptor_limit();
    drop_trace::remove_leftovers();
    let signals = Signals::handle()?;
    let names = native_names(&config);
    let (watcher, netlink) = open_netlink(&names).await?;

    let (notifier, clock) = (ChangeNotifier::default(), Clock::default());
    let ledger_clock = Arc::new(clock.clone());
    let connects = Connects::with_clock(&paths.state_dir, config.connect_limit, ledger_clock);
    let context = DriverContext::new(
        notifier.clone(),
        clock.clone(),
        connects.clone(),
        paths,
        FdStore::open(&names),
    );
    // Started early: packets for tunnels of an earlier run wait in queues.
    let tunnels = Tunnels::start_all(&config, &context);
    let (programs, rings) = load(paths, options, &netlink).await?;

    let (senders, handle, receivers) = channels(options, &clock);
    let sources = Sources::new(signals, Arc::clone(&watcher), notifier, rings, receivers).await?;

    let mut enforcer = Enforcer::new(Parts {
        intent: Intent::new(config),
        tunnels,
        reconciler: Reconciler::new(netlink, programs, !options.movable_clock),
        listeners: Listeners::new(paths.clone(), handle),
        history: History::start(&paths.state_dir, clock.clone(), context.notifier.clone()),
        alerts: Alerts::new(clock),
        updates: EndpointUpdates::new(context.for_updates()),
        probes: Probes::new(senders.probed),
        watcher,
        paths: paths.clone(),
    });
    // A driver reports later. Until then its tunnel has the stored parameters.
    let learned = context.stored_parameters(enforcer.intent.wanted()).await;
    enforcer.intent.resume(learned);
    enforcer.run_round().await?;
    enforcer.listeners.listen();
    let operations = operations(enforcer, context, senders.stopped);
    let inside = InsideMonitor::new(senders.tested);
    let pruning = tokio::spawn(prune(connects));
    Ok((
        Daemon::new(operations, inside, options.on_demand, pruning)?,
        sources,
    ))
}

/// The operations, before the first one.
fn operations(
    enforcer: Enforcer,
    context: DriverContext,
    stopped_sender: mpsc::Sender<AfterStop>,
) -> Operations {
    Operations {
        pending: BTreeSet::new(),
        enforcer,
        context,
        stopped_sender,
        trial: Trial::default(),
        inside: Shared::default(),
        outside: outside_test::Shared::default(),
    }
}

/// Subscribes to changes before the first scan, so that no change is lost in between. Removes interfaces that an
/// earlier run made, of tunnels that are not configured any more.
async fn open_netlink(names: &BTreeSet<IfName>) -> anyhow::Result<(Arc<Watcher>, Netlink)> {
    let watcher = Arc::new(Watcher::subscribe()?);
    let netlink = Netlink::open()?;
    netlink.remove_marked(names).await?;
    Ok((watcher, netlink))
}

fn native_names(config: &Config) -> BTreeSet<IfName> {
    let native = config.tunnels.iter().filter(|t| t.kind.is_native());
    native.map(|tunnel| tunnel.name.clone()).collect()
}

/// The senders of the daemon's tasks.
struct Senders {
    stopped: mpsc::Sender<AfterStop>,
    probed: mpsc::Sender<Probed>,
    tested: mpsc::Sender<Tested>,
}

/// The daemon's channels: their senders for tasks and clients, and the receivers.
fn channels(options: &Options, clock: &Clock) -> (Senders, DaemonHandle, Receivers) {
    let (stopped_sender, stopped) = mpsc::channel(WAITING);
    let (probed_sender, probed) = mpsc::channel(probes::WAITING);
    let (tested_sender, tested) = mpsc::channel(inside_monitor::WAITING);
    let (requests_to, requests) = mpsc::channel(WAITING);
    let (quits_to, quits) = mpsc::channel(1);
    let handle = DaemonHandle {
        requests: requests_to,
        quits: quits_to,
        clock: options.movable_clock.then(|| clock.clone()),
    };
    let receivers = Receivers {
        stopped,
        probed,
        tested,
        requests,
        quits,
    };
    let senders = Senders {
        stopped: stopped_sender,
        probed: probed_sender,
        tested: tested_sender,
    };
    (senders, handle, receivers)
}

async fn load(
    paths: &Paths,
    options: &Options,
    netlink: &Netlink,
) -> anyhow::Result<(Kernel, Rings)> {
    let (mut programs, rings) = Kernel::load(&paths.pin_dir, options.hook, options.program_log)
        .map_err(|error| anyhow::anyhow!("{error:#}; {}", kernel_support::why_no_bpf(&error)))?;
    programs.take_over(netlink).await?;
    for pins in programs.other_namespace_pins()? {
        info!(
            "{} belongs to another network namespace and is left alone",
            pins.display()
        );
    }
    Ok((programs, rings))
}

/// Raises the soft limit of descriptors (1024) to the hard one: each native tunnel has some six of them.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource::RLIMIT_NOFILE, getrlimit, setrlimit};
    let raised =
        getrlimit(RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        debug!("raise the number of descriptors: {error}");
    }
}

/// Prunes the record of connects, so that a reboot costs no waiting. A connect that cannot be recorded is
/// not made.
async fn prune(connects: Connects) {
    loop {
        let due = match connects.prune().await {
            Ok(due) => due.unwrap_or(PRUNE_INTERVAL),
            Err(error) => {
                debug!("{error:#}");
                PRUNE_INTERVAL
            }
        };
        sleep(due.clamp(Duration::from_secs(1), PRUNE_INTERVAL)).await;
    }
}
