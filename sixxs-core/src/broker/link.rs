//! The life of a native tunnel's link to its broker, without IO.
//!
//! ```text
//!             ┌────────────────── pause ◄─────────────────┐
//!             ▼                                           │ failed, or not opened
//! start ─► Locate ─► TakeSlot ─► Carry ───────────────────┤
//!             ▲ │        │         ▲                      │ path lost: Locate
//!             │ │ error  │ none    │ resumed session      │ silent for too long: end
//!             │ ▼        ▼         │
//!             └ wait ◄───┘       start
//! ```
//!
//! The caller carries out [`BrokerLink::next`], and reports the result with the method of the same name. A
//! lost interface ends the link from outside.

use std::{fmt, time::Duration};

use crate::tunnel::DriverState;

/// A broker that cannot be located is looked for again after this time, or when an address or route
/// changes.
pub const LOCATE_AGAIN: Duration = Duration::from_secs(30);

/// A socket that could not be opened, or broke, is opened again after this time.
pub const REOPEN_PAUSE: Duration = Duration::from_secs(5);

/// The next action of the caller. `P`: the path to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next<P> {
    /// Find the path to the broker; then [`BrokerLink::located`].
    Locate,
    /// Take a slot of the connect limit; then [`BrokerLink::slot`].
    TakeSlot(P),
    /// Open sockets and carry packets; then [`BrokerLink::carried`].
    Carry {
        /// The path.
        path: P,
        /// Whether this resumes the session of an earlier run.
        is_resumed: bool,
    },
    /// Wait for this time, or until an address or route changes; then [`BrokerLink::waited`].
    WaitForChange(Duration),
    /// Wait for this time; then [`BrokerLink::waited`].
    Wait(Duration),
    /// Nothing: the broker has been silent for too long.
    Stale,
}

/// The result of an attempt to take a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotOutcome {
    /// A slot is taken. `is_path_valid`: the path has not changed meanwhile.
    Taken {
        /// Whether packets still leave by the path.
        is_path_valid: bool,
    },
    /// There is none now.
    Refused {
        /// The state of the tunnel until then.
        state: DriverState,
        /// When to try again.
        pause: Duration,
    },
}

/// Why packets are not carried any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interruption {
    /// The broker may have another address, or this host has.
    PathLost,
    /// The broker has been silent for too long: the tunnel's parameters may have changed.
    Stale,
    /// The sockets could not be opened; in words.
    NotOpened(String),
    /// The sockets broke; in words.
    Failed(String),
}

/// A link to a broker.
#[derive(Debug)]
pub struct BrokerLink<P> {
    next: Next<P>,
    /// Whether a start counts as a connect to the broker.
    counts_as_connect: bool,
    /// The last path that packets were carried by.
    last_path: Option<P>,
    state: Option<DriverState>,
}

impl<P: Copy> BrokerLink<P> {
    /// A link that resumes a session by its path, or starts a new one. `counts_as_connect`: whether a start counts
    /// as a connect to the broker.
    #[must_use]
    pub const fn new(counts_as_connect: bool, resumed: Option<P>) -> Self {
        let next = match resumed {
            Some(path) => Next::Carry {
                path,
                is_resumed: true,
            },
            None => Next::Locate,
        };
        Self {
            next,
            counts_as_connect,
            last_path: resumed,
            state: None,
        }
    }

    /// The next action of the caller.
    #[must_use]
    pub const fn next(&self) -> Next<P> {
        self.next
    }

    /// The last path that packets were carried by. If the broker's name cannot be resolved, its address in that
    /// path is used.
    #[must_use]
    pub const fn last_path(&self) -> Option<P> {
        self.last_path
    }

    /// The state to report, if the last result has changed it.
    pub const fn take_state(&mut self) -> Option<DriverState> {
        self.state.take()
    }

    /// The result of [`Next::Locate`].
    pub fn located(&mut self, result: Result<P, impl fmt::Display>) {
        self.next = match result {
            Ok(path) if self.counts_as_connect => Next::TakeSlot(path),
            Ok(path) => self.carry(path),
            Err(reason) => {
                self.state = Some(DriverState::Working(Some(reason.to_string())));
                Next::WaitForChange(LOCATE_AGAIN)
            }
        };
    }

    /// The result of [`Next::TakeSlot`].
    pub fn slot(&mut self, path: P, slot: SlotOutcome) {
        self.next = match slot {
            SlotOutcome::Taken {
                is_path_valid: true,
            } => self.carry(path),
            SlotOutcome::Taken {
                is_path_valid: false,
            } => Next::Locate,
            SlotOutcome::Refused { state, pause } => {
                self.state = Some(state);
                Next::Wait(pause)
            }
        };
    }

    fn carry(&mut self, path: P) -> Next<P> {
        self.last_path = Some(path);
        Next::Carry {
            path,
            is_resumed: false,
        }
    }

