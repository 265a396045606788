//! Chooses faults: batches from a seed. Pure: the same seed gives the same batches. After each batch the host
//! again has everything that the program cannot restore itself.

use std::time::Duration;

use super::act::{Act, Loss, Place, Port};
use crate::broker::random::Random;

/// The faults that are possible in a run.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// Whether programs are clsact filters instead of TCX links.
    pub clsact: bool,
    /// Whether the program makes the tunnels' interfaces itself, and connects to brokers for that.
    pub native: bool,
    /// Whether the daemon detects exits: the configuration does not name the uplinks.
    pub finds_exits: bool,
    /// Whether one daemon runs from beginning to end.
    pub one_daemon: bool,
}

/// A fault and the pause before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Pause before the fault.
    pub pause: Duration,
    /// The fault, or the repair of one.
    pub act: Act,
}

/// Most faults in a batch.
const MOST: usize = 10;

/// Probability, in percent, that an earlier fault is undone between two faults.
const MENDS: f64 = 40.0;

/// Probability, in percent, that a fault is a flood while the daemon is stopped by SIGSTOP.
const FLOODS: f64 = 20.0;

/// Of the faults that make the program connect to a broker again, only one in this number happens.
const CONNECTS_IN: usize = 60;

/// The daemon's state, as the plan assumes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Daemon {
    Runs,
    /// It may not be ready yet.
    Starts,
    Frozen,
    Dead,
}

/// An endless sequence of batches.
#[derive(Clone, Debug)]
pub struct Plan {
    random: Random,
    scope: Scope,
    daemon: Daemon,
    taken: Vec<(Port, Loss)>,
    slept: u64,
}

impl Plan {
    /// The plan for a seed.
    pub fn new(seed: u64, scope: Scope) -> Self {
        Self {
            random: Random::new(seed),
            scope,
            daemon: Daemon::Runs,
            taken: Vec::new(),
            slept: 0,
        }
    }

