//! Screens the outer packets that arrive for tunnels: which of them are forged.
//!
//! Only packets to the outer address of a native tunnel are read, and only over IPv4: protocol 41, and UDP to the port of
//! an AYIYA tunnel. Fragments and packets with IPv4 options pass, since the daemon and the kernel check them anyway.
//! Nothing that the daemon would accept is forged, except packets whose inner source is behind this host.

use bytemuck::{Pod, Zeroable};

use crate::{
    address::Address,
    ayiya,
    packet::{self, Ipv6, Packet, UDP},
    six_in_four::{FRAGMENT_BITS, HEADER_BYTES, PROTOCOL},
};

/// The maximum number of outer addresses.
pub const OUTER_ENDS: u32 = 1024;

/// The maximum number of AYIYA datagrams per second that pass although another host than the broker sent them, for each
/// tunnel and processor.
pub const STRANGERS_PER_SECOND: u64 = 64;

/// The number of tunnels that the programs compare one by one, before they look up the others.
pub const FEW_ENDS: usize = 8;

const PORT_WORDS: usize = 65_536 / 64;

/// Length of a UDP header.
const UDP_HEADER_BYTES: u32 = 8;

/// The maximum by which International Atomic Time is ahead of UTC, in seconds: 37 since 2017, and some more. The
/// programs can read only the former, and the kernel's copy of it may lack the difference.
pub const LEAP_SECONDS: i32 = 60;

/// This host's end of a tunnel's outer packets, and a key in the map of these ends.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
pub struct LocalEnd {
    /// Its address.
    pub address: [u8; 4],
    /// Its port in network byte order; zero for protocol 41.
    pub port: [u8; 2],
    /// The IP protocol, then zero.
    pub protocol: [u8; 2],
}

/// Size of a key, in bytes.
pub const LOCAL_END_BYTES: usize = 8;

const _: () = assert!(size_of::<LocalEnd>() == LOCAL_END_BYTES);

impl LocalEnd {
    /// The end of 6in4 tunnels.
    #[inline(always)]
    #[must_use]
    pub const fn six_in_four(address: [u8; 4]) -> Self {
        Self {
            address,
            port: [0; 2],
            protocol: [PROTOCOL, 0],
        }
    }

    /// The end of an AYIYA tunnel.
    #[inline(always)]
    #[must_use]
    pub const fn ayiya(address: [u8; 4], port: [u8; 2]) -> Self {
        Self {
            address,
            port,
            protocol: [UDP, 0],
        }
    }
}

/// What is expected of the packets to a [`LocalEnd`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Expected {
    /// The identity in the broker's datagrams; unspecified for protocol 41.
    pub identity: Address,
    /// The broker of the AYIYA tunnel.
    pub broker: [u8; 4],
    /// The slot of the tunnel; with protocol 41, of one of the tunnels.
    pub slot: u32,
    /// 1 if the time of an AYIYA datagram is checked; 0 if the daemon's clock is not the machine's.
    pub checks_time: u32,
    /// 1 if strangers pass, since their protocol 41 may be for other software or hosts; else 0.
    pub is_shared: u32,
}

const _: () = assert!(size_of::<Expected>() == 32);

/// Both ends of a 6in4 tunnel.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Ends {
    /// The broker's address, then this host's.
    pub addresses: [u8; 8],
    /// The tunnel's slot.
    pub slot: u32,
    /// Always 0.
    pub reserved: u32,
}

/// The record that the programs read first. It selects the packets to screen. User space overwrites it in place, so an
/// entry of `few` is only a short cut: the programs look up what they do not find there.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Screen {
    /// 1 if there is a 6in4 tunnel; else 0.
    pub has_six_in_four: u32,
    /// Number of used entries in `few`.
    pub count: u32,
    /// 6in4 tunnels.
    pub few: [Ends; FEW_ENDS],
    /// The ports of AYIYA tunnels, one bit each.
    ports: [u64; PORT_WORDS],
}

