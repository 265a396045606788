//! The outside test: user space sends an echo request by one link to the address of another one, over the internet, and the
//! programs record when it left and when it arrived.
//!
//! User space writes a test into a slot of a map, and puts the request into the egress of the first link. `sixxs_egress`
//! recognises it there, and passes it on; the programs at ingress recognise it where it arrives, and drop it, so that nothing
//! answers it. Neither counts anything. An ICMPv6 error that quotes the request is recorded and dropped in the same way. The last ten
//! bits of the sequence number select the slot. The [inside test](crate::inside_test) has the same switch.

use bytemuck::{Pod, Zeroable};

use crate::{
    address::Address,
    inside_test::Ends,
    layout::NextHop,
    packet::{ECHO_REQUEST, ICMPV6, IPV6_HEADER_BYTES, Ipv6, Packet, ipv6_at},
};

/// Number of requests at a time; a power of two.
pub const ENTRIES: u32 = 1024;

/// A request. Its sender's program and its receiver's write different fields, each an aligned word.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct OutsideTest {
    /// [`Ends::tag`] of the request, whose local address is the receiver's; 0: no test.
    pub tag: u64,
    /// The end of the test, in nanoseconds of CLOCK_MONOTONIC. A test whose daemon was killed ends with it.
    pub until_ns: u64,
    /// When the request left, by the same clock; 0: it did not.
    pub left_ns: u64,
    /// When it arrived; 0: it did not.
    pub arrived_ns: u64,
    /// The source of the first error that quotes it.
    pub error_source: Address,
    /// Type and code of that error, as `type * 256 + code`; 0: there is none.
    pub error: u32,
    /// The 32 bits behind its checksum: the MTU of a Packet Too Big (RFC 4443 §3.2).
    pub error_value: u32,
    /// Index of the interface by which it leaves.
    pub ifindex: u32,
    /// Index of the interface by which it arrived.
    pub arrived_ifindex: u32,
    /// Where the interface has a link layer: the next hop.
    pub next_hop: NextHop,
    /// 1 once the kernel has the request for the next hop.
    pub is_addressed: u32,
}

const _: () = assert!(size_of::<OutsideTest>() == 88);

impl OutsideTest {
    /// A test of the request with this tag, which leaves by this interface to this next hop.
    #[must_use]
    pub const fn new(tag: u64, until_ns: u64, ifindex: u32, next_hop: NextHop) -> Self {
        Self {
            tag,
            until_ns,
            left_ns: 0,
            arrived_ns: 0,
            error_source: Address::UNSPECIFIED,
            error: 0,
            error_value: 0,
            ifindex,
            arrived_ifindex: 0,
            next_hop,
            is_addressed: 0,
        }
    }

    /// Whether a message with this tag belongs to the test.
    #[inline(always)]
    #[must_use]
    pub const fn has(&self, tag: u64, now_ns: u64) -> bool {
        self.tag == tag && now_ns < self.until_ns
    }

    /// Records that the request arrived. Only the first time counts.
    #[inline(always)]
    pub const fn arrive(&mut self, now_ns: u64, ifindex: u32) {
        if self.arrived_ns == 0 {
            self.arrived_ifindex = ifindex;
            self.arrived_ns = now_ns;
        }
    }

    /// Records an error. Only the first one counts.
    #[inline(always)]
    pub const fn fail(&mut self, source: Address, error: IcmpError) {
        if self.error == 0 {
            self.error_source = source;
            self.error_value = error.value;
            self.error = (error.kind as u32) << 8 | error.code as u32;
        }
    }
}

/// The ends of a packet that may be a request: the receiver's address is the local one.
#[inline(always)]
pub fn request<P: Packet + ?Sized>(packet: &P, ipv6: &Ipv6) -> Option<Ends> {
    if ipv6.next_header != ICMPV6 {
        return None;
    }
    let [ECHO_REQUEST, 0, _, _, number @ ..]: [u8; 8] =
        packet.peek(ipv6.offset + IPV6_HEADER_BYTES)?
    else {
        return None;
    };
    Some(Ends {
        local: ipv6.destination,
        remote: ipv6.source,
        number: u32::from_ne_bytes(number),
    })
}

/// The beginning of an ICMPv6 error (RFC 4443 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// Its type, up to 127.
    pub kind: u8,
    /// Its code.
    pub code: u8,
    /// The 32 bits behind the checksum.
    pub value: u32,
}

/// The error in a packet, with the ends of the packet that it quotes, if that may be a request.
#[inline(always)]
pub fn error<P: Packet + ?Sized>(packet: &P, ipv6: &Ipv6) -> Option<(Ends, IcmpError)> {
    if ipv6.next_header != ICMPV6 {
        return None;
    }
    let at = ipv6.offset + IPV6_HEADER_BYTES;
    let [kind @ 1..=127, code, _, _, value @ ..]: [u8; 8] = packet.peek(at)? else {
        return None;
    };
    let quoted = ipv6_at(packet, at + 8)?;
    let ends = request(packet, &quoted)?;
    // An error goes to the sender of the packet (RFC 4443 §2.2).
    if ends.remote != ipv6.destination {
        return None;
    }
    let error = IcmpError {
        kind,
        code,
        value: u32::from_be_bytes(value),
    };
    Some((ends, error))
}

