//! Golden packets through the kernel programs: for each the verdict, what becomes of its bytes,
//! and just which counters move.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use sixxs_common::address::{Address, Prefix as SharedPrefix};
use sixxs_common::decide::{Exit, Tables, Verdict, decide};
use sixxs_common::layout::{
    self, EVENTS_PER_SECOND, LeakEvent, TREATMENT_NO_TUNNEL, TREATMENT_REDIRECTED,
};
use sixxs_common::packet;
use sixxs_common::stat::{Counters, Stat};
use sixxs_core::config::OnLeak;
use sixxs_core::enforce::{Home, Role};
use sixxs_core::types::{IfIndex, Mtu, Prefix};
use sixxs_tests::bare::{Direction, Host, LOOPBACK, Programs};
use sixxs_tests::packets::{
    ARP_TYPE, AUTHENTICATION, DESTINATION_OPTIONS, DESTINATION_UNREACHABLE, ECHO_REPLY,
    ECHO_REQUEST, ETHERNET_BYTES, FRAGMENT, HOP_BY_HOP, ICMPV6, IPV4_TYPE, IPV6_TYPE, ROUTING,
    SERVICE_VLAN_TYPE, TCP, UDP, VLAN_TYPE, authentication, ethernet, fragment, icmpv6, ipv6,
    options, packet_too_big, udp,
};

const NEXT: i32 = -1;
const SHOT: i32 = 2;
const REDIRECT: i32 = 7;

/// An interface index that there is not.
const NOBODY: IfIndex = IfIndex(4242);

const OUTSIDE: &str = "2001:db8:ffff::9";
const NATIVE: &str = "2001:db8:1::1";
const GATEWAY: &str = "fe80::1";
const GATED_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

fn address(text: &str) -> Ipv6Addr {
    text.parse().expect("an address")
}

/// The tunnels of the golden packets, each with an address of its own, on a host whose loopback
/// interface is this one. Eight sources: as many as are compared one by one.
fn host(name: &str, role: Role) -> Result<Host> {
    let router = address("2001:db8:a::1");
    let here = Some(LOOPBACK);
    let mut host = Host::new(name, role)?
        .tunnel("plain", here, OnLeak::Redirect, router)?
        .tunnel("gated", here, OnLeak::Redirect, address("2001:db8:b::1"))?
        .tunnel("gone", None, OnLeak::Redirect, router)?
        .tunnel("dropping", here, OnLeak::Drop, router)?
        .tunnel("watching", here, OnLeak::Observe, router)?
        .source("2001:db8:a::2", "plain", Home::Nowhere)?
        .source("2001:db8:b::2", "gated", Home::Nowhere)?
        .source("2001:db8:bb::/48", "gated", Home::Nowhere)?
        .source("2001:db8:bb:3::/64", "plain", Home::Nowhere)?
        .source("2001:db8:bb:2::1", "gated", Home::Uplink(LOOPBACK))?
        .source("2001:db8:c::2", "gone", Home::Nowhere)?
        .source("2001:db8:d::2", "dropping", Home::Nowhere)?
        .source("2001:db8:e::2", "watching", Home::Nowhere)?;
    let gated = host.0.tunnels.get_mut(&"gated".parse()?);
    let gated = gated.context("just added")?;
    gated.mac = Some(GATED_MAC);
    gated.gateway = Some(address(GATEWAY));
    gated.mtu = Mtu(1400);
    let direct = "2001:db8:bb::/48".parse()?;
    host.0.directs.push(("gated".parse()?, direct));
    Ok(host)
}

/// The same with so many more sources that they are looked up in the trie.
fn host_of_many(name: &str, role: Role) -> Result<Host> {
    let more = (0..100_u128).map(|number| {
        let address = address("2001:db8:f000::").to_bits() | number << 64;
        let prefix = Prefix::containing(Ipv6Addr::from_bits(address), 64);
        Ok((prefix, "plain".parse()?, Home::Nowhere))
    });
    Ok(host(name, role)?.sources(more.collect::<Result<Vec<_>>>()?))
}

