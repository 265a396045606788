//! Other software removes the daemon's programs, pins or table names (rules and routes have their own tests).
//! The daemon restores them, and names the process that removed them if the kernel reports it.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sixxs_tests::kernel::{self, bpf};
use sixxs_tests::lab::topology::{Flavour, OUTSIDE, TUNNELS, UPLINK};
use sixxs_tests::probe::PingStream;
use sixxs_tests::probe::leak::{self, Cause};
use sixxs_tests::program::Hook;
use sixxs_tests::program::status::Status;
use sixxs_tests::wait;

use crate::fixture::Fixture;

const EGRESS: &str = "sixxs_egress";

/// The links of the program at an interface's egress.
fn links(fixture: &Fixture, interface: &str) -> Result<Vec<bpf::Attached>> {
    bpf::tcx_named(fixture.host(), interface, false, EGRESS)
}

fn corrections(fixture: &Fixture, about: &str) -> Result<Vec<Value>> {
    let (_, alerts) = fixture.program.json(&["alerts"])?;
    let is_about = |alert: &Value| {
        alert["kind"] == "correction"
            && alert["correction"]
                .as_str()
                .is_some_and(|what| what.contains(about))
    };
    Ok(alerts.into_iter().filter(is_about).collect())
}

/// Waits for a correction that names this process.
fn corrected_by(fixture: &Fixture, about: &str, by: &str) -> Result<()> {
    let what = format!("a correction about {about:?} names {by}");
    let told = || corrections(fixture, about);
    let is_named = |alerts: &Vec<Value>| {
        let mut by_whom = alerts.iter().filter_map(|alert| alert["by"].as_str());
        by_whom.any(|whom| whom.starts_with(by))
    };
    wait::until(&what, Duration::from_secs(5), told, is_named)?;
    Ok(())
}

