//! The endpoints of tunnels: which tunnel an outer packet belongs to, where it arrives at an uplink or leaves by it.
//!
//! An [`Endpoint`] is a key in a hash map. Most packets of a host are not outer packets. So the programs first look
//! the address of the other host up in an [`EndpointFilter`], which costs a tenth.

use bytemuck::{Pod, Zeroable};

use crate::{
    address::Address,
    packet::{self, Packet, TCP, UDP},
    six_in_four::HEADER_BYTES,
};

/// The maximum number of endpoints.
pub const ENDPOINTS: u32 = 4096;

/// Bits of the filter; a power of two. With 512 endpoints, one foreign address in eight passes it.
const FILTER_BITS: usize = 4096;

const FILTER_WORDS: usize = FILTER_BITS / 64;

/// The fragment offset, behind three bits of flags (RFC 791 §3.1).
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// The direction of a packet, from the perspective of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Direction {
    /// It arrives.
    In = 0,
    /// It leaves.
    Out = 1,
}

impl Direction {
    /// Its number.
    #[inline(always)]
    #[must_use]
    pub const fn raw(self) -> u32 {
        self as u32
    }

    /// The direction with this number.
    #[inline(always)]
    #[must_use]
    pub const fn from_raw(raw: u32) -> Self {
        if raw == 0 { Self::In } else { Self::Out }
    }
}

/// The IP version of an outer packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// The far end of a tunnel's outer packets, and a key in the map of tunnels by endpoint.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Endpoint {
    /// The address of the other host; an IPv4 address as `::ffff:a.b.c.d` (RFC 4291 §2.5.5.2).
    pub remote: Address,
    /// Its port in network byte order; zero if the protocol has no ports.
    pub remote_port: [u8; 2],
    /// This host's port in network byte order; zero if it is unknown.
    pub local_port: [u8; 2],
    /// The IP protocol; 0: every protocol.
    pub protocol: u32,
}

/// Size of a key, in bytes.
pub const ENDPOINT_BYTES: usize = 24;

const _: () = assert!(size_of::<Endpoint>() == ENDPOINT_BYTES);

impl Endpoint {
    /// The keys to look up for a packet, the most specific first.
    #[inline(always)]
    #[must_use]
    pub const fn keys(self) -> [Self; 3] {
        let any_local_port = Self {
            local_port: [0; 2],
            ..self
        };
        let any_protocol = Self {
            remote: self.remote,
            remote_port: [0; 2],
            local_port: [0; 2],
            protocol: 0,
        };
        [self, any_local_port, any_protocol]
    }
}

/// The addresses of all endpoints, as a Bloom filter with one hash function.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct EndpointFilter {
    /// 1 if an endpoint has an IPv6 address; else 0.
    pub has_ipv6: u32,
    /// Always 0.
    pub reserved: u32,
    words: [u64; FILTER_WORDS],
}

impl EndpointFilter {
    /// The filter without endpoints.
    pub const EMPTY: Self = Self {
        has_ipv6: 0,
        reserved: 0,
        words: [0; FILTER_WORDS],
    };

    /// Adds the address of an endpoint.
    pub const fn add(&mut self, remote: Address) {
        let at = remote.hash_below(FILTER_BITS);
        self.words[at / 64] |= 1 << (at % 64);
        if !remote.is_ipv4_mapped() {
            self.has_ipv6 = 1;
        }
    }

    /// Whether an endpoint may have this address. A filter with many endpoints may be wrong.
    #[inline(always)]
    #[must_use]
    pub const fn may_have(&self, remote: Address) -> bool {
        let at = remote.hash_below(FILTER_BITS);
        self.words[at / 64] >> (at % 64) & 1 != 0
    }
}

/// The outer packets of a tunnel, on one processor.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct OuterCounters {
    /// Packets that arrived. A batch of segments counts as one.
    pub in_packets: u64,
    /// Their bytes, with the outer IP header.
    pub in_bytes: u64,
    /// Time of the last one, in nanoseconds of CLOCK_MONOTONIC; 0: never.
    pub last_in_ns: u64,
    /// Packets that left.
    pub out_packets: u64,
    /// Their bytes.
    pub out_bytes: u64,
    /// Time of the last one.
    pub last_out_ns: u64,
}

impl OuterCounters {
    /// The counters of several processors together.
    #[must_use]
    pub fn combined(processors: impl IntoIterator<Item = Self>) -> Self {
        processors
            .into_iter()
            .fold(Self::default(), |all, one| Self {
                in_packets: all.in_packets.wrapping_add(one.in_packets),
                in_bytes: all.in_bytes.wrapping_add(one.in_bytes),
                last_in_ns: all.last_in_ns.max(one.last_in_ns),
                out_packets: all.out_packets.wrapping_add(one.out_packets),
                out_bytes: all.out_bytes.wrapping_add(one.out_bytes),
                last_out_ns: all.last_out_ns.max(one.last_out_ns),
            })
    }

