//! The inside test: user space puts an echo request, a TCP SYN or a UDP datagram into a tunnel's ingress, and the programs
//! record what becomes of it.
//!
//! User space writes a test into a slot of a map, and puts the packet in. `sixxs_ingress` recognises it where it arrives,
//! `sixxs_egress` its reply, at whichever interface that is about to leave, and drops it there. Neither counts anything.
//! A live test is of a packet that this host sends by itself (`sixxs explain --live`): `sixxs_hold` finds it behind the routing,
//! and drops it where `sixxs_egress` would not.
//! The last digits of the sequence number, or of the remote port, select the slot. Without a test, a switch in the programs'
//! memory is off, and packets pay for that alone.

use bytemuck::{Pod, Zeroable};

use crate::{
    address::Address,
    decide::Verdict,
    packet::{
        ECHO_REPLY, ECHO_REQUEST, ICMPV6, IPV6_HEADER_BYTES, Ipv6, Packet, TCP, UDP, ipv6_at,
    },
};

/// Number of tests at a time; a power of two.
pub const ENTRIES: u32 = 256;

/// A test. Only one request carries its tag, so that two processors write different fields.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct InsideTest {
    /// [`tag`](crate::echo::tag) of the request; 0: no test.
    pub tag: u64,
    /// The end of the test, in nanoseconds of CLOCK_MONOTONIC. A test whose daemon was killed ends with it.
    pub until_ns: u64,
    /// When the request arrived at `sixxs_ingress`; 0: it did not.
    pub arrived_ns: u64,
    /// When the packet that closes the connection arrived there; 0: it did not, or there is no connection.
    pub closed_ns: u64,
    /// When the reply was about to leave; 0: there is none.
    pub left_ns: u64,
    /// Index of the interface by which the reply was about to leave.
    pub ifindex: u32,
    /// Index of the interface by which the reply had arrived: that of the tunnel, if a program has turned the request
    /// into it; 0 if this host sends it.
    pub from_ifindex: u32,
    /// [`Way`].
    pub way: u32,
    /// [`Answer`] of the reply.
    pub answer: u32,
    /// [`Kind`].
    pub kind: u32,
    /// [`Ends::number`] of the packet.
    pub number: u32,
}

const _: () = assert!(size_of::<InsideTest>() == 64);

/// What a test is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// The reply to a packet that user space puts in.
    Reply = 0,
    /// A packet that this host sends by itself. [`InsideTest::arrived_ns`] is when it passed the routing, and
    /// [`InsideTest::ifindex`] the interface that it was routed to.
    Live = 1,
    /// The same as [`Kind::Reply`], but a reply that leaves by the right way is sent.
    LetGo = 2,
}

impl InsideTest {
    /// A test of the packet with this tag and number.
    #[must_use]
    pub const fn new(tag: u64, number: u32, until_ns: u64, kind: Kind) -> Self {
        Self {
            tag,
            until_ns,
            arrived_ns: 0,
            closed_ns: 0,
            left_ns: 0,
            ifindex: 0,
            from_ifindex: 0,
            way: 0,
            answer: 0,
            kind: kind as u32,
            number,
        }
    }

    /// Whether a message with this tag belongs to the test.
    #[inline(always)]
    #[must_use]
    pub const fn has(&self, tag: u64, now_ns: u64) -> bool {
        self.tag == tag && now_ns < self.until_ns
    }

    /// Whether this is a live test of a packet with this number. Its addresses may be others since: NAT comes before the
    /// control groups' programs.
    #[inline(always)]
    #[must_use]
    pub const fn is_live(&self, number: u32, now_ns: u64) -> bool {
        self.kind == Kind::Live as u32 && self.number == number && now_ns < self.until_ns
    }

    /// Records the interface that the packet of a live test is routed to.
    #[inline(always)]
    pub const fn routed(&mut self, now_ns: u64, ifindex: u32) {
        if self.left_ns == 0 {
            self.arrived_ns = now_ns;
            self.ifindex = ifindex;
        }
    }

    /// Whether a reply on this way is sent.
    #[inline(always)]
    #[must_use]
    pub const fn lets_go(&self, way: u32) -> bool {
        self.kind == Kind::LetGo as u32 && (way == Way::Own.raw() || way == Way::Exempt.raw())
    }

