//! Addresses and a gateway that a tunnel takes from its interface, as they come and go.

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use sixxs_tests::lab::topology::{Flavour, GATEWAY, OUTSIDE, UPLINK};
use sixxs_tests::probe::leak::{self, Cause};
use sixxs_tests::probe::ping;
use sixxs_tests::program::Hook;
use sixxs_tests::program::status::Status;
use sixxs_tests::wait;

use crate::fixture::Fixture;

/// A route of other software, by which the gateway is known. No rule looks its table up.
const ROUTE: &str = "default via fe80::1 dev sixxs0 table 77";

const SECOND: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 0x33);

/// The limit from the event to the rule, also on a busy machine. It takes some milliseconds, and `ip` as long.
const GUARDED: Duration = Duration::from_millis(500);

/// A lab whose first tunnel has neither addresses nor a gateway in the configuration.
fn following(flavour: Flavour, hook: Hook) -> Result<Fixture> {
    let fixture = Fixture::new(flavour, hook)?;
    let plan = fixture.lab.tunnels()[0].plan;
    let config = fixture.lab.config("");
    let own = format!("address = \"{}/64\"\n", plan.address);
    let followed = config.replacen(&own, "address = \"auto\"\n", 1);
    ensure!(followed != config, "{config}");
    let gateway = format!("gateway = \"{GATEWAY}\"\n");
    let followed = followed.replacen(&gateway, "gateway = \"auto\"\n", 1);
    fixture.lab.write_config(&followed)?;
    if flavour == Flavour::Veth {
        fixture.host().sh(&format!("ip -6 route add {ROUTE}"))?;
    }
    Ok(fixture)
}

fn has(status: &Status, addresses: &[Ipv6Addr]) -> bool {
    let mut all: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    all.sort();
    let mut found = status.tunnel("sixxs0").addresses.clone();
    found.sort();
    found == all
}

fn rules(fixture: &Fixture) -> Result<String> {
    fixture.host().sh("ip -6 rule show")
}

variants!(addresses_are_followed: tun(Tun, Auto), veth(Veth, Auto), veth_clsact(Veth, Clsact));

fn addresses_are_followed(flavour: Flavour, hook: Hook) -> Result<()> {
    let fixture = following(flavour, hook)?;
    let host = fixture.host();
    let [tunnel, _] = fixture.lab.tunnels();
    let first = tunnel.plan.address;
    let daemon = fixture.start()?;
    fixture
        .program
        .status_until("it has its address", |status| {
            status.healthy && has(status, &[first])
        })
        .with_context(|| daemon.log())?;
    fixture.ensure_outside_answered(tunnel)?;
    for command in [&["doctor"][..], &["check"]] {
        let found = fixture.program.run(command)?;
        ensure!(found.code == 0, "{found:#?}");
    }

    // A second address is guarded within milliseconds.
    host.sh(&format!("ip -6 address add {SECOND}/64 dev sixxs0 nodad"))?;
    let added = Instant::now();
    let from = format!("from {SECOND} lookup");
    while !rules(&fixture)?.contains(&from) {
        ensure!(added.elapsed() < Duration::from_secs(5), "{}", daemon.log());
    }
    let after = added.elapsed();
    println!("its rule is there after {after:?}");
    ensure!(after < GUARDED * wait::patience(), "{after:?}");
    fixture
        .program
        .status_until("both are there", |status| has(status, &[first, SECOND]))?;
    ensure!(ping(fixture.lab.outside(), SECOND, 5)?.all_answered());
    let caught = |status: &Status| status.tunnel("sixxs0").leaks.redirected;
    let before = caught(&fixture.program.status()?);
    let socket = leak::udp_socket(host, SECOND, Cause::Device(UPLINK))?;
    leak::send(&socket, OUTSIDE, 5, 100)?;
    fixture
        .program
        .status_until("its leaks are caught", |status| {
            caught(status) == before + 5
        })?;
    let explained =
        fixture
            .program
            .run_ok(&["explain", &SECOND.to_string(), &OUTSIDE.to_string()])?;
    ensure!(
        explained.stdout.contains("leaves by sixxs0"),
        "{explained:#?}"
    );

    // A new daemon finds both.
    ensure!(daemon.stop()? == 0);
    let daemon = fixture.start()?;
    fixture
        .program
        .status_until("both are there", |status| has(status, &[first, SECOND]))?;
    let preview = fixture.program.run(&["reload", "--check"])?;
    ensure!(preview.code == 0, "{preview:#?}");

    // An address that goes is forgotten.
    host.sh(&format!("ip -6 address del {SECOND}/64 dev sixxs0"))?;
    fixture
        .program
        .status_until("one is left", |status| has(status, &[first]))?;
    // Who still uses it gets an error.
    let refused = host.sh("ip -6 route show table 200 type unreachable")?;
    ensure!(
        refused.contains(&format!("default from {SECOND} ")),
        "{refused}"
    );
    host.sh(&format!("ip -6 address del {first}/64 dev sixxs0"))?;
    fixture.program.status_until("none is left", |status| {
        let tunnel = status.tunnel("sixxs0");
        let mut reasons = tunnel.health_reasons.iter();
        tunnel.health == "failing" && reasons.any(|why| why.contains("no global address"))
    })?;
    tunnel.raise()?;
    fixture
        .program
        .status_until("it is back", |status| {
            status.healthy && has(status, &[first])
        })
        .with_context(|| daemon.log())?;
    fixture.ensure_outside_answered(tunnel)?;
    Ok(())
}

