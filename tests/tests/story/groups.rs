//! Groups: several links carry the same prefix, and another one takes over when the active one fails.

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sixxs_tests::broker::Kind;
use sixxs_tests::broker::impairment::Impairment;
use sixxs_tests::lab::topology::{Flavour, GATEWAY, OUTSIDE, UPLINK};
use sixxs_tests::lab::{Spec, Tunnel, nft};
use sixxs_tests::probe::leak::{self, Cause};
use sixxs_tests::probe::{self, PingStream, ping};
use sixxs_tests::program::status::{Group, Probes, Status};
use sixxs_tests::program::{Daemon, Hook};
use sixxs_tests::terminal::tmux::Tmux;
use sixxs_tests::wait;

use crate::fixture::Fixture;

/// The prefix that both links carry, and the host's address in it.
const PREFIX: &str = "2001:db8:cc::/48";
const OWN: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xcc, 0, 0, 0, 0, 1);

const LINKS: [&str; 2] = ["sixxs0", "sixxs1"];

/// Probes that show within a second whether a link works.
const PROBE: &str = "probe = { interval_ms = 100, window_seconds = 2 }\n";

/// The group returns to its first link soon.
const RETURNS: &str = "return_seconds = 2\n";

/// A probe without a reply is lost after a second. Then two more are sent and lost: 20% of 20 is four.
const NOTICED: Duration = Duration::from_secs(15);

/// A link that is dead for packets of both directions, without any error.
const DEAD: &str = "table ip6 dead {
    counter of_group { }
    chain arrives {
        type filter hook prerouting priority -500
        iifname != \"host\" return
        ip6 saddr 2001:db8:cc::/48 counter name of_group
        drop
    }
}";

/// A lab with a group of both links. All requests arrive by the second one.
fn with_group(spec: Spec, hook: Hook, top: &str, group: &str) -> Result<Fixture> {
    with_probes(PROBE, spec, hook, top, group)
}

fn with_probes(probe: &str, spec: Spec, hook: Hook, top: &str, group: &str) -> Result<Fixture> {
    let mtu = format!("mtu = {}\n", spec.mtu);
    let fixture = Fixture::with_spec(spec, hook, top)?;
    let text = fixture
        .lab
        .config(top)
        .replace(&mtu, &format!("{mtu}{probe}"));
    let group = format!(
        "\n[[group]]\nname = \"lan\"\nlinks = [\"sixxs0\", \"sixxs1\"]\nprefixes = [\"{PREFIX}\"]\n{group}"
    );
    fixture.lab.write_config(&(text + &group))?;
    fixture
        .host()
        .ip(&format!("address add {OWN}/128 dev lo nodad\n"))?;
    let core = fixture.lab.core();
    for tunnel in fixture.lab.tunnels() {
        let (pop, plan) = (tunnel.pop(), tunnel.plan);
        pop.sh("nft delete table ip6 broker")?;
        nft::load(pop, &plan.pop_rules(Some(PREFIX)))?;
        pop.ip(&format!(
            "route add {PREFIX} via {} dev host\n",
            plan.address
        ))?;
    }
    core.ip(&format!("route add {PREFIX} via fe80::2 dev pop1\n"))?;
    Ok(fixture)
}

fn start(fixture: &Fixture) -> Result<Daemon> {
    let daemon = fixture.start()?;
    fixture.wait_until_up().with_context(|| daemon.log())?;
    is_carried_by(fixture, LINKS[0])?;
    Ok(daemon)
}

fn group(status: &Status) -> Result<&Group> {
    let mut groups = status.groups.iter();
    groups.find(|group| group.name == "lan").context("no group")
}

/// Waits until the group has this active link.
fn is_carried_by(fixture: &Fixture, link: &str) -> Result<Group> {
    let what = format!("{link} carries the prefix");
    let status = fixture.program.status_until(&what, |status| {
        let group = group(status);
        group.is_ok_and(|group| group.active == link && group.routing == "in_place")
    })?;
    Ok(group(&status)?.clone())
}

