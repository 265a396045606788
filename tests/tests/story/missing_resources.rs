//! Missing resources: a read-only bpffs, a foreign map in place of the daemon's own, full directories. The
//! message names the resource, and everything that does not need it works.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sixxs_tests::kernel::bpf;
use sixxs_tests::lab::topology::{Flavour, OUTSIDE, TUNNELS, UPLINK};
use sixxs_tests::probe::leak::{self, Cause};
use sixxs_tests::program::Hook;
use sixxs_tests::program::status::Status;
use sixxs_tests::wait;

use crate::fixture::Fixture;

const EGRESS: &str = "sixxs_egress";

/// Sends leaks, and expects that they are redirected into the tunnel and that the ISP drops none.
fn leaks_are_caught(fixture: &Fixture) -> Result<()> {
    let address = TUNNELS[0].address;
    let [before, _] = fixture.reached_brokers()?;
    let socket = leak::udp_socket(fixture.host(), address, Cause::Device(UPLINK))?;
    leak::send(&socket, OUTSIDE, 100, 100)?;
    let reached = || Ok(fixture.reached_brokers()?[0] - before);
    let limit = Duration::from_secs(5);
    wait::until("leaks are redirected", limit, reached, |n| *n >= 100)?;
    fixture.ensure_nothing_lost()
}

/// The doctor's finding on pins, if it is not `good`.
fn finding(fixture: &Fixture) -> Result<Option<Value>> {
    let (_, report) = fixture.program.json(&["doctor"])?;
    let findings = report[0]["findings"].as_array().context("findings")?;
    let mut findings = findings.iter();
    let is_it = |found: &&Value| found["about"] == "pins" && found["verdict"] != "good";
    Ok(findings.find(is_it).cloned())
}

fn names(status: &Status, what: &str) -> bool {
    status.problems.iter().any(|problem| problem.contains(what))
}

variants!(a_bpffs_that_is_read_only: read_only(Tun, Auto), read_only_clsact(Tun, Clsact));

fn a_bpffs_that_is_read_only(_: Flavour, hook: Hook) -> Result<()> {
    const WHY: &str = "Read-only file system";
    let fixture = Fixture::new(Flavour::Tun, hook)?;
    let pins = fixture.lab.paths().pins();
    let shown = pins.display();
    fs::create_dir(&pins)?;
    fixture
        .host()
        .sh(&format!("mount -t bpf -o ro bpf {shown}"))?;
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    let status = fixture.program.status()?;
    ensure!(names(&status, WHY), "{status:#?}");
    ensure!(!daemon.log().contains("Linux 6.1"), "{}", daemon.log());
    for tunnel in fixture.lab.tunnels() {
        fixture.ensure_outside_answered(tunnel)?;
    }
    leaks_are_caught(&fixture)?;
    // The doctor reports the same problem, and its fix works.
    let found = finding(&fixture)?.context("doctor finds nothing")?;
    let detail = found["detail"].as_str().context("a detail")?;
    ensure!(
        found["verdict"] == "bad" && detail.contains(WHY),
        "{found:#}"
    );
    let fix = found["fix"].as_str().context("a fix")?;
    let fix = fix.split(';').next().unwrap_or(fix);
    fixture.program.shell(fix)?;
    ensure!(daemon.stop()? == 0);
    let daemon = fixture.start()?;
    ensure!(finding(&fixture)?.is_none());
    let status = fixture.program.status()?;
    ensure!(status.healthy && status.problems.is_empty(), "{status:#?}");
    // A bpffs that becomes read-only while the daemon runs: a detached program is still attached again.
    fixture.host().sh(&format!("mount -o remount,ro {shown}"))?;
    if hook == Hook::Auto && sixxs_tests::kernel::has_tcx()? {
        let at = || bpf::tcx_named(fixture.host(), UPLINK, false, EGRESS);
        let links = at()?;
        let [link] = links[..] else {
            panic!("not one program: {links:?}");
        };
        bpf::detach(link.link)?;
        let limit = Duration::from_secs(5);
        wait::until("it is back", limit, at, |now| {
            now.len() == 1 && *now != links
        })?;
        fixture
            .program
            .status_until("that is said", |status| names(status, WHY))?;
        leaks_are_caught(&fixture)?;
        fixture.host().sh(&format!("mount -o remount,rw {shown}"))?;
        fixture
            .host()
            .sh("ip link add some0 type veth peer name some1")?;
        fixture
            .program
            .status_until("it is pinned", |status| status.problems.is_empty())?;
        leaks_are_caught(&fixture)?;
    }
    fixture.host().sh(&format!("mount -o remount,rw {shown}"))?;
    ensure!(daemon.stop()? == 0);
    fixture.program.run_ok(&["down"])?;
    ensure!(!pins.exists());
    Ok(())
}

