//! The state of a tunnel, as people see it.

use crate::link::Link;

/// What the driver of a tunnel last reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Driver {
    /// Nothing to do: stopped, or somebody else makes the interface.
    Idle,
    /// At work on bringing the interface up.
    Working,
    /// Has done its part; the interface is there or about to appear.
    Done,
    /// Could not; in words.
    Failed(String),
}

/// The state of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Stopped by order.
    Down,
    /// The interface is not there, or not up; in words.
    Waiting(String),
    /// The driver is at work.
    Connecting,
    /// The interface is up.
    Up,
    /// The driver could not bring it up; in words.
    Failed(String),
}

impl State {
    /// Its name in JSON.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Waiting(_) => "waiting",
            Self::Connecting => "connecting",
            Self::Up => "up",
            Self::Failed(_) => "failed",
        }
    }

    /// Why, where there is something to say.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Waiting(reason) | Self::Failed(reason) => Some(reason),
            Self::Down | Self::Connecting | Self::Up => None,
        }
    }
}

/// The state of a tunnel that is `wanted` or not, given its driver and its interface.
#[must_use]
pub fn state(wanted: bool, driver: &Driver, link: Option<&Link>) -> State {
    match (wanted, driver, link) {
        (false, ..) => State::Down,
        (true, Driver::Failed(reason), _) => State::Failed(reason.clone()),
        (true, Driver::Working, _) => State::Connecting,
        (true, Driver::Idle | Driver::Done, None) => {
            State::Waiting("the interface does not exist".to_owned())
        }
        (true, Driver::Idle | Driver::Done, Some(link)) if link.up => State::Up,
        (true, Driver::Idle | Driver::Done, Some(_)) => {
            State::Waiting("the interface is down".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        link::LinkLayer,
        types::{IfIndex, Mtu},
    };

    #[test]
    fn every_case() {
        let link = |up| Link {
            index: IfIndex(3),
            name: "sixxs0".parse().unwrap(),
            up,
            mtu: Mtu(1280),
            layer: LinkLayer::None,
            addresses: vec![],
            default_route: false,
        };
        let failed = Driver::Failed("exit status 1".to_owned());
        for (wanted, driver, link, expected) in [
            (false, &Driver::Idle, Some(link(true)), "down"),
            (false, &failed, None, "down"),
            (true, &Driver::Idle, None, "waiting"),
            (true, &Driver::Idle, Some(link(false)), "waiting"),
            (true, &Driver::Idle, Some(link(true)), "up"),
            (true, &Driver::Working, Some(link(true)), "connecting"),
            (true, &Driver::Done, Some(link(true)), "up"),
            (true, &Driver::Done, None, "waiting"),
            (true, &failed, Some(link(true)), "failed"),
        ] {
            let state = state(wanted, driver, link.as_ref());
            assert_eq!(state.name(), expected, "{wanted} {driver:?}");
        }
    }
}
