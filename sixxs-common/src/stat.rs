//! All counters, in one list: the programs use it as index, and user space for the names.

/// Defines [`Stat`], with name and help text beside each entry, so that they cannot diverge.
macro_rules! stats {
    ($($(#[$doc:meta])* $variant:ident, $name:literal, $help:literal;)*) => {
        /// The counters of a slot (an interface or a tunnel); the value is the index in [`Counters`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum Stat {
            $(#[doc = $help] $(#[$doc])* $variant,)*
        }

        impl Stat {
            /// All counters, in the order of the array.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name for users and scripts.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The help text, one sentence.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => $help,)* }
            }
        }
    };
}

stats! {
    InPackets, "in_packets", "Packets that arrived by the interface, as the kernel hands them over: a batch of GRO counts once.";
    InBytes, "in_bytes", "Bytes that arrived by the interface, without link layer.";
    InRequests, "in_echo_requests", "ICMPv6 echo requests that arrived for its own addresses and prefixes.";
    InReplies, "in_echo_replies", "ICMPv6 echo replies that arrived for its own addresses and prefixes.";
    InUnparsed, "in_unparsed", "Packets that arrived, are marked as IPv6 but cannot be parsed; they pass.";
    InOwnSource, "in_own_source", "Packets that arrived by a native tunnel with its own address as source; dropped.";
    InSteered, "in_steered", "Packets that arrived for a socket bound to an uplink, and were delivered as if they had arrived by it.";
    OutBytes, "out_bytes", "Bytes that left by the interface, without link layer.";
    OutRequests, "out_echo_requests", "ICMPv6 echo requests that left from the tunnel's own addresses and prefixes.";
    OutReplies, "out_echo_replies", "ICMPv6 echo replies that left from the tunnel's own addresses and prefixes.";
    VerdictOther, "out_not_ipv6", "Packets that left and are not IPv6.";
    VerdictUnparsed, "out_unparsed", "Packets that left, are marked as IPv6 but cannot be parsed.";
    VerdictNotOurs, "out_not_ours", "Packets that left by an uplink with a source that belongs to no tunnel.";
    VerdictExempt, "out_exempt", "Packets with a tunnel's source, or of link scope, that may leave by this interface.";
    VerdictOwn, "out_own", "Packets that left by the tunnel that their source belongs to.";
    VerdictStray, "out_stray", "Packets that left by a tunnel with a source that belongs to no tunnel: the broker will drop them.";
    VerdictRedirected, "leaks_caught_redirected", "Leaks caught at this interface and redirected into the right tunnel.";
    VerdictDropped, "leaks_caught_dropped", "Leaks caught at this interface and dropped.";
    VerdictObserved, "leaks_caught_observed", "Leaks detected at this interface and let pass.";
    VerdictTooBig, "leaks_caught_too_big", "Leaks caught at this interface, too big for the tunnel and answered by Packet Too Big.";
    LeakRedirected, "leaks_redirected", "Leaks of this tunnel's addresses, wherever they leaked, that were redirected into the tunnel.";
    LeakDropped, "leaks_dropped", "Leaks of this tunnel's addresses, wherever they leaked, that were dropped: as configured, or because the tunnel did not exist.";
    LeakObserved, "leaks_observed", "Leaks of this tunnel's addresses, wherever they leaked, that were let pass.";
    LeakTooBig, "leaks_too_big", "Leaks of this tunnel's addresses, wherever they leaked, that were too big for it, and so answered by Packet Too Big or, where no answer is allowed, dropped.";
    LeakNoTunnel, "leaks_without_tunnel", "Dropped leaks for which the tunnel's interface did not exist.";
    EventsLost, "events_lost", "Leak events not reported because there were too many; the leaks themselves are counted.";
    LastRequestIn, "last_echo_request_in_ns", "When the last echo request arrived, in nanoseconds of CLOCK_MONOTONIC; 0 for never.";
    LastReplyIn, "last_echo_reply_in_ns", "When the last echo reply arrived.";
    LastRequestOut, "last_echo_request_out_ns", "When the last echo request left.";
    LastReplyOut, "last_echo_reply_out_ns", "When the last echo reply left.";
    EchoWatched, "echo_watched", "Echo requests that arrived by the tunnel for an address of its own (not of a routed prefix), and whose reply is expected.";
    EchoAnswered, "echo_answered", "Watched echo requests whose reply left by the tunnel.";
    EchoAstray, "echo_astray", "Watched echo requests whose reply was routed to another interface, and was let pass or dropped there.";
    EchoForgotten, "echo_forgotten", "Watched echo requests that were replaced by others before their reply left: there were too many at a time.";
    LastAnswer, "last_echo_answered_ns", "When the last reply to a watched echo request left by the tunnel.";
    VerdictLoop, "out_loops", "Packets dropped when leaving by the tunnel, since a tunnel would have routed them back.";
    VerdictRecursion, "out_recursions", "A tunnel's own outer packets that were routed into the tunnel that they carry, caught at this interface; dropped.";
    Recursions, "recursions", "Outer packets with this tunnel's address that were routed into it although they carry it, at any interface; dropped.";
    CarriedOut, "carried_out", "Packets that the programs handed to the uplink with an outer header.";
    CarriedIn, "carried_in", "Packets that arrived for the tunnel with an outer header that the programs removed.";
    CarriedOutLeft, "carried_out_left", "Packets that left by a tunnel of the programs, which they left to the daemon: it sends them in fragments, or they are in another tunnel.";
    CarriedInFragments, "carried_in_fragments", "Fragments of outer packets, which the programs left to the kernel and the daemon.";
    CarriedInMalformed, "carried_in_malformed", "Outer packets without a complete IPv6 packet, which the programs left to the kernel.";
    CarriedInOwnSource, "carried_in_own_source", "Outer packets whose inner source is an address behind this host, which the programs left to the kernel.";
    CarriedInOther, "carried_in_other_destination", "Outer packets whose inner destination does not belong to the tunnel, which the programs left to the kernel.";
    CarriedInCongested, "carried_in_congested", "Outer packets with a congestion mark that the inner packet cannot take (RFC 6040); dropped.";
    CarriedOutDropped, "carried_out_dropped", "Packets of a tunnel that the programs could not hand to the uplink, after they had changed them; dropped.";
    EchoByPrograms, "echo_answered_by_programs", "Echo requests that arrived by the tunnel for an address of its own, and that the programs answered.";
    CarriedOutTooBig, "carried_out_too_big", "Packets of a tunnel of the programs that were too long for the path to the broker, and so were answered by Packet Too Big.";
}

/// Number of entries in [`Counters`]: more than there are counters, so that a new one does not change
/// the shape of pinned maps.
pub const CAPACITY: usize = 64;

const _: () = assert!(Stat::ALL.len() <= CAPACITY);

/// One processor's counters of one slot, indexed by [`Stat`].
pub type Counters = [u64; CAPACITY];

impl Stat {
    /// The verdicts of the egress program. Every packet increments exactly one of them, at the
    /// interface that it reached, so their sum is the number of packets.
    pub const VERDICTS: [Self; 12] = [
        Self::VerdictOther,
        Self::VerdictUnparsed,
        Self::VerdictNotOurs,
        Self::VerdictExempt,
        Self::VerdictOwn,
        Self::VerdictStray,
        Self::VerdictRedirected,
        Self::VerdictDropped,
        Self::VerdictObserved,
        Self::VerdictTooBig,
        Self::VerdictLoop,
        Self::VerdictRecursion,
    ];

    /// Whether this is a point in time (the latest value counts) instead of a sum.
    #[must_use]
    pub const fn is_time(self) -> bool {
        matches!(
            self,
            Self::LastRequestIn
                | Self::LastReplyIn
                | Self::LastRequestOut
                | Self::LastReplyOut
                | Self::LastAnswer
        )
    }

    /// Index in [`Counters`].
    #[inline(always)]
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The value for all processors together: the sum, or the latest time.
    #[must_use]
    pub fn combined<'a>(self, processors: impl IntoIterator<Item = &'a Counters>) -> u64 {
        let values = processors
            .into_iter()
            .map(|counters| counters[self.index()]);
        if self.is_time() {
            values.max().unwrap_or(0)
        } else {
            values.fold(0, u64::wrapping_add)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_help_is_a_sentence() {
        for (index, stat) in Stat::ALL.iter().enumerate() {
            assert_eq!(stat.index(), index);
            assert!(
                Stat::ALL[..index]
                    .iter()
                    .all(|other| other.name() != stat.name())
            );
            assert!(
                stat.help().ends_with('.') || stat.is_time(),
                "{}",
                stat.name()
            );
        }
    }

    #[test]
    fn times_take_the_latest_and_counts_add_up() {
        let mut one = [0; CAPACITY];
        let mut two = [0; CAPACITY];
        one[Stat::InPackets.index()] = 3;
        two[Stat::InPackets.index()] = 4;
        one[Stat::LastReplyOut.index()] = 30;
        two[Stat::LastReplyOut.index()] = 40;
        assert_eq!(Stat::InPackets.combined([&one, &two]), 7);
        assert_eq!(Stat::LastReplyOut.combined([&one, &two]), 40);
    }

    #[test]
    fn only_times_are_called_so() {
        for stat in Stat::ALL {
            let is_called_so = stat.name().ends_with("_ns");
            assert_eq!(stat.is_time(), is_called_so, "{}", stat.name());
        }
    }
}