    /// Records a reply. Only the first one counts.
    #[inline(always)]
    pub const fn reply(
        &mut self,
        now_ns: u64,
        (ifindex, from_ifindex): (u32, u32),
        way: u32,
        answer: Answer,
    ) {
        if self.left_ns == 0 {
            self.ifindex = ifindex;
            self.from_ifindex = from_ifindex;
            self.way = way;
            self.answer = answer.raw();
            self.left_ns = now_ns;
        }
    }
}

/// What a reply is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Answer {
    /// An echo reply.
    EchoReply = 1,
    /// TCP: the connection is accepted.
    SynAck = 2,
    /// TCP: the connection is refused.
    Reset = 3,
    /// A UDP datagram.
    Datagram = 4,
    /// An ICMPv6 error.
    Error = 5,
    /// No reply, but an echo request of a live test.
    EchoRequest = 6,
}

impl Answer {
    /// The value of [`InsideTest::answer`].
    #[inline(always)]
    #[must_use]
    pub const fn raw(self) -> u32 {
        self as u32
    }
}

/// The number is not an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoAnswer;

impl TryFrom<u32> for Answer {
    type Error = NoAnswer;

    fn try_from(raw: u32) -> Result<Self, NoAnswer> {
        match raw {
            1 => Ok(Self::EchoReply),
            2 => Ok(Self::SynAck),
            3 => Ok(Self::Reset),
            4 => Ok(Self::Datagram),
            5 => Ok(Self::Error),
            6 => Ok(Self::EchoRequest),
            _ => Err(NoAnswer),
        }
    }
}

/// The ends of a packet that may belong to a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The address of this host.
    pub local: Address,
    /// The other address.
    pub remote: Address,
    /// Identifier and sequence number, as they are in the packet; or the local and then the remote port.
    pub number: u32,
}

impl Ends {
    /// The tag of the test.
    #[inline(always)]
    #[must_use]
    pub const fn tag(&self) -> u64 {
        crate::echo::tag(self.local, self.remote, self.number)
    }
}

/// The ends of a packet that arrives, if it may be a test's.
#[inline(always)]
pub fn request<P: Packet + ?Sized>(packet: &P, ipv6: &Ipv6) -> Option<Ends> {
    let at = ipv6.offset + IPV6_HEADER_BYTES;
    let number = match ipv6.next_header {
        ICMPV6 => {
            let [ECHO_REQUEST, _, _, _, number @ ..]: [u8; 8] = packet.peek(at)? else {
                return None;
            };
            number
        }
        TCP | UDP => {
            let [a, b, c, d]: [u8; 4] = packet.peek(at)?;
            [c, d, a, b]
        }
        _ => return None,
    };
    Some(Ends {
        local: ipv6.destination,
        remote: ipv6.source,
        number: u32::from_ne_bytes(number),
    })
}

/// The ends of a packet that leaves, if it may be a reply to a test or the packet of a live test, and what it is.
#[inline(always)]
pub fn reply<P: Packet + ?Sized>(packet: &P, ipv6: &Ipv6) -> Option<(Ends, Answer)> {
    /// Flags of TCP (RFC 9293 §3.1).
    const SYN: u8 = 2;
    const RST: u8 = 4;
    let at = ipv6.offset + IPV6_HEADER_BYTES;
    let (number, answer): ([u8; 4], _) = match ipv6.next_header {
        ICMPV6 => match packet.peek::<8>(at)? {
            [ECHO_REPLY, _, _, _, number @ ..] => (number, Answer::EchoReply),
            [ECHO_REQUEST, _, _, _, number @ ..] => (number, Answer::EchoRequest),
            // RFC 4443 §3: errors are up to 127, and quote the packet.
            [..=127, ..] => {
                let quoted = ipv6_at(packet, at + 8)?;
                return Some((request(packet, &quoted)?, Answer::Error));
            }
            _ => return None,
        },
        TCP => {
            let [_, flags] = packet.peek(at + 12)?;
            let answer = match flags & (SYN | RST) {
                SYN => Answer::SynAck,
                RST => Answer::Reset,
                _ => return None,
            };
            (packet.peek(at)?, answer)
        }
        UDP => (packet.peek(at)?, Answer::Datagram),
        _ => return None,
    };
    let ends = Ends {
        local: ipv6.source,
        remote: ipv6.destination,
        number: u32::from_ne_bytes(number),
    };
    Some((ends, answer))
}

