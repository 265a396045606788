//! The actions of the programs for leaks.
//!
//! [`treat`] decides on the action, both for the kernel program and for `sixxs explain`. The maps store the
//! raw numbers of these enums; [`TryFrom`] converts them back.

use core::{fmt, str::FromStr};

use crate::{layout::Tunnel, stat::Stat, too_big::MINIMUM_MTU};

/// The policy for leaks, from the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum OnLeak {
    /// Redirects the leak into the tunnel that its source belongs to.
    #[default]
    Redirect = 0,
    /// Drops the leak.
    Drop = 1,
    /// Counts and reports the leak, and lets it pass.
    Observe = 2,
}

impl OnLeak {
    /// All policies.
    pub const ALL: [Self; 3] = [Self::Redirect, Self::Drop, Self::Observe];

    /// The value of [`Tunnel::on_leak`].
    #[inline(always)]
    #[must_use]
    pub const fn raw(self) -> u8 {
        self as u8
    }

    /// The policy's name in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Redirect => "redirect",
            Self::Drop => "drop",
            Self::Observe => "observe",
        }
    }
}

impl TryFrom<u8> for OnLeak {
    type Error = Unknown;

    #[inline(always)]
    fn try_from(raw: u8) -> Result<Self, Unknown> {
        match raw {
            0 => Ok(Self::Redirect),
            1 => Ok(Self::Drop),
            2 => Ok(Self::Observe),
            _ => Err(Unknown),
        }
    }
}

impl FromStr for OnLeak {
    type Err = Unknown;

    fn from_str(text: &str) -> Result<Self, Unknown> {
        let mut all = Self::ALL.into_iter();
        all.find(|policy| policy.name() == text).ok_or(Unknown)
    }
}

impl fmt::Display for OnLeak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The number or the word is not one of the values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unknown;

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no such treatment")
    }
}

impl core::error::Error for Unknown {}

/// The action for one leak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Treatment {
    /// The leak is redirected into the tunnel.
    Redirected = 0,
    /// The leak is dropped by policy.
    Dropped = 1,
    /// The leak passes by policy.
    Observed = 2,
    /// The leak is too big for the tunnel. The sender gets a Packet Too Big.
    TooBig = 3,
    /// The leak is dropped, because the tunnel's interface does not exist or is down.
    NoTunnel = 4,
    /// The leak is dropped, because it is an outer packet of the tunnel to which it would be redirected.
    Recursion = 5,
    /// The leak is too big for the tunnel. It is dropped without a Packet Too Big, because none is allowed or
    /// possible.
    TooBigDropped = 6,
}

impl Treatment {
    /// All treatments.
    pub const ALL: [Self; 7] = [
        Self::Redirected,
        Self::Dropped,
        Self::Observed,
        Self::TooBig,
        Self::NoTunnel,
        Self::Recursion,
        Self::TooBigDropped,
    ];

    /// The value of [`FlowRecord::treatment`](crate::layout::FlowRecord::treatment).
    #[inline(always)]
    #[must_use]
    pub const fn raw(self) -> u32 {
        self as u32
    }

    /// The counter of the tunnel. [`Self::NoTunnel`] also counts as [`Stat::LeakNoTunnel`].
    #[inline(always)]
    #[must_use]
    pub const fn stat(self) -> Stat {
        match self {
            Self::Redirected => Stat::LeakRedirected,
            Self::Dropped | Self::NoTunnel => Stat::LeakDropped,
            Self::Observed => Stat::LeakObserved,
            Self::TooBig | Self::TooBigDropped => Stat::LeakTooBig,
            Self::Recursion => Stat::Recursions,
        }
    }
}

impl TryFrom<u32> for Treatment {
    type Error = Unknown;