/// Without a router, leaks cannot be redirected, which is a problem.
#[test]
fn the_gateway_is_followed() -> Result<()> {
    let fixture = following(Flavour::Veth, Hook::Auto)?;
    let host = fixture.host();
    let [tunnel, _] = fixture.lab.tunnels();
    let _daemon = fixture.start()?;
    let is_whole = |status: &Status| status.healthy && status.problems.is_empty();
    fixture.program.status_until("it is whole", is_whole)?;
    let gateway = || host.sh("ip -6 route show table 200");
    ensure!(
        gateway()?.contains("default via fe80::1 "),
        "{}",
        gateway()?
    );
    host.sh(&format!("ip -6 route del {ROUTE}"))?;
    fixture.program.status_until("it is a problem", |status| {
        let mut problems = status.problems.iter();
        problems.any(|problem| problem.contains("sixxs0") && problem.contains("no router"))
    })?;
    // A better one is preferred, and another one takes its place.
    for (route, expected) in [
        (
            "default via fe80::9 dev sixxs0 metric 2048 table 77",
            "fe80::9",
        ),
        (
            "default via fe80::1 dev sixxs0 metric 1024 table 78",
            "fe80::1",
        ),
    ] {
        host.sh(&format!("ip -6 route add {route}"))?;
        let expected = format!("default via {expected} ");
        wait::until(
            "it is followed",
            Duration::from_secs(10),
            gateway,
            |routes| routes.contains(&expected),
        )?;
    }
    fixture.program.status_until("it is whole", is_whole)?;
    fixture.ensure_outside_answered(tunnel)?;
    Ok(())
}

/// Names the first tunnel's interface like those that a PPP daemon makes, and gives it its address.
fn comes_as(fixture: &Fixture, before: &str, name: &str) -> Result<()> {
    let address = fixture.lab.tunnels()[0].plan.address;
    let lines = [
        format!("link set {before} down"),
        format!("link set {before} name {name}"),
        format!("link set {name} up"),
        format!("address add {address}/64 dev {name} nodad"),
    ];
    fixture.host().ip(&(lines.join("\n") + "\n"))
}

variants!(an_interface_with_a_changing_name: pattern(Tun, Auto), pattern_clsact(Tun, Clsact));

fn an_interface_with_a_changing_name(flavour: Flavour, hook: Hook) -> Result<()> {
    let fixture = Fixture::new(flavour, hook)?;
    let config = fixture.lab.config("");
    let followed = config.replacen("name = \"sixxs0\"", "name = \"ppp*\"", 1);
    let own = format!(
        "address = \"{}/64\"\n",
        fixture.lab.tunnels()[0].plan.address
    );
    let followed = followed.replacen(&own, "address = \"auto\"\n", 1);
    fixture.lab.write_config(&followed)?;
    let [tunnel, _] = fixture.lab.tunnels();
    let host = fixture.host();
    comes_as(&fixture, "sixxs0", "ppp0")?;
    let daemon = fixture.start()?;
    let is_there = |name: &'static str| {
        move |status: &Status| {
            let tunnel = status.tunnel("ppp*");
            status.healthy && tunnel.is_whole() && tunnel.interface.as_deref() == Some(name)
        }
    };
    fixture
        .program
        .status_until("it is there", is_there("ppp0"))
        .with_context(|| daemon.log())?;
    fixture.ensure_outside_answered(tunnel)?;
    let before = fixture.program.status()?.tunnel("ppp*").packets.into;
    let routes = host.sh("ip -6 route show table 200")?;
    ensure!(routes.contains("default dev ppp0 "), "{routes}");

    // It comes again under another name, and its counters continue.
    comes_as(&fixture, "ppp0", "ppp7")?;
    fixture
        .program
        .status_until("it is there again", is_there("ppp7"))?;
    fixture.ensure_outside_answered(tunnel)?;
    let after = fixture.program.status()?.tunnel("ppp*").packets.into;
    ensure!(after > before, "{before}, then {after}");
    let source = tunnel.plan.address.to_string();
    let explained = fixture
        .program
        .run_ok(&["explain", &source, &OUTSIDE.to_string()])?;
    ensure!(explained.stdout.contains("leaves by"), "{explained:#?}");
    for command in [
        &["doctor"][..],
        &["check"],
        &["plan"],
        &["reload", "--check"],
    ] {
        let found = fixture.program.run(command)?;
        ensure!(found.code == 0, "{found:#?}");
    }
    host.sh("ip -6 route flush table 200")?;
    fixture
        .program
        .status_until("its route is repaired", |status| {
            status.corrections > 0 && status.healthy
        })?;
    fixture.ensure_outside_answered(tunnel)?;

    // Another one that matches is reported.
    host.ip("link add ppp8 type veth peer name far8\nlink set ppp8 up\n")?;
    let ambiguous =
        "it uses ppp7, the newest interface that is up and has an address; ppp8 also match";
    fixture.program.status_until("two match", |status| {
        let mut problems = status.problems.iter();
        problems.any(|problem| problem.contains(ambiguous))
    })?;
    host.ip("link del ppp8\n")?;
    fixture
        .program
        .status_until("one is left", is_there("ppp7"))?;
    fixture.ensure_outside_answered(tunnel)?;
    fixture.ensure_nothing_lost()?;
    ensure!(daemon.stop()? == 0);
    Ok(())
}
