//! Systemd holds devices and sockets of native tunnels between two runs: what comes meanwhile waits, and
//! is not lost.

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

use crate::setting::Setting;

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
struct Scene {
    setting: Setting,
    store: FdStore,
}

impl Scene {
    fn new(extra: &str) -> Result<Self> {
        let kinds = [Kind::Ayiya, Kind::SixInFour];
        let setting = Setting::of(Spec::native(kinds), Hook::Auto, extra)?;
        let store = FdStore::listen(&setting.lab.paths().base().join("notify.sock"))?;
        Ok(Self { setting, store })
    }

    /// Starts the daemon with what is held.
    fn start(&self) -> Result<Daemon> {
        let command = self
            .store
            .daemon(&self.setting.program, self.setting.host());
        let daemon = self.setting.program.start_as(command)?;
        self.setting.is_up()?;
        Ok(daemon)
    }

    /// Kills the daemon while pings come from outside, and go there from the host; starts it again a
    /// moment later. Pings of either kind, of both tunnels.
    fn restart(&self, daemon: Daemon) -> Result<(Daemon, Vec<Pings>)> {
        let (host, outside) = (self.setting.host(), self.setting.lab.outside());
        let addresses = self
            .setting
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
    let mut scene = Scene::new("")?;
    let daemon = scene.start()?;
    scene.store.holds(&ALL)?;
    let before = scene.setting.program.status()?;

    let (daemon, pings) = scene.restart(daemon)?;
    println!("with what is held: {pings:?}");
    for pings in pings {
        assert!(pings.sent > 50 && pings.all_answered(), "{pings:?}");
    }
    let after = scene.setting.program.status()?;
    for name in ["sixxs0", "sixxs1"] {
        assert_eq!(after.tunnel(name).ifindex, before.tunnel(name).ifindex);
    }
    scene.store.holds(&ALL)?;

    // Held by nobody, the same is lost.
    scene.store.clear();
    let (daemon, pings) = scene.restart(daemon)?;
    println!("without: {pings:?}");
    for pings in pings {
        assert!(pings.answered + 10 < pings.sent, "{pings:?}");
    }
    scene.store.holds(&ALL)?;
    scene.setting.nothing_went_astray()?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

#[test]
fn what_is_not_wanted_any_more_is_not_held() -> Result<()> {
    let mut scene = Scene::new("")?;
    let daemon = scene.start()?;
    scene.store.holds(&ALL)?;
    let program = &scene.setting.program;
    program.ok(&["stop", "sixxs0"])?;
    scene.store.holds(&["device.sixxs1", "socket.sixxs1"])?;
    program.ok(&["start", "sixxs0"])?;
    scene.store.holds(&ALL)?;
    // Its device is made anew while the old one's descriptor is still held.
    program.ok(&["restart", "sixxs1"])?;
    scene.setting.is_up()?;
    scene.store.holds(&ALL)?;
    assert_eq!(daemon.stop()?, 0);

    // Between two runs a tunnel is taken out of the configuration.
    let config = scene.setting.lab.config("");
    let at = config.rfind("[[tunnel]]").context("two tunnels")?;
    scene.setting.lab.write_config(&config[..at])?;
    let command = scene.store.daemon(program, scene.setting.host());
    let daemon = program.start_as(command)?;
    scene.store.holds(&["device.sixxs0", "socket.sixxs0"])?;
    let links = scene.setting.host().sh("ip -brief link show")?;
    assert!(!links.contains("sixxs1"), "{links}");
    program.ok(&["down"])?;
    assert_eq!(daemon.wait()?, 0);
    scene.store.holds(&[])
}

#[test]
fn what_is_held_and_does_not_fit_is_done_without() -> Result<()> {
    let mut scene = Scene::new("")?;
    let daemon = scene.start()?;
    scene.store.holds(&ALL)?;
    assert_eq!(daemon.stop()?, 0);
    // One device is gone, and so what is held of it is dead.
    scene.setting.host().ip("link delete sixxs0\n")?;
    let daemon = scene.start()?;
    scene.store.holds(&ALL)?;
    assert_eq!(daemon.stop()?, 0);

    // Other things by their names.
    scene.store.clear();
    for name in ALL {
        let other = if name.ends_with('0') {
            File::open("/dev/null")?.into()
        } else {
            TcpListener::bind("127.0.0.1:0")?.into()
        };
        scene.store.hold(name, other);
    }
    scene.store.hold("stored", File::open("/dev/null")?.into());
    let daemon = scene.start()?;
    scene.store.holds(&ALL)?;
    for tunnel in scene.setting.lab.tunnels() {
        scene.setting.outside_is_answered(tunnel)?;
    }
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
