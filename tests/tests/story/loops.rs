//! Two tunnels with a routed prefix each, on a host that forwards. Packets to this host or to a network
//! behind it never leave by a tunnel, because they would return by one.

use anyhow::{Context as _, Result};
use sixxs_tests::broker::Kind;
use sixxs_tests::lab::Spec;
use sixxs_tests::lab::netns::Namespace;
use sixxs_tests::lab::nft;
use sixxs_tests::lab::topology::{Flavour, LAN1, LAN2, TUNNELS, TunnelPlan};
use sixxs_tests::probe::Ping;
use sixxs_tests::program::Hook;

use crate::fixture::Fixture;

/// The prefix that the first broker routes to the host. The second broker's prefix contains both LANs.
const PREFIX: &str = "2001:db8:aa::/48";
/// The LAN host in the first prefix.
const LAN0: &str = "2001:db8:aa:1::2";
/// Addresses in the prefixes that do not exist.
const HOLES: [&str; 2] = ["2001:db8:aa:9::9", "2001:db8:bb:9::9"];
/// Number of packets of each sender.
const COUNT: u64 = 10;

variants!(a_packet_leaves_once_at_most:
    tun(Tun, Auto), veth(Veth, Auto), tun_clsact(Tun, Clsact));

fn a_packet_leaves_once_at_most(flavour: Flavour, hook: Hook) -> Result<()> {
    two_prefixes(flavour, hook, "")
}

#[test]
fn a_packet_leaves_once_at_most_with_subtrees() -> Result<()> {
    two_prefixes(Flavour::Tun, Hook::Auto, "rule_mode = \"subtrees\"\n")
}

