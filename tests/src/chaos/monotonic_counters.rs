//! Owns the check that the program's counters never decrease. They may restart from zero only after the
//! pins of the maps were removed while no daemon held the maps. Pure.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use super::fault::Action;

/// Counters by interface and name.
pub type Counters = BTreeMap<String, BTreeMap<String, u64>>;

/// The counters at the last check.
#[derive(Clone, Debug, Default)]
pub struct MonotonicCounters {
    last: Counters,
    without_pins: bool,
    may_restart: bool,
    resets: u64,
}

impl MonotonicCounters {
    /// Records an action before it is injected.
    pub fn record(&mut self, action: Action) {
        match action {
            Action::DeleteMapPin(_) | Action::DeletePins => self.without_pins = true,
            _ => {}
        }
    }

    /// Records that no daemon runs.
    pub fn daemon_ended(&mut self) {
        self.may_restart |= self.without_pins;
    }

    /// Records that all maps are pinned.
    pub fn pins_restored(&mut self) {
        self.without_pins = false;
    }

    /// Compares with the last check.
    pub fn settle(&mut self, now: Counters) -> Result<()> {
        let decreases = decreases(&self.last, &now);
        if !decreases.is_empty() {
            if !self.may_restart {
                bail!("counters decreased: {}", decreases.join(", "));
            }
            self.resets += 1;
        }
        self.may_restart = false;
        self.last = now;
        Ok(())
    }

    /// How often they restarted.
    pub fn resets(&self) -> u64 {
        self.resets
    }
}

fn decreases(before: &Counters, now: &Counters) -> Vec<String> {
    let mut back = Vec::new();
    for (interface, counters) in before {
        for (name, old) in counters {
            let new = now.get(interface).and_then(|counters| counters.get(name));
            if new.is_none_or(|new| new < old) {
                back.push(format!("{name} of {interface} from {old} to {new:?}"));
            }
        }
    }
    back
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(value: u64) -> Counters {
        let of_one = [("packets_in".to_owned(), value)].into();
        [("sixxs0".to_owned(), of_one)].into()
    }

    #[test]
    fn they_increase() {
        let mut check = MonotonicCounters::default();
        for value in [0, 5, 5] {
            check.settle(counters(value)).unwrap();
        }
        check.daemon_ended();
        let error = check.settle(counters(4)).unwrap_err().to_string();
        assert!(error.contains("packets_in of sixxs0 from 5"), "{error}");
        assert!(check.settle(Counters::new()).is_err());
    }

    #[test]
    fn they_restart_without_pins_and_daemon() {
        let mut check = MonotonicCounters::default();
        check.settle(counters(5)).unwrap();
        check.record(Action::DeletePins);
        assert!(check.clone().settle(counters(0)).is_err());
        check.daemon_ended();
        check.settle(counters(0)).unwrap();
        check.settle(counters(3)).unwrap();
        assert!(check.clone().settle(counters(2)).is_err());
        check.pins_restored();
        check.daemon_ended();
        assert!(check.settle(counters(2)).is_err());
        assert_eq!(check.resets(), 1);
    }
}
