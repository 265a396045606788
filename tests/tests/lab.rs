//! The lab itself: it is the internet that the scenarios need, and it leaves nothing behind.

use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use sixxs_tests::lab::topology::{Flavour, LAN1, LAN2, OUTSIDE, UPLINK};
use sixxs_tests::lab::{Lab, Spec};
use sixxs_tests::probe;
use sixxs_tests::probe::leak::{self, Cause};
use sixxs_tests::probe::service::Services;
use sixxs_tests::program::snapshot::{assert_same, take};
use sixxs_tests::wait;

/// With rules added by hand, pings from outside are answered. The remaining faults are the program's task.
#[test]
fn rules_by_hand_heal_tun() -> Result<()> {
    rules_by_hand_heal(Flavour::Tun)
}

#[test]
fn rules_by_hand_heal_veth() -> Result<()> {
    rules_by_hand_heal(Flavour::Veth)
}

fn rules_by_hand_heal(flavour: Flavour) -> Result<()> {
    let lab = Lab::new(Spec {
        lans: true,
        ..Spec::new(flavour)
    })?;
    let addresses = lab.tunnels().each_ref().map(|t| t.plan.address);
    let _host_services = Services::start(lab.host(), &addresses)?;
    let outside_services = Services::start(lab.outside(), &[])?;
    for (tunnel, table) in lab.tunnels().iter().zip([200, 201]) {
        let plan = tunnel.plan;
        let via = if flavour == Flavour::Veth {
            "via fe80::1"
        } else {
            ""
        };
        let ip = |line: String| lab.host().sh(&format!("ip -6 {line}"));
        ip(format!(
            "route add default {via} dev {} table {table}",
            plan.interface
        ))?;
        ip(format!("rule add from {} lookup {table}", plan.address))?;
        if let Some(prefix) = plan.prefix {
            ip(format!(
                "rule add from {prefix} lookup {table} priority 16383"
            ))?;
            ip(format!(
                "rule add from {prefix} to {prefix} lookup main priority 16382"
            ))?;
        }
    }
    let before = take(&lab)?;
    for tunnel in lab.tunnels() {
        let address = tunnel.plan.address;
        assert!(probe::ping(lab.outside(), address, 20)?.all_answered());
        let seen = tunnel.broker_counters()?;
        assert_eq!(seen.get("requests_to_host")?, 20);
        assert_eq!(seen.get("replies_from_host")?, 20);
        assert_eq!(seen.get("from_host")?, 20);
        assert_eq!(probe::udp_echo(lab.outside(), address, 5, 1200, true)?, 5);
        let limit = Duration::from_secs(10);
        probe::tcp_transfer(lab.outside(), address, 1_000_000, 1_000_000, limit)?;
        leak::tcp_upload(lab.host(), address, Cause::Rules, OUTSIDE, 1_000_000, limit)?;
    }
    let [lan1, lan2] = lab.lans()?;
    for (from, to) in [(lan1, LAN2), (lan2, LAN1), (lan1, OUTSIDE), (lan2, OUTSIDE)] {
        assert!(
            probe::ping(from, to, 20)?.all_answered(),
            "{} to {to}",
            from.name()
        );
    }
    assert_eq!(lab.dropped_by_isp()?, 0);

    // For a socket bound to the uplink, the kernel does not consult the rules.
    let socket = leak::udp_socket(lab.host(), addresses[0], Cause::Device(UPLINK))?;
    leak::send(&socket, OUTSIDE, 10, 100)?;
    assert_eq!(
        (lab.dropped_by_isp()?, outside_services.discarded()),
        (10, 0)
    );

    // A deleted interface loses its routes. The new one has the address again, but not the route.
    lab.tunnels()[0].delete()?;
    lab.tunnels()[0].create()?;
    assert!(
        !lab.host()
            .sh("ip -6 route show table 200")?
            .contains("default")
    );
    lab.tunnels()[1].silence()?;
    let silent = probe::ping(lab.host(), lab.tunnels()[1].plan.peer, 1)?;
    assert_eq!(silent.answered, 0);
    assert_ne!(before, take(&lab)?);
    Ok(())
}

/// Traffic alone does not change a snapshot.
#[test]
fn traffic_leaves_snapshots_alone() -> Result<()> {
    let lab = Lab::new(Spec::new(Flavour::Veth))?;
    let before = take(&lab)?;
    assert!(before.len() > 10, "{before:#?}");
    for tunnel in lab.tunnels() {
        probe::ping(lab.outside(), tunnel.plan.address, 5)?;
    }
    assert_same(&before, &take(&lab)?);
    Ok(())
}

/// The next lab cleans up after a killed one. A lab that ends leaves nothing behind.
#[test]
fn nothing_is_left_behind() -> Result<()> {
    const VICTIM: &str = "SIXXS_LAB_VICTIM";
    let names = |pid: u32| -> Result<usize> {
        let names = std::fs::read_dir("/run/netns").context("list namespaces")?;
        let prefix = format!("sixxs-{pid}-");
        let names = names.filter_map(Result::ok).map(|entry| entry.file_name());
        Ok(names
            .filter(|name| name.to_string_lossy().starts_with(&prefix))
            .count())
    };
    if std::env::var_os(VICTIM).is_some() {
        let lab = Lab::new(Spec::new(Flavour::Tun))?;
        nix::sys::signal::raise(Signal::SIGKILL)?;
        drop(lab);
    }
    let mut victim = Command::new(std::env::current_exe()?);
    victim
        .args(["--exact", "nothing_is_left_behind"])
        .env(VICTIM, "1");
    let mut victim = victim.spawn()?;
    let (pid, status) = (victim.id(), victim.wait()?);
    assert_eq!(status.signal(), Some(9), "{status}");
    // Another test's lab may have cleaned up already.
    let lab = Lab::new(Spec::new(Flavour::Tun))?;
    assert_eq!(names(pid)?, 0);
    let base = lab.paths().base().to_owned();
    let name = lab.host().name().to_owned();
    assert!(base.is_dir() && lab.host().sh("ip link show sixxs0").is_ok());
    drop(lab);
    assert!(!base.exists());
    let gone = || Ok(std::path::Path::new("/run/netns").join(&name).exists());
    wait::until(
        "the namespaces are gone",
        Duration::from_secs(5),
        gone,
        |there| !there,
    )?;
    Ok(())
}