    /// Counts a packet of `bytes` bytes.
    #[inline(always)]
    pub const fn count(&mut self, direction: Direction, bytes: u64, now_ns: u64) {
        let (packets, sum, last) = match direction {
            Direction::In => (
                &mut self.in_packets,
                &mut self.in_bytes,
                &mut self.last_in_ns,
            ),
            Direction::Out => (
                &mut self.out_packets,
                &mut self.out_bytes,
                &mut self.last_out_ns,
            ),
        };
        *packets = packets.wrapping_add(1);
        *sum = sum.wrapping_add(bytes);
        *last = now_ns;
    }
}

/// The address of the other host in an IPv4 packet at `offset`.
#[inline(always)]
pub fn remote4<P: Packet + ?Sized>(
    packet: &P,
    offset: u32,
    direction: Direction,
) -> Option<Address> {
    let field = match direction {
        Direction::In => 12,
        Direction::Out => 16,
    };
    let address = packet.word(offset + field)?;
    Some(Address::from_ipv4(address.to_ne_bytes()))
}

/// The endpoint of an outer packet at `offset`; `None`: it is no such packet, or a part of its headers is missing.
/// Fragments except the first have no ports.
#[inline(always)]
pub fn of<P: Packet + ?Sized>(
    packet: &P,
    offset: u32,
    version: Version,
    direction: Direction,
) -> Option<Endpoint> {
    let (remote, protocol, ports_at) = match version {
        Version::V4 => ipv4(packet, offset, direction)?,
        Version::V6 => ipv6(packet, offset, direction)?,
    };
    let mut endpoint = Endpoint {
        remote,
        protocol: protocol.into(),
        ..Endpoint::default()
    };
    if let (TCP | UDP, Some(at)) = (protocol, ports_at) {
        let [s0, s1, d0, d1] = packet.peek(at)?;
        (endpoint.remote_port, endpoint.local_port) = match direction {
            Direction::In => ([s0, s1], [d0, d1]),
            Direction::Out => ([d0, d1], [s0, s1]),
        };
    }
    Some(endpoint)
}

/// The address of the other host, the protocol, and the offset of the ports, if they are there.
type Headers = (Address, u8, Option<u32>);

#[inline(always)]
fn ipv4<P: Packet + ?Sized>(packet: &P, offset: u32, direction: Direction) -> Option<Headers> {
    let [version, ..]: [u8; 2] = packet.peek(offset)?;
    let [f0, f1]: [u8; 2] = packet.peek(offset + 6)?;
    let [_, protocol]: [u8; 2] = packet.peek(offset + 8)?;
    let header_bytes = u32::from(version & 0x0f) * 4;
    if version >> 4 != 4 || header_bytes < HEADER_BYTES {
        return None;
    }
    let is_first = u16::from_be_bytes([f0, f1]) & FRAGMENT_OFFSET == 0;
    Some((
        remote4(packet, offset, direction)?,
        protocol,
        is_first.then_some(offset + header_bytes),
    ))
}

#[inline(always)]
fn ipv6<P: Packet + ?Sized>(packet: &P, offset: u32, direction: Direction) -> Option<Headers> {
    let header = packet::ipv6_at(packet, offset)?;
    let remote = match direction {
        Direction::In => header.source,
        Direction::Out => header.destination,
    };
    // `ip6tnl` and `ip6gre` add destination options (RFC 2473 §4.1.1).
    let upper = packet::transport(packet, &header)?;
    let ports_at = upper.present.then_some(upper.offset);
    Some((remote, upper.protocol, ports_at))
}

#[cfg(test)]
mod tests {
    use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use super::*;

    fn address(text: &str) -> Address {
        match text.parse().unwrap() {
            IpAddr::V4(address) => Address::from_ipv4(address.octets()),
            IpAddr::V6(address) => Address::from_octets(address.octets()),
        }
    }

