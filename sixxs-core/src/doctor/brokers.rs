//! Checks that concern brokers: the clock, and the connect limit.

use super::{Finding, Verdict};

/// Facts about brokers.
#[derive(Clone, Debug, Default)]
pub struct Brokers {
    /// The clock, if tunnels depend on it.
    pub clock: Option<Clock>,
    /// The remaining limit for each broker.
    pub standings: Vec<Standing>,
}

/// The clock.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// Whether the clock is synchronised; `None`: the kernel does not report it.
    pub synchronised: Option<bool>,
    /// Tunnels whose broker reported a wrong local clock, with the broker's text.
    pub wrong: Vec<(String, String)>,
    /// Tunnels where datagrams were refused because of their time, and the number of these.
    pub refused: Vec<(String, u64)>,
}

/// The remaining limit for a broker.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Its name or address.
    pub name: String,
    /// End of the lockout, in RFC 3339.
    pub locked_out_until: Option<String>,
    /// Whether a slot is free.
    pub has_slot: bool,
}

pub(super) fn findings(brokers: &Brokers) -> Vec<Finding> {
    const SET: &str = "timedatectl set-ntp true; or run chronyd or ntpd";
    let mut findings = Vec::new();
    if let Some(clock) = &brokers.clock {
        for (tunnel, words) in &clock.wrong {
            let detail = format!("{tunnel}: {words}");
            findings.push(Finding::not("clock", Verdict::Bad, detail, SET));
        }
        for (tunnel, count) in &clock.refused {
            findings.push(Finding::not(
                "clock",
                Verdict::Bad,
                format!(
                    "{count} datagrams of {tunnel}'s broker were refused because of their time: its clock \
                     and this host's are more than 120 s apart"
                ),
                SET,
            ));
        }
        if clock.synchronised == Some(false) {
            findings.push(Finding::not(
                "clock",
                Verdict::Note,
                "the clock is not synchronised, and brokers refuse datagrams that are more than 120 s off",
                SET,
            ));
        }
    }
    for standing in &brokers.standings {
        let name = &standing.name;
        if let Some(until) = &standing.locked_out_until {
            findings.push(Finding::not(
                "connects",
                Verdict::Bad,
                format!("{name} refuses this host until {until}: too many connects"),
                "wait; stop other programs that connect to it",
            ));
        } else if !standing.has_slot {
            findings.push(Finding::not(
                "connects",
                Verdict::Note,
                format!("no connect to {name} is left at the moment"),
                "wait; sixxs status shows for how long",
            ));
        }
    }
    findings
}
