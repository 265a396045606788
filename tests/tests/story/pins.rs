//! Pins belong to a network namespace: daemons of several namespaces share a pin directory.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sixxs_tests::broker::Kind;
use sixxs_tests::kernel;
use sixxs_tests::kernel::bpf::{self, Order};
use sixxs_tests::lab::Spec;
use sixxs_tests::lab::topology::{Flavour, OUTSIDE, TUNNELS, UPLINK};
use sixxs_tests::probe::leak::{self, Cause};
use sixxs_tests::program::Hook;
use sixxs_tests::wait;

use crate::fixture::Fixture;

const EGRESS: &str = "sixxs_egress";

/// Two hosts that share the pin directory of the first.
fn two(hook: Hook) -> Result<[Fixture; 2]> {
    let first = Fixture::new(Flavour::Tun, hook)?;
    let mut second = Fixture::new(Flavour::Tun, hook)?;
    let shared = first.lab.paths().pins();
    second.program.add_environment([("SIXXS_PIN_DIR", shared)]);
    Ok([first, second])
}

/// Sends leaks, and expects that all of them are redirected into the tunnel.
fn leaks_are_caught(fixture: &Fixture) -> Result<()> {
    let [tunnel, _] = fixture.lab.tunnels();
    let leaked = || fixture.program.status();
    let before = leaked()?.tunnel(tunnel.plan.interface).leaks.redirected;
    let socket = leak::udp_socket(fixture.host(), tunnel.plan.address, Cause::Device(UPLINK))?;
    leak::send(&socket, OUTSIDE, 200, 100)?;
    let after = leaked()?.tunnel(tunnel.plan.interface).leaks.redirected;
    ensure!(after == before + 200, "{} of 200", after - before);
    fixture.ensure_nothing_lost()
}

/// All pins below a directory, sorted.
fn listed(directory: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    if directory.exists() {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                names.extend(listed(&entry.path())?);
            }
            names.push(entry.path().display().to_string());
        }
    }
    names.sort();
    Ok(names)
}

variants!(two_daemons_share_a_directory: tun(Tun, Auto), tun_clsact(Tun, Clsact));

/// Two daemons in two network namespaces share a pin directory. Each keeps its own pins while both run, when
/// the other one is killed, and when `down` removes the other one.
fn two_daemons_share_a_directory(_: Flavour, hook: Hook) -> Result<()> {
    let [first, second] = two(hook)?;
    let shared = first.lab.paths().pins();
    let here = first.start()?;
    let programs = |fixture: &Fixture| {
        Ok::<_, anyhow::Error>(bpf::tcx_named(fixture.host(), UPLINK, false, EGRESS)?.len())
    };
    let before = (listed(&first.pins()?)?, programs(&first)?);
    let there = second.start()?;
    let log = there.log();
    let told = format!(
        "{} belongs to another network namespace",
        first.pins()?.display()
    );
    ensure!(log.contains(&told), "{log}");
    for fixture in [&first, &second] {
        leaks_are_caught(fixture)?;
    }
    std::thread::sleep(Duration::from_secs(1));
    for fixture in [&first, &second] {
        let status = fixture.program.status()?;
        ensure!(status.healthy && status.corrections == 0, "{status:#?}");
    }
    // When one daemon dies, the other is not affected, and the programs of the dead one still work.
    there.kill()?;
    leaks_are_caught(&first)?;
    second.delete_own_rules()?;
    second.ensure_outside_answered(&second.lab.tunnels()[0])?;
    second.ensure_nothing_lost()?;
    // The restarted daemon takes over its own pins. `down` removes them completely.
    let there = second.start()?;
    leaks_are_caught(&second)?;
    ensure!(second.pins_in(&shared)?.exists());
    second.program.run_ok(&["down"])?;
    ensure!(there.wait()? == 0);
    ensure!(!second.pins_in(&shared)?.exists());
    ensure!((listed(&first.pins()?)?, programs(&first)?) == before);
    leaks_are_caught(&first)?;
    ensure!(first.program.status()?.corrections == 0);
    ensure!(here.stop()? == 0);
    // The last `down` also removes the directory.
    first.program.run_ok(&["down"])?;
    ensure!(!shared.exists());
    Ok(())
}

variants!(old_pins_belong_to_the_namespace_of_their_programs: tun_old(Tun, Auto), tun_clsact_old(Tun, Clsact));

