//! Packets that leave by an uplink: passed, or caught as leaks.

use anyhow::Result;
use sixxs_common::stat::Stat;
use sixxs_core::enforce::Role;
use sixxs_tests::probe::packets::{
    ARP_TYPE, AUTHENTICATION, DESTINATION_OPTIONS, ECHO_REQUEST, ETHERNET_BYTES, FRAGMENT,
    HOP_BY_HOP, ICMPV6, IPV4_TYPE, IPV6_TYPE, MPLS_TYPE, OLD_SERVICE_VLAN_TYPE, PPPOE_TYPE,
    ROUTING, SERVICE_VLAN_TYPE, TCP, UDP, VLAN_TYPE, authentication, ethernet, fragment, icmpv6,
    ipv6, options, udp,
};

use crate::golden::{Golden, NATIVE, OUTSIDE, SHOT, address, check_all, from_to, out, wire};

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
            // In a VLAN tag, because the kernel itself checks the length of untagged IPv6.
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

/// The programs do not look for IPv6 behind these headers: the kernel adds none of them where it decides by which
/// interface a packet leaves.
#[test]
fn what_is_not_read_passes_an_uplink() -> Result<()> {
    let leak = ipv6(
        address("2001:db8:a::2"),
        address(OUTSIDE),
        UDP,
        &udp(4000, 64),
    );
    let behind = |header: &[u8]| [header, &leak].concat();
    let length = u16::try_from(leak.len())?;
    let [high, low] = (length + 2).to_be_bytes();
    // Version and type, code, session, length; the protocol of PPP is 0x0057 (RFC 5072).
    let session = behind(&[0x11, 0, 0, 1, high, low, 0, 0x57]);
    // Label 16, the bottom of the stack, TTL 64.
    let labelled = behind(&[0, 1, 1, 64]);
    // IEEE 802.2 and SNAP, with the type of IPv6; a length instead of an EtherType (RFC 1042).
    let snap = behind(&[0xaa, 0xaa, 3, 0, 0, 0, 0x86, 0xdd]);
    let golden = |name, frame| Golden::passes(name, "net0", Stat::VerdictOther, frame);
    check_all(
        "net0",
        Role::Uplink,
        &[
            golden(
                "a tag of type 0x9100",
                ethernet(&[(OLD_SERVICE_VLAN_TYPE, 5)], IPV6_TYPE, &leak),
            ),
            golden(
                "a tag of type 0x9100 before another",
                ethernet(
                    &[(OLD_SERVICE_VLAN_TYPE, 5), (VLAN_TYPE, 6)],
                    IPV6_TYPE,
                    &leak,
                ),
            ),
            golden("PPPoE session", ethernet(&[], PPPOE_TYPE, &session)),
            golden("MPLS", ethernet(&[], MPLS_TYPE, &labelled)),
            golden("LLC/SNAP", ethernet(&[], length + 8, &snap)),
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
            golden("LAN of another tunnel", "2001:db8:a::2", "2001:db8:bb:1::5"),
            golden("LAN to LAN", "2001:db8:bb:1::5", "2001:db8:bb:4::5"),
            golden("at home", "2001:db8:bb:2::1", OUTSIDE),
        ],
    )
}

#[test]
fn leaks_of_an_uplink_are_treated_as_configured() -> Result<()> {
    let to_plain = |name, to| Golden::redirected(name, "plain", from_to("2001:db8:a::2", to));
    check_all(
        "net0",
        Role::Uplink,
        &[
            to_plain("a leak", OUTSIDE),
            to_plain("behind fe80::/10", "fec0::9"),
            to_plain("a group of site scope", "ff05::2"),
            to_plain("a group of global scope", "ff0e::1"),
            to_plain("direct for another tunnel only", "2001:db8:5::5"),
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
