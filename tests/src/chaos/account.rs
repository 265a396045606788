//! Decides which packets may be lost. A packet that a filter counts is excused only while programs were
//! missing because a fault removed exactly those. Events and counters are arguments.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};

use super::act::{Act, Loss, Place, Port};

/// A filter of the lab that counts packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Filter {
    /// The ISP's filter.
    Isp,
    /// The filter of one tunnel's broker, which drops packets whose source is not the tunnel's.
    Broker(usize),
    /// Looping packets at one tunnel's broker: a tunnel brings their destination back to the host.
    Round(usize),
}

impl Filter {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Isp,
        Self::Broker(0),
        Self::Broker(1),
        Self::Round(0),
        Self::Round(1),
    ];

    /// The attach point of the program that keeps this filter's counter at zero.
    pub const fn place(self) -> Place {
        match self {
            Self::Isp => Place::egress(Port::Uplink),
            Self::Broker(number) | Self::Round(number) => Place::egress(Port::Tunnel(number)),
        }
    }
}

/// The counter of each filter.
pub type Counts = BTreeMap<Filter, u64>;

/// The bookkeeping of a run, from the first fault to the last.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// Whether programs are clsact filters, which no pin holds.
    clsact: bool,
    counts: Counts,
    /// Attach points without their program, and the fault that removed it.
    away: BTreeMap<Place, String>,
    /// Links without a pin; they exist only while the daemon holds them.
    unpinned: BTreeMap<Place, String>,
    excused: BTreeMap<String, u64>,
}

impl Account {
    /// For a host with clsact filters, or else TCX links.
    pub fn new(clsact: bool) -> Self {
        Self {
            clsact,
            ..Self::default()
        }
    }

    /// Notes a fault that is about to be injected.
    pub fn happens(&mut self, act: Act) {
        for place in stripped(act) {
            self.away.entry(place).or_insert_with(|| act.kind());
        }
        if !self.clsact {
            for place in unpinned(act) {
                self.unpinned.entry(place).or_insert_with(|| act.kind());
            }
        }
    }

    /// Notes that no daemon runs now.
    pub fn daemon_is_dead(&mut self) {
        for (place, why) in &self.unpinned {
            self.away.entry(*place).or_insert_with(|| why.clone());
        }
    }

    /// Notes that all links are pinned.
    pub fn pins_are_there(&mut self) {
        self.unpinned.clear();
    }

    /// Whether a fault removed a program that is still missing.
    pub fn has_excuses(&self) -> bool {
        !self.away.is_empty()
    }

    /// Call it after all programs are attached again. Returns an error if a filter counted packets without an
    /// excuse.
    pub fn settle(&mut self, counts: &Counts) -> Result<()> {
        let away = std::mem::take(&mut self.away);
        let kept: BTreeSet<_> = away.keys().copied().collect();
        for filter in Filter::ALL {
            let count = |counts: &Counts| counts.get(&filter).copied().unwrap_or_default();
            let (before, now) = (count(&self.counts), count(counts));
            ensure!(
                before <= now,
                "{filter:?} counts backwards: {before}, {now}"
            );
            if before == now {
                continue;
            }
            let place = filter.place();
            ensure!(
                kept.contains(&place),
                "{filter:?} counted {} packets although nobody took the program at {place} away",
                now - before
            );
            *self.excused.entry(away[&place].clone()).or_default() += now - before;
        }
        self.counts = counts.clone();
        Ok(())
    }

    /// Packets that were lost while programs were missing, by the fault that removed the programs.
    pub fn excused(&self) -> &BTreeMap<String, u64> {
        &self.excused
    }
}

/// Attach points that lose their program by a fault.
fn stripped(act: Act) -> Vec<Place> {
    match act {
        Act::Detach(place) => vec![place],
        // A new interface has no programs, and the daemon does not use a renamed one.
        Act::DeleteQdisc(port) | Act::Take(port, Loss::Interface | Loss::Name) => {
            let places = Place::ALL.into_iter();
            places.filter(|place| place.port == port).collect()
        }
        _ => Vec::new(),
    }
}

/// Attach points whose link loses its pin by a fault.
fn unpinned(act: Act) -> Vec<Place> {
    match act {
        Act::DeleteLinkPin(place) => vec![place],
        Act::DeletePins => Place::ALL.to_vec(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPLINK: Place = Place::egress(Port::Uplink);

    fn counts(isp: u64, broker: u64) -> Counts {
        [(Filter::Isp, isp), (Filter::Broker(1), broker)].into()
    }

    #[test]
    fn what_nobody_took_excuses_nothing() {
        let mut account = Account::default();
        account.happens(Act::FlushRules);
        account.happens(Act::Kill);
        account.happens(Act::Detach(Place::egress(Port::Tunnel(0))));
        assert!(account.settle(&counts(0, 0)).is_ok());
        let error = account.settle(&counts(3, 0)).unwrap_err().to_string();
        assert!(
            error.contains("counted 3 packets") && error.contains("net0 egress"),
            "{error}"
        );
        assert!(account.settle(&counts(0, 1)).is_err());
    }

    #[test]
    fn pins_hold_links_of_the_dead() {
        for (clsact, dies, excused) in [
            (false, true, true),
            (false, false, false),
            (true, true, false),
        ] {
            let mut account = Account::new(clsact);
            account.happens(Act::DeletePins);
            if dies {
                account.daemon_is_dead();
            }
            assert_eq!(account.settle(&counts(1, 0)).is_ok(), excused);
        }
        let mut account = Account::new(false);
        account.happens(Act::DeletePins);
        account.pins_are_there();
        account.daemon_is_dead();
        assert!(account.settle(&counts(1, 0)).is_err());
    }

    #[test]
    fn an_excuse_holds_once_and_for_its_own_filter() {
        let mut account = Account::default();
        account.happens(Act::Detach(UPLINK));
        assert!(account.settle(&counts(5, 0)).is_ok());
        assert_eq!(account.excused().get("Detach"), Some(&5));
        assert!(account.settle(&counts(5, 0)).is_ok());
        assert!(account.clone().settle(&counts(6, 0)).is_err());
        account.happens(Act::Take(Port::Tunnel(1), Loss::Interface));
        assert!(account.clone().settle(&counts(6, 0)).is_err());
        assert!(account.settle(&counts(5, 2)).is_ok());
    }
}
