//! Owns the schedule: batches of actions from a seed. Pure: the same seed gives the same batches. Each batch
//! undoes the faults that the program cannot repair itself.

use std::time::Duration;

use super::fault::{Action, AttachPoint, Loss, Port};
use crate::broker::random::Random;

/// The faults that a run may have.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// Whether programs are clsact filters instead of TCX links.
    pub clsact: bool,
    /// Whether the program makes the tunnels' interfaces itself, and connects to brokers for that.
    pub native: bool,
    /// Whether the daemon detects exits: the configuration does not name the uplinks.
    pub finds_exits: bool,
    /// Whether there is a link whose addresses the daemon follows.
    pub renumbers: bool,
    /// Whether one daemon runs from beginning to end.
    pub one_daemon: bool,
}

/// An action, and the pause before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Before the action.
    pub pause: Duration,
    /// The action.
    pub action: Action,
}

/// Most faults in a batch.
const MOST: usize = 10;

/// Chance, in percent, that a fault is undone before the next one.
const UNDO_PERCENT: f64 = 40.0;

/// Chance, in percent, of a flood while the daemon is frozen.
const FLOOD_PERCENT: f64 = 20.0;

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
            let action = self.fault();
            steps.push(self.step(action));
            if self.random.percent(UNDO_PERCENT)
                && let Some(action) = self.undo()
            {
                steps.push(self.step(action));
            }
        }
        while let Some(action) = self.undo() {
            steps.push(self.step(action));
        }
        steps
    }

    fn step(&mut self, action: Action) -> Step {
        self.happened(action);
        // Mostly before the daemon observes the last action, sometimes long after.
        let milliseconds = match self.random.below(10) {
            0..=4 => 0,
            5..=7 => self.random.below(5),
            8 => self.random.below(40),
            _ => self.random.below(250),
        };
        let pause = Duration::from_millis(milliseconds as u64);
        Step { pause, action }
    }

    fn happened(&mut self, action: Action) {
        match action {
            Action::Take(port, loss) if !self.repairs_itself(port) => self.taken.push((port, loss)),
            Action::GiveBack(port, _) => self.taken.retain(|(taken, _)| *taken != port),
            Action::Kill | Action::Stop => self.daemon = Daemon::Dead,
            Action::Freeze => self.daemon = Daemon::Frozen,
            Action::StartOnly => self.daemon = Daemon::Starts,
            Action::Start | Action::Thaw => self.daemon = Daemon::Runs,
            _ => {}
        }
    }

    /// The undoing of a fault; none if there is nothing to undo.
    fn undo(&mut self) -> Option<Action> {
        let mut choices: Vec<Action> = self
            .taken
            .iter()
            .map(|(port, loss)| Action::GiveBack(*port, *loss))
            .collect();
        match self.daemon {
            Daemon::Runs | Daemon::Starts => {}
            Daemon::Frozen => choices.push(Action::Thaw),
            Daemon::Dead => choices.push(if self.random.percent(50.0) {
                Action::Start
            } else {
                Action::StartOnly
            }),
        }
        (!choices.is_empty()).then(|| self.choose(&choices))
    }

    fn fault(&mut self) -> Action {
        loop {
            let action = self.candidate();
            if self.is_possible(action) {
                return action;
            }
        }
    }

    fn candidate(&mut self) -> Action {
        // A frozen daemon reads no events.
        if self.daemon == Daemon::Frozen && self.random.percent(FLOOD_PERCENT) {
            return Action::Flood;
        }
        let tunnel = self.random.below(2);
        let place = self.choose(&AttachPoint::ALL);
        let port = self.choose(&Port::ALL);
        match self.random.below(32) {
            0 | 1 => Action::FlushRules,
            2 => Action::DeleteRule(self.random.below(100)),
            3 | 4 => Action::DeleteRoute(self.random.below(100)),
            5 | 6 => Action::FlushTable(tunnel),
            7..=12 => {
                let losses = [Loss::Down, Loss::Name, Loss::Address, Loss::Interface];
                Action::Take(port, self.choose(&losses))
            }
            13 => Action::Detach(place),
            14 if self.scope.clsact => Action::DeleteQdisc(port),
            14 => Action::DeleteLinkPin(place),
            15 => Action::Foreign(place, self.random.percent(50.0)),
            16 => Action::DeleteMapPin(self.random.below(100)),
            17 => Action::DeletePins,
            18 => Action::Kill,
            19 => Action::Stop,
            20 => Action::Reload(self.random.percent(50.0)),
            21 | 22 => Action::Freeze,
            23 => Action::Wall(self.wall_seconds()),
            24 | 25 => Action::Forge(tunnel),
            26 => Action::Exit,
            27 => Action::Carrier,
            28 => Action::Xdp(self.random.percent(50.0)),
            29 | 30 => Action::Renumber,
            _ => {
                let seconds = 1 + self.random.below(100) as u64;
                self.slept += seconds;
                Action::Sleep(self.slept)
            }
        }
    }

    /// Half a day at most. Brokers compare clocks: with native tunnels, less than their allowed skew.
    fn wall_seconds(&mut self) -> i64 {
        let most = if self.scope.native { 60 } else { 43_200 };
        let seconds = i64::try_from(self.random.below(2 * most)).unwrap_or_default();
        seconds - i64::try_from(most).unwrap_or_default()
    }

    /// Whether the action is possible now and within the scope.
    fn is_possible(&mut self, action: Action) -> bool {
        let starts = self.daemon == Daemon::Starts;
        let runs = starts || self.daemon == Daemon::Runs;
        match action {
            Action::Take(port, loss) => {
                let whole = self.taken.iter().all(|(taken, _)| *taken != port);
                // Without the uplink no broker can be reached.
                let connects = self.scope.native
                    && (port == Port::Uplink || matches!(loss, Loss::Name | Loss::Interface));
                whole && (!connects || self.random.below(CONNECTS_IN) == 0)
            }
            Action::Detach(place) | Action::DeleteLinkPin(place) | Action::Foreign(place, _) => {
                self.is_there(place.port)
            }
            Action::DeleteQdisc(port) => self.is_there(port),
            // Hosts without native tunnels have no XDP program.
            Action::Xdp(_) => self.scope.native && self.is_there(Port::Uplink),
            Action::Kill => self.daemon != Daemon::Dead && !self.scope.one_daemon,
            // Before it handles signals, they kill it.
            Action::Stop => runs && !starts && !self.scope.one_daemon,
            Action::Reload(by_signal) => runs && !(starts && by_signal),
            Action::Carrier => self.scope.native && runs && !starts,
            Action::Freeze => runs && !starts,
            Action::Wall(_) => runs,
            // Only a running daemon guards the exit.
            Action::Exit => self.scope.finds_exits && self.daemon == Daemon::Runs,
            // Only a running daemon follows it.
            Action::Renumber => self.scope.renumbers && self.daemon == Daemon::Runs,
            // The brokers do not sleep, and would count too many connects.
            Action::Sleep(_) => runs && !self.scope.native,
            // A daemon that starts ends with an error if it cannot pin its maps.
            Action::DeleteMapPin(_) | Action::DeletePins => !starts,
            // Only a frozen daemon loses events.
            Action::Flood => self.daemon == Daemon::Frozen,
            _ => true,
        }
    }

    fn is_there(&self, port: Port) -> bool {
        let gone = |(taken, loss): &(Port, Loss)| {
            *taken == port && matches!(loss, Loss::Interface | Loss::Name)
        };
        !self.taken.iter().any(gone)
    }

    /// Whether the program undoes damage to this interface, because it made the interface.
    fn repairs_itself(&self, port: Port) -> bool {
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
        any::<[bool; 5]>().prop_map(
            |[clsact, native, finds_exits, renumbers, one_daemon]| Scope {
                clsact,
                native,
                finds_exits,
                renumbers,
                one_daemon,
            },
        )
    }

    /// A second model of daemon and damage, independent of the plan's.
    #[derive(Default)]
    struct Host {
        dead: bool,
        frozen: bool,
        taken: Vec<(Port, Loss)>,
    }

    impl Host {
        fn apply(&mut self, action: Action, native: bool) {
            match action {
                Action::Kill => {
                    assert!(!self.dead);
                    (self.dead, self.frozen) = (true, false);
                }
                Action::Stop => {
                    assert!(!self.dead && !self.frozen);
                    self.dead = true;
                }
                Action::Start | Action::StartOnly => assert!(std::mem::take(&mut self.dead)),
                Action::Freeze => {
                    assert!(!self.dead && !self.frozen);
                    self.frozen = true;
                }
                Action::Thaw => assert!(std::mem::take(&mut self.frozen)),
                Action::Flood => assert!(self.frozen),
                Action::Reload(_)
                | Action::Carrier
                | Action::Wall(_)
                | Action::Sleep(_)
                | Action::Exit
                | Action::Renumber => {
                    assert!(!self.dead && !self.frozen);
                }
                Action::Take(port, loss) => {
                    assert!(self.taken.iter().all(|(taken, _)| *taken != port));
                    if !native || port == Port::Uplink {
                        self.taken.push((port, loss));
                    }
                }
                Action::GiveBack(port, loss) => {
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
                let faults = batch.iter().filter(|step| step.action.is_fault()).count();
                prop_assert!((1..=most.min(MOST)).contains(&faults));
                for step in batch {
                    host.apply(step.action, scope.native);
                    let ends = matches!(step.action, Action::Kill | Action::Stop);
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
        let kinds = |clsact, native| {
            let scope = Scope {
                clsact,
                native,
                finds_exits: true,
                renumbers: !native,
                one_daemon: false,
            };
            let mut plan = Plan::new(1, scope);
            let steps = std::iter::repeat_with(|| plan.batch(6))
                .take(2000)
                .flatten();
            steps
                .map(|step| step.action.kind())
                .collect::<BTreeSet<_>>()
        };
        let (links, filters) = (kinds(false, false), kinds(true, false));
        let native = kinds(false, true);
        assert!(native.contains("Carrier") && native.contains("Xdp"));
        assert!(!native.contains("Renumber"));
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
            "Renumber",
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