    #[inline(always)]
    fn try_from(raw: u32) -> Result<Self, Unknown> {
        match raw {
            0 => Ok(Self::Redirected),
            1 => Ok(Self::Dropped),
            2 => Ok(Self::Observed),
            3 => Ok(Self::TooBig),
            4 => Ok(Self::NoTunnel),
            5 => Ok(Self::Recursion),
            6 => Ok(Self::TooBigDropped),
            _ => Err(Unknown),
        }
    }
}

/// Whether a packet fits an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// The packet fits.
    Fits,
    /// The packet does not fit. The interface has this MTU, in bytes.
    TooBig(u32),
    /// The interface does not exist.
    NoInterface,
}

/// The properties of a leak that [`treat`] reads. Methods, so that [`treat`] computes only those that it needs.
pub trait Leak {
    /// Length of the IPv6 packet in bytes; for a batch, of its longest segment.
    fn longest_bytes(&self) -> u32;

    /// Whether the packet fits the interface with this index.
    fn fit(&self, ifindex: u32) -> Fit;

    /// Whether the packet is a known outer packet of the tunnel.
    fn is_recursion(&self) -> bool;
}

/// The outcome of [`treat`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The action. If the program cannot redirect the leak, the action becomes [`Treatment::NoTunnel`]; if it
    /// cannot send the Packet Too Big, [`Treatment::TooBigDropped`].
    pub treatment: Treatment,
    /// For [`Treatment::TooBig`], the MTU in the Packet Too Big, in bytes; otherwise 0.
    pub mtu: u32,
}

