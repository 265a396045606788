//! systemd holds devices and sockets of native tunnels between two runs. Packets that arrive meanwhile are
//! queued, not lost.

use std::fs::File;
use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context as _, Result};
use sixxs_tests::broker::Kind;
use sixxs_tests::lab::Spec;
use sixxs_tests::lab::topology::OUTSIDE;
use sixxs_tests::probe::{Ping, PingStream, Pings};
use sixxs_tests::program::fd_store::FdStore;
use sixxs_tests::program::{Daemon, Hook};

use crate::fixture::Fixture;

/// The interval between pings. All pings of the gap fit into any queue, even if the daemon takes seconds to
/// start.
const INTERVAL: Duration = Duration::from_millis(20);

/// The time without a daemon, in addition to its start time.
const GAP: Duration = Duration::from_millis(400);

/// All descriptors that are held for two tunnels.
const ALL: [&str; 4] = [
    "device.sixxs0",
    "device.sixxs1",
    "socket.sixxs0",
    "socket.sixxs1",
];

/// Two native tunnels, and the fd store.
struct Scenario {
    fixture: Fixture,
    store: FdStore,
}

impl Scenario {
    fn new(extra: &str) -> Result<Self> {
        let spec = Spec {
            // The daemon has to carry the packets: those that the programs carry need no store.
            carrier: Some("tun"),
            ..Spec::native([Kind::Ayiya, Kind::SixInFour])
        };
        let fixture = Fixture::with_spec(spec, Hook::Auto, extra)?;
        let store = FdStore::listen(&fixture.lab.paths().base().join("notify.sock"))?;
        Ok(Self { fixture, store })
    }

    /// Starts the daemon with the held descriptors.
    fn start(&self) -> Result<Daemon> {
        let command = self
            .store
            .daemon(&self.fixture.program, self.fixture.host());
        let daemon = self.fixture.program.start_as(command)?;
        self.fixture.wait_until_up()?;
        Ok(daemon)
    }

    /// Kills the daemon during pings from outside and from the host, and starts it again a moment later.
    /// Returns the pings in both directions, of both tunnels.
    fn restart(&self, daemon: Daemon) -> Result<(Daemon, Vec<Pings>)> {
        let (host, outside) = (self.fixture.host(), self.fixture.lab.outside());
        let addresses = self
            .fixture
            .lab
            .tunnels()
            .each_ref()
            .map(|t| t.plan.address);
        std::thread::scope(|scope| {
            let from_outside = addresses.map(|to| PingStream::start(outside, to, INTERVAL));
            let from_host = addresses.map(|source| {
                scope.spawn(move || {
                    Ping::new(OUTSIDE, 80)
                        .interval(INTERVAL)
                        .source(source)
                        .run(host)
                })
            });
            std::thread::sleep(GAP);
            daemon.kill()?;
            std::thread::sleep(GAP);
            let daemon = self.start()?;
            std::thread::sleep(GAP);
            let mut pings = Vec::new();
            for stream in from_outside {
                pings.push(stream?.stop()?);
            }
            for thread in from_host {
                pings.push(thread.join().ok().context("ping panicked")??);
            }
            Ok((daemon, pings))
        })
    }
}

#[test]
fn packets_between_two_runs_are_queued() -> Result<()> {
    let mut scenario = Scenario::new("")?;
    let daemon = scenario.start()?;
    scenario.store.holds(&ALL)?;
    let before = scenario.fixture.program.status()?;

    let (daemon, pings) = scenario.restart(daemon)?;
    println!("with what is held: {pings:?}");
    for pings in pings {
        assert!(pings.sent > 50 && pings.all_answered(), "{pings:?}");
    }
    let after = scenario.fixture.program.status()?;
    for name in ["sixxs0", "sixxs1"] {
        assert_eq!(after.tunnel(name).ifindex, before.tunnel(name).ifindex);
    }
    scenario.store.holds(&ALL)?;

    // Without the fd store, the same pings are lost.
    scenario.store.clear();
    let (daemon, pings) = scenario.restart(daemon)?;
    println!("without: {pings:?}");
    for pings in pings {
        assert!(pings.answered + 10 < pings.sent, "{pings:?}");
    }
    scenario.store.holds(&ALL)?;
    scenario.fixture.ensure_nothing_lost()?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

#[test]
fn descriptors_of_removed_tunnels_are_dropped() -> Result<()> {
    let mut scenario = Scenario::new("")?;
    let daemon = scenario.start()?;
    scenario.store.holds(&ALL)?;
    let program = &scenario.fixture.program;
    program.run_ok(&["stop", "sixxs0"])?;
    scenario.store.holds(&["device.sixxs1", "socket.sixxs1"])?;
    program.run_ok(&["start", "sixxs0"])?;
    scenario.store.holds(&ALL)?;
    // The device is created again while the descriptor of the old one is still held.
    program.run_ok(&["restart", "sixxs1"])?;
    scenario.fixture.wait_until_up()?;
    scenario.store.holds(&ALL)?;
    assert_eq!(daemon.stop()?, 0);

    // A tunnel is removed from the configuration between two runs.
    let config = scenario.fixture.lab.config("");
    let at = config.rfind("[[tunnel]]").context("two tunnels")?;
    scenario.fixture.lab.write_config(&config[..at])?;
    let command = scenario.store.daemon(program, scenario.fixture.host());
    let daemon = program.start_as(command)?;
    scenario.store.holds(&["device.sixxs0", "socket.sixxs0"])?;
    let links = scenario.fixture.host().sh("ip -brief link show")?;
    assert!(!links.contains("sixxs1"), "{links}");
    program.run_ok(&["down"])?;
    assert_eq!(daemon.wait()?, 0);
    scenario.store.holds(&[])
}

#[test]
fn useless_descriptors_are_replaced() -> Result<()> {
    let mut scenario = Scenario::new("")?;
    let daemon = scenario.start()?;
    scenario.store.holds(&ALL)?;
    assert_eq!(daemon.stop()?, 0);
    // One device is deleted, so the held descriptor is useless.
    scenario.fixture.host().ip("link delete sixxs0\n")?;
    let daemon = scenario.start()?;
    scenario.store.holds(&ALL)?;
    assert_eq!(daemon.stop()?, 0);

    // Foreign descriptors under these names.
    scenario.store.clear();
    for name in ALL {
        let other = if name.ends_with('0') {
            File::open("/dev/null")?.into()
        } else {
            TcpListener::bind("127.0.0.1:0")?.into()
        };
        scenario.store.hold(name, other);
    }
    scenario
        .store
        .hold("stored", File::open("/dev/null")?.into());
    let daemon = scenario.start()?;
    scenario.store.holds(&ALL)?;
    for tunnel in scenario.fixture.lab.tunnels() {
        scenario.fixture.ensure_outside_answered(tunnel)?;
    }
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