impl Screen {
    /// The record of a host without native tunnels.
    pub const EMPTY: Self = Self {
        has_six_in_four: 0,
        count: 0,
        few: [Ends {
            addresses: [0; 8],
            slot: 0,
            reserved: 0,
        }; FEW_ENDS],
        ports: [0; PORT_WORDS],
    };

    /// Adds a 6in4 tunnel.
    pub fn add(&mut self, addresses: [u8; 8], slot: u32) {
        self.has_six_in_four = 1;
        if let Some(entry) = self.few.get_mut(self.count as usize) {
            *entry = Ends {
                addresses,
                slot,
                reserved: 0,
            };
            self.count += 1;
        }
    }

    /// Adds the port of an AYIYA tunnel, in network byte order.
    pub const fn add_port(&mut self, port: [u8; 2]) {
        let at = u16::from_be_bytes(port) as usize;
        self.ports[at / 64] |= 1 << (at % 64);
    }

    /// Whether it is the port of an AYIYA tunnel.
    #[inline(always)]
    #[must_use]
    pub const fn has_port(&self, port: [u8; 2]) -> bool {
        let at = u16::from_be_bytes(port) as usize;
        self.ports[at / 64] >> (at % 64) & 1 != 0
    }
}

/// Why a packet is forged. The value is the index in [`ForgedCounters`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Forgery {
    /// Protocol 41 from a host that is no tunnel's broker.
    Stranger,
    /// AYIYA from another host than the broker, more often than [`STRANGERS_PER_SECOND`].
    StrangerFlood,
    /// From the broker's address to the port of an AYIYA tunnel, but shorter than an AYIYA header.
    Short,
    /// The same with another header.
    Header,
    /// An AYIYA datagram with another identity than the broker's.
    Identity,
    /// An AYIYA datagram of another time.
    Time,
    /// The inner source is an address behind this host (RFC 6324).
    OwnSource,
}

impl Forgery {
    /// All reasons, in the order of the counters.
    pub const ALL: [Self; 7] = [
        Self::Stranger,
        Self::StrangerFlood,
        Self::Short,
        Self::Header,
        Self::Identity,
        Self::Time,
        Self::OwnSource,
    ];

    /// The name for users and scripts.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stranger => "stranger",
            Self::StrangerFlood => "stranger_flood",
            Self::Short => "short",
            Self::Header => "header",
            Self::Identity => "identity",
            Self::Time => "time",
            Self::OwnSource => "own_source",
        }
    }

    /// Index in [`ForgedCounters`].
    #[inline(always)]
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// The forged packets for the tunnel in a slot, on one processor, by [`Forgery`].
pub type ForgedCounters = [u64; 8];

const _: () = assert!(Forgery::ALL.len() <= size_of::<ForgedCounters>() / 8);

impl Forgery {
    /// Whether such a packet has the source address of the tunnel's broker.
    #[inline(always)]
    #[must_use]
    pub const fn is_from_broker(self) -> bool {
        !matches!(self, Self::Stranger | Self::StrangerFlood)
    }
}

/// The time for which screening continues after user space has written its records. Then they may be out of date: the
/// daemon has ended, and other software may use its addresses and ports.
pub const VALID_NS: u64 = 90_000_000_000;

/// The host that a protocol-41 packet comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The broker of the tunnel in this slot, to the tunnel's address.
    Broker(u32),
    /// The broker of some tunnel, to another address: a tunnel of the kernel may accept that.
    OtherBroker,
    /// Any other host.
    Stranger,
}

/// The lookups of the screening.
pub trait Expectations {
    /// What is expected of packets to this end; `None`: it is no tunnel's.
    fn expected(&self, end: &LocalEnd) -> Option<&Expected>;

    /// The sender of a protocol-41 packet between these addresses: the sender's, then this host's.
    fn sender(&self, addresses: [u8; 8]) -> Sender;

    /// Whether it is the port of an AYIYA tunnel.
    fn has_port(&self, port: [u8; 2]) -> bool;

    /// Whether packets to this address come to this host by a tunnel.
    fn comes_here(&self, address: Address) -> bool;

    /// International Atomic Time since 1970, in seconds.
    fn tai_seconds(&self) -> u64;
}

