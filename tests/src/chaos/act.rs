//! Owns the words: everything that may happen to a host, as plain data.

use std::fmt;

use crate::lab::topology::{TUNNELS, UPLINK};

/// An interface that the program has programs at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Port {
    /// The first or the second tunnel.
    Tunnel(usize),
    /// The uplink.
    Uplink,
}

impl Port {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tunnel(0), Self::Tunnel(1), Self::Uplink];

    /// Its interface.
    pub fn interface(self) -> &'static str {
        match self {
            Self::Tunnel(number) => TUNNELS[number].interface,
            Self::Uplink => UPLINK,
        }
    }
}

/// Where a program of ours belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// At which interface.
    pub port: Port,
    /// In which direction.
    pub ingress: bool,
}

impl Place {
    /// All of them: an uplink has none at its ingress.
    pub const ALL: [Self; 5] = [
        Self::egress(Port::Uplink),
        Self::egress(Port::Tunnel(0)),
        Self::egress(Port::Tunnel(1)),
        Self::ingress(Port::Tunnel(0)),
        Self::ingress(Port::Tunnel(1)),
    ];

    /// What leaves by an interface.
    pub const fn egress(port: Port) -> Self {
        Self {
            port,
            ingress: false,
        }
    }

    const fn ingress(port: Port) -> Self {
        Self {
            port,
            ingress: true,
        }
    }

    /// Its direction, in words.
    pub const fn direction(self) -> &'static str {
        if self.ingress { "ingress" } else { "egress" }
    }

    /// The name of our program there.
    pub const fn program(self) -> &'static str {
        if self.ingress {
            "sixxs_ingress"
        } else {
            "sixxs_egress"
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.port.interface(), self.direction())
    }
}

/// What becomes of an interface that somebody takes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// It is down.
    Down,
    /// It has another name, and is down.
    Name,
    /// It has lost its address.
    Address,
    /// It is gone; the one that comes back has another index.
    Interface,
}

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// All rules with our mark are deleted, as by a network manager that did not make them.
    FlushRules,
    /// One of them; the number counts around.
    DeleteRule(usize),
    /// One of our routes.
    DeleteRoute(usize),
    /// All routes of a tunnel's table, whoever made them.
    FlushTable(usize),
    /// An interface loses something.
    Take(Port, Loss),
    /// And has it back.
    GiveBack(Port, Loss),
    /// The program is detached by force.
    Detach(Place),
    /// The pin of its link is removed, and with it the link.
    DeleteLinkPin(Place),
    /// The qdisc that it sits on is deleted, with all others on it.
    DeleteQdisc(Port),
    /// Somebody attaches a program of their own, before ours or after.
    Foreign(Place, bool),
    /// The pin of one of our maps is removed.
    DeleteMapPin(usize),
    /// Everything below the pin directory is.
    DeletePins,
    /// The daemon is killed.
    Kill,
    /// It is told to end, and does.
    Stop,
    /// It is started, and is ready.
    Start,
    /// It is started, and what comes next does not wait for it.
    StartOnly,
    /// It is told to take its configuration over anew: by request, or by signal.
    Reload(bool),
    /// It stands still.
    Freeze,
    /// So much happens that its event socket overruns: more changes than that holds.
    Flood,
    /// Somebody outside sends as if from the address of one tunnel, to what the other one brings to the
    /// host: its address, and its prefix.
    Forge(usize),
    /// A route in another table makes an interface an exit, is guarded, and goes again.
    Exit,
    /// It goes on.
    Thaw,
    /// Its clock jumps to so many seconds from the machine's.
    Wall(i64),
    /// It finds that so many seconds passed since it last looked: the machine slept.
    Sleep(u64),
}

impl Act {
    /// Whether it breaks anything, and does not mend what another one broke.
    pub const fn is_fault(self) -> bool {
        !matches!(
            self,
            Self::GiveBack(..) | Self::Start | Self::StartOnly | Self::Thaw
        )
    }

    /// The word for it, without what it strikes.
    pub fn kind(self) -> String {
        let shown = match self {
            Self::Take(port, loss) | Self::GiveBack(port, loss) => {
                let port = match port {
                    Port::Tunnel(_) => "tunnel",
                    Port::Uplink => "uplink",
                };
                return format!("{port} loses {}", loss.word());
            }
            other => format!("{other:?}"),
        };
        shown
            .split(['(', ' '])
            .next()
            .unwrap_or_default()
            .to_owned()
    }
}

impl Loss {
    const fn word(self) -> &'static str {
        match self {
            Self::Down => "being up",
            Self::Name => "its name",
            Self::Address => "its address",
            Self::Interface => "itself",
        }
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Take(port, loss) => write!(f, "{} loses {}", port.interface(), loss.word()),
            Self::GiveBack(port, loss) => {
                write!(f, "{} gets back {}", port.interface(), loss.word())
            }
            Self::Detach(place) => write!(f, "the program at {place} is detached"),
            Self::DeleteLinkPin(place) => write!(f, "the pin of the link at {place} is removed"),
            Self::DeleteQdisc(port) => write!(f, "the qdisc of {} is deleted", port.interface()),
            Self::Foreign(place, first) => {
                let order = if *first { "before" } else { "after" };
                write!(f, "somebody attaches a program {order} ours at {place}")
            }
            other => write!(f, "{other:?}"),
        }
    }
}