/// Index of the slot for a packet with this [`Ends::number`].
#[inline(always)]
#[must_use]
pub const fn entry_index(number: u32) -> u32 {
    u32::from_be(number) % ENTRIES
}

/// What the egress program would have done with the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Way {
    /// It leaves by the tunnel that its source belongs to.
    Own = 1,
    /// It may leave by this interface, although that is not the tunnel.
    Exempt = 2,
    /// It is a leak.
    Leak = 3,
    /// It is dropped: a tunnel would bring it back.
    Loop = 4,
    /// It passes: the programs do not know its source.
    Unknown = 5,
    /// `sixxs_hold` dropped it: no program decides about it at this interface.
    Held = 6,
}

impl Way {
    /// The way of a packet with this verdict.
    #[inline(always)]
    #[must_use]
    pub const fn of(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Own => Self::Own,
            Verdict::Exempt => Self::Exempt,
            Verdict::Leak(_) => Self::Leak,
            Verdict::Loop => Self::Loop,
            Verdict::NotOurs | Verdict::Stray | Verdict::OtherProtocol | Verdict::Unparsed => {
                Self::Unknown
            }
        }
    }

    /// The value of [`InsideTest::way`].
    #[inline(always)]
    #[must_use]
    pub const fn raw(self) -> u32 {
        self as u32
    }
}

/// The number is not a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoWay;

impl TryFrom<u32> for Way {
    type Error = NoWay;