/// The result of the screening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Screened {
    /// It is no tunnel's, or nothing is known against it.
    Pass,
    /// A 6in4 packet of the tunnel's broker.
    SixInFour {
        /// The tunnel's slot.
        slot: u32,
        /// The header of the inner packet.
        inner: Ipv6,
    },
    /// An AYIYA datagram of another host than the broker: only a few per second pass.
    Stranger {
        /// The tunnel's slot.
        slot: u32,
    },
    /// A forged packet.
    Forged {
        /// The slot of the tunnel that it claims to belong to.
        slot: u32,
        /// The reason.
        reason: Forgery,
    },
}

/// An IPv4 header without options, of a packet that is no fragment.
struct Header {
    protocol: u8,
    bytes: u32,
    source: [u8; 4],
    destination: [u8; 4],
}

/// Screens the IPv4 packet at `offset`.
#[inline(always)]
pub fn screen<P: Packet + ?Sized, E: Expectations>(
    packet: &P,
    offset: u32,
    expectations: &E,
) -> Screened {
    match header(packet, offset) {
        Some(outer) if outer.protocol == PROTOCOL => {
            six_in_four(packet, offset, &outer, expectations)
        }
        Some(outer) if outer.protocol == UDP => ayiya(packet, offset, &outer, expectations),
        _ => Screened::Pass,
    }
}

#[inline(always)]
fn header<P: Packet + ?Sized>(packet: &P, offset: u32) -> Option<Header> {
    let bytes: [u8; HEADER_BYTES as usize] = packet.load(offset)?;
    let [
        start,
        _,
        t0,
        t1,
        _,
        _,
        f0,
        f1,
        _,
        protocol,
        _,
        _,
        s0,
        s1,
        s2,
        s3,
        destination @ ..,
    ] = bytes;
    let is_fragment = u16::from_be_bytes([f0, f1]) & FRAGMENT_BITS != 0;
    if start != 0x45 || is_fragment {
        return None;
    }
    Some(Header {
        protocol,
        bytes: u16::from_be_bytes([t0, t1]) as u32,
        source: [s0, s1, s2, s3],
        destination,
    })
}

#[inline(always)]
fn six_in_four<P: Packet + ?Sized, E: Expectations>(
    packet: &P,
    offset: u32,
    outer: &Header,
    expectations: &E,
) -> Screened {
    let ([s0, s1, s2, s3], [d0, d1, d2, d3]) = (outer.source, outer.destination);
    let slot = match expectations.sender([s0, s1, s2, s3, d0, d1, d2, d3]) {
        Sender::Broker(slot) => slot,
        Sender::OtherBroker => return Screened::Pass,
        Sender::Stranger => {
            return match expectations.expected(&LocalEnd::six_in_four(outer.destination)) {
                Some(expected) if expected.is_shared == 0 => Screened::Forged {
                    slot: expected.slot,
                    reason: Forgery::Stranger,
                },
                _ => Screened::Pass,
            };
        }
    };
    let Some(inner) = packet::ipv6_again(packet, offset + HEADER_BYTES) else {
        // The carrier counts it.
        return Screened::Pass;
    };
    if expectations.comes_here(inner.source) {
        let reason = Forgery::OwnSource;
        return Screened::Forged { slot, reason };
    }
    Screened::SixInFour { slot, inner }
}

