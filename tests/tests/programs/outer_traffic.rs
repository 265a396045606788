//! Outer packets of tunnels at an uplink: which of them are counted, and for which tunnel.

use anyhow::{Context as _, Result, ensure};
use sixxs_common::endpoint::OuterCounters;
use sixxs_core::endpoint::Endpoint;
use sixxs_core::enforce::Role;
use sixxs_tests::kernel::program_harness::{Direction, Host, Programs};
use sixxs_tests::probe::packets::{
    DESTINATION_OPTIONS, IPV4_TYPE, IPV6_TYPE, UDP, VLAN_TYPE, ethernet, ipv6, options,
};

use crate::golden::{NATIVE, NEXT, address, host};

const HERE: [u8; 4] = [192, 0, 2, 10];
const BROKER: [u8; 4] = [198, 51, 100, 1];
const OTHER: [u8; 4] = [198, 51, 100, 2];
const BROKER6: &str = "2001:db8:c0::1";

/// A host with these endpoints: 6in4 of `plain`; UDP of `gated`, from its own port; UDP over IPv6 of `watching`, from
/// any port; everything of `dropping`.
fn with_endpoints(role: Role) -> Result<Host> {
    let mut host = host("net0", role)?;
    for (tunnel, remote, protocol, remote_port, local_port) in [
        ("plain", "198.51.100.1", Some(41), None, None),
        ("gated", "198.51.100.1", Some(UDP), Some(5072), Some(4000)),
        ("watching", BROKER6, Some(UDP), Some(51820), None),
        ("dropping", "198.51.100.2", None, None, None),
    ] {
        let endpoint = Endpoint {
            remote: remote.parse()?,
            protocol,
            remote_port,
            local_port,
        };
        host.0.endpoints.insert(endpoint, tunnel.parse()?);
    }
    let here = host.0.interfaces.get_mut(&"net0".parse()?);
    here.context("the interface")?.is_underlay = role != Role::Tunnel;
    Ok(host)
}

pub(crate) fn packet4(
    source: [u8; 4],
    destination: [u8; 4],
    protocol: u8,
    payload: &[u8],
) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).expect("a short packet");
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
    packet.extend(source);
    packet.extend(destination);
    packet.extend(payload);
    packet
}

/// The first bytes of UDP or TCP, and more.
fn ports(source: u16, destination: u16) -> Vec<u8> {
    let mut bytes = source.to_be_bytes().to_vec();
    bytes.extend(destination.to_be_bytes());
    bytes.extend([0; 16]);
    bytes
}

/// A packet that arrives; the same with both ends exchanged leaves.
struct Outer {
    name: &'static str,
    ethertype: u16,
    arrives: Vec<u8>,
    leaves: Vec<u8>,
    counted_for: Option<&'static str>,
}

fn by_ipv4(
    name: &'static str,
    remote: [u8; 4],
    protocol: u8,
    (remote_port, local_port): (u16, u16),
    counted_for: Option<&'static str>,
) -> Outer {
    Outer {
        name,
        ethertype: IPV4_TYPE,
        arrives: packet4(remote, HERE, protocol, &ports(remote_port, local_port)),
        leaves: packet4(HERE, remote, protocol, &ports(local_port, remote_port)),
        counted_for,
    }
}

fn by_ipv6(
    name: &'static str,
    remote: &str,
    remote_port: u16,
    counted_for: Option<&'static str>,
) -> Outer {
    let (remote, here) = (address(remote), address(NATIVE));
    Outer {
        name,
        ethertype: IPV6_TYPE,
        arrives: ipv6(remote, here, UDP, &ports(remote_port, 4000)),
        leaves: ipv6(here, remote, UDP, &ports(4000, remote_port)),
        counted_for,
    }
}

/// As `ip6tnl` sends it, with UDP instead.
fn behind_options() -> Outer {
    let (remote, here) = (address(BROKER6), address(NATIVE));
    let with = |ports: Vec<u8>| options(UDP, &ports);
    Outer {
        name: "behind destination options",
        ethertype: IPV6_TYPE,
        arrives: ipv6(remote, here, DESTINATION_OPTIONS, &with(ports(51820, 4000))),
        leaves: ipv6(here, remote, DESTINATION_OPTIONS, &with(ports(4000, 51820))),
        counted_for: Some("watching"),
    }
}

fn all() -> Vec<Outer> {
    vec![
        by_ipv4("6in4", BROKER, 41, (0, 0), Some("plain")),
        by_ipv4("its own port", BROKER, UDP, (5072, 4000), Some("gated")),
        by_ipv4("another local port", BROKER, UDP, (5072, 4001), None),
        by_ipv4("another remote port", BROKER, UDP, (5073, 4000), None),
        by_ipv4("TCP of these ports", BROKER, 6, (5072, 4000), None),
        by_ipv4("any protocol", OTHER, 47, (0, 0), Some("dropping")),
        by_ipv4("any port", OTHER, 6, (1, 2), Some("dropping")),
        by_ipv4("a stranger", [203, 0, 113, 9], 41, (0, 0), None),
        by_ipv6("any local port", BROKER6, 51820, Some("watching")),
        by_ipv6("another port by IPv6", BROKER6, 53, None),
        behind_options(),
        by_ipv6("a stranger by IPv6", "2001:db8:c0::2", 51820, None),
    ]
}

/// A frame for this host: the loopback interface has the address zero.
pub(crate) fn frame(ethertype: u16, packet: &[u8]) -> Vec<u8> {
    let mut frame = ethernet(&[], ethertype, packet);
    frame[..6].fill(0);
    frame
}

