//! Missing resources are reported by name, and the daemon does its work without them: a read-only bpffs, a
//! foreign map in place of its own, full directories.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sixxs_tests::bpf;
use sixxs_tests::leak::{self, Cause};
use sixxs_tests::program::Hook;
use sixxs_tests::status::Status;
use sixxs_tests::topology::{Flavour, OUTSIDE, TUNNELS, UPLINK};
use sixxs_tests::wait;

use crate::setting::Setting;

const EGRESS: &str = "sixxs_egress";

/// Sends leaks, and expects that they are redirected into the tunnel and that the ISP drops none.
fn leaks_are_caught(setting: &Setting) -> Result<()> {
    let address = TUNNELS[0].address;
    let [before, _] = setting.reached_brokers()?;
    let socket = leak::udp_socket(setting.host(), address, Cause::Device(UPLINK))?;
    leak::send(&socket, OUTSIDE, 100, 100)?;
    let reached = || Ok(setting.reached_brokers()?[0] - before);
    let limit = Duration::from_secs(5);
    wait::until("leaks are redirected", limit, reached, |n| *n >= 100)?;
    setting.nothing_went_astray()
}

/// The doctor's finding on pins, if it is not `good`.
fn finding(setting: &Setting) -> Result<Option<Value>> {
    let (_, report) = setting.program.json(&["doctor"])?;
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
    let setting = Setting::new(Flavour::Tun, hook)?;
    let pins = setting.lab.paths().pins();
    let shown = pins.display();
    fs::create_dir(&pins)?;
    setting
        .host()
        .sh(&format!("mount -t bpf -o ro bpf {shown}"))?;
    let daemon = setting.start()?;
    setting.is_up()?;
    let status = setting.program.status()?;
    ensure!(names(&status, WHY), "{status:#?}");
    ensure!(!daemon.log().contains("Linux 6.1"), "{}", daemon.log());
    for tunnel in setting.lab.tunnels() {
        setting.outside_is_answered(tunnel)?;
    }
    leaks_are_caught(&setting)?;
    // The doctor reports the same problem, and its fix works.
    let found = finding(&setting)?.context("doctor finds nothing")?;
    let detail = found["detail"].as_str().context("a detail")?;
    ensure!(
        found["verdict"] == "bad" && detail.contains(WHY),
        "{found:#}"
    );
    let fix = found["fix"].as_str().context("a fix")?;
    let fix = fix.split(';').next().unwrap_or(fix);
    setting.program.shell(fix)?;
    ensure!(daemon.stop()? == 0);
    let daemon = setting.start()?;
    ensure!(finding(&setting)?.is_none());
    let status = setting.program.status()?;
    ensure!(status.healthy && status.problems.is_empty(), "{status:#?}");
    // A bpffs that becomes read-only while the daemon runs: a detached program is still attached again.
    setting.host().sh(&format!("mount -o remount,ro {shown}"))?;
    if hook == Hook::Auto && sixxs_tests::kernel::has_tcx()? {
        let at = || bpf::tcx_named(setting.host(), UPLINK, false, EGRESS);
        let links = at()?;
        let [link] = links[..] else {
            panic!("not one program: {links:?}");
        };
        bpf::detach(link.link)?;
        let limit = Duration::from_secs(5);
        wait::until("it is back", limit, at, |now| {
            now.len() == 1 && *now != links
        })?;
        setting
            .program
            .status_until("that is said", |status| names(status, WHY))?;
        leaks_are_caught(&setting)?;
        setting.host().sh(&format!("mount -o remount,rw {shown}"))?;
        setting
            .host()
            .sh("ip link add some0 type veth peer name some1")?;
        setting
            .program
            .status_until("it is pinned", |status| status.problems.is_empty())?;
        leaks_are_caught(&setting)?;
    }
    setting.host().sh(&format!("mount -o remount,rw {shown}"))?;
    ensure!(daemon.stop()? == 0);
    setting.program.ok(&["down"])?;
    ensure!(!pins.exists());
    Ok(())
}

