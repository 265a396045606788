//! Classifies a packet that is about to leave by an interface.

use crate::{
    address::Address,
    layout::{Interface, NoRole, Role, Source},
    packet::{Ipv6, NoIpv6, Packet},
};

/// The lookups that the decision needs.
pub trait Tables {
    /// The entry of the longest prefix that contains `address`, over all tunnels.
    fn source(&self, address: Address) -> Option<Source>;

    /// Whether `destination` is a direct destination of the tunnel in slot `tunnel`: reached without
    /// the tunnel.
    fn is_direct(&self, tunnel: u32, destination: Address) -> bool;

    /// Whether the entry of this slot leads to the interface by which the packet is about to leave.
    fn leads_here(&self, tunnel: u32) -> bool;

    /// Whether packets to `destination` arrive here through a tunnel: it is a tunnel's address, or in
    /// its prefix.
    #[inline(always)]
    fn comes_here(&self, destination: Address) -> bool {
        self.source(destination).is_some_and(Source::is_here)
    }

    /// Whether a packet that arrives with the source of a tunnel is expected: this host sent it, as an outside test.
    #[inline(always)]
    fn is_expected<P: Packet + ?Sized>(&self, _packet: &P, _inner: &Ipv6) -> bool {
        false
    }
}

/// The interface by which the packet is about to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The native uplink with this interface index.
    Uplink(u32),
    /// The tunnel in this slot.
    Tunnel(u32),
}

impl Exit {
    /// The interface of this entry.
    #[inline(always)]
    #[must_use]
    pub fn of(interface: &Interface) -> Self {
        match Role::try_from(interface.role) {
            Ok(Role::Tunnel) => Self::Tunnel(interface.slot),
            Ok(Role::Uplink | Role::Underlay) | Err(NoRole) => Self::Uplink(interface.ifindex),
        }
    }
}

/// The class of the packet. Each class has its own counter and its own action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not IPv6.
    OtherProtocol,
    /// Marked as IPv6, but cannot be parsed. It passes: the programs do not touch packets that they do not
    /// understand.
    Unparsed,
    /// At an uplink: the source belongs to no tunnel.
    NotOurs,
    /// The source belongs to a tunnel, but this packet may leave by this interface.
    Exempt,
    /// At a tunnel: the source belongs to this tunnel, or to a group whose active link it is.
    Own,
    /// At a tunnel: the source belongs to no tunnel. The broker drops such packets; the programs never change
    /// them.
    Stray,
    /// At a tunnel: a tunnel would bring the packet back here, until its hop limit is used up.
    Loop,
    /// The source belongs to the tunnel in this slot, and this interface does not lead there.
    Leak(u32),
}

/// Classifies a packet.
#[inline(always)]
pub fn decide<T: Tables>(ipv6: Result<&Ipv6, NoIpv6>, exit: Exit, tables: &T) -> Verdict {
    let ipv6 = match ipv6 {
        Ok(ipv6) => ipv6,
        Err(NoIpv6::OtherProtocol) => return Verdict::OtherProtocol,
        Err(NoIpv6::Malformed) => return Verdict::Unparsed,
    };
    // Every exit needs this lookup. It is before the branches, so that the kernel verifies it only once.
    let source = tables.source(ipv6.source);
    if matches!(exit, Exit::Tunnel(_)) && tables.comes_here(ipv6.destination) {
        return if is_link_local_traffic(ipv6) {
            Verdict::Exempt
        } else {
            Verdict::Loop
        };
    }
    let Some(source) = source else {
        return match exit {
            Exit::Uplink(_) => Verdict::NotOurs,
            Exit::Tunnel(_) if is_link_local_traffic(ipv6) => Verdict::Exempt,
            Exit::Tunnel(_) => Verdict::Stray,
        };
    };
    let at_home = match exit {
        Exit::Tunnel(slot) if slot == source.slot() => return Verdict::Own,
        // The active link of a group.
        Exit::Tunnel(_) if source.is_of_group() && tables.leads_here(source.slot()) => {
            return Verdict::Own;
        }
        Exit::Tunnel(_) => false,
        Exit::Uplink(ifindex) => source.is_at_home(ifindex, ipv6.destination.is_multicast()),
    };
    // The destination is behind this host or on the local link: a tunnel would only bring the packet
    // back. Both lookups run (`|`, not `||`), so that the verifier has only one branch.
    let is_near =
        || tables.is_direct(source.slot(), ipv6.destination) | tables.comes_here(ipv6.destination);
    if at_home || ipv6.destination.is_link_scope() || is_near() {
        Verdict::Exempt
    } else {
        Verdict::Leak(source.slot())
    }
}