/// Earlier versions pinned without the namespace. The attached programs show the owner of such pins: pins of
/// another namespace stay, in any order of start.
fn old_pins_belong_to_the_namespace_of_their_programs(_: Flavour, hook: Hook) -> Result<()> {
    let [first, second] = two(hook)?;
    let shared = first.lab.paths().pins();
    ensure!(first.start()?.stop()? == 0);
    first.ensure_outside_answered(&first.lab.tunnels()[0])?;
    // The pins as an earlier version left them.
    let old = shared.join("v3");
    fs::rename(first.layout_dir()?, &old)?;
    let left = listed(&old)?;
    let programs = bpf::tcx(first.host(), UPLINK, false)?;
    let daemon = second.start()?;
    ensure!(
        daemon
            .log()
            .contains(&format!("{} belongs to another", old.display()))
    );
    ensure!(
        second
            .program
            .status()?
            .tunnel(TUNNELS[0].interface)
            .echo
            .requests_in
            == 0
    );
    ensure!(daemon.stop()? == 0);
    second.program.run_ok(&["down"])?;
    ensure!(listed(&old)? == left);
    ensure!(bpf::tcx(first.host(), UPLINK, false)? == programs);
    // The daemon of their own namespace takes them over, with their counters.
    let daemon = first.start()?;
    ensure!(!old.exists(), "{:?} {}", listed(&old)?, daemon.log());
    let status = first.program.status()?;
    ensure!(
        status.tunnel(TUNNELS[0].interface).echo.requests_in == 20,
        "{status:#?}"
    );
    leaks_are_caught(&first)?;
    ensure!(daemon.stop()? == 0);
    // `down` removes them too.
    fs::rename(first.layout_dir()?, &old)?;
    first.program.run_ok(&["down"])?;
    ensure!(!shared.exists());
    ensure!(bpf::tcx_named(first.host(), UPLINK, false, EGRESS)?.is_empty());
    Ok(())
}

/// Removed pins are restored links first: if the daemon is killed in between, every program stays attached.
/// The order of the inode numbers shows it. The kernel assigns them by processor, so they show nothing if the
/// daemon moved to another processor meanwhile, which is rare.
#[test]
fn links_are_pinned_before_maps() -> Result<()> {
    if !kernel::has_tcx()? {
        return Ok(());
    }
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let version = fixture.layout_dir()?;
    let inodes = |directory: &str| -> Result<Vec<u64>> {
        let entries = fs::read_dir(version.join(directory)).into_iter().flatten();
        let inodes = entries.map(|entry| Ok(entry?.metadata()?.ino()));
        inodes.collect()
    };
    let daemon = fixture.start()?;
    let pinned = (inodes("links")?.len(), inodes("maps")?.len());
    ensure!(pinned.0 == 5, "{pinned:?}");
    let rounds = 5;
    let mut in_order = 0;
    for round in 0..rounds {
        // The daemon may put a pin back while the directory is being emptied.
        let remove = || Ok(fs::remove_dir_all(&version).is_ok());
        let limit = Duration::from_secs(5);
        wait::until("pins are removed", limit, remove, |removed| *removed)?;
        let add = format!("ip link add some{round} type veth peer name other{round}");
        fixture.host().sh(&add)?;
        let now = || Ok((inodes("links")?.len(), inodes("maps")?.len()));
        wait::until("pins are back", limit, now, |now| *now == pinned)?;
        let last_link = inodes("links")?.into_iter().max();
        let first_map = inodes("maps")?.into_iter().min();
        in_order += usize::from(last_link < first_map);
    }
    ensure!(in_order > rounds / 2, "in {in_order} of {rounds} rounds");
    daemon.kill()?;
    fixture.delete_own_rules()?;
    fixture.ensure_outside_answered(&fixture.lab.tunnels()[0])?;
    fixture.ensure_nothing_lost()
}

/// Waits until the alerts have these corrections. There are no others.
fn are_corrected(fixture: &Fixture, wanted: &[String]) -> Result<()> {
    let told = || {
        let (_, alerts) = fixture.program.json(&["alerts"])?;
        let corrections = alerts
            .iter()
            .filter_map(|alert| alert["correction"].as_str());
        Ok(corrections.map(str::to_owned).collect::<Vec<_>>())
    };
    let all = |told: &Vec<String>| {
        let is_told = |wanted: &String| told.iter().any(|told| told.contains(wanted));
        wanted.iter().all(is_told)
    };
    wait::until("all is told", Duration::from_secs(35), told, all)?;
    let status = fixture.program.status()?;
    ensure!(
        status.corrections == u64::try_from(wanted.len())?,
        "{status:#?}"
    );
    Ok(())
}