#[inline(always)]
fn ayiya<P: Packet + ?Sized, E: Expectations>(
    packet: &P,
    offset: u32,
    outer: &Header,
    expectations: &E,
) -> Screened {
    let at = offset + HEADER_BYTES;
    let Some([_, _, p0, p1]) = packet.load(at) else {
        return Screened::Pass;
    };
    if !expectations.has_port([p0, p1]) {
        return Screened::Pass;
    }
    let end = LocalEnd::ayiya(outer.destination, [p0, p1]);
    let Some(expected) = expectations.expected(&end) else {
        return Screened::Pass;
    };
    let at = at + UDP_HEADER_BYTES;
    let start = packet.load::<4>(at);
    let is_ayiya = match start {
        Some([first, second, third, _]) => ayiya::is_header([first, second, third]),
        None => false,
    };
    let slot = expected.slot;
    if outer.source != expected.broker {
        return if is_ayiya {
            Screened::Stranger { slot }
        } else {
            Screened::Pass
        };
    }
    if outer.bytes < HEADER_BYTES + UDP_HEADER_BYTES + ayiya::HEADER_BYTES {
        return Screened::Forged {
            slot,
            reason: Forgery::Short,
        };
    }
    match start {
        Some([_, _, _, next_header]) => {
            sealed(packet, at, is_ayiya, next_header, expected, expectations)
        }
        // It cannot be read at present.
        None => Screened::Pass,
    }
}

/// Screens a datagram of the broker, whose AYIYA header is at `at`.
#[inline(always)]
fn sealed<P: Packet + ?Sized, E: Expectations>(
    packet: &P,
    at: u32,
    is_ayiya: bool,
    next_header: u8,
    expected: &Expected,
    expectations: &E,
) -> Screened {
    let slot = expected.slot;
    let forged = |reason| Screened::Forged { slot, reason };
    let Some([t0, t1, t2, t3, identity @ ..]) = packet.load::<20>(at + 4) else {
        return Screened::Pass;
    };
    if !is_ayiya {
        return forged(Forgery::Header);
    }
    if Address::from_octets(identity) != expected.identity {
        return forged(Forgery::Identity);
    }
    if expected.checks_time != 0
        && !is_now(
            u32::from_be_bytes([t0, t1, t2, t3]),
            expectations.tai_seconds(),
        )
    {
        return forged(Forgery::Time);
    }
    let inner = at + ayiya::HEADER_BYTES;
    if next_header == ayiya::NEXT_IPV6
        && let Some(inner) = packet::ipv6_again(packet, inner)
        && expectations.comes_here(inner.source)
    {
        return forged(Forgery::OwnSource);
    }
    Screened::Pass
}

/// Whether a datagram's time is near this host's. The time has 32 bits, and wraps round in 2106.
#[inline(always)]
const fn is_now(time: u32, tai_seconds: u64) -> bool {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the lower 32 bits are meant"
    )]
    let now = tai_seconds as u32;
    let ahead = time.wrapping_sub(now).cast_signed();
    let limit = ayiya::CLOCK_SECONDS.cast_signed();
    ahead <= limit && ahead >= -limit - LEAP_SECONDS
}

#[cfg(test)]
mod tests {
    use core::net::Ipv6Addr;

    use super::*;
    use crate::six_in_four;

    const HERE: [u8; 4] = [192, 0, 2, 10];
    const BROKER: [u8; 4] = [198, 51, 100, 1];
    const POP: [u8; 4] = [198, 51, 100, 2];
    const STRANGER: [u8; 4] = [203, 0, 113, 9];
    const PORT: u16 = 4000;
    const NOW: u32 = 1_800_000_000;
    const IDENTITY: &str = "2001:db8:b::1";
    const OUTSIDE: &str = "2001:db8:ffff::9";

    fn address(text: &str) -> Address {
        Address::from_octets(text.parse::<Ipv6Addr>().unwrap().octets())
    }

    /// A host with a 6in4 tunnel in slot 3, whose address is not `is_shared`, and an AYIYA tunnel in slot 4.
    struct Host {
        six_in_four: Expected,
        ayiya: Expected,
        tai_seconds: u64,
    }

    fn host() -> Host {
        Host {
            six_in_four: Expected {
                slot: 3,
                ..Expected::default()
            },
            ayiya: Expected {
                identity: address(IDENTITY),
                broker: POP,
                slot: 4,
                checks_time: 1,
                ..Expected::default()
            },
            tai_seconds: u64::from(NOW) + 37,
        }
    }

    impl Expectations for Host {
        fn expected(&self, end: &LocalEnd) -> Option<&Expected> {
            if *end == LocalEnd::six_in_four(HERE) {
                return Some(&self.six_in_four);
            }
            (*end == LocalEnd::ayiya(HERE, PORT.to_be_bytes())).then_some(&self.ayiya)
        }

