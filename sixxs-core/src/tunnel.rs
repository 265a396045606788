//! The state of a tunnel, as shown to users.

use std::net::Ipv4Addr;

use crate::{link::Link, types::IfIndex};

/// The last status that the driver of a tunnel reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DriverState {
    /// Nothing to do: the tunnel is stopped, or other software makes the interface.
    Idle,
    /// Brings the tunnel up; with the current activity, if known.
    Working(Option<String>),
    /// The broker refuses connects.
    LockedOut(LockedOut),
    /// Finished; the interface exists or is about to appear.
    Done,
    /// Failed, and retries within minutes; with the reason.
    Retrying(String),
    /// Failed, and waits for a change by a user; with the reason.
    Failed(String),
}

/// A broker refuses connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockedOut {
    /// The end of the lockout, in seconds of Unix time.
    pub until_unix: u64,
    /// The reason, in words.
    pub reason: String,
}

/// The state of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Stopped by a user.
    Down,
    /// The interface is missing or down; with the reason.
    Waiting(String),
    /// The driver brings the tunnel up; with its current activity, if known.
    Connecting(Option<String>),
    /// The broker refuses connects.
    LockedOut(LockedOut),
    /// The interface is up.
    Up,
    /// The driver failed, and retries within minutes; with the reason.
    Retrying(String),
    /// The driver failed; with the reason.
    Failed(String),
}

/// What carries the packets of a native tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CarrierKind {
    /// The daemon, by a TUN device.
    Tun,
    /// The kernel, by a `sit` device.
    Sit,
    /// The programs in the kernel, at a TUN device and at the interface that leads to the broker.
    Ebpf,
}

/// The path of the outer packets of a 6in4 tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OuterPath {
    /// The interface that leads to the broker.
    pub index: IfIndex,
    /// This host's outer address.
    pub local: Ipv4Addr,
    /// The broker's address.
    pub remote: Ipv4Addr,
    /// The largest inner packet that fits, in bytes.
    pub largest_inner: u32,
}

/// What a driver reports about the outer path of its tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OuterReport {
    /// Nothing yet: what an earlier run left stays.
    Pending,
    /// There is no path that the programs could use.
    NoPath,
    /// The programs can use this path.
    Path(OuterPath),
}

impl State {
    /// Whether the driver retries without a change by a user.
    #[must_use]
    pub const fn is_retrying(&self) -> bool {
        matches!(self, Self::Retrying(_))
    }

    /// Its name in messages.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Waiting(_) => "waiting",
            Self::Connecting(_) => "connecting",
            Self::LockedOut(_) => "locked_out",
            Self::Up => "up",
            Self::Retrying(_) | Self::Failed(_) => "failed",
        }
    }

    /// The reason, if there is one.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Waiting(reason)
            | Self::Retrying(reason)
            | Self::Failed(reason)
            | Self::LockedOut(LockedOut { reason, .. }) => Some(reason),
            Self::Connecting(reason) => reason.as_deref(),
            Self::Down | Self::Up => None,
        }
    }

    /// The end of the state, in seconds of Unix time, if known.
    #[must_use]
    pub const fn until_unix(&self) -> Option<u64> {
        match self {
            Self::LockedOut(locked_out) => Some(locked_out.until_unix),
            _ => None,
        }
    }
}

/// The state of a tunnel that is `wanted` (not stopped) or not, from its driver and its interface.
#[must_use]
pub fn state(wanted: bool, driver: &DriverState, link: Option<&Link>) -> State {
    match (wanted, driver, link) {
        (false, ..) => State::Down,
        (true, DriverState::Failed(reason), _) => State::Failed(reason.clone()),
        (true, DriverState::Retrying(reason), _) => State::Retrying(reason.clone()),
        (true, DriverState::Working(at), _) => State::Connecting(at.clone()),
        (true, DriverState::LockedOut(locked_out), _) => State::LockedOut(locked_out.clone()),
        (true, DriverState::Idle | DriverState::Done, None) => {
            State::Waiting("the interface does not exist".to_owned())
        }
        (true, DriverState::Idle | DriverState::Done, Some(link)) if link.up => State::Up,
        (true, DriverState::Idle | DriverState::Done, Some(_)) => {
            State::Waiting("the interface is down".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{IfIndex, Mtu};

    #[test]
    fn every_case() {
        let link = |up| Link {
            up,
            ..Link::up(IfIndex(3), "sixxs0".parse().unwrap(), Mtu(1280))
        };
        let failed = DriverState::Failed("exit status 1".to_owned());
        let retrying = DriverState::Retrying("no route to host".to_owned());
        let locked_out = DriverState::LockedOut(LockedOut {
            until_unix: 1_800_000_000,
            reason: "too often".to_owned(),
        });
        for (wanted, driver, link, expected) in [
            (false, &DriverState::Idle, Some(link(true)), "down"),
            (false, &failed, None, "down"),
            (true, &DriverState::Idle, None, "waiting"),
            (true, &DriverState::Idle, Some(link(false)), "waiting"),
            (true, &DriverState::Idle, Some(link(true)), "up"),
            (
                true,
                &DriverState::Working(None),
                Some(link(true)),
                "connecting",
            ),
            (true, &DriverState::Done, Some(link(true)), "up"),
            (true, &locked_out, Some(link(true)), "locked_out"),
            (true, &DriverState::Done, None, "waiting"),
            (true, &failed, Some(link(true)), "failed"),
            (true, &retrying, Some(link(true)), "failed"),
        ] {
            let state = state(wanted, driver, link.as_ref());
            assert_eq!(state.name(), expected, "{wanted} {driver:?}");
            assert_eq!(state.is_retrying(), *driver == retrying, "{driver:?}");
        }
    }

    #[test]
    fn a_state_has_the_reason_and_the_end_that_are_known() {
        let reason = || "a reason".to_owned();
        let locked_out = LockedOut {
            until_unix: 1_800_000_000,
            reason: reason(),
        };
        for (state, has_reason, until) in [
            (State::Down, false, None),
            (State::Waiting(reason()), true, None),
            (State::Connecting(None), false, None),
            (State::Connecting(Some(reason())), true, None),
            (State::LockedOut(locked_out), true, Some(1_800_000_000)),
            (State::Up, false, None),
            (State::Retrying(reason()), true, None),
            (State::Failed(reason()), true, None),
        ] {
            let expected = has_reason.then_some("a reason");
            assert_eq!(state.reason(), expected, "{state:?}");
            assert_eq!(state.until_unix(), until, "{state:?}");
        }
    }
}