fn two_prefixes(flavour: Flavour, hook: Hook, extra: &str) -> Result<()> {
    let fixture = fixture(flavour, hook, extra)?;
    let daemon = fixture.start()?;
    let [lan1, lan2] = fixture.lab.lans()?;

    // This host forwards directly between a LAN of the first tunnel and one of the second, without the
    // brokers.
    for (from, source, to) in [
        (lan1, LAN0, LAN2.to_string()),
        (lan2, &LAN2.to_string(), LAN0.to_owned()),
    ] {
        assert_eq!(answered(from, source, &to)?, COUNT, "{source} to {to}");
    }
    assert_eq!(fixture.reached_brokers()?, [0, 0]);
    // Addresses that do not exist, in the own prefix or in another tunnel's: the sender gets an error, and
    // nothing leaves.
    for hole in HOLES {
        for source in [LAN0, &LAN1.to_string()] {
            let told = refused(lan1, source, hole)?;
            assert!(told, "{source} to {hole}: no error");
        }
        for tunnel in &TUNNELS {
            refused(fixture.host(), &tunnel.address.to_string(), hole)?;
        }
    }
    assert_eq!(fixture.reached_brokers()?, [0, 0]);
    fixture.ensure_nothing_lost()?;

    // A host outside forges the address of the other tunnel. Hosts behind this host receive its packets, and
    // nothing leaves.
    for (tunnel, to) in [
        (0, LAN1.to_string()),
        (0, HOLES[1].to_owned()),
        (1, HOLES[0].to_owned()),
    ] {
        let before = came(&fixture)?;
        forge(&fixture, tunnel, &to)?;
        let now = came(&fixture)?;
        let [first, second] = [now[0] - before[0], now[1] - before[1]];
        assert_eq!(first + second, COUNT, "for {to}");
        assert_eq!(fixture.reached_brokers()?, [0, 0], "for {to}");
    }
    fixture.ensure_nothing_lost()?;
    assert_eq!(loops(&fixture)?, [0, 0], "routes came first");
    assert_eq!(explained(&fixture)?, "refused");

    // A foreign route leads these packets into a tunnel: the program drops them.
    for (tunnel, plan) in TUNNELS.iter().enumerate() {
        let before = came(&fixture)?;
        let gateway = match flavour {
            Flavour::Veth => "via fe80::1 ",
            _ => "",
        };
        let route = format!("2001:db8:bb:9::/64 {gateway}dev {}", plan.interface);
        fixture.host().sh(&format!("ip -6 route add {route}"))?;
        forge(&fixture, 0, HOLES[1])?;
        assert_eq!(explained(&fixture)?, "dropped", "{route}");
        fixture.host().sh(&format!("ip -6 route del {route}"))?;
        assert_eq!(came(&fixture)?[1] - before[1], COUNT, "{route}");
        let mut expected = [0; 2];
        expected[..=tunnel].fill(COUNT);
        assert_eq!(loops(&fixture)?, expected, "{route}");
    }
    let status = fixture.program.status()?;
    assert!(status.tunnels.iter().all(|tunnel| tunnel.loops == COUNT));
    let screen = fixture.program.run_ok(&["status"])?;
    assert!(screen.stdout.contains("10 packets dropped"), "{screen:?}");
    assert_eq!(fixture.reached_brokers()?, [0, 0]);
    fixture.ensure_nothing_lost()?;

    // Without rules the packets for a hole leave by the uplink, once.
    daemon.kill()?;
    fixture.delete_own_rules()?;
    let before = came(&fixture)?;
    forge(&fixture, 0, HOLES[1])?;
    assert_eq!(came(&fixture)?[1] - before[1], COUNT);
    assert_eq!(fixture.reached_brokers()?, [0, 0]);
    assert_eq!(fixture.lab.dropped_by_isp()?, COUNT);

    // With everything in place again, pings from outside are answered.
    let daemon = fixture.start()?;
    assert_eq!(
        fixture.ensure_outside_answered(&fixture.lab.tunnels()[0])?,
        20
    );
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

#[test]
fn forged_sources_send_nothing_into_tunnels() -> Result<()> {
    forged(Spec::new(Flavour::Tun))
}

#[test]
fn forged_sources_send_nothing_into_native_tunnels() -> Result<()> {
    forged(Spec::native([Kind::Ayiya, Kind::SixInFour]))
}

#[test]
fn forged_sources_send_nothing_into_native_tunnels_in_reverse_order() -> Result<()> {
    forged(Spec::native([Kind::SixInFour, Kind::Ayiya]))
}

/// One tunnel has a prefix, and the other one's address is forged.
fn forged(spec: Spec) -> Result<()> {
    let spec = Spec { lans: true, ..spec };
    let fixture = Fixture::with_spec(spec, Hook::Auto, "")?;
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    let left_before = fixture.reached_brokers()?;
    for to in [LAN1.to_string(), HOLES[1].to_owned()] {
        for tunnel in [0, 1] {
            let before = came(&fixture)?;
            forge(&fixture, tunnel, &to)?;
            assert_eq!(came(&fixture)?[1] - before[1], COUNT, "for {to}");
        }
    }
    // A packet for a hole does not go to its own broker either.
    assert!(refused(
        &fixture.lab.lans()?[0],
        &LAN1.to_string(),
        HOLES[1]
    )?);
    assert_eq!(fixture.reached_brokers()?, left_before);
    fixture.ensure_nothing_lost()?;
    for TunnelPlan { address, peer, .. } in &TUNNELS {
        let source = address.to_string();
        assert_eq!(answered(fixture.host(), &source, &peer.to_string())?, COUNT);
    }
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// A lab whose first tunnel has a routed prefix as well.
fn fixture(flavour: Flavour, hook: Hook, extra: &str) -> Result<Fixture> {
    let spec = Spec {
        lans: true,
        ..Spec::new(flavour)
    };
    let fixture = Fixture::with_spec(spec, hook, extra)?;
    let lab = &fixture.lab;
    let [first, _] = lab.tunnels();
    let address = format!("address = \"{}/64\"\n", first.plan.address);
    let config = lab.config(extra);
    let with = config.replacen(
        &address,
        &format!("{address}prefixes = [\"{PREFIX}\"]\n"),
        1,
    );
    lab.write_config(&with)?;
    let pop = first.pop();
    pop.ip(&format!(
        "route add {PREFIX} via {} dev host\n",
        first.plan.address
    ))?;
    nft::load(
        pop,
        &format!(
            "insert rule ip6 broker from_host iifname \"host\" ip6 saddr {PREFIX} \
             counter name from_host accept\n\
             insert rule ip6 broker to_host oifname \"host\" ip6 daddr {PREFIX} \
             counter name to_host accept\n"
        ),
    )?;
    lab.core()
        .ip(&format!("route add {PREFIX} via fe80::2 dev pop0\n"))?;
    lab.host()
        .ip("address add 2001:db8:aa:1::1/64 dev lan1 nodad\n")?;
    let [lan1, _] = lab.lans()?;
    lan1.ip(&format!("address add {LAN0}/64 dev host nodad\n"))?;
    Ok(fixture)
}

fn answered(from: &Namespace, source: &str, to: &str) -> Result<u64> {
    let pings = Ping::new(to.parse()?, COUNT)
        .source(source.parse()?)
        .run(from)?;
    assert_eq!(pings.sent, COUNT);
    Ok(pings.answered)
}

/// Whether an unanswered ping gets an error.
fn refused(from: &Namespace, source: &str, to: &str) -> Result<bool> {
    let mut ping = from.command("ping");
    ping.args(["-6", "-n", "-c", "1", "-W", "1", "-I", source, to]);
    let output = ping.output().context("run ping")?;
    assert!(!output.status.success(), "{source} to {to} is answered");
    let told = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    Ok(told.contains("nreachable") || told.contains("No route"))
}

/// Sends packets from outside with a tunnel's address as their source.
fn forge(fixture: &Fixture, tunnel: usize, to: &str) -> Result<()> {
    let (outside, source) = (fixture.lab.outside(), TUNNELS[tunnel].address);
    outside.ip(&format!("address add {source}/128 dev lo nodad\n"))?;
    // Replies, if any, go to the owner of the address.
    let pings = Ping::new(to.parse()?, COUNT).source(source).run(outside)?;
    assert_eq!(pings.sent, COUNT);
    outside.ip(&format!("address delete {source}/128 dev lo\n"))
}

/// Number of packets that arrived through each tunnel.
fn came(fixture: &Fixture) -> Result<[u64; 2]> {
    let [first, second] = fixture.lab.tunnels();
    let to_host = |tunnel: &sixxs_tests::lab::Tunnel| tunnel.broker_counters()?.get("to_host");
    Ok([to_host(first)?, to_host(second)?])
}

/// Number of packets that the program dropped at each tunnel, because they would have come back.
fn loops(fixture: &Fixture) -> Result<[u64; 2]> {
    let (_, mut values) = fixture.program.json(&["counters"])?;
    let value = values.pop().context("sixxs counters printed nothing")?;
    let of = |name: &str| {
        value["interfaces"][name]["out_loops"]
            .as_u64()
            .unwrap_or_default()
    };
    Ok(TUNNELS.each_ref().map(|tunnel| of(tunnel.interface)))
}

/// The outcome that `sixxs explain` reports for a packet to a hole.
fn explained(fixture: &Fixture) -> Result<String> {
    let source = TUNNELS[0].address.to_string();
    let (_, mut values) = fixture.program.json(&["explain", &source, HOLES[1]])?;
    let value = values.pop().context("sixxs explain printed nothing")?;
    let outcome = value["outcome"].as_str();
    Ok(outcome.context("no outcome")?.to_owned())
}