    fn packet4(options: usize, fragment: u16, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let words = u8::try_from(5 + options).unwrap();
        let mut bytes = vec![0x40 | words, 0, 0, 0, 0, 0];
        bytes.extend(fragment.to_be_bytes());
        bytes.extend([64, protocol, 0, 0]);
        bytes.extend(Ipv4Addr::new(198, 51, 100, 1).octets());
        bytes.extend(Ipv4Addr::new(192, 0, 2, 10).octets());
        bytes.extend(vec![1; options * 4]);
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn the_other_host_and_the_ports_depend_on_the_direction() {
        let ports = [0x13, 0xd0, 0x80, 0x01];
        let mut packet6 = vec![0x60, 0, 0, 0, 0, 4, UDP, 64];
        packet6.extend("2001:db8:f::1".parse::<Ipv6Addr>().unwrap().octets());
        packet6.extend("2001:db8:1::1".parse::<Ipv6Addr>().unwrap().octets());
        packet6.extend(ports);
        for (bytes, version, remotes) in [
            (
                packet4(0, 0, UDP, &ports),
                Version::V4,
                ["198.51.100.1", "192.0.2.10"],
            ),
            (
                packet4(2, 0x2000, UDP, &ports),
                Version::V4,
                ["198.51.100.1", "192.0.2.10"],
            ),
            (packet6, Version::V6, ["2001:db8:f::1", "2001:db8:1::1"]),
        ] {
            let at = |direction| of(&bytes[..], 0, version, direction).unwrap();
            let arrived = at(Direction::In);
            assert_eq!(arrived.remote, address(remotes[0]));
            assert_eq!(
                (arrived.remote_port, arrived.local_port),
                ([0x13, 0xd0], [0x80, 1])
            );
            let left = at(Direction::Out);
            assert_eq!(left.remote, address(remotes[1]));
            assert_eq!(
                (left.remote_port, left.local_port),
                ([0x80, 1], [0x13, 0xd0])
            );
            for end in 0..bytes.len() {
                assert_eq!(of(&bytes[..end], 0, version, Direction::In), None, "{end}");
            }
        }
    }

    #[test]
    fn what_has_no_ports_has_only_an_address_and_a_protocol() {
        for (bytes, protocol) in [
            (packet4(0, 0, 41, &[0; 40]), 41),
            (packet4(0, 0, 41, &[]), 41),
            (packet4(0, 0x00b9, UDP, &[9; 8]), UDP.into()),
        ] {
            let found = of(&bytes[..], 0, Version::V4, Direction::In).unwrap();
            let expected = Endpoint {
                remote: address("198.51.100.1"),
                protocol,
                ..Endpoint::default()
            };
            assert_eq!(found, expected);
        }
        let mut broken = packet4(0, 0, UDP, &[0; 8]);
        for first in [0x44, 0x55, 0x00] {
            broken[0] = first;
            assert_eq!(
                of(&broken[..], 0, Version::V4, Direction::In),
                None,
                "{first:x}"
            );
        }
    }

    #[test]
    fn the_most_specific_key_comes_first() {
        let of_packet = Endpoint {
            remote: address("198.51.100.1"),
            remote_port: [0x13, 0xd0],
            local_port: [0x80, 1],
            protocol: UDP.into(),
        };
        let [exact, any_local_port, any_protocol] = of_packet.keys();
        assert_eq!(exact, of_packet);
        assert_eq!(any_local_port.remote_port, [0x13, 0xd0]);
        assert_eq!(any_local_port.local_port, [0; 2]);
        let only_address = Endpoint {
            remote: of_packet.remote,
            ..Endpoint::default()
        };
        assert_eq!(any_protocol, only_address);
    }

    #[test]
    fn the_filter_passes_what_was_added() {
        let mut filter = EndpointFilter::EMPTY;
        assert!(!filter.may_have(address("198.51.100.1")));
        filter.add(address("198.51.100.1"));
        assert!(filter.may_have(address("198.51.100.1")));
        assert_eq!(filter.has_ipv6, 0);
        filter.add(address("2001:db8:f::1"));
        assert!(filter.may_have(address("2001:db8:f::1")));
        assert_eq!(filter.has_ipv6, 1);
        // Few foreign addresses pass.
        let foreign = (0..=u16::MAX).map(|host| {
            let [high, low] = host.to_be_bytes();
            Address::from_ipv4([203, 0, high, low])
        });
        let passed = foreign.filter(|address| filter.may_have(*address)).count();
        assert!(passed < 100, "{passed}");
    }

    #[test]
    fn counters_add_up_over_processors() {
        let mut one = OuterCounters::default();
        one.count(Direction::In, 100, 7);
        one.count(Direction::Out, 60, 8);
        let mut two = OuterCounters::default();
        two.count(Direction::In, 50, 9);
        let all = OuterCounters::combined([one, two]);
        let expected = OuterCounters {
            in_packets: 2,
            in_bytes: 150,
            last_in_ns: 9,
            out_packets: 1,
            out_bytes: 60,
            last_out_ns: 8,
        };
        assert_eq!(all, expected);
    }
}
