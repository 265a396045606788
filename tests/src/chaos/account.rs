//! Owns what may be lost: packets that a filter counts are excused only while programs were away
//! because somebody took just those away. Pure: what happened and what was counted comes in.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};

use super::act::{Act, Loss, Place, Port};

/// Whose filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Filter {
    /// The ISP's.
    Isp,
    /// That of one tunnel's broker, which drops what is not of this tunnel.
    Broker(usize),
    /// What one tunnel's broker sees on its way round: a tunnel brings it to the host again.
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

    /// Where the program belongs that keeps this filter at zero.
    pub const fn place(self) -> Place {
        match self {
            Self::Isp => Place::egress(Port::Uplink),
            Self::Broker(number) | Self::Round(number) => Place::egress(Port::Tunnel(number)),
        }
    }
}

/// What was counted so far by each filter.
pub type Counts = BTreeMap<Filter, u64>;

/// From the first fault to the last.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// Whether programs are filters, which no pin holds.
    clsact: bool,
    counts: Counts,
    /// Places without their program, and what took it.
    away: BTreeMap<Place, String>,
    /// Links without a pin: they last as long as the daemon that holds them.
    unpinned: BTreeMap<Place, String>,
    excused: BTreeMap<String, u64>,
}

impl Account {
    /// Of a host where programs are filters of clsact, or else TCX links.
    pub fn new(clsact: bool) -> Self {
        Self {
            clsact,
            ..Self::default()
        }
    }

    /// Notes that something is about to happen.
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

    /// Notes that no daemon lives just now.
    pub fn daemon_is_dead(&mut self) {
        for (place, why) in &self.unpinned {
            self.away.entry(*place).or_insert_with(|| why.clone());
        }
    }

    /// Notes that all links are pinned.
    pub fn pins_are_there(&mut self) {
        self.unpinned.clear();
    }

    /// Whether any program is away by somebody's doing.
    pub fn has_excuses(&self) -> bool {
        !self.away.is_empty()
    }

    /// After all programs are back: an error for what was counted without an excuse.
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

    /// Packets that were lost while programs were away, by what had taken those.
    pub fn excused(&self) -> &BTreeMap<String, u64> {
        &self.excused
    }
}

/// Where an act takes the program away.
fn stripped(act: Act) -> Vec<Place> {
    match act {
        Act::Detach(place) => vec![place],
        // What is made anew has none, and what has another name is none of ours meanwhile.
        Act::DeleteQdisc(port) | Act::Take(port, Loss::Interface | Loss::Name) => {
            let places = Place::ALL.into_iter();
            places.filter(|place| place.port == port).collect()
        }
        _ => Vec::new(),
    }
}

/// Where it takes the pin of a link away.
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