/// The switches so far, as alerts.
fn switches(fixture: &Fixture) -> Result<Vec<Value>> {
    let (_, alerts) = fixture.program.json(&["alerts"])?;
    let is_switch = |alert: &Value| alert["kind"] == "switch";
    Ok(alerts.into_iter().filter(is_switch).collect())
}

/// Waits for the alert that this many switches have taken place. Returns the last one.
fn wait_for_switch(fixture: &Fixture, count: usize) -> Result<Value> {
    let switches = wait::until(
        &format!("{count} switches"),
        NOTICED,
        || switches(fixture),
        |switches| switches.len() >= count,
    )?;
    ensure!(switches.len() == count, "{switches:#?}");
    switches.last().cloned().context("a switch")
}

/// From now on, nothing gets through this link, without an error.
fn kill(tunnel: &Tunnel) -> Result<()> {
    nft::load(tunnel.pop(), DEAD)
}

fn revive(tunnel: &Tunnel) -> Result<()> {
    tunnel.pop().sh("nft delete table ip6 dead")?;
    Ok(())
}

/// Packets of the group that went into a dead link.
fn went_into(tunnel: &Tunnel) -> Result<u64> {
    nft::read(tunnel.pop())?.get("of_group")
}

fn ensure_answered(fixture: &Fixture) -> Result<()> {
    let pings = ping(fixture.lab.outside(), OWN, 20)?;
    ensure!(pings.all_answered(), "{pings:?}");
    Ok(())
}

variants!(another_link_takes_over: tun(Tun, Auto), veth(Veth, Auto), clsact(Tun, Clsact));

fn another_link_takes_over(flavour: Flavour, hook: Hook) -> Result<()> {
    takes_over(with_group(Spec::new(flavour), hook, "", RETURNS)?, flavour)
}

#[test]
fn with_subtrees() -> Result<()> {
    let (flavour, subtrees) = (Flavour::Tun, "rule_mode = \"subtrees\"\n");
    let fixture = with_group(Spec::new(flavour), Hook::Auto, subtrees, RETURNS)?;
    takes_over(fixture, flavour)
}

/// The daemon and the programs carry the packets.
#[test]
fn of_native_tunnels() -> Result<()> {
    for carrier in ["tun", "ebpf"] {
        let spec = Spec {
            carrier: Some(carrier),
            ..Spec::native([Kind::SixInFour, Kind::SixInFour])
        };
        let fixture = with_group(spec, Hook::Auto, "", RETURNS)?;
        takes_over(fixture, Flavour::Tun).with_context(|| format!("carrier {carrier}"))?;
    }
    Ok(())
}

