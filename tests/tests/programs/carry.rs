//! Outer packets of a tunnel that the programs carry, as they arrive at the uplink.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, ensure};
use sixxs_common::six_in_four;
use sixxs_common::stat::Stat;
use sixxs_core::enforce::Role;
use sixxs_core::tunnel::OuterPath;
use sixxs_tests::kernel;
use sixxs_tests::kernel::program_harness::{Direction, Host, LOOPBACK, Programs};
use sixxs_tests::probe::packets::{
    ECHO_REQUEST, ICMPV6, IPV4_TYPE, IPV6_TYPE, UDP, VLAN_TYPE, checksum, ethernet, icmpv6, ipv6,
    udp,
};

use crate::golden::{Golden, NEXT, OUTSIDE, REDIRECT, SHOT, address, host};

const LOCAL: [u8; 4] = [192, 0, 2, 10];
const BROKER: [u8; 4] = [198, 51, 100, 1];
const OWN: &str = "2001:db8:a::2";

/// A host whose tunnel `plain` is carried by the programs, at the loopback interface as its uplink.
fn carrying() -> Result<Host> {
    let mut host = host("net0", Role::Uplink)?;
    let path = OuterPath {
        index: LOOPBACK,
        local: Ipv4Addr::from(LOCAL),
        remote: Ipv4Addr::from(BROKER),
        largest_inner: 1480,
    };
    host.0.outer_paths.insert("plain".parse()?, path);
    let net0 = host.0.interfaces.get_mut(&"net0".parse()?);
    net0.context("the uplink")?.is_underlay = true;
    Ok(host)
}

/// An outer packet, with options behind its header.
fn outer(source: [u8; 4], class: u8, flags: u16, options: &[u8], inner: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + options.len() + inner.len()).expect("a short packet");
    let words = u8::try_from(5 + options.len() / 4).expect("few options");
    let mut packet = vec![0x40 | words, class];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(flags.to_be_bytes());
    packet.extend([64, six_in_four::PROTOCOL, 0, 0]);
    packet.extend(source);
    packet.extend(LOCAL);
    packet.extend(options);
    let sum = checksum(&packet).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
    packet.extend(inner);
    packet
}

/// A frame for this host: the loopback interface has the address zero.
fn frame(packet: &[u8]) -> Vec<u8> {
    let mut frame = ethernet(&[], IPV4_TYPE, packet);
    frame[..6].fill(0);
    frame
}

fn ping(from: &str, to: &str) -> Vec<u8> {
    ipv6(address(from), address(to), ICMPV6, &icmpv6(ECHO_REQUEST, 8))
}

fn left(name: &'static str, stat: Option<Stat>, frame: Vec<u8>) -> Golden {
    Golden {
        name,
        direction: Direction::OuterIngress,
        frame,
        verdict: NEXT,
        moves: stat.map(|stat| ("plain", stat, 1)).into_iter().collect(),
        becomes: None,
    }
}

fn delivered(name: &'static str, frame: Vec<u8>, inner: &[u8]) -> Golden {
    Golden {
        verdict: REDIRECT,
        ..left(name, Some(Stat::CarriedIn), frame)
    }
    // The link layer's header stays: the redirect removes it.
    .becoming(self::frame(inner))
}