/// The counters of all tunnels.
fn read(programs: &Programs) -> Result<Vec<(String, OuterCounters)>> {
    let slots = programs.kernel.slots().iter();
    let counters = slots.map(|(name, slot)| {
        let counters = programs.kernel.outer_counters(*slot)?;
        Ok((name.to_string(), counters))
    });
    counters.collect()
}

/// Runs a program on a frame; returns what it has counted, as lines.
fn counted(programs: &Programs, direction: Direction, frame: &[u8]) -> Result<Vec<String>> {
    let before = read(programs)?;
    let run = programs.run(direction, frame, 1)?;
    ensure!(run.verdict == NEXT, "verdict {}", run.verdict);
    ensure!(run.packet == frame, "the packet has changed");
    let mut lines = Vec::new();
    for ((name, then), (_, now)) in before.iter().zip(read(programs)?) {
        for (what, moved, last) in [
            (
                "in",
                (
                    now.in_packets - then.in_packets,
                    now.in_bytes - then.in_bytes,
                ),
                now.last_in_ns,
            ),
            (
                "out",
                (
                    now.out_packets - then.out_packets,
                    now.out_bytes - then.out_bytes,
                ),
                now.last_out_ns,
            ),
        ] {
            if moved != (0, 0) {
                ensure!(last != 0, "{name}: no time");
                lines.push(format!("{name}: {} {what} with {} bytes", moved.0, moved.1));
            }
        }
    }
    Ok(lines)
}

fn check(role: Role, directions: &[Direction]) -> Result<()> {
    let mut programs = Programs::load()?;
    programs.kernel.write_maps(&with_endpoints(role)?.0)?;
    for outer in all() {
        for direction in directions {
            let (packet, what) = match direction {
                Direction::Egress => (&outer.leaves, "out"),
                _ => (&outer.arrives, "in"),
            };
            let expected: Vec<_> = outer
                .counted_for
                .map(|tunnel| format!("{tunnel}: 1 {what} with {} bytes", packet.len()))
                .into_iter()
                .collect();
            let found = counted(&programs, *direction, &frame(outer.ethertype, packet))
                .with_context(|| format!("{} {what}", outer.name))?;
            ensure!(found == expected, "{} {what}: {found:?}", outer.name);
        }
    }
    Ok(())
}

#[test]
fn outer_packets_are_counted_at_an_uplink() -> Result<()> {
    check(Role::Uplink, &[Direction::OuterIngress, Direction::Egress])
}

#[test]
fn outer_packets_are_counted_where_they_lead_to_a_broker() -> Result<()> {
    check(
        Role::Underlay,
        &[Direction::OuterIngress, Direction::Egress],
    )
}

/// In a tunnel, packets to another tunnel's broker are that tunnel's payload.
#[test]
fn what_leaves_by_a_tunnel_is_not_counted() -> Result<()> {
    let mut programs = Programs::load()?;
    programs
        .kernel
        .write_maps(&with_endpoints(Role::Tunnel)?.0)?;
    for outer in all().iter().filter(|outer| outer.ethertype == IPV4_TYPE) {
        let frame = frame(outer.ethertype, &outer.leaves);
        let found = counted(&programs, Direction::Egress, &frame).context(outer.name)?;
        ensure!(found.is_empty(), "{}: {found:?}", outer.name);
    }
    Ok(())
}

#[test]
fn what_is_not_for_this_host_or_broken_is_not_counted() -> Result<()> {
    let mut programs = Programs::load()?;
    programs
        .kernel
        .write_maps(&with_endpoints(Role::Uplink)?.0)?;
    let packet = packet4(BROKER, HERE, 41, &[0; 40]);
    let fragment = |flags: [u8; 2]| {
        let mut packet = packet4(BROKER, HERE, UDP, &ports(5072, 4000));
        packet[6..8].copy_from_slice(&flags);
        frame(IPV4_TYPE, &packet)
    };
    let mut for_another = frame(IPV4_TYPE, &packet);
    for_another[0] = 2;
    let mut short = packet.clone();
    short[0] = 0x44;
    for (name, frame, expected) in [
        ("for another host", for_another, 0),
        ("tagged", ethernet(&[(VLAN_TYPE, 7)], IPV4_TYPE, &packet), 0),
        ("an impossible header", frame(IPV4_TYPE, &short), 0),
        (
            "cut off before the ports",
            frame(IPV4_TYPE, &packet4(BROKER, HERE, UDP, &[])),
            0,
        ),
        ("a first fragment", fragment([0x20, 0]), 1),
        // It has no ports.
        ("a later fragment", fragment([0, 9]), 0),
    ] {
        let found = counted(&programs, Direction::OuterIngress, &frame).context(name)?;
        ensure!(found.len() == expected, "{name}: {found:?}");
    }
    Ok(())
}

/// Without endpoints the filter is empty again.
#[test]
fn an_endpoint_that_is_gone_counts_nothing() -> Result<()> {
    let mut programs = Programs::load()?;
    let mut host = with_endpoints(Role::Uplink)?;
    programs.kernel.write_maps(&host.0)?;
    host.0.endpoints.clear();
    programs.kernel.write_maps(&host.0)?;
    for outer in all() {
        let frame = frame(outer.ethertype, &outer.arrives);
        let found = counted(&programs, Direction::OuterIngress, &frame)?;
        ensure!(found.is_empty(), "{}: {found:?}", outer.name);
    }
    Ok(())
}
