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

/// Between pings: what comes in the gap fits into any queue, also where the daemon takes seconds to start.
const INTERVAL: Duration = Duration::from_millis(20);

/// How long there is no daemon, besides the time that it takes to start.
const GAP: Duration = Duration::from_millis(400);

/// All that is held of two tunnels.
const ALL: [&str; 4] = [
    "device.sixxs0",
    "device.sixxs1",
    "socket.sixxs0",
    "socket.sixxs1",
];

/// Two native tunnels, and systemd's part.
struct Scenario {
    fixture: Fixture,
    store: FdStore,
}

impl Scenario {
    fn new(extra: &str) -> Result<Self> {
        let kinds = [Kind::Ayiya, Kind::SixInFour];
        let fixture = Fixture::of(Spec::native(kinds), Hook::Auto, extra)?;
        let store = FdStore::listen(&fixture.lab.paths().base().join("notify.sock"))?;
        Ok(Self { fixture, store })
    }

    /// Starts the daemon with what is held.
    fn start(&self) -> Result<Daemon> {
        let command = self
            .store
            .daemon(&self.fixture.program, self.fixture.host());
        let daemon = self.fixture.program.start_as(command)?;
        self.fixture.wait_until_up()?;
        Ok(daemon)
    }

    /// Kills the daemon while pings come from outside, and go there from the host; starts it again a
    /// moment later. Pings of either kind, of both tunnels.
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
fn what_comes_between_two_runs_waits() -> Result<()> {
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

    // Held by nobody, the same is lost.
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
fn what_is_not_wanted_any_more_is_not_held() -> Result<()> {
    let mut scenario = Scenario::new("")?;
    let daemon = scenario.start()?;
    scenario.store.holds(&ALL)?;
    let program = &scenario.fixture.program;
    program.ok(&["stop", "sixxs0"])?;
    scenario.store.holds(&["device.sixxs1", "socket.sixxs1"])?;
    program.ok(&["start", "sixxs0"])?;
    scenario.store.holds(&ALL)?;
    // Its device is made anew while the old one's descriptor is still held.
    program.ok(&["restart", "sixxs1"])?;
    scenario.fixture.wait_until_up()?;
    scenario.store.holds(&ALL)?;
    assert_eq!(daemon.stop()?, 0);

    // Between two runs a tunnel is taken out of the configuration.
    let config = scenario.fixture.lab.config("");
    let at = config.rfind("[[tunnel]]").context("two tunnels")?;
    scenario.fixture.lab.write_config(&config[..at])?;
    let command = scenario.store.daemon(program, scenario.fixture.host());
    let daemon = program.start_as(command)?;
    scenario.store.holds(&["device.sixxs0", "socket.sixxs0"])?;
    let links = scenario.fixture.host().sh("ip -brief link show")?;
    assert!(!links.contains("sixxs1"), "{links}");
    program.ok(&["down"])?;
    assert_eq!(daemon.wait()?, 0);
    scenario.store.holds(&[])
}

#[test]
fn what_is_held_and_does_not_fit_is_done_without() -> Result<()> {
    let mut scenario = Scenario::new("")?;
    let daemon = scenario.start()?;
    scenario.store.holds(&ALL)?;
    assert_eq!(daemon.stop()?, 0);
    // One device is gone, and so what is held of it is dead.
    scenario.fixture.host().ip("link delete sixxs0\n")?;
    let daemon = scenario.start()?;
    scenario.store.holds(&ALL)?;
    assert_eq!(daemon.stop()?, 0);

    // Other things by their names.
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