fn check(host: &Host, all: &[Golden]) -> Result<()> {
    let mut programs = Programs::load()?;
    programs.kernel.write_maps(&host.0)?;
    let wrong = all.iter().filter_map(|golden| {
        let error = golden.check(&programs).err()?;
        Some(format!("{}: {error:#}", golden.name))
    });
    let wrong: Vec<_> = wrong.collect();
    ensure!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn outer_packets_of_the_broker_are_delivered() -> Result<()> {
    if !kernel::has_decapsulation()? {
        return Ok(());
    }
    let inner = ping(OUTSIDE, OWN);
    let datagram = ipv6(address(OUTSIDE), address(OWN), UDP, &udp(7, 100));
    let neighbour = ping("fe80::1", "fe80::2");
    let group = ping(OUTSIDE, "ff02::1");
    let mut marked = inner.clone();
    marked[1] = 0x20;
    let mut congested = inner.clone();
    congested[1] = 0x30;
    let of = |inner: &[u8]| frame(&outer(BROKER, 0, 0x4000, &[], inner));
    let mut padded = of(&inner);
    padded.extend([0; 6]);
    let mut padded_inner = inner.clone();
    padded_inner.extend([0; 6]);
    check(
        &carrying()?,
        &[
            delivered("a ping", of(&inner), &inner),
            delivered("a datagram", of(&datagram), &datagram),
            delivered("of link scope", of(&neighbour), &neighbour),
            delivered("to a group", of(&group), &group),
            delivered("padded by the link", padded, &padded_inner),
            delivered(
                "without don't-fragment",
                frame(&outer(BROKER, 0, 0, &[], &inner)),
                &inner,
            ),
            delivered(
                "with options",
                frame(&outer(BROKER, 0, 0x4000, &[1, 1, 1, 0], &inner)),
                &inner,
            ),
            delivered(
                "with all options",
                frame(&outer(BROKER, 0, 0x4000, &[1; 40], &inner)),
                &inner,
            ),
            delivered(
                "congestion on the way",
                frame(&outer(BROKER, 0b11, 0x4000, &[], &marked)),
                &congested,
            ),
            Golden {
                verdict: SHOT,
                ..left(
                    "congestion that cannot be told",
                    Some(Stat::CarriedInCongested),
                    frame(&outer(BROKER, 0b11, 0x4000, &[], &inner)),
                )
            },
        ],
    )
}

#[test]
fn everything_else_is_left_to_the_kernel() -> Result<()> {
    if !kernel::has_decapsulation()? {
        return Ok(());
    }
    let inner = ping(OUTSIDE, OWN);
    let of = |inner: &[u8]| outer(BROKER, 0, 0x4000, &[], inner);
    let whole = of(&inner);
    let changed = |at: usize, byte: u8| {
        let mut packet = whole.clone();
        packet[at] = byte;
        frame(&packet)
    };
    let stranger = outer([198, 51, 100, 66], 0, 0x4000, &[], &inner);
    check(
        &carrying()?,
        &[
            left("IPv6", None, ethernet(&[], IPV6_TYPE, &inner)),
            left(
                "a tag",
                None,
                ethernet(&[(VLAN_TYPE, 7)], IPV4_TYPE, &whole),
            ),
            left("for another host", None, ethernet(&[], IPV4_TYPE, &whole)),
            left("of a stranger", None, frame(&stranger)),
            left("to another address", None, changed(19, 11)),
            left("of another protocol", None, changed(9, 4)),
            left(
                "a first fragment",
                Some(Stat::CarriedInFragments),
                changed(6, 0x20),
            ),
            left(
                "a later fragment",
                Some(Stat::CarriedInFragments),
                changed(7, 9),
            ),
            left(
                "another inner version",
                Some(Stat::CarriedInMalformed),
                changed(20, 0x45),
            ),
            left(
                "an inner length beyond it",
                Some(Stat::CarriedInMalformed),
                changed(25, 17),
            ),
            left(
                "no inner length",
                Some(Stat::CarriedInMalformed),
                changed(25, 0),
            ),
            left(
                "an inner header that is cut off",
                Some(Stat::CarriedInMalformed),
                frame(&of(&inner[..39])),
            ),
            left(
                "no inner packet",
                Some(Stat::CarriedInMalformed),
                frame(&of(&[])),
            ),
            left(
                "from our own address",
                Some(Stat::CarriedInOwnSource),
                frame(&of(&ping(OWN, OWN))),
            ),
            left(
                "to the uplink's address",
                Some(Stat::CarriedInOther),
                frame(&of(&ping(OUTSIDE, "2001:db8:1::1"))),
            ),
        ],
    )
}

/// The map has an entry, but the tunnel's interface is gone.
#[test]
fn without_its_interface_nothing_is_delivered() -> Result<()> {
    if !kernel::has_decapsulation()? {
        return Ok(());
    }
    let mut host = carrying()?;
    let tunnel = host.0.tunnels.get_mut(&"plain".parse()?);
    tunnel.context("the tunnel")?.index = None;
    let packet = outer(BROKER, 0, 0x4000, &[], &ping(OUTSIDE, OWN));
    check(&host, &[left("a ping", None, frame(&packet))])
}
