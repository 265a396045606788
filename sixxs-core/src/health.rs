//! The health of a tunnel: one judgement for `status`, `check`, `top`, metrics and exit statuses.
//!
//! Pure. The daemon gathers the facts; nothing else decides whether a tunnel is healthy.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
    time::Duration,
};

use crate::{
    lasting::REPAIR,
    link::{Link, Unusable},
    tunnel::State,
    types::{IfName, Mtu},
};

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

/// The judgement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// The worst that was found.
    pub level: Level,
    /// A sentence for each thing that is not as it should be, the worst first.
    pub reasons: Vec<String>,
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
    /// Whether its rules and routes are in place.
    pub is_routed: bool,
    /// Whether its program is attached.
    pub has_program: bool,
    /// Rules of others that come before ours.
    pub shadow: Option<&'a ShadowEffect>,
    /// What becomes of packets that go to other interfaces, if that goes on ([`Leaking::fate`]).
    pub leaks: Option<LeakFate>,
    /// Echo requests that had time for a reply and got none, since the last reply; 0 for none.
    pub unanswered_in_a_row: u64,
    /// A longer watch over replies found something, in words.
    pub silence: Option<&'a str>,
}

/// What rules of others do to the packets of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShadowEffect {
    /// The priorities of these rules.
    pub priorities: Vec<u32>,
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

/// What becomes of packets that a rule or a socket leads to another interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeakFate {
    /// The program there redirects them into the tunnel.
    Redirected,
    /// The program there drops them, by order.
    Dropped,
    /// They leave there, by order.
    Passed,
    /// They are outer packets of the tunnel itself, which it cannot carry; they are dropped.
    Recursion,
}

/// Leaks of a tunnel, in the order in which they are seen. Times are since a moment of the caller's.
#[derive(Clone, Copy, Debug)]
pub struct Leaking {
    since: Duration,
    last: Duration,
    fate: LeakFate,
}

impl Leaking {
    /// After so long without a leak they have ended. The programs tell of each flow once a second.
    const QUIET: Duration = Duration::from_secs(5);

    /// The first leak.
    #[must_use]
    pub const fn begin(now: Duration, fate: LeakFate) -> Self {
        Self {
            since: now,
            last: now,
            fate,
        }
    }

    /// One more.
    pub fn go_on(&mut self, now: Duration, fate: LeakFate) {
        if now.saturating_sub(self.last) > Self::QUIET {
            self.since = now;
        }
        self.last = now;
        self.fate = fate;
    }

    /// What becomes of them, while they go on for longer than a repair takes.
    #[must_use]
    pub fn fate(&self, now: Duration) -> Option<LeakFate> {
        let goes_on = now.saturating_sub(self.last) <= Self::QUIET;
        let lasts = self.last.saturating_sub(self.since) >= REPAIR;
        (goes_on && lasts).then_some(self.fate)
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
        let mut found = Vec::new();
        if *facts.state == State::Up {
            found.extend(link(facts).into_iter().map(failing));
            found.extend(facts.shadow.map(shadow));
            found.extend(facts.leaks.map(leaks));
            found.extend(silence(facts).map(failing));
        } else {
            let name = facts.state.name().replace('_', " ");
            found.push(failing(match facts.state.reason() {
                Some(reason) => format!("it is {name}: {reason}"),
                None => format!("it is {name}"),
            }));
        }
        if !facts.is_routed {
            found.push(failing("its rules or routes are missing".to_owned()));
        }
        if !facts.has_program {
            found.push(failing("its program is not attached".to_owned()));
        }
        // Stable: what comes first stays first.
        found.sort_by(|(one, _), (other, _)| other.cmp(one));
        Self {
            level: found.first().map_or(Level::Healthy, |(level, _)| *level),
            reasons: found.into_iter().map(|(_, reason)| reason).collect(),
        }
    }
}

const fn failing(reason: String) -> (Level, String) {
    (Level::Failing, reason)
}

/// What is wrong with the interface and its addresses.
fn link(facts: &Facts<'_>) -> Vec<String> {
    let Some(link) = facts.link else {
        return Vec::new();
    };
    let mut faults = Vec::new();
    if !link.carrier {
        faults.push("its interface has no carrier; look at the far end of the link".to_owned());
    }
    if link.mtu < Mtu::MINIMUM {
        faults.push(format!(
            "its interface has an MTU of {} bytes; IPv6 needs {}",
            link.mtu,
            Mtu::MINIMUM
        ));
    }
    // A tunnel may have thousands of addresses.
    let own: BTreeSet<_> = link.addresses.iter().collect();
    let elsewhere: BTreeMap<_, _> = facts.elsewhere.iter().map(|(a, name)| (a, name)).collect();
    let mut of_addresses = Vec::new();
    for address in facts.addresses {
        let elsewhere = elsewhere.get(address);
        let has = own.contains(address);
        of_addresses.extend(match (has, link.unusable.get(address), elsewhere) {
            (true, Some(Unusable::Duplicate), _) => Some(format!(
                "{address} is a duplicate: another host on the link has it"
            )),
            (true, Some(Unusable::Tentative), _) => Some(format!(
                "{address} is tentative: duplicate address detection has not ended"
            )),
            (_, _, Some(name)) => Some(format!(
                "{address} is an address of {name}; it belongs on the tunnel's interface alone"
            )),
            (false, _, None) => Some(format!("{address} is not on its interface")),
            (true, None, None) => None,
        });
    }
    let more = of_addresses.len().saturating_sub(NAMED);
    of_addresses.truncate(NAMED);
    faults.append(&mut of_addresses);
    if more > 0 {
        faults.push(format!(
            "{more} more of its addresses are not as they should be"
        ));
    }
    faults
}

fn shadow(effect: &ShadowEffect) -> (Level, String) {
    let numbers: Vec<_> = effect.priorities.iter().map(u32::to_string).collect();
    let rule = format!("a rule before ours (priority {})", numbers.join(" or "));
    match effect.fate {
        ShadowFate::Redirected => (
            Level::Degraded,
            format!("{rule} leads its packets elsewhere; the program redirects them"),
        ),
        ShadowFate::Lost => failing(format!("{rule} leads its packets elsewhere")),
        ShadowFate::Refused => failing(format!("{rule} refuses its packets")),
    }
}

fn leaks(fate: LeakFate) -> (Level, String) {
    let whose = "`sixxs alerts` says whose they are";
    match fate {
        LeakFate::Redirected => (
            Level::Degraded,
            format!("packets of it go to other interfaces; the program redirects them; {whose}"),
        ),
        LeakFate::Dropped => failing(format!(
            "packets of it go to other interfaces; the program drops them (`on_leak`); {whose}"
        )),
        LeakFate::Recursion => failing(format!(
            "its outer packets have its own address and would go into it; the program drops them; {whose}"
        )),
        LeakFate::Passed => failing(format!(
            "packets of it leave by other interfaces (`on_leak`); {whose}"
        )),
    }
}

fn silence(facts: &Facts<'_>) -> Option<String> {
    let row = facts.unanswered_in_a_row;
    if row >= UNANSWERED {
        return Some(format!(
            "the last {row} echo requests got no reply; see `sixxs doctor` for what may drop them"
        ));
    }
    facts.silence.map(str::to_owned)
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