/// The bpffs becomes read-only after an earlier run pinned its programs.
#[test]
fn a_bpffs_that_became_read_only() -> Result<()> {
    let setting = Setting::new(Flavour::Tun, Hook::Auto)?;
    let pins = setting.lab.paths().pins();
    ensure!(setting.start()?.stop()? == 0);
    setting
        .host()
        .sh(&format!("mount -o remount,ro {}", pins.display()))?;
    let daemon = setting.start()?;
    setting.is_up()?;
    leaks_are_caught(&setting)?;
    // The program is attached only once.
    let programs = bpf::tcx_named(setting.host(), UPLINK, false, EGRESS)?;
    if sixxs_tests::kernel::has_tcx()? {
        ensure!(programs.len() == 1, "{programs:?}");
    }
    ensure!(daemon.stop()? == 0);
    Ok(())
}

/// A foreign map in place of the daemon's own is moved to another directory.
#[test]
fn a_foreign_map() -> Result<()> {
    let setting = Setting::new(Flavour::Tun, Hook::Auto)?;
    ensure!(setting.start()?.stop()? == 0);
    let version = setting.version()?;
    let map = version.join("maps/SOURCES");
    fs::remove_file(&map)?;
    bpf::pin_array(&map, false, 8, 1, &[1; 8])?;
    let found = finding(&setting)?.context("doctor finds nothing")?;
    let detail = found["detail"].as_str().context("a detail")?;
    ensure!(detail.contains(&map.display().to_string()), "{found:#}");
    let daemon = setting.start()?;
    let log = daemon.log();
    let told = format!("{} is not of sixxs", map.display());
    ensure!(log.contains(&told), "{log}");
    ensure!(version.join("strange/SOURCES").exists());
    ensure!(finding(&setting)?.is_none());
    leaks_are_caught(&setting)?;
    ensure!(setting.program.status()?.healthy);
    ensure!(daemon.stop()? == 0);
    setting.program.ok(&["down"])?;
    Ok(())
}

/// A file in place of the pin directory.
#[test]
fn a_file_in_the_place_of_the_pins() -> Result<()> {
    let setting = Setting::new(Flavour::Tun, Hook::Auto)?;
    fs::write(setting.lab.paths().pins(), "")?;
    let daemon = setting.start()?;
    leaks_are_caught(&setting)?;
    let status = setting.program.status()?;
    ensure!(names(&status, "nothing can be pinned"), "{status:#?}");
    let found = finding(&setting)?.context("doctor finds nothing")?;
    let detail = found["detail"].as_str().context("a detail")?;
    ensure!(detail.contains("is no directory"), "{found:#}");
    ensure!(daemon.stop()? == 0);
    Ok(())
}

/// The run directory and the directory for table names are full. Rules, routes and programs are in place, and
/// no half-written file is left.
#[test]
fn directories_that_are_full() -> Result<()> {
    let setting = Setting::new(Flavour::Tun, Hook::Auto)?;
    let (run, tables) = (setting.lab.paths().run(), setting.lab.paths().rt_tables());
    fs::create_dir(&run)?;
    for directory in [&run, &tables] {
        let shown = directory.display();
        setting
            .host()
            .sh(&format!("mount -t tmpfs -o size=4k tmpfs {shown}"))?;
        fs::write(directory.join("ballast"), [0; 4096])?;
    }
    let daemon = setting.start()?;
    setting.is_up()?;
    leaks_are_caught(&setting)?;
    let status = setting.program.status()?;
    ensure!(names(&status, "No space left"), "{status:#?}");
    let left: Vec<_> = fs::read_dir(&tables)?.collect::<Result<_, _>>()?;
    ensure!(left.len() == 1, "{left:?}");
    ensure!(daemon.stop()? == 0);
    setting.program.ok(&["down"])?;

    // No space even for a socket or a lock.
    let shown = run.display();
    setting.host().sh(&format!("umount {shown}"))?;
    setting
        .host()
        .sh(&format!("mount -t tmpfs -o nr_inodes=1 tmpfs {shown}"))?;
    let daemon = setting.start()?;
    leaks_are_caught(&setting)?;
    ensure!(!setting.own_rules()?.is_empty());
    let log = daemon.log();
    ensure!(log.contains("no command reaches this daemon"), "{log}");
    // With space again, it listens after a while.
    setting
        .host()
        .sh(&format!("mount -o remount,nr_inodes=100 {shown}"))?;
    let listens = || Ok(run.join("control.sock").exists());
    let limit = Duration::from_secs(35);
    wait::until("it listens", limit, listens, |listens| *listens)?;
    ensure!(setting.program.status()?.tunnels.len() == 2);
    ensure!(daemon.stop()? == 0);
    Ok(())
}
