//! Reasons why a tunnel is not healthy, and their texts.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

use sixxs_common::treatment::Treatment;

use super::{Level, ShadowEffect, ShadowFate};
use crate::{
    echo_health::EchoHealth,
    link_quality::Quality,
    tunnel::State,
    types::{IfName, Mtu},
    wireguard::handshakes::Unanswered,
};

/// Why a ping from outside would not be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoAnswer {
    /// The sentence of the inside test.
    pub sentence: String,
    /// What to do, if that is known.
    pub cure: Option<String>,
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)?;
        match &self.cure {
            Some(cure) => write!(f, "; {cure}"),
            None => Ok(()),
        }
    }
}

/// One fault of a tunnel. `Display` gives a clause about a tunnel that was named before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is not up.
    NotUp(State),
    /// Its interface has no carrier.
    NoCarrier,
    /// Its interface's MTU is too small for IPv6.
    MtuTooSmall(Mtu),
    /// Another host on the link has the address.
    Duplicate(Ipv6Addr),
    /// Duplicate address detection of the address has not ended.
    Tentative(Ipv6Addr),
    /// Another interface has the address.
    Elsewhere(Ipv6Addr, IfName),
    /// No interface has the address.
    NoAddress(Ipv6Addr),
    /// Its interface has no global address to follow.
    NothingToFollow,
    /// The host has no prefix for it.
    NoPrefix,
    /// Number of further addresses with a fault.
    MoreAddresses(usize),
    /// All addresses of this uplink belong to the tunnel or to its prefixes.
    CoversUplink(IfName),
    /// A foreign rule comes before the rules of sixxs.
    Shadowed(ShadowEffect),
    /// Its packets continue to go to other interfaces.
    Leaking(Treatment),
    /// The broker sends to this address, which this host does not have any more.
    BrokerSendsElsewhere(Ipv4Addr),
    /// This many echo requests in a row got no reply.
    Unanswered(u64),
    /// Replies have been missing for a longer time.
    Silent(EchoHealth),
    /// Its peer of WireGuard does not answer.
    PeerSilent(Unanswered),
    /// A ping from outside would not be answered, by the last inside test.
    NoAnswer(NoAnswer),
    /// Too many of its probes got no reply, or the replies take too long.
    Probed(Quality),
    /// Its rules or routes are missing.
    NotRouted,
    /// Its program is missing.
    NoProgram,
}

impl Reason {
    /// Its level.
    #[must_use]
    pub const fn level(&self) -> Level {
        match self {
            Self::Shadowed(ShadowEffect {
                fate: ShadowFate::Redirected,
                ..
            })
            | Self::Leaking(Treatment::Redirected | Treatment::TooBig | Treatment::TooBigDropped) => {
                Level::Degraded
            }
            Self::NotUp(_)
            | Self::NoCarrier
            | Self::MtuTooSmall(_)
            | Self::Duplicate(_)
            | Self::Tentative(_)
            | Self::Elsewhere(..)
            | Self::NoAddress(_)
            | Self::NothingToFollow
            | Self::NoPrefix
            | Self::MoreAddresses(_)
            | Self::CoversUplink(_)
            | Self::Shadowed(ShadowEffect {
                fate: ShadowFate::Lost | ShadowFate::Refused,
                ..
            })
            | Self::Leaking(
                Treatment::Dropped
                | Treatment::NoTunnel
                | Treatment::Recursion
                | Treatment::Observed,
            )
            | Self::BrokerSendsElsewhere(_)
            | Self::Unanswered(_)
            | Self::Silent(_)
            | Self::PeerSilent(_)
            | Self::NoAnswer(_)
            | Self::Probed(_)
            | Self::NotRouted
            | Self::NoProgram => Level::Failing,
        }
    }
}

