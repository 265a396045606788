//! What cannot be had is called by its name, and what can be done without it is done: a bpffs that is read-only,
//! somebody else's map in the place of ours, directories that are full.

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

use crate::setting::Setting;

const EGRESS: &str = "sixxs_egress";

/// Packets that leak are put into the tunnel, and none gets to the provider.
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

/// What doctor finds about pins that is not good.
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
    // doctor says the same, and its fix works.
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
    // While it runs: what is taken away is attached again all the same.
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

/// Programs of an earlier run, which pinned them, sit there already.
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
    // Not two of them.
    let programs = bpf::tcx_named(setting.host(), UPLINK, false, EGRESS)?;
    if sixxs_tests::kernel::has_tcx()? {
        ensure!(programs.len() == 1, "{programs:?}");
    }
    ensure!(daemon.stop()? == 0);
    Ok(())
}

/// Somebody else's map has the place of ours: it is moved out of the way.
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

/// A pin directory that is none.
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

/// A run directory and one for names of tables that are full: rules, routes and programs are in place, and
/// nothing half-written is left.
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

    // Not even room for a socket, or a lock.
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
    // With room, it listens after a while.
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