/// The bpffs becomes read-only after an earlier run pinned its programs.
#[test]
fn a_bpffs_that_became_read_only() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let pins = fixture.lab.paths().pins();
    ensure!(fixture.start()?.stop()? == 0);
    fixture
        .host()
        .sh(&format!("mount -o remount,ro {}", pins.display()))?;
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    leaks_are_caught(&fixture)?;
    // The program is attached only once.
    let programs = bpf::tcx_named(fixture.host(), UPLINK, false, EGRESS)?;
    if sixxs_tests::kernel::has_tcx()? {
        ensure!(programs.len() == 1, "{programs:?}");
    }
    ensure!(daemon.stop()? == 0);
    Ok(())
}

/// A foreign map in place of the daemon's own is moved to another directory.
#[test]
fn a_foreign_map() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    ensure!(fixture.start()?.stop()? == 0);
    let version = fixture.layout_dir()?;
    let map = version.join("maps/SOURCES");
    fs::remove_file(&map)?;
    bpf::pin_array(&map, false, 8, 1, &[1; 8])?;
    let found = finding(&fixture)?.context("doctor finds nothing")?;
    let detail = found["detail"].as_str().context("a detail")?;
    ensure!(detail.contains(&map.display().to_string()), "{found:#}");
    let daemon = fixture.start()?;
    let log = daemon.log();
    let told = format!("{} is not of sixxs", map.display());
    ensure!(log.contains(&told), "{log}");
    ensure!(version.join("strange/SOURCES").exists());
    ensure!(finding(&fixture)?.is_none());
    leaks_are_caught(&fixture)?;
    ensure!(fixture.program.status()?.healthy);
    ensure!(daemon.stop()? == 0);
    fixture.program.run_ok(&["down"])?;
    Ok(())
}

/// A file in place of the pin directory.
#[test]
fn a_file_in_the_place_of_the_pins() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    fs::write(fixture.lab.paths().pins(), "")?;
    let daemon = fixture.start()?;
    leaks_are_caught(&fixture)?;
    let status = fixture.program.status()?;
    ensure!(names(&status, "nothing can be pinned"), "{status:#?}");
    let found = finding(&fixture)?.context("doctor finds nothing")?;
    let detail = found["detail"].as_str().context("a detail")?;
    ensure!(detail.contains("is no directory"), "{found:#}");
    ensure!(daemon.stop()? == 0);
    Ok(())
}

/// The run directory and the directory for table names are full. Rules, routes and programs are in place, and
/// no half-written file is left.
#[test]
fn directories_that_are_full() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let (run, tables) = (fixture.lab.paths().run(), fixture.lab.paths().rt_tables());
    fs::create_dir(&run)?;
    for directory in [&run, &tables] {
        let shown = directory.display();
        fixture
            .host()
            .sh(&format!("mount -t tmpfs -o size=4k tmpfs {shown}"))?;
        fs::write(directory.join("ballast"), [0; 4096])?;
    }
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    leaks_are_caught(&fixture)?;
    let status = fixture.program.status()?;
    ensure!(names(&status, "No space left"), "{status:#?}");
    let left: Vec<_> = fs::read_dir(&tables)?.collect::<Result<_, _>>()?;
    ensure!(left.len() == 1, "{left:?}");
    ensure!(daemon.stop()? == 0);
    fixture.program.run_ok(&["down"])?;

    // No space even for a socket or a lock.
    let shown = run.display();
    fixture.host().sh(&format!("umount {shown}"))?;
    fixture
        .host()
        .sh(&format!("mount -t tmpfs -o nr_inodes=1 tmpfs {shown}"))?;
    let daemon = fixture.start()?;
    leaks_are_caught(&fixture)?;
    ensure!(!fixture.own_rules()?.is_empty());
    let log = daemon.log();
    ensure!(log.contains("no command reaches this daemon"), "{log}");
    // With space again, it listens after a while.
    fixture
        .host()
        .sh(&format!("mount -o remount,nr_inodes=100 {shown}"))?;
    let listens = || Ok(run.join("control.sock").exists());
    let limit = Duration::from_secs(35);
    wait::until("it listens", limit, listens, |listens| *listens)?;
    ensure!(fixture.program.status()?.tunnels.len() == 2);
    ensure!(daemon.stop()? == 0);
    Ok(())
}