/// Other software empties the maps through their pins, and replaces pins by foreign objects. The kernel sends
/// no event for it: the round of every 30 s repairs and reports it.
#[test]
fn emptied_maps_and_replaced_pins_are_repaired_within_35_s() -> Result<()> {
    // With prefixes, whose destinations are direct.
    let spec = Spec {
        lans: true,
        ..Spec::new(Flavour::Tun)
    };
    let fixture = Fixture::with_spec(spec, Hook::Auto, "")?;
    let daemon = fixture.start()?;
    leaks_are_caught(&fixture)?;
    let version = fixture.layout_dir()?;
    const MAPS: [&str; 8] = [
        "SLOTS",
        "TIMES",
        "TUNNELS",
        "INTERFACES",
        "DIRECTS",
        "SOURCES",
        "FEW",
        "CONTROL",
    ];
    for map in MAPS {
        bpf::wipe(&version.join("maps").join(map))?;
    }
    // A foreign map and a foreign link.
    let strange = version.join("maps/LEAKS");
    fs::remove_file(&strange)?;
    bpf::pin_array(&strange, false, 1, 0, &[0; 8])?;
    let program = bpf::load_empty()?;
    let link = bpf::attach(fixture.host(), &program, UPLINK, false, Order::Last)?;
    let index = fixture
        .host()
        .run(|| Ok(nix::net::if_::if_nametoindex(UPLINK)?))?;
    let pin = version.join(format!("links/{index}-egress"));
    if kernel::has_tcx()? {
        fs::remove_file(&pin)?;
        bpf::pin(&pin, &link)?;
    }
    let mut wanted: Vec<_> = MAPS.map(|map| format!("the map {map} again")).into();
    wanted.push(format!("pin {} again", strange.display()));
    if kernel::has_tcx()? {
        wanted.push(format!("pin {} again", pin.display()));
    }
    are_corrected(&fixture, &wanted)?;
    leaks_are_caught(&fixture)?;
    // The pins are the daemon's own again: the programs enforce without a daemon.
    drop((link, program));
    daemon.kill()?;
    fixture.delete_own_rules()?;
    fixture.ensure_outside_answered(&fixture.lab.tunnels()[0])?;
    let daemon = fixture.start()?;
    leaks_are_caught(&fixture)?;
    ensure!(daemon.stop()? == 0);
    Ok(())
}

/// The same for the maps of native tunnels: where the programs carry packets, whose outer packets they count, and what
/// they screen.
#[test]
fn emptied_maps_of_native_tunnels_are_repaired_within_35_s() -> Result<()> {
    let kinds = [Kind::SixInFour, Kind::Ayiya];
    let fixture = Fixture::with_spec(Spec::native(kinds), Hook::Auto, "")?;
    let daemon = fixture.start()?;
    fixture.wait_until_up().with_context(|| daemon.log())?;
    let mut maps = vec!["ENDPOINTS", "ENDPOINT_FILTER", "EXPECTED", "ENDS", "SCREEN"];
    let is_carried = kernel::has_decapsulation()?;
    if is_carried {
        maps.extend(["OUTER_PATHS", "SLOTS_BY_OUTER"]);
    }
    let directory = fixture.layout_dir()?.join("maps");
    let mut before = Vec::new();
    for map in &maps {
        let path = directory.join(map);
        let entries = bpf::entries(&path)?;
        bpf::wipe(&path)?;
        ensure!(bpf::entries(&path)? != entries, "{map} was empty");
        before.push(entries);
    }
    let wanted: Vec<_> = maps
        .iter()
        .map(|map| format!("the map {map} again"))
        .collect();
    are_corrected(&fixture, &wanted)?;
    for (map, before) in maps.iter().zip(before) {
        let now = bpf::entries(&directory.join(map))?;
        ensure!(now == before, "{map}: {before:02x?}, then {now:02x?}");
    }
    for tunnel in fixture.lab.tunnels() {
        fixture.ensure_outside_answered(tunnel)?;
    }
    // The programs carry the first tunnel without a daemon.
    daemon.kill()?;
    if is_carried {
        fixture.ensure_outside_answered(&fixture.lab.tunnels()[0])?;
    }
    let daemon = fixture.start()?;
    fixture.wait_until_up().with_context(|| daemon.log())?;
    ensure!(daemon.stop()? == 0);
    Ok(())
}
