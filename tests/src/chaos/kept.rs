//! Checks that the program's counters never decrease, even if the daemon is killed. They may restart at 0
//! only if pins of its maps are removed while no daemon holds the maps. No I/O.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use super::act::Act;

/// Counters by interface and name.
pub type Counters = BTreeMap<String, BTreeMap<String, u64>>;

/// The last observed counters.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    last: Counters,
    without_pins: bool,
    may_begin_anew: bool,
    resets: u64,
}

impl Kept {
    /// Notes a fault that is about to be injected.
    pub fn happens(&mut self, act: Act) {
        match act {
            Act::DeleteMapPin(_) | Act::DeletePins => self.without_pins = true,
            _ => {}
        }
    }

    /// Notes that no daemon runs now.
    pub fn daemon_is_dead(&mut self) {
        self.may_begin_anew |= self.without_pins;
    }

    /// Notes that all maps are pinned.
    pub fn pins_are_there(&mut self) {
        self.without_pins = false;
    }

    /// Compares with the last observed values.
    pub fn settle(&mut self, now: Counters) -> Result<()> {
        let back = back(&self.last, &now);
        if !back.is_empty() {
            if !self.may_begin_anew {
                bail!("counters went back: {}", back.join(", "));
            }
            self.resets += 1;
        }
        self.may_begin_anew = false;
        self.last = now;
        Ok(())
    }

    /// How many times they restarted at 0.
    pub fn resets(&self) -> u64 {
        self.resets
    }
}

fn back(before: &Counters, now: &Counters) -> Vec<String> {
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
    fn they_go_up() {
        let mut kept = Kept::default();
        for value in [0, 5, 5] {
            kept.settle(counters(value)).unwrap();
        }
        kept.daemon_is_dead();
        let error = kept.settle(counters(4)).unwrap_err().to_string();
        assert!(error.contains("packets_in of sixxs0 from 5"), "{error}");
        assert!(kept.settle(Counters::new()).is_err());
    }

    #[test]
    fn they_begin_anew_without_pins_and_daemon() {
        let mut kept = Kept::default();
        kept.settle(counters(5)).unwrap();
        kept.happens(Act::DeletePins);
        assert!(kept.clone().settle(counters(0)).is_err());
        kept.daemon_is_dead();
        kept.settle(counters(0)).unwrap();
        kept.settle(counters(3)).unwrap();
        assert!(kept.clone().settle(counters(2)).is_err());
        kept.pins_are_there();
        kept.daemon_is_dead();
        assert!(kept.settle(counters(2)).is_err());
        assert_eq!(kept.resets(), 1);
    }
}