/// Neighbour discovery and similar packets, which a broker never forwards.
#[inline(always)]
fn is_link_local_traffic(ipv6: &Ipv6) -> bool {
    ipv6.source.is_link_scope()
        || ipv6.source == Address::UNSPECIFIED
        || ipv6.destination.is_link_scope()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Prefix;
    use crate::layout::{ANY_UPLINK, ANY_UPLINK_MULTICAST_ONLY, MULTICAST_ONLY};
    use core::net::Ipv6Addr;

    /// The tables of a host with net0 (index 2) and two tunnels in slots 0 and 1. The second tunnel
    /// has a routed /48. One address of that prefix is also on net0, and one is the tunnel's far end. Both are links of
    /// the group in slot 2.
    struct Host {
        sources: Vec<(Prefix, Source)>,
        /// Whether the packet is about to leave by the group's active link.
        is_active: bool,
    }

    fn address(text: &str) -> Address {
        Address::from_octets(text.parse::<Ipv6Addr>().unwrap().octets())
    }

    impl Host {
        fn new() -> Self {
            let sources = [
                ("2001:db8:a::2", 128, 0, 0),
                ("2001:db8:b::2", 128, 1, 0),
                ("2001:db8:bb:2::1", 128, 1, 2),
                ("2001:db8:bb:f::1", 0, 1, 0),
                ("2001:db8:bb:3::1", 128, 1, ANY_UPLINK),
                ("2001:db8:bb:4::1", 128, 1, 2 | MULTICAST_ONLY),
                ("2001:db8:bb:5::1", 128, 1, ANY_UPLINK_MULTICAST_ONLY),
                ("2001:db8:bb::", 48, 1, 0),
            ];
            let entry = |(text, bits, tunnel, home)| {
                (
                    Prefix::new(address(text), if bits == 0 { 128 } else { bits }),
                    Source::new(tunnel, bits, home),
                )
            };
            let group = Prefix::new(address("2001:db8:cc::"), 48);
            let of_group = (group, Source::of_group(2, 48, 0));
            Self {
                sources: sources.into_iter().map(entry).chain([of_group]).collect(),
                is_active: false,
            }
        }
    }

    impl Tables for Host {
        fn source(&self, wanted: Address) -> Option<Source> {
            let mut entries = self.sources.iter();
            entries
                .find(|(prefix, _)| wanted.within(prefix))
                .map(|(_, source)| *source)
        }

        fn leads_here(&self, tunnel: u32) -> bool {
            assert_eq!(tunnel, 2, "only groups are looked up");
            self.is_active
        }

        fn is_direct(&self, tunnel: u32, destination: Address) -> bool {
            tunnel == 1 && destination.within(&Prefix::new(address("2001:db8:bb::"), 48))
        }
    }

    #[test]
    #[rustfmt::skip] // one table is easier to read
    fn every_case() {
        use Exit::{Tunnel, Uplink};
        use Verdict::{Exempt, Leak, Loop, NotOurs, Own, Stray};
        let host = Host::new();
        let outside = "2001:db8:ffff::9";
        for (name, source, destination, exit, expected) in [
            ("native traffic", "2001:db8:1::1", outside, Uplink(2), NotOurs),
            ("a reply that leaks", "2001:db8:a::2", outside, Uplink(2), Leak(0)),
            ("to global multicast", "2001:db8:a::2", "ff0e::1", Uplink(2), Leak(0)),
            ("neighbour solicitation", "2001:db8:a::2", "ff02::1:ff00:9", Uplink(2), Exempt),
            ("link-local destination", "2001:db8:a::2", "fe80::9", Uplink(2), Exempt),
            ("from a routed prefix", "2001:db8:bb:1::5", outside, Uplink(2), Leak(1)),
            ("to a LAN on the wire", "2001:db8:bb:1::5", "2001:db8:bb:2::5", Uplink(2), Exempt),
            ("other tunnel to that LAN", "2001:db8:a::2", "2001:db8:bb:2::5", Uplink(2), Exempt),
            ("native to that LAN", "2001:db8:1::1", "2001:db8:bb:2::5", Uplink(2), NotOurs),
            ("a tunnel's address to another", "2001:db8:a::2", "2001:db8:b::2", Uplink(2), Exempt),
            ("the uplink's own address", "2001:db8:bb:2::1", outside, Uplink(2), Exempt),
            ("another uplink's address", "2001:db8:bb:2::1", outside, Uplink(3), Leak(1)),
            ("an address of several", "2001:db8:bb:3::1", outside, Uplink(3), Exempt),
            ("routed, on the uplink", "2001:db8:bb:4::1", outside, Uplink(2), Leak(1)),
            ("routed, to a group", "2001:db8:bb:4::1", "ff05::1", Uplink(2), Exempt),
            ("routed, a group elsewhere", "2001:db8:bb:4::1", "ff05::1", Uplink(3), Leak(1)),
            ("routed, on the wire", "2001:db8:bb:4::1", "2001:db8:bb:4::2", Uplink(2), Exempt),
            ("routed, on several", "2001:db8:bb:5::1", outside, Uplink(3), Leak(1)),
            ("routed, on several, to a group", "2001:db8:bb:5::1", "ff05::1", Uplink(3), Exempt),
            ("right tunnel", "2001:db8:a::2", outside, Tunnel(0), Own),
            ("right tunnel, prefix", "2001:db8:bb:1::5", outside, Tunnel(1), Own),
            ("wrong tunnel", "2001:db8:a::2", outside, Tunnel(1), Leak(0)),
            ("round by two brokers", "2001:db8:a::2", "2001:db8:bb:1::5", Tunnel(0), Loop),
            ("round by its own broker", "2001:db8:bb:1::5", "2001:db8:bb:9::9", Tunnel(1), Loop),
            ("from the wrong tunnel", "2001:db8:a::2", "2001:db8:bb:1::5", Tunnel(1), Loop),
            ("of no tunnel", "2001:db8:1::1", "2001:db8:bb:1::5", Tunnel(0), Loop),
            ("to another tunnel's address", "2001:db8:a::2", "2001:db8:b::2", Tunnel(0), Loop),
            ("to the far end", "2001:db8:b::2", "2001:db8:bb:f::1", Tunnel(1), Own),
            ("a neighbour's question", "fe80::1", "2001:db8:bb:1::5", Tunnel(1), Exempt),
            ("stray", "2001:db8:1::1", outside, Tunnel(0), Stray),
            ("router solicitation", "::", "ff02::2", Tunnel(0), Exempt),
            ("link-local source", "fe80::1", outside, Tunnel(0), Exempt),
            ("native, link multicast", "2001:db8:1::1", "ff02::1", Tunnel(0), Exempt),
        ] {
            let ipv6 = Ipv6 {
                offset: 0,
                source: address(source),
                destination: address(destination),
                payload_bytes: 0,
                next_header: 59,
            };
            assert_eq!(decide(Ok(&ipv6), exit, &host), expected, "{name}");
        }
        for exit in [Uplink(2), Tunnel(0)] {
            assert_eq!(
                decide(Err(NoIpv6::OtherProtocol), exit, &host),
                Verdict::OtherProtocol
            );
            assert_eq!(decide(Err(NoIpv6::Malformed), exit, &host), Verdict::Unparsed);
        }
    }

    #[test]
    fn a_group_owns_its_active_link() {
        use Exit::{Tunnel, Uplink};
        let outside = "2001:db8:ffff::9";
        for (destination, exit, is_active, expected) in [
            (outside, Tunnel(0), true, Verdict::Own),
            (outside, Tunnel(0), false, Verdict::Leak(2)),
            (outside, Uplink(2), false, Verdict::Leak(2)),
            ("2001:db8:cc:1::5", Tunnel(0), true, Verdict::Loop),
            ("2001:db8:cc:1::5", Uplink(2), false, Verdict::Exempt),
            ("fe80::9", Tunnel(1), false, Verdict::Exempt),
        ] {
            let host = Host {
                is_active,
                ..Host::new()
            };
            let ipv6 = Ipv6 {
                offset: 0,
                source: address("2001:db8:cc::1"),
                destination: address(destination),
                payload_bytes: 0,
                next_header: 59,
            };
            let found = decide(Ok(&ipv6), exit, &host);
            assert_eq!(found, expected, "{destination} {exit:?} {is_active}");
        }
    }

    #[test]
    fn an_interface_of_unknown_role_counts_as_an_uplink() {
        for (role, expected) in [
            (Role::Uplink.raw(), Exit::Uplink(2)),
            (Role::Tunnel.raw(), Exit::Tunnel(5)),
            (0, Exit::Uplink(2)),
        ] {
            let interface = Interface {
                ifindex: 2,
                slot: 5,
                role,
                ..Interface::default()
            };
            assert_eq!(Exit::of(&interface), expected, "{role}");
        }
    }
}