impl Reason {
    /// Whether no repair of sixxs can end it within a moment, so that waiting for one costs packets.
    #[must_use]
    pub const fn is_certain(&self) -> bool {
        matches!(self, Self::NotUp(_) | Self::NoCarrier | Self::Probed(_))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotUp(state) => {
                write!(f, "it is {}", state.name().replace('_', " "))?;
                match state.reason() {
                    Some(reason) => write!(f, ": {reason}"),
                    None => Ok(()),
                }
            }
            Self::NoCarrier => {
                f.write_str("its interface has no carrier; look at the far end of the link")
            }
            Self::MtuTooSmall(mtu) => write!(
                f,
                "its interface has an MTU of {mtu} bytes; IPv6 needs {}",
                Mtu::MINIMUM
            ),
            Self::NothingToFollow => write!(
                f,
                "its interface has no global address; look whether it gets router advertisements or a lease"
            ),
            Self::NoPrefix => f.write_str(
                "the host has no prefix for it yet; look whether a DHCPv6 client gets one, or whether the interfaces of \
                 `prefix_from` have a global address",
            ),
            Self::Duplicate(_)
            | Self::Tentative(_)
            | Self::Elsewhere(..)
            | Self::NoAddress(_)
            | Self::MoreAddresses(_) => addresses(self, f),
            Self::CoversUplink(name) => write!(
                f,
                "its addresses and prefixes cover every address of {name}: all native traffic goes into \
                 the tunnel; correct `addresses` and `prefixes` in the configuration"
            ),
            Self::Shadowed(effect) => shadowed(effect, f),
            Self::Leaking(treatment) => leaking(*treatment, f),
            Self::BrokerSendsElsewhere(address) => sends_elsewhere(*address, f),
            Self::Unanswered(row) => write!(
                f,
                "the last {row} echo requests got no reply; see `sixxs doctor` for what may drop them"
            ),
            Self::Silent(health) => health.fmt(f),
            Self::PeerSilent(unanswered) => unanswered.fmt(f),
            Self::NoAnswer(no_answer) => no_answer.fmt(f),
            Self::Probed(quality) => quality.fmt(f),
            Self::NotRouted => write!(f, "its rules or routes are missing"),
            Self::NoProgram => write!(f, "its program is not attached"),
        }
    }
}

/// The faults of addresses.
fn addresses(reason: &Reason, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match reason {
        Reason::Duplicate(address) => write!(
            f,
            "{address} is a duplicate: another host on the link has it"
        ),
        Reason::Tentative(address) => write!(
            f,
            "{address} is tentative: duplicate address detection has not ended"
        ),
        Reason::Elsewhere(address, name) => write!(
            f,
            "{address} is an address of {name}; it belongs on the tunnel's interface alone"
        ),
        Reason::NoAddress(address) => write!(f, "{address} is not on its interface"),
        Reason::MoreAddresses(more) => {
            write!(f, "{more} more of its addresses have a fault")
        }
        _ => Ok(()),
    }
}

fn sends_elsewhere(address: Ipv4Addr, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(
        f,
        "the broker sends to {address}, but this host now reaches the broker by another address; the line `update` of \
         `sixxs status` names the obstacle"
    )
}

fn shadowed(effect: &ShadowEffect, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let rule = format!(
        "a rule before the rules of sixxs (priority {})",
        effect.priority
    );
    match effect.fate {
        ShadowFate::Redirected => write!(
            f,
            "{rule} routes its packets elsewhere; the program redirects them"
        )?,
        ShadowFate::Lost => write!(f, "{rule} routes its packets elsewhere")?,
        ShadowFate::Refused => write!(f, "{rule} refuses its packets")?,
    }
    write!(
        f,
        "; `sixxs doctor` shows how to remove that rule or move it behind the rules of sixxs"
    )
}

fn leaking(treatment: Treatment, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match treatment {
        Treatment::Redirected | Treatment::TooBig | Treatment::TooBigDropped => write!(
            f,
            "its packets go to other interfaces; the program redirects them"
        )?,
        Treatment::Dropped | Treatment::NoTunnel => write!(
            f,
            "its packets go to other interfaces; the program drops them (`on_leak`)"
        )?,
        Treatment::Recursion => write!(
            f,
            "its outer packets have its own address and would go into it; the program drops them"
        )?,
        Treatment::Observed => write!(f, "its packets leave by other interfaces (`on_leak`)")?,
    }
    write!(f, "; `sixxs alerts` names the senders")
}
