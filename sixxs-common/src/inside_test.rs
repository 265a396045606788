//! The inside test: user space puts an echo request into a tunnel's way in, and the programs record what becomes of it.
//!
//! User space writes a test into a slot of a map, and puts the request in. `sixxs_ingress` recognises it where it arrives,
//! `sixxs_egress` its reply, at whichever interface that is about to leave, and drops it there. Neither counts anything.
//! The last digits of the sequence number select the slot, so that a message of another program costs one comparison.

use bytemuck::{Pod, Zeroable};

use crate::decide::Verdict;

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
    /// When the reply was about to leave; 0: there is none.
    pub left_ns: u64,
    /// Index of the interface by which the reply was about to leave.
    pub ifindex: u32,
    /// Index of the interface by which the reply had arrived: that of the tunnel, if a program has turned the request
    /// into it; 0 if this host sends it.
    pub from_ifindex: u32,
    /// [`Way`].
    pub way: u32,
    /// Always 0.
    pub reserved: u32,
}

const _: () = assert!(size_of::<InsideTest>() == 48);

impl InsideTest {
    /// A test of the request with this tag.
    #[must_use]
    pub const fn new(tag: u64, until_ns: u64) -> Self {
        Self {
            tag,
            until_ns,
            arrived_ns: 0,
            left_ns: 0,
            ifindex: 0,
            from_ifindex: 0,
            way: 0,
            reserved: 0,
        }
    }

    /// Whether a message with this tag belongs to the test.
    #[inline(always)]
    #[must_use]
    pub const fn has(&self, tag: u64, now_ns: u64) -> bool {
        self.tag == tag && now_ns < self.until_ns
    }

    /// Records a reply. Only the first one counts.
    #[inline(always)]
    pub const fn reply(&mut self, now_ns: u64, ifindex: u32, from_ifindex: u32, way: u32) {
        if self.left_ns == 0 {
            self.ifindex = ifindex;
            self.from_ifindex = from_ifindex;
            self.way = way;
            self.left_ns = now_ns;
        }
    }
}

/// Index of the slot for a message with this identifier and sequence number, as they are in the packet.
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
            _ => Err(NoWay),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_has_its_own_message_until_it_ends() {
        let test = InsideTest::new(7, 100);
        for (tag, now_ns, expected) in [(7, 0, true), (7, 99, true), (7, 100, false), (8, 0, false)]
        {
            assert_eq!(test.has(tag, now_ns), expected, "{tag} {now_ns}");
        }
        // An empty slot has no message: a tag is never 0.
        assert!(!InsideTest::default().has(0, 0));
    }

    #[test]
    fn the_first_reply_counts() {
        let mut test = InsideTest::new(7, 100);
        test.reply(50, 3, 0, Way::Own.raw());
        test.reply(60, 4, 5, Way::Leak.raw());
        assert_eq!((test.left_ns, test.ifindex, test.from_ifindex), (50, 3, 0));
        assert_eq!(Way::try_from(test.way), Ok(Way::Own));
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
        assert_eq!(Way::try_from(0), Err(NoWay));
        assert_eq!(Way::try_from(6), Err(NoWay));
    }
}
