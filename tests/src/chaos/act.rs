//! The faults and repairs that may happen to a host, as plain data.

use std::fmt;

use crate::topology::{TUNNELS, UPLINK};

/// An interface with programs of the daemon.
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

/// An attach point of the daemon's programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The interface.
    pub port: Port,
    /// The direction: ingress or egress.
    pub ingress: bool,
}

impl Place {
    /// All of them; an uplink has no program at ingress.
    pub const ALL: [Self; 5] = [
        Self::egress(Port::Uplink),
        Self::egress(Port::Tunnel(0)),
        Self::egress(Port::Tunnel(1)),
        Self::ingress(Port::Tunnel(0)),
        Self::ingress(Port::Tunnel(1)),
    ];

    /// The egress of an interface.
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

    /// The name of its direction.
    pub const fn direction(self) -> &'static str {
        if self.ingress { "ingress" } else { "egress" }
    }

    /// The name of the daemon's program there.
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

/// The property that an interface loses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// It is down.
    Down,
    /// It has another name, and is down.
    Name,
    /// It loses its address.
    Address,
    /// It is deleted; the new one has another index.
    Interface,
}

/// A fault, or the repair of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Deletes all rules with our mark, like a network manager that deletes foreign rules.
    FlushRules,
    /// Deletes one of these rules: the index modulo their number.
    DeleteRule(usize),
    /// Deletes one of the daemon's routes.
    DeleteRoute(usize),
    /// Deletes all routes of a tunnel's table, with foreign ones.
    FlushTable(usize),
    /// An interface loses something.
    Take(Port, Loss),
    /// Undoes [`Act::Take`].
    GiveBack(Port, Loss),
    /// Detaches the program by force.
    Detach(Place),
    /// Removes the pin of its link, and with it the link.
    DeleteLinkPin(Place),
    /// Deletes the clsact qdisc, with all filters on it.
    DeleteQdisc(Port),
    /// Attaches a foreign program, before the daemon's (true) or after it.
    Foreign(Place, bool),
    /// Removes the pin of one of the daemon's maps.
    DeleteMapPin(usize),
    /// Removes everything below the pin directory.
    DeletePins,
    /// Kills the daemon.
    Kill,
    /// Stops the daemon, and waits for its end.
    Stop,
    /// Starts the daemon, and waits until it is ready.
    Start,
    /// Starts the daemon, and does not wait.
    StartOnly,
    /// Reloads the configuration: by signal (true), or by request.
    Reload(bool),
    /// Stops the daemon's execution (SIGSTOP).
    Freeze,
    /// Makes more changes than the daemon's event socket can queue.
    Flood,
    /// Sends packets from outside whose forged source is one tunnel's address, to destinations that the other
    /// tunnel brings to the host: its address, and its prefix.
    Forge(usize),
    /// Adds a route in another table, which makes an interface an exit; waits until it has a program; deletes
    /// the route.
    Exit,
    /// Continues the daemon's execution (SIGCONT).
    Thaw,
    /// Sets the daemon's clock this many seconds ahead of the machine's.
    Wall(i64),
    /// Makes the daemon observe that the machine was suspended for this many seconds.
    Sleep(u64),
}

impl Act {
    /// Whether it breaks something, instead of repairing an earlier fault.
    pub const fn is_fault(self) -> bool {
        !matches!(
            self,
            Self::GiveBack(..) | Self::Start | Self::StartOnly | Self::Thaw
        )
    }

    /// The name of the fault, without its target.
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
