//! Why a tunnel failed, in a few words.

use std::fmt;

use crate::{echo_health::EchoHealth, health::Reason, link_quality::Quality, tunnel::State};

/// Defines the causes. The position of a cause in this list is its code in files: new ones come at the end, up to 30.
macro_rules! causes {
    ($($(#[$meta:meta])* $name:ident = $words:literal,)+) => {
        /// Why a tunnel was not healthy.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Cause {
            $($(#[$meta])* $name,)+
            /// A cause that this version does not know.
            Unknown,
        }

        impl Cause {
            /// All that this version knows, in the order of their codes.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// Its words.
            #[must_use]
            pub const fn words(self) -> &'static str {
                match self {
                    $(Self::$name => $words,)+
                    Self::Unknown => "unknown",
                }
            }
        }
    };
}

causes! {
    /// A user has stopped it.
    Stopped = "stopped",
    /// Its interface does not exist.
    InterfaceMissing = "interface missing",
    /// Its interface is down.
    InterfaceDown = "interface down",
    /// Its driver is bringing it up.
    Connecting = "connecting",
    /// The broker refuses connects.
    LockedOut = "locked out",
    /// Its driver has failed.
    DriverFailed = "driver failed",
    /// Outer packets leave for the broker, and none arrives from there.
    BrokerSilent = "broker silent",
    /// Its peer of WireGuard does not answer.
    PeerSilent = "peer silent",
    /// Its interface has no carrier.
    NoCarrier = "no carrier",
    /// Too many probes got no reply.
    PacketsLost = "packets lost",
    /// The replies to probes take too long.
    RepliesSlow = "replies slow",
    /// Pings from outside got no reply.
    NoReply = "no reply",
    /// Replies left by another interface, or were dropped there.
    RepliesAstray = "replies astray",
    /// Its packets go to other interfaces.
    PacketsLeak = "packets leak",
    /// A foreign rule comes before the rules of sixxs.
    ForeignRule = "foreign rule",
    /// It has no address, or lacks one.
    AddressMissing = "address missing",
    /// An address is a duplicate, or duplicate address detection has not ended.
    AddressDuplicate = "address duplicate",
    /// An address is on another interface.
    AddressElsewhere = "address elsewhere",
    /// The host has no prefix for it.
    NoPrefix = "no prefix",
    /// The MTU of its interface is too small for IPv6.
    MtuTooSmall = "mtu too small",
    /// Its addresses and prefixes cover those of an uplink.
    CoversUplink = "uplink covered",
    /// The broker sends to another address.
    BrokerSendsElsewhere = "broker sends elsewhere",
    /// Rules or routes are missing.
    RoutingMissing = "routing missing",
    /// Its program is not attached.
    ProgramMissing = "program missing",
    /// The last inside test got no answer.
    InsideTestFailed = "inside test failed",
}

/// The highest code that a record has room for.
const MAX_CODE: u64 = 31;

impl Cause {
    /// The cause for a reason of health. `has_interface`: its interface exists. `is_silent`: outer packets left for the
    /// far end, and none arrived.
    #[must_use]
    pub const fn of(reason: &Reason, has_interface: bool, is_silent: bool) -> Self {
        match reason {
            Reason::NotUp(State::Down) => Self::Stopped,
            Reason::NotUp(State::LockedOut(_)) => Self::LockedOut,
            Reason::NotUp(State::Retrying(_) | State::Failed(_)) => Self::DriverFailed,
            Reason::NotUp(State::Connecting(_)) | Reason::Probed(Quality::Lossy { .. })
                if is_silent =>
            {
                Self::BrokerSilent
            }
            Reason::NotUp(State::Connecting(_)) => Self::Connecting,
            Reason::NotUp(State::Waiting(_) | State::Up) if has_interface => Self::InterfaceDown,
            Reason::NotUp(State::Waiting(_) | State::Up) => Self::InterfaceMissing,
            Reason::NoCarrier => Self::NoCarrier,
            Reason::MtuTooSmall(_) => Self::MtuTooSmall,
            Reason::Duplicate(_) | Reason::Tentative(_) => Self::AddressDuplicate,
            Reason::Elsewhere(..) => Self::AddressElsewhere,
            Reason::NoAddress(_) | Reason::MoreAddresses(_) | Reason::NothingToFollow => {
                Self::AddressMissing
            }
            Reason::NoPrefix => Self::NoPrefix,
            Reason::CoversUplink(_) => Self::CoversUplink,
            Reason::Shadowed(_) => Self::ForeignRule,
            Reason::Leaking(_) => Self::PacketsLeak,
            Reason::BrokerSendsElsewhere(_) => Self::BrokerSendsElsewhere,
            Reason::Silent(EchoHealth::Astray { .. }) => Self::RepliesAstray,
            Reason::Unanswered(_) | Reason::Silent(_) => Self::NoReply,
            Reason::NoAnswer(_) => Self::InsideTestFailed,
            Reason::PeerSilent(_) => Self::PeerSilent,
            Reason::Probed(Quality::Slow { .. }) => Self::RepliesSlow,
            Reason::Probed(Quality::Lossy { .. } | Quality::Good) => Self::PacketsLost,
            Reason::NotRouted => Self::RoutingMissing,
            Reason::NoProgram => Self::ProgramMissing,
        }
    }

    /// Its code in files, 1 to 31.
    pub(super) fn code(self) -> u64 {
        let place = Self::ALL.iter().position(|cause| *cause == self);
        let code = place.and_then(|place| u64::try_from(place + 1).ok());
        code.unwrap_or(MAX_CODE)
    }

    /// The cause with a code; `None` for 0, no cause.
    pub(super) fn from_code(code: u64) -> Option<Self> {
        let place = usize::try_from(code.checked_sub(1)?).ok()?;
        Some(Self::ALL.get(place).copied().unwrap_or(Self::Unknown))
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.words())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn codes_are_the_positions_in_the_list() {
        assert_eq!(Cause::Stopped.code(), 1);
        assert_eq!(Cause::ProgramMissing.code(), 24);
        for cause in Cause::ALL {
            assert!(cause.code() < MAX_CODE, "{cause}");
            assert_eq!(Cause::from_code(cause.code()), Some(*cause));
        }
        assert_eq!(Cause::from_code(0), None);
        assert_eq!(Cause::from_code(30), Some(Cause::Unknown));
        assert_eq!(
            Cause::from_code(Cause::Unknown.code()),
            Some(Cause::Unknown)
        );
    }

    #[test]
    fn the_words_are_short_and_different() {
        let mut words: Vec<_> = Cause::ALL.iter().map(|cause| cause.words()).collect();
        assert!(words.iter().all(|words| words.len() <= 22), "{words:?}");
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Cause::ALL.len());
    }

    #[test]
    fn a_reason_has_a_cause() {
        let lossy = Reason::Probed(Quality::Lossy {
            lost: 5,
            sent: 20,
            window: Duration::from_secs(30),
        });
        let not_up = |state| Reason::NotUp(state);
        let waiting = not_up(State::Waiting(String::new()));
        for (reason, has_interface, is_silent, expected) in [
            (&not_up(State::Down), true, true, "stopped"),
            (&waiting, false, false, "interface missing"),
            (&waiting, true, true, "interface down"),
            (&not_up(State::Connecting(None)), true, false, "connecting"),
            (
                &not_up(State::Connecting(None)),
                true,
                true,
                "broker silent",
            ),
            (&lossy, true, false, "packets lost"),
            (&lossy, true, true, "broker silent"),
            (&Reason::Unanswered(3), true, false, "no reply"),
            (&Reason::NoCarrier, true, true, "no carrier"),
        ] {
            let found = Cause::of(reason, has_interface, is_silent);
            assert_eq!(found.to_string(), expected, "{reason:?}");
        }
        let astray = EchoHealth::Astray {
            requests: 9,
            astray: 3,
        };
        let found = Cause::of(&Reason::Silent(astray), true, false);
        assert_eq!(found, Cause::RepliesAstray);
    }
}