/// Index of the slot for a request with this [`Ends::number`].
#[inline(always)]
#[must_use]
pub const fn entry_index(number: u32) -> u32 {
    u32::from_be(number) % ENTRIES
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::{self, ECHO_REPLY, UDP};

    fn ends(bytes: &[u8]) -> Option<Ends> {
        request(bytes, &packet::ipv6(bytes, 0).unwrap())
    }

    const ECHO: [u8; 8] = [ECHO_REQUEST, 0, 9, 9, 1, 2, 3, 4];

    #[test]
    fn a_test_has_its_own_request_until_it_ends() {
        let test = OutsideTest::new(7, 100, 3, NextHop::default());
        for (tag, now_ns, expected) in [(7, 0, true), (7, 99, true), (7, 100, false), (8, 0, false)]
        {
            assert_eq!(test.has(tag, now_ns), expected, "{tag} {now_ns}");
        }
        assert!(!OutsideTest::default().has(0, 0));
    }

    #[test]
    fn what_comes_first_counts() {
        let mut test = OutsideTest::new(7, 100, 3, NextHop::default());
        test.arrive(50, 4);
        test.arrive(60, 5);
        assert_eq!((test.arrived_ns, test.arrived_ifindex), (50, 4));
        let too_big = IcmpError {
            kind: 2,
            code: 0,
            value: 1300,
        };
        let other = IcmpError { kind: 1, ..too_big };
        test.fail(Address::from_words([1, 2]), too_big);
        test.fail(Address::from_words([3, 4]), other);
        assert_eq!(test.error_source, Address::from_words([1, 2]));
        assert_eq!((test.error, test.error_value), (0x200, 1300));
    }

    #[test]
    fn requests_are_recognised() {
        let bytes = packet::tests::packet(ICMPV6, &ECHO);
        let ends = ends(&bytes).unwrap();
        assert_eq!(ends.local.octets(), bytes[24..40]);
        assert_eq!(ends.remote.octets(), bytes[8..24]);
        assert_eq!(ends.number.to_ne_bytes(), [1, 2, 3, 4]);
        assert_eq!(entry_index(ends.number), 0x304);
    }

    #[test]
    fn other_packets_are_no_requests() {
        for (next_header, payload) in [
            (ICMPV6, [ECHO_REPLY, 0, 9, 9, 1, 2, 3, 4]),
            (ICMPV6, [ECHO_REQUEST, 1, 9, 9, 1, 2, 3, 4]),
            (UDP, ECHO),
        ] {
            assert_eq!(ends(&packet::tests::packet(next_header, &payload)), None);
        }
        assert_eq!(ends(&packet::tests::packet(ICMPV6, &ECHO[..7])), None);
    }

    /// An error to the source of the packet that it quotes, or back.
    fn quoting(kind: u8, quoted: &[u8], to_source: bool) -> Vec<u8> {
        let payload = [&[kind, 0, 9, 9, 0, 0, 5, 20], quoted].concat();
        let mut bytes = packet::tests::packet(ICMPV6, &payload);
        if to_source {
            let (source, destination) = bytes[8..40].split_at_mut(16);
            source.swap_with_slice(destination);
        }
        bytes
    }

    #[test]
    fn errors_have_the_ends_of_the_request_that_they_quote() {
        let sent = packet::tests::packet(ICMPV6, &ECHO);
        let found = |bytes: &[u8]| error(bytes, &packet::ipv6(bytes, 0).unwrap());
        let expected = IcmpError {
            kind: 2,
            code: 0,
            value: 1300,
        };
        let bytes = quoting(2, &sent, true);
        assert_eq!(found(&bytes), Some((ends(&sent).unwrap(), expected)));
        // Not to the sender; no error; a quoted packet of another kind, or cut off.
        assert_eq!(found(&quoting(2, &sent, false)), None);
        assert_eq!(found(&quoting(128, &sent, true)), None);
        assert_eq!(
            found(&quoting(2, &packet::tests::packet(UDP, &ECHO), true)),
            None
        );
        assert_eq!(found(&quoting(2, &sent[..47], true)), None);
        assert_eq!(found(&sent), None);
    }

    proptest! {
        /// No packet is mistaken for two things, and none breaks the parser.
        #[test]
        fn any_packet_is_read(payload in proptest::collection::vec(any::<u8>(), 0..120)) {
            let bytes = packet::tests::packet(ICMPV6, &payload);
            let ipv6 = packet::ipv6(bytes.as_slice(), 0).unwrap();
            let (request, error) = (request(bytes.as_slice(), &ipv6), error(bytes.as_slice(), &ipv6));
            prop_assert!(request.is_none() || error.is_none());
        }
    }
}