fn takes_over(fixture: Fixture, flavour: Flavour) -> Result<()> {
    let daemon = start(&fixture)?;
    let [first, second] = fixture.lab.tunnels();
    let outside = fixture.lab.outside();
    let before = first.broker_counters()?;
    ensure_answered(&fixture)?;
    probe::tcp_transfer(outside, OWN, 1_000_000, 1_000_000, NOTICED)?;
    let replies = first.broker_counters()?.get("from_host")? - before.get("from_host")?;
    ensure!(replies >= 20, "{replies} packets by the active link");

    let stream = PingStream::start(outside, OWN, Duration::from_millis(10))?;
    let died = Instant::now();
    kill(first)?;
    let switch = wait_for_switch(&fixture, 1).with_context(|| daemon.log())?;
    let took = died.elapsed();
    ensure!(
        switch["group"] == "lan" && switch["from"] == LINKS[0] && switch["to"] == LINKS[1],
        "{switch}"
    );
    let reason = switch["reason"].as_str().context("a reason")?;
    ensure!(
        reason.starts_with("sixxs0: ") && reason.contains("probes"),
        "{switch}"
    );
    let lost = went_into(first)?;
    // From the decision on, none goes into the dead link.
    let after = PingStream::start(outside, OWN, Duration::from_millis(10))?;
    is_carried_by(&fixture, LINKS[1])?;
    ensure_answered(&fixture)?;
    let (status_before, devices) = (fixture.program.status()?, [UPLINK, LINKS[0]]);
    // A socket that is bound to the link needs a route there.
    let gateway = match flavour {
        Flavour::Veth => format!("via {GATEWAY} "),
        _ => String::new(),
    };
    fixture.host().ip(&format!(
        "route add ::/0 {gateway}dev {} metric 5000\n",
        LINKS[0]
    ))?;
    for device in devices {
        let socket = leak::udp_socket(fixture.host(), OWN, Cause::Device(device))?;
        leak::send(&socket, OUTSIDE, 20, 100)?;
    }
    let caught = |status: &Status| group(status).map_or(0, |group| group.leaks.redirected);
    fixture.program.status_until("leaks are caught", |status| {
        caught(status) == caught(&status_before) + 40
    })?;
    ensure!(went_into(first)? == lost, "packets into the dead link");
    let status = fixture.program.status()?;
    ensure!(status.tunnel(LINKS[0]).health == "failing", "{status:#?}");
    let shown = fixture.program.run(&["status"])?.stdout;
    ensure!(shown.contains("sixxs1 (good) for"), "{shown}");
    ensure!(shown.contains("sixxs0 is failing"), "{shown}");
    let explained = fixture
        .program
        .run(&["explain", &OWN.to_string(), &OUTSIDE.to_string()])?;
    ensure!(explained.stdout.contains("sixxs1"), "{}", explained.stdout);

    // It returns when the link has been good for a while. That loses no packet.
    revive(first)?;
    let switch = wait_for_switch(&fixture, 2)?;
    ensure!(switch["to"] == LINKS[0], "{switch}");
    let carried = is_carried_by(&fixture, LINKS[0])?;
    ensure!(carried.switches == 2, "{carried:?}");
    ensure_answered(&fixture)?;
    let (pings, after) = (stream.stop()?, after.stop()?);
    ensure!(after.all_answered(), "{after:?} after the switch");
    let lost = pings.sent - pings.answered;
    println!(
        "{lost} of {} pings lost; switched after {took:?}",
        pings.sent
    );
    // The link was dead until the switch: a ping each ten milliseconds.
    ensure!(u128::from(lost) * 10 <= took.as_millis() + 200, "{pings:?}");
    fixture.ensure_nothing_lost()?;
    let strays = second.broker_counters()?.get("strays")?;
    ensure!(strays == 0, "{strays} packets with a foreign source");
    fixture
        .program
        .status_until("all is well", |status| status.healthy)?;
    ensure!(daemon.stop()? == 0);
    Ok(())
}

/// The guide to failover names the time: 2.5 to 3 s, if the machine is idle.
#[test]
fn a_dead_link_is_left_within_seconds_by_default() -> Result<()> {
    let spec = Spec::new(Flavour::Tun);
    let fixture = with_probes("", spec, Hook::Auto, "", "prefer = []\n")?;
    let daemon = start(&fixture)?;
    // With a window that is full, the losses need the longest to reach the limit.
    let probes = || Ok(fixture.program.status()?.tunnel(LINKS[0]).probes);
    let is_full = |probes: &Option<Probes>| probes.as_ref().is_some_and(|it| it.sent == 20);
    wait::until("the window is full", NOTICED, probes, is_full)?;
    let [first, second] = fixture.lab.tunnels();
    let stream = PingStream::start(fixture.lab.outside(), OWN, Duration::from_millis(10))?;
    let died = Instant::now();
    kill(first)?;
    wait_for_switch(&fixture, 1).with_context(|| daemon.log())?;
    let took = died.elapsed();
    ensure_answered(&fixture)?;
    let pings = stream.stop()?;
    let lost = Duration::from_millis(10 * (pings.sent - pings.answered));
    println!("{lost:?} without answers, {took:?} until the alert");
    ensure!(lost < Duration::from_secs(4), "{lost:?}");
    ensure!(second.broker_counters()?.get("strays")? == 0);
    ensure!(daemon.stop()? == 0);
    Ok(())
}

