//! The health of a tunnel: one evaluation for `status`, `check`, `top`, metrics, alerts and exit
//! statuses.
//!
//! Pure. The daemon gathers the facts; nothing else decides whether a tunnel is healthy.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use sixxs_common::treatment::Treatment;

use crate::{
    echo_health::EchoHealth,
    failure_tracker::REPAIR_TIME,
    link::{Link, Unusable},
    link_quality::Quality,
    tunnel::State,
    types::{IfName, Mtu, RulePriority},
    wireguard::handshakes::Unanswered,
};

mod reason;
mod watch;

pub use reason::{NoAnswer, Reason};
pub use watch::{STABLE_TIME, Watch};

/// How well a tunnel does its job, from good to bad.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Replies leave by the tunnel.
    #[default]
    Healthy,
    /// Replies leave by the tunnel because the kernel programs redirect them.
    Degraded,
    /// Replies do not leave by the tunnel, or cannot.
    Failing,
}

impl Level {
    /// Its name in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Failing => "failing",
        }
    }
}

/// The result of the evaluation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// The worst level of all reasons.
    pub level: Level,
    /// All faults, the worst first.
    pub reasons: Vec<Reason>,
}

/// The known facts about a tunnel at one time.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Its state.
    pub state: &'a State,
    /// Its interface, if there is one.
    pub link: Option<&'a Link>,
    /// The addresses that it should have.
    pub addresses: &'a [Ipv6Addr],
    /// Whether it takes them from its interface.
    pub follows_addresses: bool,
    /// Whether it has neither addresses nor prefixes, because the host has none for it.
    pub lacks_sources: bool,
    /// Addresses of the tunnel that are on another interface.
    pub elsewhere: &'a [(Ipv6Addr, IfName)],
    /// An uplink whose addresses all belong to the tunnel or to its prefixes.
    pub covered_uplink: Option<&'a IfName>,
    /// Whether its rules and routes are in place.
    pub is_routed: bool,
    /// Whether its program is attached.
    pub has_program: bool,
    /// A foreign rule that comes before the rules of sixxs.
    pub shadow: Option<&'a ShadowEffect>,
    /// The treatment of packets that go to other interfaces, while they continue to ([`Leaking::treatment`]).
    pub leaks: Option<Treatment>,
    /// The broker certainly sends to this address, which this host does not have any more.
    pub broker_sends_to: Option<Ipv4Addr>,
    /// Number of requests without a reply since the last reply, except recent ones; 0 for none.
    pub unanswered_in_a_row: u64,
    /// The result of echo pairing over a longer time.
    pub echo_health: EchoHealth,
    /// A peer of WireGuard that does not answer, if no other peer does.
    pub unanswered_peer: Option<Unanswered>,
    /// Why it would not answer, by the last inside test; `None`: it would, or this is not known.
    pub no_answer: Option<&'a NoAnswer>,
    /// The result of its probes.
    pub quality: Quality,
}

/// The effect of a foreign rule on the packets of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShadowEffect {
    /// The priority of the rule.
    pub priority: RulePriority,
    /// What happens to the packets.
    pub fate: ShadowFate,
}

/// What happens to packets that a foreign rule takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShadowFate {
    /// They leave by an interface whose program redirects them into the tunnel.
    Redirected,
    /// They leave by another interface.
    Lost,
    /// The kernel refuses them (`blackhole`, `unreachable`, `prohibit`).
    Refused,
}

/// Leaks of a tunnel, in order of time. Times are since a moment that the caller chooses.
#[derive(Clone, Copy, Debug)]
pub struct Leaking {
    since: Duration,
    last: Duration,
    treatment: Treatment,
}

impl Leaking {
    /// After this time without a leak, the leaks have ended. The programs report each flow once a second.
    const QUIET_TIME: Duration = Duration::from_secs(5);

    /// The first leak.
    #[must_use]
    pub const fn begin(now: Duration, treatment: Treatment) -> Self {
        Self {
            since: now,
            last: now,
            treatment: health_treatment(treatment),
        }
    }

    /// One more leak.
    pub fn add(&mut self, now: Duration, treatment: Treatment) {
        if now.saturating_sub(self.last) > Self::QUIET_TIME {
            self.since = now;
        }
        self.last = now;
        self.treatment = health_treatment(treatment);
    }