/// Decides what to do with a leak of `tunnel`.
#[inline(always)]
pub fn treat<L: Leak>(tunnel: &Tunnel, leak: &L) -> Decision {
    let decided = |treatment| Decision { treatment, mtu: 0 };
    let too_big = |mtu: u32| Decision {
        treatment: Treatment::TooBig,
        mtu: mtu.max(MINIMUM_MTU),
    };
    match OnLeak::try_from(tunnel.on_leak) {
        Ok(OnLeak::Drop) => return decided(Treatment::Dropped),
        Ok(OnLeak::Observe) => return decided(Treatment::Observed),
        Ok(OnLeak::Redirect) | Err(Unknown) => {}
    }
    if tunnel.ifindex == 0 {
        return decided(Treatment::NoTunnel);
    }
    let longest = leak.longest_bytes();
    match leak.fit(tunnel.ifindex) {
        Fit::NoInterface => return decided(Treatment::NoTunnel),
        // IPv6 requires that every link carries packets of this length (RFC 8200, section 5).
        _ if longest <= MINIMUM_MTU => {}
        Fit::TooBig(mtu) => return too_big(mtu.min(tunnel.mtu)),
        Fit::Fits if longest > tunnel.mtu => return too_big(tunnel.mtu),
        Fit::Fits => {}
    }
    if leak.is_recursion() {
        return decided(Treatment::Recursion);
    }
    decided(Treatment::Redirected)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Packet {
        bytes: u32,
        fit: Fit,
        is_recursion: bool,
    }

    impl Leak for Packet {
        fn longest_bytes(&self) -> u32 {
            self.bytes
        }

        fn fit(&self, ifindex: u32) -> Fit {
            assert_eq!(ifindex, 7);
            self.fit
        }

        fn is_recursion(&self) -> bool {
            self.is_recursion
        }
    }

    #[test]
    #[rustfmt::skip] // one case per line
    fn every_treatment() {
        use Treatment::{Dropped, NoTunnel, Observed, Recursion, Redirected, TooBig};
        const REDIRECT: u8 = OnLeak::Redirect.raw();
        const DROP: u8 = OnLeak::Drop.raw();
        const OBSERVE: u8 = OnLeak::Observe.raw();
        let (fits, none, narrow) = (Fit::Fits, Fit::NoInterface, Fit::TooBig(1300));
        // policy, tunnel's index and MTU, packet's length, fit and recursion, expected treatment and MTU
        for (on_leak, ifindex, mtu, bytes, fit, is_recursion, treatment, reported) in [
            (REDIRECT, 7, 1400,  100, fits,              false, Redirected,    0),
            (REDIRECT, 7, 1400, 1400, fits,              false, Redirected,    0),
            (REDIRECT, 7, 1400, 1401, fits,              false, TooBig,     1400),
            (REDIRECT, 7, 1400, 1400, narrow,            false, TooBig,     1300),
            (REDIRECT, 7, 1280, 1400, narrow,            false, TooBig,     1280),
            // IPv6 requires an MTU of at least 1280 bytes. A smaller MTU counts as 1280.
            (REDIRECT, 7, 1000, 1280, fits,              false, Redirected,    0),
            (REDIRECT, 7, 1000, 1281, fits,              false, TooBig,     1280),
            (REDIRECT, 7, 1400, 1280, Fit::TooBig(1000), false, Redirected,    0),
            (REDIRECT, 7, 1400, 1281, Fit::TooBig(1000), false, TooBig,     1280),
            (REDIRECT, 0, 1400,  100, fits,              false, NoTunnel,      0),
            (REDIRECT, 7, 1400,  100, none,              false, NoTunnel,      0),
            (REDIRECT, 7, 1400, 9000, none,              false, NoTunnel,      0),
            (REDIRECT, 7, 1400,  100, fits,              true,  Recursion,     0),
            (REDIRECT, 7, 1400, 1401, fits,              true,  TooBig,     1400),
            (REDIRECT, 7, 1400,  100, none,              true,  NoTunnel,      0),
            // The policy is checked first.
            (DROP,     7, 1400,  100, fits,              false, Dropped,       0),
            (DROP,     0, 1400, 9000, none,              true,  Dropped,       0),
            (OBSERVE,  7, 1400,  100, fits,              false, Observed,      0),
            (OBSERVE,  0, 1400, 9000, none,              true,  Observed,      0),
            // An unknown policy redirects.
            (9,        7, 1400,  100, fits,              false, Redirected,    0),
        ] {
            let tunnel = Tunnel { ifindex, mtu, on_leak, ..Tunnel::default() };
            let packet = Packet { bytes, fit, is_recursion };
            let expected = Decision { treatment, mtu: reported };
            assert_eq!(treat(&tunnel, &packet), expected, "{tunnel:?} {bytes} {fit:?}");
        }
    }

    #[test]
    fn numbers_are_read_back() {
        for (number, treatment) in (0..).zip(Treatment::ALL) {
            assert_eq!(treatment.raw(), number);
            assert_eq!(Treatment::try_from(number), Ok(treatment));
        }
        for (number, policy) in (0..).zip(OnLeak::ALL) {
            assert_eq!(policy.raw(), number);
            assert_eq!(OnLeak::try_from(number), Ok(policy));
            assert_eq!(policy.name().parse(), Ok(policy));
        }
        assert_eq!(Treatment::try_from(7), Err(Unknown));
        assert_eq!(OnLeak::try_from(3), Err(Unknown));
        assert_eq!("panic".parse::<OnLeak>(), Err(Unknown));
    }

    #[test]
    fn each_treatment_has_its_counter() {
        for (treatment, counter) in [
            (Treatment::Redirected, "leaks_redirected"),
            (Treatment::Dropped, "leaks_dropped"),
            (Treatment::Observed, "leaks_observed"),
            (Treatment::TooBig, "leaks_too_big"),
            (Treatment::TooBigDropped, "leaks_too_big"),
            (Treatment::NoTunnel, "leaks_dropped"),
            (Treatment::Recursion, "recursions"),
        ] {
            assert_eq!(treatment.stat().name(), counter, "{treatment:?}");
        }
    }

    #[test]
    fn a_policy_is_printed_as_it_is_written() {
        for policy in OnLeak::ALL {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        assert_eq!(Unknown.to_string(), "no such treatment");
    }
}