/// Programs that are detached from an interface are restored long before the regular reading of the kernel, one by
/// one and all at once.
#[test]
fn programs_come_back_at_once() -> Result<()> {
    if !kernel::has_tcx()? {
        // Without TCX the program is a filter, and the kernel sends an event when it is removed.
        return filters_come_back_at_once();
    }
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture.start()?;
    for interface in [UPLINK, TUNNELS[0].interface, UPLINK, UPLINK] {
        let [link] = links(&fixture, interface)?[..] else {
            panic!("not one program at {interface}");
        };
        let before = fixture.program.status()?.corrections;
        let taken = Instant::now();
        ensure!(bpf::detach(link.link)?, "the link is gone");
        let back = || links(&fixture, interface);
        let limit = Duration::from_secs(5);
        wait::until("the program is back", limit, back, |links| links.len() == 1)?;
        let took = taken.elapsed();
        // Far below the 30 s after which the kernel is read back. The benchmark measures the exact time.
        assert!(
            took < Duration::from_secs(2) * wait::patience(),
            "{interface}: {took:?}"
        );
        assert_ne!(links(&fixture, interface)?, [link]);
        fixture
            .program
            .status_until("it is told", |status| status.corrections > before)?;
    }
    let told = corrections(&fixture, "attach the program to net0 egress")?;
    assert_eq!(told.len(), 3, "{told:#?}");
    let status = fixture.program.status()?;
    assert!(status.healthy, "{status:#?}");
    for tunnel in fixture.lab.tunnels() {
        fixture.ensure_outside_answered(tunnel)?;
    }
    fixture.ensure_nothing_lost()?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// The service runs without `CAP_SYS_ADMIN`: the query for attached programs works without it.
#[test]
fn programs_come_back_to_the_service() -> Result<()> {
    if !kernel::has_tcx()? {
        return Ok(());
    }
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let pins = fixture.lab.paths().pins();
    fs::create_dir(&pins)?;
    fixture
        .host()
        .sh(&format!("mount -t bpf bpf {}", pins.display()))?;
    let mut run = fixture.host().command("setpriv");
    run.arg("--bounding-set=-all,+bpf,+net_admin,+net_raw,+perfmon")
        .arg(fixture.program.binary())
        .arg("run");
    fixture.program.apply_environment(&mut run);
    let daemon = fixture.program.start_as(run)?;
    let [link] = links(&fixture, UPLINK)?[..] else {
        panic!("not one program at {UPLINK}");
    };
    ensure!(bpf::detach(link.link)?, "the link is gone");
    let taken = Instant::now();
    let back = || links(&fixture, UPLINK);
    let limit = Duration::from_secs(5);
    wait::until("the program is back", limit, back, |links| links.len() == 1)?;
    assert!(taken.elapsed() < Duration::from_secs(2));
    let status = fixture.program.status()?;
    assert!(status.problems.is_empty(), "{status:#?}");
    assert_eq!(daemon.stop()?, 0);
    // The next daemon takes the programs over.
    assert_eq!(fixture.start()?.stop()?, 0);
    assert_eq!(links(&fixture, UPLINK)?.len(), 1);
    Ok(())
}

#[test]
fn filters_come_back_at_once() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Clsact)?;
    let daemon = fixture.start()?;
    let filters = || fixture.host().sh("tc filter show dev net0 egress");
    assert!(filters()?.contains(EGRESS), "{}", filters()?);
    let another =
        "filter replace dev net0 egress prio 1 protocol all handle 0x69787873 bpf bytecode";
    for (command, last) in [
        ("filter del dev net0 egress", None),
        ("qdisc del dev net0 clsact", None),
        // A foreign program replaces the daemon's filter. It ends the chain there.
        (another, Some("1,6 0 0 0")),
    ] {
        let taken = Instant::now();
        let mut tc = fixture.host().command("tc");
        let status = tc.args(command.split(' ')).args(last).status()?;
        ensure!(status.success(), "tc {command}");
        let limit = Duration::from_secs(5);
        wait::until("the filter is back", limit, filters, |filters| {
            filters.contains(EGRESS)
        })?;
        let took = taken.elapsed();
        assert!(
            took < Duration::from_secs(2) * wait::patience(),
            "{command}: {took:?}"
        );
    }
    wait::until(
        "all are told",
        Duration::from_secs(5),
        || corrections(&fixture, "attach the program to net0 egress"),
        |told| told.len() == 3,
    )?;
    let filters = filters()?;
    assert!(!filters.contains("bytecode"), "{filters}");
    let status = fixture.program.status()?;
    assert!(status.healthy, "{status:#?}");
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// The alert names the process that deleted a rule, if that process still runs when the daemon reads its
/// name.
#[test]
fn who_deletes_a_rule_is_named() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture.start()?;
    // `ip -batch` waits for its next line, so it still runs when the daemon reads its name.
    let mut ip = fixture
        .host()
        .command("ip")
        .args(["-6", "-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()?;
    let mut lines = ip.stdin.take().context("its standard input")?;
    writeln!(lines, "rule del from {} priority 16383", TUNNELS[0].address)?;
    corrected_by(&fixture, "rule add", "ip (process ")?;
    let told = corrections(&fixture, "rule add")?;
    assert_eq!(told.len(), 1, "{told:#?}");
    assert_eq!(told[0]["tunnel"], TUNNELS[0].interface);
    drop(lines);
    assert!(ip.wait()?.success());
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// All pins below a directory.
fn pinned(version: &Path) -> BTreeSet<PathBuf> {
    let entries = |directory: &str| fs::read_dir(version.join(directory)).into_iter().flatten();
    let entries = entries("maps").chain(entries("links"));
    entries.flatten().map(|entry| entry.path()).collect()
}

/// The daemon has counted all requests since `before`.
fn counted_on(fixture: &Fixture, before: &Status, sent: u64) -> Result<()> {
    let requests = |status: &Status| status.tunnel(TUNNELS[0].interface).echo.requests_in;
    let after = fixture.program.status()?;
    assert_eq!(requests(&after), requests(before) + sent);
    Ok(())
}

/// Pins that are removed under a running daemon are restored with their contents: enforcement continues after
/// the daemon dies.
#[test]
fn pins_come_back() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture.start()?;
    fixture.ensure_outside_answered(&fixture.lab.tunnels()[0])?;
    let before = fixture.program.status()?;
    let version = fixture.layout_dir()?;
    let all = pinned(&version);
    ensure!(all.len() > 10, "{all:?}");
    fs::remove_dir_all(&version).context("take the pins away")?;
    // The kernel sends no event for it. Any scan detects it.
    fixture
        .host()
        .sh("ip link add some0 type veth peer name some1")?;
    // Wait for all pins: an object without a pin is freed when the daemon dies.
    let pinned = || Ok(pinned(&version));
    wait::until(
        "the pins are back",
        Duration::from_secs(5),
        pinned,
        |pins| *pins == all,
    )?;
    let [address, _] = fixture.lab.tunnels().each_ref().map(|t| t.plan.address);
    let interval = Duration::from_millis(5);
    let stream = PingStream::start(fixture.lab.outside(), address, interval)?;
    daemon.kill()?;
    fixture.delete_own_rules()?;
    std::thread::sleep(Duration::from_millis(200));
    let daemon = fixture.start()?;
    let pings = stream.stop()?;
    assert!(pings.sent > 10 && pings.all_answered(), "{pings:?}");
    counted_on(&fixture, &before, pings.sent)?;
    fixture.ensure_nothing_lost()?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// Maps whose pins disappear while no daemon runs: the attached programs still use them, so a new daemon finds them
/// there. It counts on, and catches leaks from the first packet on.
#[test]
fn pins_removed_without_a_daemon_come_back() -> Result<()> {
    if !kernel::has_tcx()? {
        return Ok(());
    }
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let mut daemon = fixture.start()?;
    fixture.ensure_outside_answered(&fixture.lab.tunnels()[0])?;
    let before = fixture.program.status()?;
    let maps = fixture.layout_dir()?.join("maps");
    let names = names(&maps)?;
    let [address, _] = fixture.lab.tunnels().each_ref().map(|t| t.plan.address);
    let interval = Duration::from_millis(2);
    let stream = PingStream::start(fixture.lab.outside(), address, interval)?;
    for gone in &names {
        daemon.kill()?;
        // Every reply leaks.
        fixture.delete_own_rules()?;
        fs::remove_file(maps.join(gone))?;
        let answered = || Ok(stream.state().pings.answered);
        let before = answered()?;
        let limit = Duration::from_secs(5);
        wait::until("replies are caught", limit, answered, |now| {
            *now > before + 5
        })?;
        daemon = fixture.start()?;
    }
    assert_eq!(self::names(&maps)?, names);
    let pings = stream.stop()?;
    assert!(pings.sent > 100 && pings.all_answered(), "{pings:?}");
    counted_on(&fixture, &before, pings.sent)?;
    fixture.ensure_nothing_lost()?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// The names in a directory.
fn names(directory: &Path) -> Result<BTreeSet<String>> {
    let entries = fs::read_dir(directory)?;
    entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect()
}

/// The names of tables are restored, and the correction is reported.
#[test]
fn names_of_tables_come_back() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture.start()?;
    let file = fixture.lab.paths().rt_tables().join("sixxs.conf");
    let text = fs::read_to_string(&file)?;
    fs::remove_file(&file)?;
    fixture
        .host()
        .sh("ip link add some0 type veth peer name some1")?;
    let there = || Ok(fs::read_to_string(&file).unwrap_or_default());
    wait::until("the names are back", Duration::from_secs(5), there, |now| {
        *now == text
    })?;
    corrections(&fixture, "names").and_then(|told| {
        ensure!(told.len() == 1, "{told:#?}");
        Ok(())
    })?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// A new interface becomes an uplink soon after it is created. No leak leaves by it, even before its default
/// route exists.
#[test]
fn a_new_uplink_is_guarded_before_it_is_one() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let config = fixture.lab.config("").replace("uplinks = [\"net0\"]\n", "");
    fixture.lab.write_config(&config)?;
    let daemon = fixture.start()?;
    let [tunnel, _] = fixture.lab.tunnels();
    fixture
        .host()
        .ip("link add wwan0 type veth peer name far0\n\
         link set far0 up\n\
         link set wwan0 up\n\
         address add 2001:db8:2::1/64 dev wwan0 nodad\n\
         neighbour add 2001:db8:2::fe lladdr 02:00:00:00:00:fe dev wwan0 nud permanent\n")?;
    let attached = || -> Result<bool> {
        if kernel::has_tcx()? {
            return Ok(!links(&fixture, "wwan0")?.is_empty());
        }
        Ok(fixture
            .host()
            .sh("tc filter show dev wwan0 egress")?
            .contains(EGRESS))
    };
    wait::until(
        "it has its program",
        Duration::from_secs(5),
        attached,
        |a| *a,
    )?;
    // It is not an uplink yet, and status does not list it.
    assert_eq!(fixture.program.status()?.uplinks.len(), 1);
    // Adds the route, and at once sends a packet that is bound to the device.
    let socket = leak::udp_socket(fixture.host(), tunnel.plan.address, Cause::Device("wwan0"))?;
    let sent = || -> Result<u64> {
        let links = fixture.host().sh("ip -statistics -json link show wwan0")?;
        let links: Value = serde_json::from_str(&links)?;
        let packets = &links[0]["stats64"]["tx"]["packets"];
        packets.as_u64().context("a number of packets")
    };
    let before = sent()?;
    fixture
        .host()
        .sh("ip -6 route add default via 2001:db8:2::fe dev wwan0 metric 2048")?;
    leak::send(&socket, OUTSIDE, 10, 100)?;
    fixture
        .program
        .status_until("it is an uplink", |status| status.uplinks.len() == 2)?;
    leak::send(&socket, OUTSIDE, 10, 100)?;
    let status = fixture.program.status()?;
    assert_eq!(status.tunnel(tunnel.plan.interface).leaks.redirected, 20);
    // The interface also sends packets of the kernel, such as neighbour discovery.
    let after = sent()?;
    assert!(after < before + 10, "{before} {after}");
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// Maps of another layout, as an upgrade finds them: the programs are replaced in place, no packet is lost,
/// and the counters continue.
#[test]
fn an_upgrade_carries_counters_over() -> Result<()> {
    for hook in [Hook::Auto, Hook::Clsact] {
        let fixture = Fixture::new(Flavour::Tun, hook)?;
        let daemon = fixture.start()?;
        for tunnel in fixture.lab.tunnels() {
            fixture.ensure_outside_answered(tunnel)?;
        }
        assert_eq!(daemon.stop()?, 0);
        let address = TUNNELS[1].address;
        let interval = Duration::from_millis(2);
        let stream = PingStream::start(fixture.lab.outside(), address, interval)?;
        let (pins, version) = (fixture.pins()?, fixture.layout_dir()?);
        let mut before = Vec::new();
        for other in ["v2", "v1000"] {
            fs::rename(&version, pins.join(other))?;
            let daemon = fixture.start()?;
            assert!(!pins.join(other).exists());
            let status = fixture.program.status()?;
            assert!(status.healthy, "{status:#?}");
            let counted: Vec<_> = status.tunnels.iter().map(|t| t.echo.requests_in).collect();
            before.push(counted);
            assert_eq!(daemon.stop()?, 0);
        }
        fixture.delete_own_rules()?;
        std::thread::sleep(Duration::from_millis(100));
        let pings = stream.stop()?;
        assert!(pings.sent > 10 && pings.all_answered(), "{pings:?}");
        let daemon = fixture.start()?;
        let status = fixture.program.status()?;
        let asked = 20;
        assert_eq!(before[0][0], asked);
        assert_eq!(before[1][0], asked);
        let requests = status.tunnel(TUNNELS[1].interface).echo.requests_in;
        assert_eq!(requests, asked + pings.sent);
        fixture.ensure_nothing_lost()?;
        assert_eq!(daemon.stop()?, 0);
    }
    Ok(())
}

/// Counters of programs with another layout continue, even if their maps differ: here the values have another
/// size, in other slots.
#[test]
fn counters_of_another_layout_are_carried_over() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let pins = fixture.pins()?;
    // The daemon mounts the file system for the pins.
    assert_eq!(fixture.start()?.stop()?, 0);
    let [name, other] = TUNNELS.each_ref().map(|plan| plan.interface);
    let before = fixture.start()?;
    let own = fixture.program.status()?.tunnel(name).echo.requests_in;
    assert_eq!(before.stop()?, 0);

    let maps = pins.join("v1/maps");
    fs::create_dir_all(&maps)?;
    let mut slot_name = name.as_bytes().to_vec();
    slot_name.resize(16, 0);
    bpf::pin_array(&maps.join("SLOTS"), false, 16, 5, &slot_name)?;
    // The value is the same on each processor. The bytes after the counters are not a counter.
    let mut counters = vec![0; sixxs_common::stat::CAPACITY * 8];
    let at = sixxs_common::stat::Stat::InRequests.index() * 8;
    counters[at..at + 8].copy_from_slice(&1000_u64.to_ne_bytes());
    counters.extend_from_slice(&[0xff; 20]);
    bpf::pin_array(&maps.join("COUNTERS"), true, 16, 5, &counters)?;

    let daemon = fixture.start()?;
    let status = fixture.program.status()?;
    let carried = status.tunnel(name).echo.requests_in - own;
    assert!(carried > 0 && carried % 1000 == 0, "{carried}");
    assert_eq!(status.tunnel(other).echo.requests_in, 0);
    assert!(!pins.join("v1").exists());
    assert_eq!(daemon.stop()?, 0);
    // They are carried over only once.
    let daemon = fixture.start()?;
    let again = fixture.program.status()?.tunnel(name).echo.requests_in;
    assert_eq!(again - own, carried);
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