        fn sender(&self, addresses: [u8; 8]) -> Sender {
            if addresses[..4] != BROKER {
                Sender::Stranger
            } else if addresses[4..] == HERE {
                Sender::Broker(3)
            } else {
                Sender::OtherBroker
            }
        }

        fn has_port(&self, port: [u8; 2]) -> bool {
            port == PORT.to_be_bytes()
        }

        fn comes_here(&self, wanted: Address) -> bool {
            wanted == address("2001:db8:a::2")
        }

        fn tai_seconds(&self) -> u64 {
            self.tai_seconds
        }
    }

    fn packet(source: [u8; 4], destination: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
        let path = six_in_four::OuterPath {
            local: source,
            remote: destination,
            ..six_in_four::OuterPath::default()
        };
        let bytes = u32::try_from(payload.len()).unwrap();
        let mut packet = six_in_four::header(&path, bytes, 0).to_vec();
        packet[9] = protocol;
        packet.extend(payload);
        packet
    }

    fn inner(source: &str) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 8, 58, 64];
        packet.extend(source.parse::<Ipv6Addr>().unwrap().octets());
        packet.extend([0; 24]);
        packet
    }

    fn datagram(port: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = 5072_u16.to_be_bytes().to_vec();
        bytes.extend(port.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(payload);
        bytes
    }

    fn sealed(time: u32, identity: &str, next_header: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x41, 0x52, 0x11, next_header];
        bytes.extend(time.to_be_bytes());
        bytes.extend(identity.parse::<Ipv6Addr>().unwrap().octets());
        bytes.extend([7; 20]);
        bytes.extend(payload);
        bytes
    }

    fn forged(slot: u32, reason: Forgery) -> Screened {
        Screened::Forged { slot, reason }
    }

    #[test]
    fn protocol_41_comes_from_brokers() {
        let (inner, own) = (inner(OUTSIDE), inner("2001:db8:a::2"));
        let stranger = forged(3, Forgery::Stranger);
        let found = |packet: Vec<u8>| screen(&packet[..], 0, &host());
        assert!(matches!(
            found(packet(BROKER, HERE, PROTOCOL, &inner)),
            Screened::SixInFour { slot: 3, inner } if inner.source == address(OUTSIDE) && inner.offset == 20
        ));
        for (name, packet, expected) in [
            (
                "a stranger",
                packet(STRANGER, HERE, PROTOCOL, &inner),
                stranger,
            ),
            (
                "to another address",
                packet(STRANGER, BROKER, PROTOCOL, &inner),
                Screened::Pass,
            ),
            (
                "the broker, to another address",
                packet(BROKER, STRANGER, PROTOCOL, &own),
                Screened::Pass,
            ),
            (
                "another protocol",
                packet(STRANGER, HERE, 6, &inner),
                Screened::Pass,
            ),
            (
                "its own source",
                packet(BROKER, HERE, PROTOCOL, &own),
                forged(3, Forgery::OwnSource),
            ),
            (
                "no inner packet",
                packet(BROKER, HERE, PROTOCOL, &inner[..39]),
                Screened::Pass,
            ),
            ("no packet", vec![0x45; 19], Screened::Pass),
        ] {
            assert_eq!(found(packet), expected, "{name}");
        }
        // Options and fragments.
        for (at, value) in [(0, 0x46), (6, 0x20), (7, 1)] {
            let mut packet = packet(STRANGER, HERE, PROTOCOL, &inner);
            packet[at] = value;
            assert_eq!(found(packet), Screened::Pass, "{at}");
        }
        let mut shared = host();
        shared.six_in_four.is_shared = 1;
        let packet = packet(STRANGER, HERE, PROTOCOL, &inner);
        assert_eq!(screen(&packet[..], 0, &shared), Screened::Pass);
    }

    #[test]
    fn datagrams_have_the_header_identity_and_time_of_the_broker() {
        let found = |source, port, payload: &[u8]| {
            let mut frame = vec![0; 14];
            frame.extend(packet(source, HERE, UDP, &datagram(port, payload)));
            screen(&frame[..], 14, &host())
        };
        let good = sealed(NOW, IDENTITY, 41, &inner(OUTSIDE));
        let changed = |at: usize, value: u8| {
            let mut datagram = good.clone();
            datagram[at] = value;
            datagram
        };
        let own = sealed(NOW, IDENTITY, 41, &inner("2001:db8:a::2"));
        let other = sealed(NOW, "2001:db8:b::2", 41, &[]);
        let header = forged(4, Forgery::Header);
        for (name, payload, expected) in [
            ("good", good.clone(), Screened::Pass),
            ("a noop", sealed(NOW, IDENTITY, 59, &[]), Screened::Pass),
            ("another operation", changed(2, 0x1f), Screened::Pass),
            ("MD5", changed(1, 0x41), header),
            ("an integer as identity", changed(0, 0x21), header),
            ("without a secret", changed(2, 0x01), header),
            ("short", good[..43].to_vec(), forged(4, Forgery::Short)),
            ("no bytes", Vec::new(), forged(4, Forgery::Short)),
            ("another identity", other, forged(4, Forgery::Identity)),
            ("its own source", own, forged(4, Forgery::OwnSource)),
        ] {
            assert_eq!(found(POP, PORT, &payload), expected, "{name}");
        }
        assert_eq!(found(POP, 4001, b"DNS"), Screened::Pass);
        assert_eq!(found(STRANGER, PORT, &good), Screened::Stranger { slot: 4 });
        assert_eq!(found(STRANGER, PORT, b"DNS"), Screened::Pass);
    }

    /// International Atomic Time may be ahead of UTC, or not.
    #[test]
    fn no_datagram_is_dropped_that_the_daemon_accepts() {
        let verdict = |time: u32, tai: u64, checks_time: u32| {
            let mut host = host();
            host.tai_seconds = u64::from(NOW) + tai;
            host.ayiya.checks_time = checks_time;
            let payload = sealed(time, IDENTITY, 59, &[]);
            screen(
                &packet(POP, HERE, UDP, &datagram(PORT, &payload))[..],
                0,
                &host,
            )
        };
        let time = forged(4, Forgery::Time);
        for (time_sent, tai, checks_time, expected) in [
            (NOW + 120, 0, 1, Screened::Pass),
            (NOW - 120, 0, 1, Screened::Pass),
            (NOW + 120, 37, 1, Screened::Pass),
            (NOW - 120, 37, 1, Screened::Pass),
            (NOW + 121, 0, 1, time),
            (NOW - 181, 0, 1, time),
            (0, 0, 1, time),
            (u32::MAX, 0, 1, time),
            (NOW - 3600, 0, 0, Screened::Pass),
        ] {
            let found = verdict(time_sent, tai, checks_time);
            assert_eq!(found, expected, "{time_sent} {tai} {checks_time}");
        }
        // The time of the wire wraps round.
        assert!(is_now(5, (1 << 32) - 5));
        assert!(is_now(u32::MAX, (1 << 32) + 5));
    }

    #[test]
    fn the_screen_holds_a_few_tunnels_and_all_ports() {
        let mut screen = Screen::EMPTY;
        for slot in 0..=8_u8 {
            screen.add([slot; 8], slot.into());
        }
        assert_eq!(screen.count, 8);
        assert_eq!((screen.few[7].addresses, screen.few[7].slot), ([7; 8], 7));
        for port in [0, 63, 64, 5072, u16::MAX] {
            let port = port.to_be_bytes();
            assert!(!screen.has_port(port));
            screen.add_port(port);
            assert!(screen.has_port(port));
        }
        assert!(!screen.has_port([0x13, 0xd1]));
    }

    #[test]
    fn each_reason_has_its_counter_and_its_name() {
        for (index, reason) in Forgery::ALL.iter().enumerate() {
            assert_eq!(reason.index(), index);
            let mut earlier = Forgery::ALL[..index].iter();
            assert!(earlier.all(|other| other.name() != reason.name()));
        }
    }
}
