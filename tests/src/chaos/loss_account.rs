//! Owns the account of lost packets. A packet that a filter counts is excused only while the kernel
//! program of that interface was removed by an action. Pure: actions and counts come in.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};

use super::fault::{Action, AttachPoint, Loss, Port};

/// A filter of the lab that counts packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Filter {
    /// The ISP's filter.
    Isp,
    /// The filter of one tunnel's broker, which drops packets whose source is not the tunnel's.
    Broker(usize),
    /// Packets that loop: they left by one tunnel and return to the host by a tunnel.
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

    /// The hook whose program keeps this filter at zero.
    pub const fn attach_point(self) -> AttachPoint {
        match self {
            Self::Isp => AttachPoint::egress(Port::Uplink),
            Self::Broker(number) | Self::Round(number) => AttachPoint::egress(Port::Tunnel(number)),
        }
    }
}

/// Packets per filter, from the start.
pub type Counts = BTreeMap<Filter, u64>;

/// Covers one run.
#[derive(Clone, Debug, Default)]
pub struct LossAccount {
    /// Whether programs are clsact filters, which no pin holds.
    clsact: bool,
    counts: Counts,
    /// Hooks without their program, and the kind of action that removed it.
    away: BTreeMap<AttachPoint, String>,
    /// Links without a pin: they end with the daemon.
    unpinned: BTreeMap<AttachPoint, String>,
    excused: BTreeMap<String, u64>,
}

impl LossAccount {
    /// For a host with clsact filters, or else TCX links.
    pub fn new(clsact: bool) -> Self {
        Self {
            clsact,
            ..Self::default()
        }
    }

    /// Records an action before it is injected.
    pub fn record(&mut self, action: Action) {
        for place in stripped(action) {
            self.away.entry(place).or_insert_with(|| action.kind());
        }
        if !self.clsact {
            for place in unpinned(action) {
                self.unpinned.entry(place).or_insert_with(|| action.kind());
            }
        }
    }

    /// Records that no daemon runs.
    pub fn daemon_ended(&mut self) {
        for (place, why) in &self.unpinned {
            self.away.entry(*place).or_insert_with(|| why.clone());
        }
    }

    /// Records that all links are pinned.
    pub fn pins_restored(&mut self) {
        self.unpinned.clear();
    }

    /// Whether an action removed a program.
    pub fn has_excuses(&self) -> bool {
        !self.away.is_empty()
    }

    /// To be called once all programs are back. Counts without an excuse are an error.
    pub fn settle(&mut self, counts: &Counts) -> Result<()> {
        let away = std::mem::take(&mut self.away);
        let without_program: BTreeSet<_> = away.keys().copied().collect();
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
            let place = filter.attach_point();
            ensure!(
                without_program.contains(&place),
                "{filter:?} counted {} packets although nobody took the program at {place} away",
                now - before
            );
            *self.excused.entry(away[&place].clone()).or_default() += now - before;
        }
        self.counts = counts.clone();
        Ok(())
    }

    /// Excused packets by kind of action.
    pub fn excused(&self) -> &BTreeMap<String, u64> {
        &self.excused
    }
}

/// The hooks whose program an action removes.
fn stripped(action: Action) -> Vec<AttachPoint> {
    match action {
        Action::Detach(place) => vec![place],
        // A new interface has no program, and a renamed one is not ours.
        Action::DeleteQdisc(port) | Action::Take(port, Loss::Interface | Loss::Name) => {
            let places = AttachPoint::ALL.into_iter();
            places.filter(|place| place.port == port).collect()
        }
        _ => Vec::new(),
    }
}

/// The hooks whose link pin an action removes.
fn unpinned(action: Action) -> Vec<AttachPoint> {
    match action {
        Action::DeleteLinkPin(place) => vec![place],
        Action::DeletePins => AttachPoint::ALL.to_vec(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPLINK: AttachPoint = AttachPoint::egress(Port::Uplink);

    fn counts(isp: u64, broker: u64) -> Counts {
        [(Filter::Isp, isp), (Filter::Broker(1), broker)].into()
    }

    #[test]
    fn other_actions_excuse_nothing() {
        let mut account = LossAccount::default();
        account.record(Action::FlushRules);
        account.record(Action::Kill);
        account.record(Action::Detach(AttachPoint::egress(Port::Tunnel(0))));
        assert!(account.settle(&counts(0, 0)).is_ok());
        let error = account.settle(&counts(3, 0)).unwrap_err().to_string();
        assert!(
            error.contains("counted 3 packets") && error.contains("net0 egress"),
            "{error}"
        );
        assert!(account.settle(&counts(0, 1)).is_err());
    }

    #[test]
    fn pins_hold_links_after_the_daemon_ends() {
        for (clsact, dies, excused) in [
            (false, true, true),
            (false, false, false),
            (true, true, false),
        ] {
            let mut account = LossAccount::new(clsact);
            account.record(Action::DeletePins);
            if dies {
                account.daemon_ended();
            }
            assert_eq!(account.settle(&counts(1, 0)).is_ok(), excused);
        }
        let mut account = LossAccount::new(false);
        account.record(Action::DeletePins);
        account.pins_restored();
        account.daemon_ended();
        assert!(account.settle(&counts(1, 0)).is_err());
    }

    #[test]
    fn an_excuse_holds_once_and_for_its_own_filter() {
        let mut account = LossAccount::default();
        account.record(Action::Detach(UPLINK));
        assert!(account.settle(&counts(5, 0)).is_ok());
        assert_eq!(account.excused().get("Detach"), Some(&5));
        assert!(account.settle(&counts(5, 0)).is_ok());
        assert!(account.clone().settle(&counts(6, 0)).is_err());
        account.record(Action::Take(Port::Tunnel(1), Loss::Interface));
        assert!(account.clone().settle(&counts(6, 0)).is_err());
        assert!(account.settle(&counts(5, 2)).is_ok());
    }
}
