//! Packets that leave and enter by a tunnel, packets that are too big, and packets without a tunnel.

use std::net::Ipv6Addr;

use anyhow::{Context as _, Result, ensure};
use sixxs_common::stat::Stat;
use sixxs_common::treatment::Treatment;
use sixxs_core::config::OnLeak;
use sixxs_core::enforce::{Home, Role};
use sixxs_tests::kernel::program_harness::{Direction, Host, Programs};
use sixxs_tests::probe::packets::{
    AUTHENTICATION, DESTINATION_OPTIONS, DESTINATION_UNREACHABLE, ECHO_REPLY, ECHO_REQUEST,
    FRAGMENT, HOP_BY_HOP, ICMPV6, IPV4_TYPE, IPV6_TYPE, UDP, VLAN_TYPE, authentication, ethernet,
    fragment, icmpv6, ipv6, options, packet_too_big, udp,
};

use crate::golden::{
    GATED_MAC, Golden, NATIVE, NEXT, NOBODY, OUTSIDE, REDIRECT, SHOT, address, check_all, from_to,
    host, out, wire,
};

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
    let loops = |name, from, to| Golden {
        verdict: SHOT,
        moves: vec![("plain", Stat::VerdictLoop, 1)],
        ..Golden::passes(name, "plain", Stat::VerdictLoop, from_to(from, to))
    };
    let ping = icmpv6(ECHO_REQUEST, 56);
    check_all(
        "plain",
        Role::Tunnel,
        &[
            loops(
                "to another tunnel's prefix",
                "2001:db8:a::2",
                "2001:db8:bb:9::9",
            ),
            loops("to its own prefix", "2001:db8:a::2", "2001:db8:bb:3::9"),
            loops(
                "to another tunnel's address",
                "2001:db8:a::2",
                "2001:db8:b::2",
            ),
            loops("by the wrong tunnel", "2001:db8:b::2", "2001:db8:bb:9::9"),
            loops("a stray", NATIVE, "2001:db8:bb:9::9"),
            local("a neighbour's question", "fe80::1", "2001:db8:bb:9::9"),
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
    // The destination is in the tunnel's prefix, and is not its address: no reply is expected. tests/pairs.rs
    // tests replies.
    let to = |destination: &str, name, next_header, payload: Vec<u8>| {
        let packet = ipv6(
            address(OUTSIDE),
            address(destination),
            next_header,
            &payload,
        );
        Golden::arrives(name, "plain", wire(&packet))
    };
    let golden = |name, next_header, payload| to("2001:db8:bb:3::9", name, next_header, payload);
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
            to(
                NATIVE,
                "echo request to nobody's address",
                ICMPV6,
                ping.clone(),
            ),
            to(
                "2001:db8:b::2",
                "echo request to another tunnel's",
                ICMPV6,
                ping.clone(),
            ),
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
            // ICMPv6 errors are too short to be fragmented, so a later fragment is no error and gets an
            // answer.
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
    programs.kernel.write_maps(&host.0)?;
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
        events.len() == 1 && events[0].record.treatment == Treatment::NoTunnel.raw(),
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
    programs
        .kernel
        .write_maps(&Host::new("net0", Role::Uplink)?.0)?;
    Golden::passes("no tunnels", "net0", Stat::VerdictNotOurs, frame.clone()).check(&programs)?;
    programs.kernel.write_maps(&Host::default().0)?;
    unknown(&programs).context("after they are emptied")
}

/// Only for native tunnels: at other tunnels such packets may be legitimate.
#[test]
fn nothing_comes_in_from_our_own_address() -> Result<()> {
    let mut programs = Programs::load()?;
    let mut host = host("sixxs0", Role::Tunnel)?;
    let name = "sixxs0".parse()?;
    let interface = host.0.interfaces.get_mut(&name).context("an interface")?;
    interface.own = Some(address("2001:db8:a::2"));
    programs.kernel.write_maps(&host.0)?;
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