    /// The treatment of the packets, if the leaks continue for longer than a repair takes.
    #[must_use]
    pub fn treatment(&self, now: Duration) -> Option<Treatment> {
        let goes_on = now.saturating_sub(self.last) <= Self::QUIET_TIME;
        let lasts = self.last.saturating_sub(self.since) >= REPAIR_TIME;
        (goes_on && lasts).then_some(self.treatment)
    }
}

/// The treatment that determines the health. A leak that is too big for the tunnel counts like a redirect,
/// and the reason for a drop makes no difference.
const fn health_treatment(treatment: Treatment) -> Treatment {
    match treatment {
        Treatment::Redirected | Treatment::TooBig | Treatment::TooBigDropped => {
            Treatment::Redirected
        }
        Treatment::Dropped | Treatment::NoTunnel => Treatment::Dropped,
        Treatment::Observed | Treatment::Recursion => treatment,
    }
}

/// The maximum number of addresses to name.
const NAMED: usize = 4;

/// Number of unanswered requests in a row that is no coincidence.
pub const UNANSWERED: u64 = 3;

impl Health {
    /// Evaluates the facts about a tunnel.
    #[must_use]
    pub fn judge(facts: &Facts<'_>) -> Self {
        let mut reasons = Vec::new();
        if *facts.state == State::Up {
            reasons.extend(link(facts));
            reasons.extend(facts.covered_uplink.cloned().map(Reason::CoversUplink));
            reasons.extend(facts.shadow.cloned().map(Reason::Shadowed));
            reasons.extend(facts.leaks.map(Reason::Leaking));
            reasons.extend(facts.broker_sends_to.map(Reason::BrokerSendsElsewhere));
            reasons.extend(silence(facts));
            reasons.extend(facts.no_answer.cloned().map(Reason::NoAnswer));
            reasons.extend(facts.unanswered_peer.map(Reason::PeerSilent));
            reasons
                .extend((facts.quality != Quality::Good).then_some(Reason::Probed(facts.quality)));
        } else {
            reasons.push(Reason::NotUp(facts.state.clone()));
        }
        if !facts.is_routed {
            reasons.push(Reason::NotRouted);
        }
        if !facts.has_program {
            reasons.push(Reason::NoProgram);
        }
        // The sort is stable: reasons of the same level keep their order.
        reasons.sort_by_key(|reason| Reverse(reason.level()));
        Self {
            level: reasons.first().map_or(Level::Healthy, Reason::level),
            reasons,
        }
    }
}

/// Faults of the interface and its addresses.
fn link(facts: &Facts<'_>) -> Vec<Reason> {
    let Some(link) = facts.link else {
        return Vec::new();
    };
    let mut reasons = Vec::new();
    if !link.carrier {
        reasons.push(Reason::NoCarrier);
    }
    if link.mtu < Mtu::MINIMUM {
        reasons.push(Reason::MtuTooSmall(link.mtu));
    }
    // Sets, because a tunnel may have thousands of addresses.
    let own: BTreeSet<_> = link.addresses.iter().collect();
    let elsewhere: BTreeMap<_, _> = facts.elsewhere.iter().map(|(a, name)| (a, name)).collect();
    if facts.follows_addresses && facts.addresses.is_empty() {
        reasons.push(Reason::NothingToFollow);
    } else if facts.lacks_sources {
        reasons.push(Reason::NoPrefix);
    }
    let mut of_addresses = Vec::new();
    for address in facts.addresses {
        let elsewhere = elsewhere.get(address);
        let has = own.contains(address);
        of_addresses.extend(match (has, link.unusable.get(address), elsewhere) {
            (true, Some(Unusable::Duplicate), _) => Some(Reason::Duplicate(*address)),
            (true, Some(Unusable::Tentative), _) => Some(Reason::Tentative(*address)),
            (_, _, Some(name)) => Some(Reason::Elsewhere(*address, (*name).clone())),
            (false, _, None) => Some(Reason::NoAddress(*address)),
            (true, None, None) => None,
        });
    }
    let more = of_addresses.len().saturating_sub(NAMED);
    of_addresses.truncate(NAMED);
    reasons.append(&mut of_addresses);
    if more > 0 {
        reasons.push(Reason::MoreAddresses(more));
    }
    reasons
}

fn silence(facts: &Facts<'_>) -> Option<Reason> {
    let row = facts.unanswered_in_a_row;
    if row >= UNANSWERED {
        return Some(Reason::Unanswered(row));
    }
    (facts.echo_health != EchoHealth::Fine).then_some(Reason::Silent(facts.echo_health))
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