    /// The result of [`Next::Carry`].
    pub fn carried(&mut self, interruption: Interruption) {
        let is_resumed = matches!(
            self.next,
            Next::Carry {
                is_resumed: true,
                ..
            }
        );
        self.next = match interruption {
            Interruption::PathLost => Next::Locate,
            Interruption::Stale => Next::Stale,
            // The session is over: another process may have its port.
            Interruption::NotOpened(_) if is_resumed => Next::Locate,
            Interruption::NotOpened(reason) => {
                self.state = Some(DriverState::Retrying(reason));
                Next::Wait(REOPEN_PAUSE)
            }
            Interruption::Failed(reason) => {
                self.state = Some(DriverState::Working(Some(reason)));
                Next::Wait(REOPEN_PAUSE)
            }
        };
    }

    /// The wait of [`Next::Wait`] or [`Next::WaitForChange`] is over.
    pub const fn waited(&mut self) {
        self.next = Next::Locate;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CARRY: Next<u8> = Next::Carry {
        path: 1,
        is_resumed: false,
    };

    fn located(counts_as_connect: bool) -> BrokerLink<u8> {
        let mut link = BrokerLink::new(counts_as_connect, None);
        assert_eq!(link.next(), Next::Locate);
        link.located(Ok::<_, String>(1));
        link
    }

    #[test]
    fn a_start_takes_a_slot_if_it_counts() {
        assert_eq!(located(false).next(), CARRY);
        let mut link = located(true);
        assert_eq!(link.next(), Next::TakeSlot(1));
        assert_eq!(link.last_path(), None);
        link.slot(
            1,
            SlotOutcome::Taken {
                is_path_valid: true,
            },
        );
        assert_eq!((link.next(), link.last_path()), (CARRY, Some(1)));
        assert_eq!(link.take_state(), None);
    }

    #[test]
    fn a_path_that_changed_meanwhile_is_located_again() {
        let mut link = located(true);
        link.slot(
            1,
            SlotOutcome::Taken {
                is_path_valid: false,
            },
        );
        assert_eq!((link.next(), link.last_path()), (Next::Locate, None));
    }

    #[test]
    fn a_refused_slot_is_waited_for() {
        let mut link = located(true);
        let state = DriverState::Working(Some("no connect until 12:00".to_owned()));
        let pause = Duration::from_secs(7);
        link.slot(
            1,
            SlotOutcome::Refused {
                state: state.clone(),
                pause,
            },
        );
        assert_eq!(link.next(), Next::Wait(pause));
        assert_eq!(link.take_state(), Some(state));
        assert_eq!(link.take_state(), None);
        link.waited();
        assert_eq!(link.next(), Next::Locate);
    }

    #[test]
    fn a_broker_that_is_not_found_is_located_again_after_a_change() {
        let mut link = BrokerLink::<u8>::new(true, None);
        link.located(Err("no route".to_owned()));
        assert_eq!(link.next(), Next::WaitForChange(LOCATE_AGAIN));
        let state = DriverState::Working(Some("no route".to_owned()));
        assert_eq!(link.take_state(), Some(state));
        link.waited();
        assert_eq!(link.next(), Next::Locate);
    }

    #[test]
    fn a_resumed_session_takes_no_slot_until_it_is_interrupted() {
        let resumed = || {
            let link = BrokerLink::new(true, Some(1));
            let carry = Next::Carry {
                path: 1,
                is_resumed: true,
            };
            assert_eq!((link.next(), link.last_path()), (carry, Some(1)));
            link
        };
        for interruption in [
            Interruption::PathLost,
            Interruption::NotOpened("in use".to_owned()),
        ] {
            let mut link = resumed();
            link.carried(interruption);
            assert_eq!((link.next(), link.take_state()), (Next::Locate, None));
            link.located(Ok::<_, String>(2));
            assert_eq!(link.next(), Next::TakeSlot(2));
        }
    }

    #[test]
    fn sockets_that_fail_are_opened_again_after_a_pause() {
        let reason = || "broken".to_owned();
        for (interruption, state) in [
            (
                Interruption::NotOpened(reason()),
                DriverState::Retrying(reason()),
            ),
            (
                Interruption::Failed(reason()),
                DriverState::Working(Some(reason())),
            ),
        ] {
            let mut link = located(false);
            link.carried(interruption);
            assert_eq!(link.next(), Next::Wait(REOPEN_PAUSE));
            assert_eq!(link.take_state(), Some(state));
            link.waited();
            link.located(Ok::<_, String>(2));
            assert_eq!(link.last_path(), Some(2));
        }
    }

    #[test]
    fn a_stale_link_ends() {
        let mut link = located(false);
        link.carried(Interruption::Stale);
        assert_eq!(link.next(), Next::Stale);
    }
}
