//! What brokers mind: the clock, and how often they are connected to.

use super::{Finding, Verdict};

/// What there is.
#[derive(Clone, Debug, Default)]
pub struct Brokers {
    /// The clock, where tunnels depend on it.
    pub clock: Option<Clock>,
    /// How we stand with each of them.
    pub standings: Vec<Standing>,
}

/// The clock.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// Whether somebody keeps it right; `None`: the kernel does not say.
    pub synchronised: Option<bool>,
    /// Tunnels of which a broker said that our clock is wrong, with its words.
    pub wrong: Vec<(String, String)>,
    /// Tunnels where datagrams were refused for their time, and how many.
    pub refused: Vec<(String, u64)>,
}

/// How we stand with a broker.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Its name or address.
    pub name: String,
    /// Until when it refuses us, in RFC 3339.
    pub locked_out_until: Option<String>,
    /// Whether there is a connect left.
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
                    "{count} datagrams of {tunnel}'s broker were refused for their time: its clock and \
                     ours are more than 120 s apart"
                ),
                SET,
            ));
        }
        if clock.synchronised == Some(false) {
            findings.push(Finding::not(
                "clock",
                Verdict::Note,
                "nothing keeps the clock right, and brokers refuse what is more than 120 s off",
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
                format!("{name} refuses us until {until}: it was connected to too often"),
                "wait; stop whatever else connects to it",
            ));
        } else if !standing.has_slot {
            findings.push(Finding::not(
                "connects",
                Verdict::Note,
                format!("no connect to {name} is left for now"),
                "wait; sixxs status says for how long",
            ));
        }
    }
    findings
}