/// Counters that moved, by interface or tunnel, and by how much. Times are points in time, of
/// which only is said that they are set.
type Moves = Vec<(&'static str, Stat, u64)>;

/// A packet, and what should become of it.
struct Golden {
    name: &'static str,
    direction: Direction,
    frame: Vec<u8>,
    verdict: i32,
    moves: Moves,
    /// The packet afterwards; `None`: as it was.
    becomes: Option<Vec<u8>>,
}

impl Golden {
    /// A frame that goes on its way, out of the loopback interface.
    fn passes(name: &'static str, interface: &'static str, stat: Stat, frame: Vec<u8>) -> Self {
        let bytes = (frame.len() - ETHERNET_BYTES) as u64;
        Self {
            name,
            direction: Direction::Egress,
            moves: vec![(interface, stat, 1), (interface, Stat::OutBytes, bytes)],
            frame,
            verdict: NEXT,
            becomes: None,
        }
    }

    /// A frame that does not.
    fn caught(
        name: &'static str,
        (verdict, interface, caught): (i32, &'static str, Stat),
        (tunnel, leak): (&'static str, Stat),
        frame: Vec<u8>,
    ) -> Self {
        Self {
            name,
            direction: Direction::Egress,
            frame,
            verdict,
            moves: vec![(interface, caught, 1), (tunnel, leak, 1)],
            becomes: None,
        }
    }

    /// A leak from net0 into a tunnel.
    fn redirected(name: &'static str, tunnel: &'static str, frame: Vec<u8>) -> Self {
        Self::caught(
            name,
            (REDIRECT, "net0", Stat::VerdictRedirected),
            (tunnel, Stat::LeakRedirected),
            frame,
        )
    }

    /// An oversized leak from net0.
    fn too_big(name: &'static str, verdict: i32, tunnel: &'static str, frame: Vec<u8>) -> Self {
        Self::caught(
            name,
            (verdict, "net0", Stat::VerdictTooBig),
            (tunnel, Stat::LeakTooBig),
            frame,
        )
    }

    /// A frame that comes in by the loopback interface.
    fn arrives(name: &'static str, interface: &'static str, frame: Vec<u8>) -> Self {
        let bytes = (frame.len() - ETHERNET_BYTES) as u64;
        Self {
            name,
            direction: Direction::Ingress,
            moves: vec![
                (interface, Stat::InPackets, 1),
                (interface, Stat::InBytes, bytes),
            ],
            frame,
            verdict: NEXT,
            becomes: None,
        }
    }

    fn and(mut self, interface: &'static str, stat: Stat) -> Self {
        self.moves.push((interface, stat, 1));
        self
    }

    fn becoming(mut self, packet: Vec<u8>) -> Self {
        self.becomes = Some(packet);
        self
    }

    fn check(&self, programs: &Programs) -> Result<()> {
        let before = read(programs)?;
        let run = programs.run(self.direction, &self.frame, 1)?;
        let after = read(programs)?;
        ensure!(run.verdict == self.verdict, "verdict {}", run.verdict);
        let packet = self.becomes.as_ref().unwrap_or(&self.frame);
        ensure!(
            run.packet == *packet,
            "the packet became\n{:02x?}\nand not\n{packet:02x?}",
            run.packet
        );
        let mut moves = self.moves.clone();
        for (name, counters) in &after {
            for stat in Stat::ALL.iter().copied() {
                let there = counters[stat.index()];
                let moved = there - before[name][stat.index()];
                let expected = moves
                    .extract_if(.., |(on, what, _)| on == name && *what == stat)
                    .next();
                let said = expected.map_or(0, |(_, _, amount)| amount);
                let right = if stat.is_time() && said != 0 {
                    there != 0
                } else {
                    moved == said
                };
                ensure!(
                    right,
                    "{name}: {} moved by {moved}, not {said}",
                    stat.name()
                );
            }
        }
        ensure!(moves.is_empty(), "no such counters: {moves:?}");
        if self.direction == Direction::Egress {
            let verdicts = |all: &BTreeMap<String, Counters>| -> u64 {
                let each = |counters: &Counters| Stat::VERDICTS.map(|stat| counters[stat.index()]);
                all.values().flat_map(each).sum()
            };
            ensure!(
                verdicts(&after) - verdicts(&before) == 1,
                "more or less than one verdict was counted"
            );
        }
        Ok(())
    }
}

fn read(programs: &Programs) -> Result<BTreeMap<String, Counters>> {
    let slots = programs.kernel.slots();
    slots
        .iter()
        .map(|(name, slot)| Ok((name.to_string(), programs.kernel.counters(*slot)?)))
        .collect()
}

/// Through the programs on hosts with few sources and with many.
fn check_all(name: &str, role: Role, all: &[Golden]) -> Result<()> {
    let mut programs = Programs::load()?;
    println!("loaded in {:?}", programs.load_time);
    let mut wrong = Vec::new();
    for (sources, host) in [
        ("few", host(name, role)?),
        ("many", host_of_many(name, role)?),
    ] {
        programs.kernel.fill(&host.0)?;
        for golden in all {
            if let Err(error) = golden.check(&programs) {
                wrong.push(format!("{} ({sources} sources): {error:#}", golden.name));
            }
        }
    }
    ensure!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    Ok(())
}

/// A UDP packet on the wire.
fn from_to(from: &str, to: &str) -> Vec<u8> {
    wire(&ipv6(address(from), address(to), UDP, &udp(4000, 64)))
}

/// A packet to the outside on the wire.
fn out(from: &str, next_header: u8, payload: &[u8]) -> Vec<u8> {
    wire(&ipv6(address(from), address(OUTSIDE), next_header, payload))
}

fn wire(packet: &[u8]) -> Vec<u8> {
    ethernet(&[], IPV6_TYPE, packet)
}

#[test]
fn what_is_not_ours_passes_an_uplink() -> Result<()> {
    let golden = |name, stat, frame| Golden::passes(name, "net0", stat, frame);
    let native = from_to(NATIVE, OUTSIDE);
    check_all(
        "net0",
        Role::Uplink,
        &[
            golden("ARP", Stat::VerdictOther, ethernet(&[], ARP_TYPE, &[0; 28])),
            golden(
                "IPv4",
                Stat::VerdictOther,
                ethernet(&[], IPV4_TYPE, &[0x45; 40]),
            ),
            golden(
                "three tags",
                Stat::VerdictOther,
                ethernet(&[(VLAN_TYPE, 5); 3], IPV6_TYPE, &native[ETHERNET_BYTES..]),
            ),
            golden("IPv4 called IPv6", Stat::VerdictUnparsed, wire(&[0x45; 40])),
            // Behind a tag: the kernel itself looks at the length of what says it is IPv6.
            golden(
                "a truncated header",
                Stat::VerdictUnparsed,
                ethernet(
                    &[(VLAN_TYPE, 5)],
                    IPV6_TYPE,
                    &native[ETHERNET_BYTES..][..39],
                ),
            ),
            golden(
                "a truncated tag",
                Stat::VerdictUnparsed,
                ethernet(&[], VLAN_TYPE, &[0, 5]),
            ),
            golden("native", Stat::VerdictNotOurs, native),
            golden(
                "a neighbour of a tunnel's address",
                Stat::VerdictNotOurs,
                from_to("2001:db8:a::3", OUTSIDE),
            ),
            golden(
                "behind a tunnel's prefix",
                Stat::VerdictNotOurs,
                from_to("2001:db8:bc::1", OUTSIDE),
            ),
            golden(
                "before a tunnel's prefix",
                Stat::VerdictNotOurs,
                from_to("2001:db8:ba:ffff:ffff:ffff:ffff:ffff", OUTSIDE),
            ),
        ],
    )
}

#[test]
fn what_may_leave_by_an_uplink_passes() -> Result<()> {
    let golden =
        |name, from, to| Golden::passes(name, "net0", Stat::VerdictExempt, from_to(from, to));
    check_all(
        "net0",
        Role::Uplink,
        &[
            golden("to fe80::/10", "2001:db8:a::2", "fe80::9"),
            golden("to the end of fe80::/10", "2001:db8:a::2", "febf::9"),
            golden("to ff01::/16", "2001:db8:a::2", "ff01::1"),
            golden("to ff02::/16", "2001:db8:a::2", "ff02::1:ff00:9"),
            golden("direct", "2001:db8:b::2", "2001:db8:bb:1::5"),
            golden("LAN to LAN", "2001:db8:bb:1::5", "2001:db8:bb:4::5"),
            golden("at home", "2001:db8:bb:2::1", OUTSIDE),
        ],
    )
}

#[test]
fn leaks_of_an_uplink_are_treated_as_told() -> Result<()> {
    let to_plain = |name, to| Golden::redirected(name, "plain", from_to("2001:db8:a::2", to));
    check_all(
        "net0",
        Role::Uplink,
        &[
            to_plain("a leak", OUTSIDE),
            to_plain("behind fe80::/10", "fec0::9"),
            to_plain("a group of site scope", "ff05::2"),
            to_plain("a group of global scope", "ff0e::1"),
            to_plain("direct for another tunnel only", "2001:db8:bb:1::5"),
            Golden::redirected("second tunnel", "gated", from_to("2001:db8:b::2", OUTSIDE)),
            Golden::redirected("prefix", "gated", from_to("2001:db8:bb:1::5", OUTSIDE)),
            Golden::redirected(
                "longest prefix",
                "plain",
                from_to("2001:db8:bb:3::5", OUTSIDE),
            ),
            Golden::caught(
                "drop",
                (SHOT, "net0", Stat::VerdictDropped),
                ("dropping", Stat::LeakDropped),
                from_to("2001:db8:d::2", OUTSIDE),
            ),
            Golden::caught(
                "no tunnel",
                (SHOT, "net0", Stat::VerdictDropped),
                ("gone", Stat::LeakDropped),
                from_to("2001:db8:c::2", OUTSIDE),
            )
            .and("gone", Stat::LeakNoTunnel),
            Golden::passes(
                "observe",
                "net0",
                Stat::VerdictObserved,
                from_to("2001:db8:e::2", OUTSIDE),
            )
            .and("watching", Stat::LeakObserved),
        ],
    )
}

#[test]
fn leaks_are_caught_in_every_shape() -> Result<()> {
    let golden = |name, next_header, payload: Vec<u8>| {
        Golden::redirected(name, "plain", out("2001:db8:a::2", next_header, &payload))
    };
    let datagram = udp(4000, 64);
    let packet = ipv6(address("2001:db8:a::2"), address(OUTSIDE), UDP, &datagram);
    let tagged = |name, tags: &[(u16, u16)]| {
        Golden::redirected(name, "plain", ethernet(tags, IPV6_TYPE, &packet))
            .becoming(wire(&packet))
    };
    check_all(
        "net0",
        Role::Uplink,
        &[
            golden("UDP", UDP, datagram.clone()),
            golden("TCP", TCP, vec![0; 20]),
            golden("TCP cut short", TCP, vec![0; 2]),
            golden("echo request", ICMPV6, icmpv6(ECHO_REQUEST, 56)),
            golden("nothing", 59, vec![]),
            golden("an unknown protocol", 253, vec![0; 8]),
            golden("hop-by-hop", HOP_BY_HOP, options(UDP, &datagram)),
            golden("destination", DESTINATION_OPTIONS, options(UDP, &datagram)),
            golden("routing", ROUTING, options(UDP, &datagram)),
            golden(
                "authentication",
                AUTHENTICATION,
                authentication(UDP, &datagram),
            ),
            golden(
                "first fragment",
                FRAGMENT,
                fragment(UDP, 0, true, &datagram),
            ),
            golden(
                "later fragment",
                FRAGMENT,
                fragment(UDP, 150, false, &[7; 24]),
            ),
            golden(
                "all together",
                HOP_BY_HOP,
                options(
                    DESTINATION_OPTIONS,
                    &options(
                        FRAGMENT,
                        &fragment(AUTHENTICATION, 0, true, &authentication(UDP, &datagram)),
                    ),
                ),
            ),
            golden(
                "a chain without end",
                DESTINATION_OPTIONS,
                options(DESTINATION_OPTIONS, &[]).repeat(100),
            ),
            golden("a chain cut short", HOP_BY_HOP, vec![HOP_BY_HOP]),
            tagged("one tag", &[(VLAN_TYPE, 5)]),
            tagged("two tags", &[(SERVICE_VLAN_TYPE, 5), (VLAN_TYPE, 6)]),
        ],
    )
}

#[test]
fn a_tunnel_counts_what_leaves() -> Result<()> {
    let own = |name, next_header, payload: Vec<u8>| {
        Golden::passes(
            name,
            "plain",
            Stat::VerdictOwn,
            out("2001:db8:a::2", next_header, &payload),
        )
    };
    let request = |golden: Golden| {
        golden
            .and("plain", Stat::OutRequests)
            .and("plain", Stat::LastRequestOut)
    };
    let reply = |golden: Golden| {
        golden
            .and("plain", Stat::OutReplies)
            .and("plain", Stat::LastReplyOut)
    };
    let stray =
        |name, from, to| Golden::passes(name, "plain", Stat::VerdictStray, from_to(from, to));
    let local =
        |name, from, to| Golden::passes(name, "plain", Stat::VerdictExempt, from_to(from, to));
    let ping = icmpv6(ECHO_REQUEST, 56);
    check_all(
        "plain",
        Role::Tunnel,
        &[
            own("UDP", UDP, udp(4000, 64)),
            own("an error", ICMPV6, icmpv6(DESTINATION_UNREACHABLE, 56)),
            request(own("echo request", ICMPV6, ping.clone())),
            reply(own("echo reply", ICMPV6, icmpv6(ECHO_REPLY, 56))),
            request(own("hop-by-hop", HOP_BY_HOP, options(ICMPV6, &ping))),
            request(own(
                "destination and authentication",
                DESTINATION_OPTIONS,
                options(AUTHENTICATION, &authentication(ICMPV6, &ping)),
            )),
            request(own(
                "first fragment",
                FRAGMENT,
                fragment(ICMPV6, 0, true, &ping),
            )),
            own(
                "later fragment",
                FRAGMENT,
                fragment(ICMPV6, 150, false, &ping),
            ),
            own("echo cut short", ICMPV6, vec![ECHO_REQUEST]),
            stray("stray", NATIVE, OUTSIDE),
            local("router solicitation", "::", "ff02::2"),
            local("from fe80::/10", "fe80::1", OUTSIDE),
            local("native to the link", NATIVE, "ff02::1"),
            Golden::passes(
                "IPv4",
                "plain",
                Stat::VerdictOther,
                ethernet(&[], IPV4_TYPE, &[0x45; 40]),
            ),
            Golden::caught(
                "wrong tunnel",
                (REDIRECT, "plain", Stat::VerdictRedirected),
                ("gated", Stat::LeakRedirected),
                from_to("2001:db8:b::2", OUTSIDE),
            ),
            local("wrong tunnel to the link", "2001:db8:b::2", "ff02::1"),
        ],
    )
}

#[test]
fn a_tunnel_counts_what_comes_in() -> Result<()> {
    // Not for an address of the tunnel: no reply is waited for, which tests/pairs.rs is about.
    let golden = |name, next_header, payload: Vec<u8>| {
        let packet = ipv6(address(OUTSIDE), address(NATIVE), next_header, &payload);
        Golden::arrives(name, "plain", wire(&packet))
    };
    let request = |golden: Golden| {
        golden
            .and("plain", Stat::InRequests)
            .and("plain", Stat::LastRequestIn)
    };
    let reply = |golden: Golden| {
        golden
            .and("plain", Stat::InReplies)
            .and("plain", Stat::LastReplyIn)
    };
    let ping = icmpv6(ECHO_REQUEST, 56);
    check_all(
        "plain",
        Role::Tunnel,
        &[
            golden("UDP", UDP, udp(4000, 64)),
            request(golden("echo request", ICMPV6, ping.clone())),
            reply(golden("echo reply", ICMPV6, icmpv6(ECHO_REPLY, 56))),
            request(golden("hop-by-hop", HOP_BY_HOP, options(ICMPV6, &ping))),
            request(golden(
                "first fragment",
                FRAGMENT,
                fragment(ICMPV6, 0, true, &ping),
            )),
            golden(
                "later fragment",
                FRAGMENT,
                fragment(ICMPV6, 150, false, &ping),
            ),
            Golden::arrives("IPv4", "plain", ethernet(&[], IPV4_TYPE, &[0x45; 40])),
            Golden::arrives("IPv4 called IPv6", "plain", wire(&[0x45; 40]))
                .and("plain", Stat::InUnparsed),
        ],
    )
}

#[test]
fn what_is_too_big_is_answered() -> Result<()> {
    let (plain, gated) = (address("2001:db8:a::2"), address("2001:db8:b::2"));
    let outside = address(OUTSIDE);
    let packet = |from, bytes: usize| ipv6(from, outside, UDP, &udp(4000, bytes - 48));
    let (big, gated_big) = (packet(plain, 1281), packet(gated, 1500));
    let about_plain = |packet: &[u8]| packet_too_big(address("2001:db8:a::1"), plain, 1280, packet);
    let about_gated = packet_too_big(address("2001:db8:b::1"), gated, 1400, &gated_big);
    let to_gated = [
        &GATED_MAC[..],
        &[0; 6],
        &IPV6_TYPE.to_be_bytes(),
        &about_gated,
    ]
    .concat();

    let later = ipv6(
        plain,
        outside,
        FRAGMENT,
        &fragment(ICMPV6, 150, true, &[0; 1440]),
    );
    let error = icmpv6(DESTINATION_UNREACHABLE, 1400);
    let mut boaster = packet(plain, 100);
    boaster[4..6].copy_from_slice(&1400_u16.to_be_bytes());
    let refused = |name, next_header, payload: Vec<u8>| {
        let frame = out("2001:db8:a::2", next_header, &payload);
        Golden::too_big(name, SHOT, "plain", frame)
    };
    check_all(
        "net0",
        Role::Uplink,
        &[
            Golden::redirected("what just fits", "plain", wire(&packet(plain, 1280))),
            Golden::redirected("into the larger one", "gated", wire(&packet(gated, 1400))),
            Golden::too_big("one byte more", REDIRECT, "plain", wire(&big))
                .becoming(wire(&about_plain(&big))),
            Golden::too_big("into a link layer", REDIRECT, "gated", wire(&gated_big))
                .becoming(to_gated),
            Golden::too_big(
                "with a tag",
                REDIRECT,
                "plain",
                ethernet(&[(VLAN_TYPE, 5)], IPV6_TYPE, &big),
            )
            .becoming(wire(&about_plain(&big))),
            // No error is long enough for a fragment: it may be answered.
            Golden::too_big("later fragment", REDIRECT, "plain", wire(&later))
                .becoming(wire(&about_plain(&later))),
            Golden::redirected("small and boasting", "plain", wire(&boaster)),
            // RFC 4443 §2.4 (e.1).
            refused("an error", ICMPV6, error.clone()),
            refused(
                "an error behind options",
                HOP_BY_HOP,
                options(ICMPV6, &error),
            ),
            Golden::caught(
                "too big to drop",
                (SHOT, "net0", Stat::VerdictDropped),
                ("dropping", Stat::LeakDropped),
                out("2001:db8:d::2", UDP, &udp(4000, 1400)),
            ),
        ],
    )
}

#[test]
fn without_its_interface_a_tunnel_drops_leaks() -> Result<()> {
    let mut programs = Programs::load()?;
    let host = Host::new("net0", Role::Uplink)?
        .tunnel(
            "gone",
            Some(NOBODY),
            OnLeak::Redirect,
            Ipv6Addr::UNSPECIFIED,
        )?
        .source("2001:db8:a::2", "gone", Home::Nowhere)?;
    programs.kernel.fill(&host.0)?;
    for (name, bytes) in [("small", 64), ("big", 1400)] {
        Golden::caught(
            name,
            (SHOT, "net0", Stat::VerdictDropped),
            ("gone", Stat::LeakDropped),
            out("2001:db8:a::2", UDP, &udp(4000, bytes)),
        )
        .and("gone", Stat::LeakNoTunnel)
        .check(&programs)
        .context(name)?;
    }
    let events = programs.events()?;
    ensure!(
        events.len() == 1 && events[0].record.treatment == TREATMENT_NO_TUNNEL,
        "{events:?}"
    );
    Ok(())
}

#[test]
fn without_tables_everything_passes() -> Result<()> {
    let mut programs = Programs::load()?;
    let frame = from_to("2001:db8:a::2", OUTSIDE);
    let unknown = |programs: &Programs| -> Result<()> {
        for direction in [Direction::Egress, Direction::Ingress] {
            let run = programs.run(direction, &frame, 1)?;
            ensure!((run.verdict, &run.packet) == (NEXT, &frame), "{run:?}");
        }
        Ok(())
    };
    unknown(&programs).context("before they are filled")?;
    programs.kernel.fill(&Host::new("net0", Role::Uplink)?.0)?;
    Golden::passes("no tunnels", "net0", Stat::VerdictNotOurs, frame.clone()).check(&programs)?;
    programs.kernel.fill(&Host::default().0)?;
    unknown(&programs).context("after they are emptied")
}

/// A leak's frame, from one of many ports.
fn leak_to(port: u16) -> Vec<u8> {
    out("2001:db8:a::2", UDP, &udp(port, 64))
}

#[test]
fn one_flow_gives_one_event_a_second() -> Result<()> {
    let mut programs = Programs::load()?;
    programs.kernel.fill(&host("net0", Role::Uplink)?.0)?;
    let start = Instant::now();
    let frame = leak_to(4000);
    programs.run(Direction::Egress, &frame, 1000)?;
    let first = programs.events()?;
    let [event] = first.as_slice() else {
        anyhow::bail!("{} events, not one", first.len());
    };
    let flow = event.flow;
    ensure!(
        flow.local == Address::from_octets(address("2001:db8:a::2").octets())
            && flow.remote == Address::from_octets(address(OUTSIDE).octets())
            && (flow.local_port, flow.remote_port) == (53, 4000)
            && flow.protocol == u32::from(UDP),
        "{flow:?}"
    );
    let record = event.record;
    ensure!(
        record.packets == 1
            && record.bytes == (frame.len() - ETHERNET_BYTES) as u64
            && record.treatment == TREATMENT_REDIRECTED
            && Some(record.tunnel) == programs.kernel.slot(&"plain".parse()?)
            && record.ifindex == LOOPBACK.0
            && record.from_ifindex == 0,
        "{record:?}"
    );
    let mut packets = 1000;
    let more = loop {
        programs.run(Direction::Egress, &frame, 1)?;
        packets += 1;
        let events = programs.events()?;
        if let [event] = events.as_slice() {
            break *event;
        }
        ensure!(events.is_empty(), "{} events at a time", events.len());
        ensure!(
            start.elapsed() < Duration::from_secs(10),
            "no second event in ten seconds"
        );
    };
    // The clock of the programs goes by ticks, of 10 ms at most.
    ensure!(start.elapsed() > Duration::from_millis(980), "too early");
    ensure!(more.record.packets == packets, "{more:?}, not {packets}");
    let known = programs.kernel.flow(&flow);
    ensure!(known == Some(more.record), "{known:?}");
    ensure!(programs.counter("plain", Stat::LeakRedirected)? == packets);
    ensure!(programs.counter("plain", Stat::EventsLost)? == 0);
    Ok(())
}

#[test]
fn a_flood_of_flows_gives_few_events_and_counts_the_rest() -> Result<()> {
    const FLOWS: u16 = 10_000;
    let mut programs = Programs::load()?;
    programs.kernel.fill(&host("net0", Role::Uplink)?.0)?;
    let start = Instant::now();
    let mut events: Vec<LeakEvent> = Vec::new();
    for port in 0..FLOWS {
        programs.run(Direction::Egress, &leak_to(port), 1)?;
        events.extend(programs.events()?);
    }
    // A new second may begin at the end of the last one that was begun.
    let seconds = start.elapsed().as_secs() + 2;
    let sent = events.len() as u64;
    ensure!(
        (EVENTS_PER_SECOND..=EVENTS_PER_SECOND * seconds).contains(&sent),
        "{sent} events in less than {seconds} seconds"
    );
    let lost = programs.counter("plain", Stat::EventsLost)?;
    ensure!(sent + lost == u64::from(FLOWS), "{sent} sent, {lost} lost");
    ensure!(programs.counter("plain", Stat::LeakRedirected)? == u64::from(FLOWS));
    // Another tunnel has a budget of its own.
    programs.run(Direction::Egress, &from_to("2001:db8:b::2", OUTSIDE), 1)?;
    ensure!(programs.events()?.len() == 1);
    Ok(())
}

/// Names of the tunnels of made-up hosts.
const MADE_UP: [&str; 4] = ["t0", "t1", "t2", "t3"];

/// A host as the pure decision sees it.
#[derive(Default)]
struct Model {
    sources: Vec<(SharedPrefix, layout::Source)>,
    directs: Vec<(u32, SharedPrefix)>,
}

impl Tables for Model {
    fn source(&self, address: Address) -> Option<layout::Source> {
        let mut sources = self.sources.iter();
        let found = sources.find(|(prefix, _)| address.within(prefix));
        found.map(|(_, source)| *source)
    }

    fn is_direct(&self, tunnel: u32, destination: Address) -> bool {
        let mut directs = self.directs.iter();
        directs.any(|(of, prefix)| *of == tunnel && destination.within(prefix))
    }
}

impl Model {
    fn new(host: &Host, programs: &Programs) -> Result<Self> {
        let shared = |prefix: Prefix| {
            SharedPrefix::new(
                Address::from_octets(prefix.address().octets()),
                prefix.bits(),
            )
        };
        let slot = |name| programs.kernel.slot(name).context("no slot");
        let mut model = Self::default();
        for source in &host.0.sources {
            let home = match source.home {
                Home::Nowhere => 0,
                Home::Uplink(index) => index.0,
                Home::Several => layout::ANY_UPLINK,
            };
            let tunnel = slot(&source.tunnel)?;
            let entry = (
                shared(source.prefix),
                layout::Source::new(tunnel, source.prefix.bits(), home),
            );
            model.sources.push(entry);
        }
        for (name, prefix) in &host.0.directs {
            model.directs.push((slot(name)?, shared(*prefix)));
        }
        Ok(model)
    }
}

/// Addresses close enough together to meet each other's prefixes.
fn addresses() -> impl Strategy<Value = Ipv6Addr> {
    let close = (0..3_u128, 0..3_u128, 0..3_u128)
        .prop_map(|(a, b, c)| 0x2001_0db8 << 96 | a << 80 | b << 64 | c);
    prop_oneof![
        8 => close,
        1 => any::<u128>(),
        1 => any::<u128>().prop_map(|any| 0xfe80 << 112 | any >> 16),
        1 => any::<u128>().prop_map(|any| 0xff02 << 112 | any >> 16),
    ]
    .prop_map(Ipv6Addr::from_bits)
}

fn prefixes() -> impl Strategy<Value = Prefix> {
    let bits = prop_oneof![Just(128), Just(64), Just(48), 1..=128_u8];
    (addresses(), bits).prop_map(|(address, bits)| Prefix::containing(address, bits))
}

fn homes() -> impl Strategy<Value = Home> {
    prop_oneof![
        Just(Home::Nowhere),
        Just(Home::Uplink(LOOPBACK)),
        Just(Home::Uplink(NOBODY)),
        Just(Home::Several),
    ]
}

/// Hosts whose loopback interface is an uplink or the first tunnel, and that let leaks pass.
fn hosts() -> impl Strategy<Value = (Role, Host)> {
    // Few sources are compared one by one, more are looked up in the trie.
    let sources = prop::collection::btree_map(prefixes(), (0..MADE_UP.len(), homes()), 0..=24);
    let directs = prop::collection::btree_set((0..MADE_UP.len(), prefixes()), 0..=4);
    (any::<bool>(), sources, directs).prop_map(|(uplink, sources, directs)| {
        let role = if uplink { Role::Uplink } else { Role::Tunnel };
        let mut host = Host::new(if uplink { "net0" } else { MADE_UP[0] }, role);
        for name in MADE_UP {
            host = host.and_then(|host| {
                host.tunnel(name, Some(LOOPBACK), OnLeak::Observe, Ipv6Addr::UNSPECIFIED)
            });
        }
        let name = |tunnel: usize| MADE_UP[tunnel].parse().expect("a name");
        let sources = sources
            .into_iter()
            .map(|(prefix, (tunnel, home))| (prefix, name(tunnel), home));
        let mut host = host.expect("good names").sources(sources);
        let directs = directs.into_iter();
        let directs = directs.map(|(tunnel, prefix)| (name(tunnel), prefix));
        host.0.directs.extend(directs);
        (role, host)
    })
}

/// The program's verdict on a packet, by the counters that it moves.
fn verdict(programs: &Programs, packet: &[u8]) -> Result<Verdict> {
    let before = read(programs)?;
    programs.run(Direction::Egress, &wire(packet), 1)?;
    let mut found = Vec::new();
    for (name, counters) in read(programs)? {
        for stat in Stat::ALL.iter().copied() {
            if counters[stat.index()] != before[&name][stat.index()] {
                found.extend(match stat {
                    Stat::VerdictOther => Some(Verdict::OtherProtocol),
                    Stat::VerdictUnparsed => Some(Verdict::Unparsed),
                    Stat::VerdictNotOurs => Some(Verdict::NotOurs),
                    Stat::VerdictExempt => Some(Verdict::Exempt),
                    Stat::VerdictOwn => Some(Verdict::Own),
                    Stat::VerdictStray => Some(Verdict::Stray),
                    Stat::LeakObserved => {
                        let slot = programs.kernel.slot(&name.parse()?);
                        Some(Verdict::Leak(slot.context("no slot")?))
                    }
                    _ => None,
                });
            }
        }
    }
    ensure!(found.len() == 1, "not one verdict: {found:?}");
    Ok(found[0])
}

/// Whatever the sources: the program in the kernel decides as the same code does on its own. Each
/// host takes the place of the one before, of which the programs still remember addresses.
#[test]
fn the_kernel_decides_as_the_pure_decision_does() -> Result<()> {
    let programs = RefCell::new(Programs::load()?);
    let packets = prop::collection::vec((addresses(), addresses()), 8);
    let mut runner = TestRunner::new(Config {
        cases: 200,
        failure_persistence: None,
        ..Config::default()
    });
    let compare = |(role, host): &(Role, Host), pairs: &[(Ipv6Addr, Ipv6Addr)]| -> Result<()> {
        let mut programs = programs.borrow_mut();
        programs.kernel.fill(&host.0)?;
        let model = Model::new(host, &programs)?;
        let exit = match role {
            Role::Uplink => Exit::Uplink(LOOPBACK.0),
            _ => {
                let slot = programs.kernel.slot(&MADE_UP[0].parse()?);
                Exit::Tunnel(slot.context("no slot")?)
            }
        };
        for (from, to) in pairs {
            let packet = ipv6(*from, *to, UDP, &udp(4000, 8));
            let header = packet::ipv6(packet.as_slice(), 0);
            let expected = decide(header.as_ref().map_err(|fault| *fault), exit, &model);
            let found = verdict(&programs, &packet)?;
            ensure!(
                found == expected,
                "{from} to {to}: {found:?}, not {expected:?}"
            );
        }
        Ok(())
    };
    runner
        .run(&(hosts(), packets), |(host, packets)| {
            compare(&host, &packets).map_err(|error| TestCaseError::fail(format!("{error:#}")))
        })
        .map_err(|error| anyhow!("{error}"))
}

/// Frames of any bytes, most of them dressed up to get further into the programs.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let types = prop::sample::select(vec![IPV6_TYPE, VLAN_TYPE, SERVICE_VLAN_TYPE]);
    let headers = prop::sample::select(vec![
        HOP_BY_HOP,
        TCP,
        UDP,
        ROUTING,
        FRAGMENT,
        AUTHENTICATION,
        ICMPV6,
        DESTINATION_OPTIONS,
    ]);
    let sources = prop::sample::select(vec!["2001:db8:a::2", "2001:db8:b::2", "2001:db8:d::2"]);
    let bytes = prop::collection::vec(any::<u8>(), 54..1600);
    let dress = prop::option::of((types, headers, sources));
    (bytes, dress).prop_map(|(mut bytes, dress)| {
        if let Some((kind, header, source)) = dress {
            bytes[12..14].copy_from_slice(&kind.to_be_bytes());
            bytes[14] = 0x60;
            // A length that is near the truth, so that some are too big and most fit.
            bytes[18] &= 0x07;
            bytes[20] = header;
            bytes[22..38].copy_from_slice(&address(source).octets());
        }
        bytes
    })
}

/// By a native tunnel: by others it may, for all we know.
#[test]
fn nothing_comes_in_from_our_own_address() -> Result<()> {
    let mut programs = Programs::load()?;
    let mut host = host("sixxs0", Role::Tunnel)?;
    let name = "sixxs0".parse()?;
    let interface = host.0.interfaces.get_mut(&name).context("an interface")?;
    interface.own = Some(address("2001:db8:a::2"));
    programs.kernel.fill(&host.0)?;
    let golden = |name, from| Golden::arrives(name, "sixxs0", from_to(from, "2001:db8:a::2"));
    let mut own = golden("from ourselves", "2001:db8:a::2").and("sixxs0", Stat::InOwnSource);
    own.verdict = SHOT;
    own.check(&programs).context(own.name)?;
    for other in [
        golden("from outside", OUTSIDE),
        golden("from the broker", "2001:db8:a::1"),
        golden("from nowhere", "::"),
    ] {
        other.check(&programs).context(other.name)?;
    }
    Ok(())
}

#[test]
fn any_bytes_get_one_verdict() -> Result<()> {
    let mut programs = Programs::load()?;
    programs.kernel.fill(&host("net0", Role::Uplink)?.0)?;
    let verdicts = |programs: &Programs| -> Result<u64> {
        let counters = programs.counters("net0")?;
        Ok(Stat::VERDICTS
            .iter()
            .map(|stat| counters[stat.index()])
            .sum())
    };
    let check = |frame: &[u8]| -> Result<()> {
        let before = verdicts(&programs)?;
        let run = programs.run(Direction::Egress, frame, 1)?;
        ensure!(matches!(run.verdict, NEXT | SHOT | REDIRECT), "{run:?}");
        ensure!(verdicts(&programs)? == before + 1, "not one verdict");
        let run = programs.run(Direction::Ingress, frame, 1)?;
        ensure!(run.verdict == NEXT && run.packet == frame, "in: {run:?}");
        Ok(())
    };
    let mut runner = TestRunner::new(Config {
        cases: 10_000,
        failure_persistence: None,
        ..Config::default()
    });
    runner
        .run(&frames(), |frame| {
            check(&frame).map_err(|error| TestCaseError::fail(format!("{error:#}")))
        })
        .map_err(|error| anyhow!("{error}"))
}