#[test]
fn a_new_daemon_continues_with_the_active_link() -> Result<()> {
    let spec = Spec::new(Flavour::Tun);
    let fixture = with_group(spec, Hook::Auto, "", "return_seconds = 3600\n")?;
    let daemon = start(&fixture)?;
    let [first, _] = fixture.lab.tunnels();
    kill(first)?;
    wait_for_switch(&fixture, 1).with_context(|| daemon.log())?;
    revive(first)?;
    let stream = PingStream::start(fixture.lab.outside(), OWN, Duration::from_millis(5))?;
    daemon.kill()?;
    ensure_answered(&fixture)?;
    let daemon = fixture.start()?;
    let carried = is_carried_by(&fixture, LINKS[1])?;
    ensure!(carried.switches == 0, "{carried:?}");
    fixture
        .program
        .status_until("all is well", |status| status.healthy)?;
    is_carried_by(&fixture, LINKS[1])?;
    let pings = stream.stop()?;
    ensure!(pings.all_answered(), "{pings:?}");
    // The route leads where it led, so nothing had to be corrected.
    ensure!(fixture.program.status()?.corrections == 0);
    ensure!(daemon.stop()? == 0);
    Ok(())
}

#[test]
fn a_link_that_goes_is_replaced_at_once() -> Result<()> {
    let fixture = with_group(Spec::new(Flavour::Tun), Hook::Auto, "", "prefer = []\n")?;
    let daemon = start(&fixture)?;
    let [first, second] = fixture.lab.tunnels();
    let stream = PingStream::start(fixture.lab.outside(), OWN, Duration::from_millis(5))?;
    first.delete()?;
    let switch = wait_for_switch(&fixture, 1).with_context(|| daemon.log())?;
    ensure!(switch["to"] == LINKS[1], "{switch}");
    let pings = stream.stop()?;
    let lost = pings.sent - pings.answered;
    println!("{lost} of {} pings lost", pings.sent);
    // Up to the deletion, replies wait in the queue of the device.
    ensure!(lost < 100, "{pings:?}");
    the_other_reports_show_it(&fixture)?;
    // Now there is no good link any more. The active one stays.
    kill(second)?;
    let text = "no link of the group is good; sixxs1 carries its prefixes";
    fixture.program.status_until("no link is good", |status| {
        status.problems.iter().any(|problem| problem.contains(text))
    })?;
    is_carried_by(&fixture, LINKS[1])?;
    // The first one comes back.
    first.create()?;
    first.raise()?;
    is_carried_by(&fixture, LINKS[0])?;
    // A person stops it: the other one is at least up.
    fixture.program.run_ok(&["stop", LINKS[0]])?;
    is_carried_by(&fixture, LINKS[1])?;
    revive(second)?;
    fixture
        .program
        .status_until("the other link is good", |status| {
            status.tunnel(LINKS[1]).health == "healthy"
        })?;
    fixture.program.run_ok(&["start", LINKS[0]])?;
    fixture.program.status_until("all is well", |status| {
        status.healthy && status.problems.is_empty()
    })?;
    is_carried_by(&fixture, LINKS[1])?;
    ensure_answered(&fixture)?;
    ensure!(daemon.stop()? == 0);
    Ok(())
}