    fn try_from(raw: u32) -> Result<Self, NoWay> {
        match raw {
            1 => Ok(Self::Own),
            2 => Ok(Self::Exempt),
            3 => Ok(Self::Leak),
            4 => Ok(Self::Loop),
            5 => Ok(Self::Unknown),
            6 => Ok(Self::Held),
            _ => Err(NoWay),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet;

    #[test]
    fn a_test_has_its_own_message_until_it_ends() {
        let test = InsideTest::new(7, 9, 100, Kind::Reply);
        for (tag, now_ns, expected) in [(7, 0, true), (7, 99, true), (7, 100, false), (8, 0, false)]
        {
            assert_eq!(test.has(tag, now_ns), expected, "{tag} {now_ns}");
        }
        // An empty slot has no message: a tag is never 0.
        assert!(!InsideTest::default().has(0, 0));
    }

    #[test]
    fn the_first_reply_counts() {
        let mut test = InsideTest::new(7, 9, 100, Kind::Reply);
        test.reply(50, (3, 0), Way::Own.raw(), Answer::SynAck);
        test.reply(60, (4, 5), Way::Leak.raw(), Answer::Reset);
        assert_eq!((test.left_ns, test.ifindex, test.from_ifindex), (50, 3, 0));
        assert_eq!(Way::try_from(test.way), Ok(Way::Own));
        assert_eq!(Answer::try_from(test.answer), Ok(Answer::SynAck));
    }

    #[test]
    fn only_replies_on_the_right_way_are_let_go() {
        let test = InsideTest::new(7, 9, 100, Kind::LetGo);
        for way in [Way::Own, Way::Exempt, Way::Leak, Way::Loop, Way::Unknown] {
            let expected = matches!(way, Way::Own | Way::Exempt);
            assert_eq!(test.lets_go(way.raw()), expected, "{way:?}");
        }
        assert!(!InsideTest::new(7, 9, 100, Kind::Reply).lets_go(Way::Own.raw()));
    }

    #[test]
    fn live_tests_record_the_routing() {
        assert!(!InsideTest::new(7, 9, 100, Kind::Reply).is_live(9, 50));
        let mut test = InsideTest::new(7, 9, 100, Kind::Live);
        for (number, now_ns, expected) in [(9, 50, true), (8, 50, false), (9, 100, false)] {
            assert_eq!(test.is_live(number, now_ns), expected);
        }
        test.routed(40, 3);
        assert_eq!((test.arrived_ns, test.ifindex), (40, 3));
        test.reply(50, (4, 0), Way::Leak.raw(), Answer::EchoRequest);
        test.routed(60, 5);
        assert_eq!((test.arrived_ns, test.ifindex), (40, 4));
    }

    #[test]
    fn answers_are_read_back() {
        use Answer::{Datagram, EchoReply, EchoRequest, Error, Reset, SynAck};
        for answer in [EchoReply, SynAck, Reset, Datagram, Error, EchoRequest] {
            assert_eq!(Answer::try_from(answer.raw()), Ok(answer));
        }
        assert_eq!(Answer::try_from(0), Err(NoAnswer));
        assert_eq!(Answer::try_from(7), Err(NoAnswer));
    }

    /// A packet from `SOURCE` to `DESTINATION` of the packet tests, or back.
    fn packet(next_header: u8, payload: &[u8], is_reply: bool) -> Vec<u8> {
        let mut bytes = packet::tests::packet(next_header, payload);
        if is_reply {
            let (source, destination) = bytes[8..40].split_at_mut(16);
            source.swap_with_slice(destination);
        }
        bytes
    }

    #[test]
    fn a_reply_has_the_ends_of_its_request() {
        let echo = |kind| [kind, 0, 9, 9, 1, 2, 3, 4];
        let tcp = |ports: [u8; 4], flags| [&ports[..], &[0; 8], &[0x50, flags], &[0; 6]].concat();
        let udp = |ports: [u8; 4]| [&ports[..], &[0, 8, 0, 0]].concat();
        let (to, from) = ([0xc0, 7, 1, 0xbb], [1, 0xbb, 0xc0, 7]);
        let quoting = |inner: &[u8]| [&[1, 4, 0, 0, 0, 0, 0, 0], inner].concat();
        let quoted = quoting(&packet(UDP, &udp(to), false));
        for (asked, answered, expected) in [
            (
                (ICMPV6, echo(ECHO_REQUEST).to_vec()),
                (ICMPV6, echo(ECHO_REPLY).to_vec()),
                Answer::EchoReply,
            ),
            ((TCP, tcp(to, 2)), (TCP, tcp(from, 0x12)), Answer::SynAck),
            ((TCP, tcp(to, 2)), (TCP, tcp(from, 0x14)), Answer::Reset),
            ((UDP, udp(to)), (UDP, udp(from)), Answer::Datagram),
            ((UDP, udp(to)), (ICMPV6, quoted), Answer::Error),
            (
                (ICMPV6, echo(ECHO_REQUEST).to_vec()),
                (ICMPV6, echo(ECHO_REQUEST).to_vec()),
                Answer::EchoRequest,
            ),
        ] {
            let asked = packet(asked.0, &asked.1, false);
            let ends = request(&*asked, &packet::ipv6(&*asked, 0).unwrap()).unwrap();
            let answered = packet(answered.0, &answered.1, true);
            let found = reply(&*answered, &packet::ipv6(&*answered, 0).unwrap());
            assert_eq!(found, Some((ends, expected)), "{expected:?}");
            let index = match expected {
                Answer::EchoReply | Answer::EchoRequest => 4,
                _ => 7,
            };
            assert_eq!(entry_index(ends.number), index);
        }
        // Neither a request nor a reply.
        let data = packet(TCP, &tcp(from, 0x10), true);
        assert_eq!(reply(&*data, &packet::ipv6(&*data, 0).unwrap()), None);
        let short = packet(ICMPV6, &[ECHO_REQUEST, 0, 0, 0], false);
        assert_eq!(request(&*short, &packet::ipv6(&*short, 0).unwrap()), None);
    }

    #[test]
    fn the_sequence_number_selects_the_slot() {
        for (bytes, index) in [
            ([0xff, 0xff, 0, 0], 0),
            ([0, 0, 0, 5], 5),
            ([1, 2, 3, 255], 255),
            ([1, 2, 1, 0], 0),
        ] {
            assert_eq!(entry_index(u32::from_ne_bytes(bytes)), index, "{bytes:?}");
        }
    }

    #[test]
    fn ways_are_read_back() {
        for verdict in [
            Verdict::Own,
            Verdict::Exempt,
            Verdict::Leak(4),
            Verdict::Loop,
            Verdict::NotOurs,
            Verdict::Stray,
        ] {
            let way = Way::of(verdict);
            assert_eq!(Way::try_from(way.raw()), Ok(way));
        }
        assert_eq!(Way::try_from(Way::Held.raw()), Ok(Way::Held));
        assert_eq!(Way::try_from(0), Err(NoWay));
        assert_eq!(Way::try_from(7), Err(NoWay));
    }
}
