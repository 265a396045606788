//! The health of a tunnel: one judgement for `status`, `check`, `top`, metrics, alerts and exit statuses.
//!
//! Pure. The daemon gathers the facts; nothing else decides whether a tunnel is healthy.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
    time::Duration,
};

use sixxs_common::treatment::Treatment;

use crate::{
    lasting::REPAIR,
    link::{Link, Unusable},
    proof::Manner,
    tunnel::State,
    types::{IfName, Mtu, RulePriority},
};

mod reason;
mod watch;

pub use reason::Reason;
pub use watch::Watch;

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
    /// All, from good to bad.
    pub const ALL: [Self; 3] = [Self::Healthy, Self::Degraded, Self::Failing];

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

/// The judgement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// The worst that was found.
    pub level: Level,
    /// Each thing that is not as it should be, the worst first.
    pub reasons: Vec<Reason>,
}

/// What is known about a tunnel at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Its state.
    pub state: &'a State,
    /// Its interface, if there is one.
    pub link: Option<&'a Link>,
    /// The addresses that it should have.
    pub addresses: &'a [Ipv6Addr],
    /// Addresses of the tunnel that another interface has.
    pub elsewhere: &'a [(Ipv6Addr, IfName)],
    /// An uplink of which every address is an address of the tunnel or lies in its prefixes.
    pub covers: Option<&'a IfName>,
    /// Whether its rules and routes are in place.
    pub is_routed: bool,
    /// Whether its program is attached.
    pub has_program: bool,
    /// A rule of others that comes before ours.
    pub shadow: Option<&'a ShadowEffect>,
    /// What becomes of packets that go to other interfaces, if that goes on ([`Leaking::treatment`]).
    pub leaks: Option<Treatment>,
    /// Echo requests that had time for a reply and got none, since the last reply; 0 for none.
    pub unanswered_in_a_row: u64,
    /// What a longer watch over replies found.
    pub manner: Manner,
}

/// What a rule of others does to the packets of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShadowEffect {
    /// The priority of the rule.
    pub priority: RulePriority,
    /// What becomes of the packets.
    pub fate: ShadowFate,
}

/// What becomes of packets that a rule of others takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShadowFate {
    /// They leave by an interface whose program redirects them into the tunnel.
    Redirected,
    /// They leave by another interface.
    Lost,
    /// The kernel refuses them (`blackhole`, `unreachable`, `prohibit`).
    Refused,
}

/// Leaks of a tunnel, in the order in which they are seen. Times are since a moment of the caller's.
#[derive(Clone, Copy, Debug)]
pub struct Leaking {
    since: Duration,
    last: Duration,
    treatment: Treatment,
}

impl Leaking {
    /// After so long without a leak they have ended. The programs tell of each flow once a second.
    const QUIET: Duration = Duration::from_secs(5);

    /// The first leak.
    #[must_use]
    pub const fn begin(now: Duration, treatment: Treatment) -> Self {
        Self {
            since: now,
            last: now,
            treatment: judged(treatment),
        }
    }

    /// One more.
    pub fn go_on(&mut self, now: Duration, treatment: Treatment) {
        if now.saturating_sub(self.last) > Self::QUIET {
            self.since = now;
        }
        self.last = now;
        self.treatment = judged(treatment);
    }

    /// What becomes of them, while they go on for longer than a repair takes.
    #[must_use]
    pub fn treatment(&self, now: Duration) -> Option<Treatment> {
        let goes_on = now.saturating_sub(self.last) <= Self::QUIET;
        let lasts = self.last.saturating_sub(self.since) >= REPAIR;
        (goes_on && lasts).then_some(self.treatment)
    }
}

/// The treatment by which health judges: an answer to what is too big is as good as a redirect, and all
/// that is dropped is equal.
const fn judged(treatment: Treatment) -> Treatment {
    match treatment {
        Treatment::Redirected | Treatment::TooBig | Treatment::Unanswered => Treatment::Redirected,
        Treatment::Dropped | Treatment::NoTunnel => Treatment::Dropped,
        Treatment::Observed | Treatment::Recursion => treatment,
    }
}

/// Addresses that are named one by one.
const NAMED: usize = 4;

/// Unanswered requests in a row that are no accident.
const UNANSWERED: u64 = 3;

impl Health {
    /// Judges a tunnel.
    #[must_use]
    pub fn judge(facts: &Facts<'_>) -> Self {
        let mut reasons = Vec::new();
        if *facts.state == State::Up {
            reasons.extend(link(facts));
            reasons.extend(facts.covers.cloned().map(Reason::CoversUplink));
            reasons.extend(facts.shadow.cloned().map(Reason::Shadowed));
            reasons.extend(facts.leaks.map(Reason::Leaking));
            reasons.extend(silence(facts));
        } else {
            reasons.push(Reason::NotUp(facts.state.clone()));
        }
        if !facts.is_routed {
            reasons.push(Reason::NotRouted);
        }
        if !facts.has_program {
            reasons.push(Reason::NoProgram);
        }
        // Stable: what comes first stays first.
        reasons.sort_by_key(|reason| Reverse(reason.level()));
        Self {
            level: reasons.first().map_or(Level::Healthy, Reason::level),
            reasons,
        }
    }
}

/// What is wrong with the interface and its addresses.
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
    // A tunnel may have thousands of addresses.
    let own: BTreeSet<_> = link.addresses.iter().collect();
    let elsewhere: BTreeMap<_, _> = facts.elsewhere.iter().map(|(a, name)| (a, name)).collect();
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
    (facts.manner != Manner::Fine).then_some(Reason::Silent(facts.manner))
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