/// `doctor` and `top` while the first link is down.
fn the_other_reports_show_it(fixture: &Fixture) -> Result<()> {
    let (code, report) = fixture.program.json(&["doctor"])?;
    let text = "sixxs0 is down, so it cannot take over the prefixes of lan";
    ensure!(
        code == 3 && report[0].to_string().contains(text),
        "{report:#?}"
    );
    let tmux = Tmux::start(fixture.host(), &fixture.program, (80, 24), &[])?;
    tmux.line(&format!("{} top", fixture.program.binary().display()))?;
    tmux.until("the group is shown", |screen| {
        screen.lines().any(|line| {
            line.starts_with(" lan ")
                && line.contains("sixxs1 (good) for")
                && line.contains("sixxs0 is down")
        })
    })?;
    tmux.key("q")
}

#[test]
fn a_lossy_link_is_left() -> Result<()> {
    let spec = Spec::native([Kind::Ayiya, Kind::SixInFour]);
    let fixture = with_group(spec, Hook::Auto, "", "return_seconds = 1\n")?;
    let daemon = start(&fixture)?;
    let [first, _] = fixture.lab.tunnels();
    let bad = Impairment {
        loss: 40.0,
        seed: 7,
        ..Impairment::default()
    };
    first.broker()?.impair(bad, Impairment::default());
    let switch = wait_for_switch(&fixture, 1).with_context(|| daemon.log())?;
    ensure!(switch["to"] == LINKS[1], "{switch}");
    let status = fixture.program.status()?;
    let probes = status.tunnel(LINKS[0]).probes.context("probes")?;
    ensure!(probes.lost >= 3 && probes.sent <= 20, "{probes:?}");
    ensure_answered(&fixture)?;
    first
        .broker()?
        .impair(Impairment::default(), Impairment::default());
    let switch = wait_for_switch(&fixture, 2)?;
    ensure!(switch["to"] == LINKS[0], "{switch}");
    ensure!(is_carried_by(&fixture, LINKS[0])?.switches == 2);
    ensure!(daemon.stop()? == 0);
    Ok(())
}

#[test]
fn a_reload_adds_changes_and_removes_a_group() -> Result<()> {
    let fixture = with_group(Spec::new(Flavour::Tun), Hook::Auto, "", "")?;
    let with = std::fs::read_to_string(fixture.lab.paths().config())?;
    let (without, _) = with.split_once("\n[[group]]").context("a group")?;
    fixture.lab.write_config(without)?;
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    let rules = || -> Result<bool> { Ok(fixture.own_rules()?.contains(PREFIX)) };
    ensure!(!rules()?);
    fixture.lab.write_config(&with)?;
    let check = fixture.program.run(&["reload", "--check"])?.stdout;
    ensure!(check.contains("rule add from 2001:db8:cc::/48"), "{check}");
    fixture.program.run_ok(&["reload"])?;
    is_carried_by(&fixture, LINKS[0])?;
    ensure!(rules()?);
    ensure_answered(&fixture)?;
    // Another order: the group returns to the link that is preferred now.
    let other = format!("{with}prefer = [\"sixxs1\"]\nreturn_seconds = 0\n");
    fixture.lab.write_config(&other)?;
    fixture.program.run_ok(&["reload"])?;
    is_carried_by(&fixture, LINKS[1])?;
    // Other software deletes what belongs to the group.
    fixture.host().sh("ip -6 route flush table 202")?;
    let restored = |alert: &Value| alert["kind"] == "correction" && alert["tunnel"] == "lan";
    wait::until(
        "the route is back",
        NOTICED,
        || fixture.program.json(&["alerts"]),
        |(_, alerts)| alerts.iter().any(restored),
    )?;
    ensure_answered(&fixture)?;
    fixture.lab.write_config(without)?;
    fixture.program.run_ok(&["reload"])?;
    ensure!(!rules()?);
    ensure!(fixture.program.status()?.groups.is_empty());
    ensure!(daemon.stop()? == 0);
    fixture.program.run_ok(&["down"])?;
    ensure!(fixture.own_rules()?.is_empty() && fixture.own_routes()?.is_empty());
    Ok(())
}