    /// The next batch, with at most `most` faults.
    pub fn batch(&mut self, most: usize) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.daemon == Daemon::Starts {
            self.daemon = Daemon::Runs;
        }
        for _ in 0..=self.random.below(MOST.min(most.max(1))) {
            let act = self.fault();
            steps.push(self.step(act));
            if self.random.percent(MENDS)
                && let Some(act) = self.mend()
            {
                steps.push(self.step(act));
            }
        }
        while let Some(act) = self.mend() {
            steps.push(self.step(act));
        }
        steps
    }

    fn step(&mut self, act: Act) -> Step {
        self.happened(act);
        // Mostly too soon for the daemon to handle the preceding fault, sometimes long after.
        let milliseconds = match self.random.below(10) {
            0..=4 => 0,
            5..=7 => self.random.below(5),
            8 => self.random.below(40),
            _ => self.random.below(250),
        };
        let pause = Duration::from_millis(milliseconds as u64);
        Step { pause, act }
    }

    fn happened(&mut self, act: Act) {
        match act {
            Act::Take(port, loss) if !self.mends_itself(port) => self.taken.push((port, loss)),
            Act::GiveBack(port, _) => self.taken.retain(|(taken, _)| *taken != port),
            Act::Kill | Act::Stop => self.daemon = Daemon::Dead,
            Act::Freeze => self.daemon = Daemon::Frozen,
            Act::StartOnly => self.daemon = Daemon::Starts,
            Act::Start | Act::Thaw => self.daemon = Daemon::Runs,
            _ => {}
        }
    }

    /// Undoes a fault; `None` if there is none to undo.
    fn mend(&mut self) -> Option<Act> {
        let mut mends: Vec<Act> = self
            .taken
            .iter()
            .map(|(port, loss)| Act::GiveBack(*port, *loss))
            .collect();
        match self.daemon {
            Daemon::Runs | Daemon::Starts => {}
            Daemon::Frozen => mends.push(Act::Thaw),
            Daemon::Dead => mends.push(if self.random.percent(50.0) {
                Act::Start
            } else {
                Act::StartOnly
            }),
        }
        (!mends.is_empty()).then(|| self.choose(&mends))
    }

    fn fault(&mut self) -> Act {
        loop {
            let act = self.candidate();
            if self.is_possible(act) {
                return act;
            }
        }
    }

    fn candidate(&mut self) -> Act {
        // While the daemon is stopped, its event socket can overrun.
        if self.daemon == Daemon::Frozen && self.random.percent(FLOODS) {
            return Act::Flood;
        }
        let tunnel = self.random.below(2);
        let place = self.choose(&Place::ALL);
        let port = self.choose(&Port::ALL);
        match self.random.below(28) {
            0 | 1 => Act::FlushRules,
            2 => Act::DeleteRule(self.random.below(100)),
            3 | 4 => Act::DeleteRoute(self.random.below(100)),
            5 | 6 => Act::FlushTable(tunnel),
            7..=12 => {
                let losses = [Loss::Down, Loss::Name, Loss::Address, Loss::Interface];
                Act::Take(port, self.choose(&losses))
            }
            13 => Act::Detach(place),
            14 if self.scope.clsact => Act::DeleteQdisc(port),
            14 => Act::DeleteLinkPin(place),
            15 => Act::Foreign(place, self.random.percent(50.0)),
            16 => Act::DeleteMapPin(self.random.below(100)),
            17 => Act::DeletePins,
            18 => Act::Kill,
            19 => Act::Stop,
            20 => Act::Reload(self.random.percent(50.0)),
            21 | 22 => Act::Freeze,
            23 => Act::Wall(self.wall_seconds()),
            24 | 25 => Act::Forge(tunnel),
            26 => Act::Exit,
            _ => {
                let seconds = 1 + self.random.below(100) as u64;
                self.slept += seconds;
                Act::Sleep(self.slept)
            }
        }
    }

    /// At most half a day; brokers compare timestamps with their clocks, so with native tunnels it stays
    /// within the tolerated difference.
    fn wall_seconds(&mut self) -> i64 {
        let most = if self.scope.native { 60 } else { 43_200 };
        let seconds = i64::try_from(self.random.below(2 * most)).unwrap_or_default();
        seconds - i64::try_from(most).unwrap_or_default()
    }

    /// Whether this is possible now, and within the scope.
    fn is_possible(&mut self, act: Act) -> bool {
        let starts = self.daemon == Daemon::Starts;
        let runs = starts || self.daemon == Daemon::Runs;
        match act {
            Act::Take(port, loss) => {
                let whole = self.taken.iter().all(|(taken, _)| *taken != port);
                // The brokers are reached by the uplink; without it the daemon cannot repair anything.
                let connects = self.scope.native
                    && (port == Port::Uplink || matches!(loss, Loss::Name | Loss::Interface));
                whole && (!connects || self.random.below(CONNECTS_IN) == 0)
            }
            Act::Detach(place) | Act::DeleteLinkPin(place) | Act::Foreign(place, _) => {
                self.is_there(place.port)
            }
            Act::DeleteQdisc(port) => self.is_there(port),
            Act::Kill => self.daemon != Daemon::Dead && !self.scope.one_daemon,
            // Before it handles signals, their default action would end it.
            Act::Stop => runs && !starts && !self.scope.one_daemon,
            Act::Reload(by_signal) => runs && !(starts && by_signal),
            Act::Freeze => runs && !starts,
            Act::Wall(_) => runs,
            // Only a running daemon attaches its program to an exit.
            Act::Exit => self.scope.finds_exits && self.daemon == Daemon::Runs,
            // The brokers' clocks do not skip: they would count too many connects for the elapsed time.
            Act::Sleep(_) => runs && !self.scope.native,
            // A starting daemon does not hold the maps yet, and exits if it cannot pin an object that it just
            // made.
            Act::DeleteMapPin(_) | Act::DeletePins => !starts,
            // Only a stopped daemon misses events.
            Act::Flood => self.daemon == Daemon::Frozen,
            _ => true,
        }
    }

    fn is_there(&self, port: Port) -> bool {
        let gone = |(taken, loss): &(Port, Loss)| {
            *taken == port && matches!(loss, Loss::Interface | Loss::Name)
        };
        !self.taken.iter().any(gone)
    }

    /// Whether the program restores the property itself, since it made the interface.
    fn mends_itself(&self, port: Port) -> bool {
        self.scope.native && port != Port::Uplink
    }

    fn choose<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.random.below(from.len())]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scopes() -> impl Strategy<Value = Scope> {
        any::<[bool; 4]>().prop_map(|[clsact, native, finds_exits, one_daemon]| Scope {
            clsact,
            native,
            finds_exits,
            one_daemon,
        })
    }

    /// A model of the host that is independent of the plan's.
    #[derive(Default)]
    struct Host {
        dead: bool,
        frozen: bool,
        taken: Vec<(Port, Loss)>,
    }

    impl Host {
        fn live(&mut self, act: Act, native: bool) {
            match act {
                Act::Kill => {
                    assert!(!self.dead);
                    (self.dead, self.frozen) = (true, false);
                }
                Act::Stop => {
                    assert!(!self.dead && !self.frozen);
                    self.dead = true;
                }
                Act::Start | Act::StartOnly => assert!(std::mem::take(&mut self.dead)),
                Act::Freeze => {
                    assert!(!self.dead && !self.frozen);
                    self.frozen = true;
                }
                Act::Thaw => assert!(std::mem::take(&mut self.frozen)),
                Act::Flood => assert!(self.frozen),
                Act::Reload(_) | Act::Wall(_) | Act::Sleep(_) | Act::Exit => {
                    assert!(!self.dead && !self.frozen);
                }
                Act::Take(port, loss) => {
                    assert!(self.taken.iter().all(|(taken, _)| *taken != port));
                    if !native || port == Port::Uplink {
                        self.taken.push((port, loss));
                    }
                }
                Act::GiveBack(port, loss) => {
                    let before = self.taken.len();
                    self.taken.retain(|taken| *taken != (port, loss));
                    assert_eq!(self.taken.len() + 1, before);
                }
                _ => {}
            }
        }
    }

    proptest! {
        #[test]
        fn every_batch_can_happen_and_ends_whole(seed: u64, scope in scopes()) {
            let mut plan = Plan::new(seed, scope);
            let mut host = Host::default();
            for most in [1, 6, 100].into_iter().cycle().take(60) {
                let batch = plan.batch(most);
                let faults = batch.iter().filter(|step| step.act.is_fault()).count();
                prop_assert!((1..=most.min(MOST)).contains(&faults));
                for step in batch {
                    host.live(step.act, scope.native);
                    let ends = matches!(step.act, Act::Kill | Act::Stop);
                    prop_assert!(!(ends && scope.one_daemon));
                }
                prop_assert!(!host.dead && !host.frozen && host.taken.is_empty());
            }
        }

        #[test]
        fn a_seed_is_one_plan(seed: u64, scope in scopes()) {
            let (mut one, mut other) = (Plan::new(seed, scope), Plan::new(seed, scope));
            for _ in 0..20 {
                prop_assert_eq!(one.batch(6), other.batch(6));
            }
        }
    }

    #[test]
    fn everything_happens_sooner_or_later() {
        use std::collections::BTreeSet;
        let kinds = |clsact| {
            let scope = Scope {
                clsact,
                native: false,
                finds_exits: true,
                one_daemon: false,
            };
            let mut plan = Plan::new(1, scope);
            let steps = std::iter::repeat_with(|| plan.batch(6))
                .take(2000)
                .flatten();
            steps.map(|step| step.act.kind()).collect::<BTreeSet<_>>()
        };
        let (links, filters) = (kinds(false), kinds(true));
        assert!(links.contains("DeleteLinkPin") && !links.contains("DeleteQdisc"));
        assert!(filters.contains("DeleteQdisc") && !filters.contains("DeleteLinkPin"));
        for kind in [
            "FlushRules",
            "DeleteRule",
            "DeleteRoute",
            "FlushTable",
            "Detach",
            "Foreign",
            "DeleteMapPin",
            "DeletePins",
            "Kill",
            "Stop",
            "Start",
            "StartOnly",
            "Reload",
            "Freeze",
            "Flood",
            "Forge",
            "Exit",
            "Thaw",
            "Wall",
            "Sleep",
            "tunnel loses itself",
            "uplink loses its name",
        ] {
            assert!(links.contains(kind), "{kind}: {links:?}");
        }
    }
}
