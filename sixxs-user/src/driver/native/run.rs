//! Keeps the link between a tunnel and its broker: carries out what `sixxs_core::broker::link` decides.

use std::{net::IpAddr, time::Duration};

use sixxs_core::{
    broker::link::{BrokerLink, Interruption, Next, SlotOutcome},
    config::Remote,
    tunnel::{DriverState, LockedOut},
    types::{IfIndex, IfName},
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tracing::debug;

use super::{
    Context, NativeTunnel,
    broker_path::BrokerPath,
    carrier::{Carried, Carrier, LinkEnds},
    session_store::SavedSession,
};
use crate::{
    broker::connects::{self, Wait},
    host::clock::time_of_day,
    netlink::Netlink,
};

/// The clock is read at least this often: timers stand still while the machine sleeps.
const LONGEST_SLEEP: Duration = Duration::from_secs(15);

/// A slot is requested again after this time: the clock or the record of connects may have changed.
const SLOT_RETRY: Duration = Duration::from_secs(60);

/// A scan finds a new interface within this time.
const FOUND_WITHIN: Duration = Duration::from_secs(5);

/// Why a link has ended.
pub(super) enum LinkOutcome {
    /// The interface is gone, or has another name.
    InterfaceLost,
    /// The broker has been silent for too long.
    Stale,
}

/// Why a carrier has stopped carrying packets.
enum CarryOutcome {
    Interrupted(Interruption),
    InterfaceLost,
}

impl NativeTunnel {
    /// Keeps the link of a carrier, whose interface has this index.
    pub(super) async fn run<C: Carrier>(&mut self, index: IfIndex, carrier: &mut C) -> LinkOutcome {
        let mut observed = self.observed.clone();
        let name = self.context.name.clone();
        tokio::select! {
            () = interface_lost(&mut observed, &name, index) => LinkOutcome::InterfaceLost,
            end = self.keep_link(carrier) => end,
        }
    }

    async fn keep_link<C: Carrier>(&mut self, carrier: &mut C) -> LinkOutcome {
        let ends = carrier.ends().clone();
        let mut saved = self.context.resumable(&ends);
        let path = saved.as_ref().map(|saved| saved.path);
        let mut link = BrokerLink::new(ends.counts_as_connect, path);
        loop {
            if let Some(state) = link.take_state() {
                self.context.status.set(state);
            }
            match link.next() {
                Next::Locate => {
                    // Changes from here on end the wait below.
                    self.path_changes.mark_unchanged();
                    let found = BrokerPath::find(&ends.broker, ends.local4, link.last_path()).await;
                    link.located(found);
                }
                Next::TakeSlot(path) => {
                    let slot = self.context.request_slot(&ends, path).await;
                    link.slot(path, slot);
                }
                Next::Carry { path, .. } => {
                    match self.open_and_carry(carrier, path, saved.take()).await {
                        CarryOutcome::Interrupted(interruption) => link.carried(interruption),
                        CarryOutcome::InterfaceLost => return LinkOutcome::InterfaceLost,
                    }
                }
                Next::WaitForChange(limit) => {
                    // The broker is looked for again after a change and after the limit.
                    let _changed = timeout(limit, self.path_changes.changed()).await;
                    link.waited();
                }
                Next::Wait(pause) => {
                    sleep(pause).await;
                    link.waited();
                }
                Next::Stale => return LinkOutcome::Stale,
            }
        }
    }

    /// Opens a carrier's sockets, and carries packets until something stops it.
    async fn open_and_carry<C: Carrier>(
        &mut self,
        carrier: &mut C,
        path: BrokerPath,
        saved: Option<SavedSession>,
    ) -> CarryOutcome {
        let mut open = match carrier.open(&self.context, path, saved.as_ref()) {
            Ok(open) => open,
            Err(error) => {
                carrier.closed(&self.context);
                let reason = C::explain_open(&error);
                return CarryOutcome::Interrupted(Interruption::NotOpened(reason));
            }
        };
        let endpoint = carrier.ends().endpoint(path, C::local_port(&open));
        self.context
            .status
            .set_endpoint(endpoint, path.source, C::KIND);
        let outcome = self.carry_packets(carrier, &mut open, path).await;
        carrier.closed(&self.context);
        match outcome {
            Ok(stopped) => stopped,
            Err(error) => {
                // A new socket does not have this error.
                debug!("{}: {error}", self.context.name);
                CarryOutcome::Interrupted(Interruption::Failed(error.to_string()))
            }
        }
    }

    async fn carry_packets<C: Carrier>(
        &mut self,
        carrier: &mut C,
        open: &mut C::Open,
        path: BrokerPath,
    ) -> std::io::Result<CarryOutcome> {
        loop {
            let pause = match carrier.poll(&self.context, open, path).await? {
                Ok(pause) => pause,
                Err(interruption) => return Ok(CarryOutcome::Interrupted(interruption)),
            };
            tokio::select! {
                carried = carrier.carry(&self.context, open) => {
                    if carried? == Carried::InterfaceLost {
                        return Ok(CarryOutcome::InterfaceLost);
                    }
                }
                () = sleep(pause.min(LONGEST_SLEEP)) => {}
                changed = self.path_changes.changed() => {
                    if changed.is_ok() && !path.is_valid(carrier.ends().local4) {
                        return Ok(CarryOutcome::Interrupted(Interruption::PathLost));
                    }
                    carrier.route_changed(&self.context, open);
                }
            }
        }
    }
}

/// Waits until the tunnel's interface is gone or renamed. Scans report it, once one has found it.
pub(super) async fn interface_lost(
    observed: &mut watch::Receiver<Option<IfIndex>>,
    name: &IfName,
    index: IfIndex,
) {
    let is_ours = |observed: &Option<IfIndex>| *observed == Some(index);
    let lost = async {
        loop {
            match timeout(FOUND_WITHIN, observed.wait_for(is_ours)).await {
                Ok(found) => break found.map(|_| ())?,
                // It may have been removed before the first scan.
                Err(_) if is_lost(name, index).await => return Ok(()),
                Err(_) => {}
            }
        }
        let lost = observed.wait_for(|observed| !is_ours(observed)).await;
        lost.map(|_| ())
    };
    if lost.await.is_err() {
        // The handle is dropped: the missing order ends the tunnel.
        std::future::pending::<()>().await;
    }
}

/// Whether the interface that this program made with this name and index is gone.
pub(super) async fn is_lost(name: &IfName, index: IfIndex) -> bool {
    let there = async { Netlink::open()?.link_by_name(name).await };
    match there.await {
        Ok(found) => found.ours() != Some(index),
        Err(error) => {
            debug!("{name}: {error:#}");
            false
        }
    }
}

impl Context {
    /// The session of an earlier run, if it has not expired and the path to the broker is the same.
    fn resumable(&self, ends: &LinkEnds) -> Option<SavedSession> {
        let now = self.clock.now().elapsed;
        let broker = ends.broker.to_string();
        let saved = self.sessions.load(&self.name, &broker, ends.address, now);
        saved.filter(|saved| saved.path.is_valid(ends.local4))
    }

    /// Requests a slot of the connect limit; the caller connects at once.
    async fn request_slot(&self, ends: &LinkEnds, path: BrokerPath) -> SlotOutcome {
        let wait = match self.take_slot(&ends.broker, path.remote).await {
            Ok(Ok(_slot)) => {
                let is_path_valid = path.is_valid(ends.local4);
                return SlotOutcome::Taken { is_path_valid };
            }
            Ok(Err(wait)) => wait,
            Err(error) => {
                return SlotOutcome::Refused {
                    state: DriverState::Retrying(format!("{error:#}")),
                    pause: SLOT_RETRY,
                };
            }
        };
        let state = if wait.why.is_lockout() {
            let until = wait.remaining.as_secs();
            DriverState::LockedOut(LockedOut {
                until_unix: self.clock.unix_seconds().saturating_add(until),
                reason: wait.to_string(),
            })
        } else {
            DriverState::Working(Some(self.describe_wait(&wait)))
        };
        SlotOutcome::Refused {
            state,
            pause: wait.remaining.min(SLOT_RETRY),
        }
    }

    /// Describes a wait: until when no connect is allowed, and why.
    pub(super) fn describe_wait(&self, wait: &Wait) -> String {
        let seconds = self.clock.unix_seconds().saturating_add(wait.seconds());
        match time_of_day(seconds) {
            Some(until) => format!("no connect until {until}: {}", wait.why),
            // The clock is far off.
            None => wait.to_string(),
        }
    }

    /// Takes a slot, if there is one. Another tunnel may know the broker by its name or by its address.
    pub(super) async fn take_slot(
        &self,
        broker: &Remote,
        address: IpAddr,
    ) -> anyhow::Result<Result<connects::ConnectPermit, Wait>> {
        let names = [broker.to_string(), address.to_string()];
        let names = names.each_ref().map(String::as_str);
        self.connects.take_each(&names).await
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::RefCell,
        collections::{BTreeSet, VecDeque},
        io,
        net::Ipv4Addr,
        path::Path,
        rc::Rc,
    };

    use sixxs_core::{broker::connects::Limit, tunnel::CarrierKind};

    use super::*;
    use crate::{
        broker::{cache::Cache, connects::Connects},
        driver::{
            ChangeNotifier, StatusSender,
            native::{io_thread::Buffers, remover::Remover, session_store::SessionStore},
        },
        host::clock::Clock,
        host::fd_store::FdStore,
    };

    /// A carrier that opens nothing. Each time it is polled it does the next thing of its script.
    struct FakeCarrier {
        ends: LinkEnds,
        script: VecDeque<io::Result<Interruption>>,
        /// For each time it was opened: whether a session was resumed.
        opened: Vec<bool>,
    }

    impl Carrier for FakeCarrier {
        const KIND: CarrierKind = CarrierKind::Tun;

        type Open = ();

        fn ends(&self) -> &LinkEnds {
            &self.ends
        }

        fn explain_open(error: &io::Error) -> String {
            format!("open: {error}")
        }

        fn open(
            &mut self,
            _context: &Context,
            _path: BrokerPath,
            resumed: Option<&SavedSession>,
        ) -> io::Result<()> {
            self.opened.push(resumed.is_some());
            Ok(())
        }

        async fn poll(
            &mut self,
            _context: &Context,
            (): &mut (),
            _path: BrokerPath,
        ) -> io::Result<Result<Duration, Interruption>> {
            match self.script.pop_front() {
                Some(Ok(interruption)) => Ok(Err(interruption)),
                Some(Err(error)) => Err(error),
                None => Ok(Ok(Duration::MAX)),
            }
        }

        async fn carry(&mut self, _context: &Context, (): &mut ()) -> io::Result<Carried> {
            Ok(Carried::InterfaceLost)
        }
    }

    fn tunnel(directory: &Path, slots: u32) -> NativeTunnel {
        let (status, _) = StatusSender::new(DriverState::Idle, &ChangeNotifier::default());
        let limit = Limit {
            connects: slots,
            ..Limit::default()
        };
        NativeTunnel {
            context: Context {
                name: "sixxs0".parse().unwrap(),
                status,
                clock: Clock::default(),
                connects: Connects::new(directory, limit),
                cache: Cache::new(directory),
                sessions: SessionStore::new(directory),
                fd_store: FdStore::open(&BTreeSet::new()),
                buffers: Rc::new(RefCell::new(Buffers::default())),
            },
            remover: Remover::start(),
            observed: watch::channel(None).1,
            path_changes: watch::channel(0).1,
            stale_after: None,
            interface: None,
            device: None,
        }
    }

    /// Runs a carrier in a tunnel with this many slots. Returns it, and the last state of the tunnel if
    /// it does not end within a second.
    fn run(
        prepare: impl FnOnce(&mut NativeTunnel),
        slots: u32,
        mut carrier: FakeCarrier,
    ) -> (FakeCarrier, Option<DriverState>) {
        let directory = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let state = tokio::task::LocalSet::new().block_on(&runtime, async {
            let mut tunnel = tunnel(directory.path(), slots);
            prepare(&mut tunnel);
            let ended = timeout(Duration::from_secs(1), tunnel.run(IfIndex(1), &mut carrier));
            let is_over = ended.await.is_ok();
            let state = tunnel.context.status.subscribe().borrow().state.clone();
            (!is_over).then_some(state)
        });
        (carrier, state)
    }

    fn carrier(counts_as_connect: bool, script: Vec<io::Result<Interruption>>) -> FakeCarrier {
        FakeCarrier {
            ends: LinkEnds {
                broker: Remote::Address(Ipv4Addr::LOCALHOST.into()),
                port: None,
                local4: None,
                address: "2001:db8:a::2".parse().unwrap(),
                counts_as_connect,
            },
            script: script.into(),
            opened: Vec::new(),
        }
    }

    #[test]
    fn a_lost_path_takes_another_slot() {
        let lost = || vec![Ok(Interruption::PathLost)];
        let (carried, waits) = run(|_| {}, 2, carrier(true, lost()));
        assert_eq!((carried.opened, waits), (vec![false, false], None));
        // The second slot is not there.
        let (carried, waits) = run(|_| {}, 1, carrier(true, lost()));
        assert_eq!(carried.opened, [false]);
        let Some(DriverState::Working(Some(reason))) = waits else {
            panic!("{waits:?}");
        };
        assert!(reason.starts_with("no connect until"), "{reason}");
        // Without heartbeats nothing counts as a connect.
        let (carried, waits) = run(|_| {}, 1, carrier(false, lost()));
        assert_eq!((carried.opened, waits), (vec![false, false], None));
    }

    #[test]
    fn a_saved_session_is_resumed_once_and_needs_no_slot() {
        let save = |tunnel: &mut NativeTunnel| {
            let now = tunnel.context.clock.now().elapsed;
            let session = SavedSession {
                path: BrokerPath {
                    remote: Ipv4Addr::LOCALHOST.into(),
                    source: Ipv4Addr::LOCALHOST.into(),
                },
                port: 0,
                remote: Ipv4Addr::LOCALHOST.to_string(),
                address: "2001:db8:a::2".parse().unwrap(),
                known: now,
                until: now + Duration::from_secs(60),
                due: now,
            };
            tunnel.context.sessions.save(&tunnel.context.name, &session);
        };
        let lost = vec![Ok(Interruption::PathLost)];
        let (carried, waits) = run(save, 1, carrier(true, lost));
        assert_eq!((carried.opened, waits), (vec![true, false], None));
    }

    #[test]
    fn a_broken_socket_shows_until_it_is_opened_again() {
        let broken = vec![Err(io::Error::other("broken"))];
        let (carried, waits) = run(|_| {}, 2, carrier(true, broken));
        assert_eq!(carried.opened, [false]);
        let state = DriverState::Working(Some("broken".to_owned()));
        assert_eq!(waits, Some(state));
    }

    #[test]
    fn a_stale_link_ends() {
        let stale = vec![Ok(Interruption::Stale)];
        let (carried, waits) = run(|_| {}, 1, carrier(true, stale));
        assert_eq!((carried.opened, waits), (vec![false], None));
    }
}
