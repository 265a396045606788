//! Owns the faults, and the actions that undo them, as plain data.

use std::fmt;

use crate::lab::topology::{TUNNELS, UPLINK};

/// An interface with kernel programs of `sixxs`.
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

/// A hook that must have a kernel program of `sixxs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AttachPoint {
    /// The interface.
    pub port: Port,
    /// The direction: ingress or egress.
    pub ingress: bool,
}

impl AttachPoint {
    /// All of them. An uplink has no ingress program.
    pub const ALL: [Self; 5] = [
        Self::egress(Port::Uplink),
        Self::egress(Port::Tunnel(0)),
        Self::egress(Port::Tunnel(1)),
        Self::ingress(Port::Tunnel(0)),
        Self::ingress(Port::Tunnel(1)),
    ];

    /// The egress hook of an interface.
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

    /// `ingress` or `egress`.
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

impl fmt::Display for AttachPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.port.interface(), self.direction())
    }
}

/// Damage to an interface.
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

/// A fault, or its undoing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Delete all rules with our mark, as a network manager does.
    FlushRules,
    /// Delete one of them: the number modulo their count.
    DeleteRule(usize),
    /// Delete one of our routes.
    DeleteRoute(usize),
    /// Delete all routes of a tunnel's table, foreign ones too.
    FlushTable(usize),
    /// Damage an interface.
    Take(Port, Loss),
    /// Undo the damage.
    GiveBack(Port, Loss),
    /// Detach the program by force.
    Detach(AttachPoint),
    /// Remove the pin of its link, and so the link.
    DeleteLinkPin(AttachPoint),
    /// Delete the clsact qdisc, with every filter on it.
    DeleteQdisc(Port),
    /// Attach a foreign program before ours (true), or after.
    Foreign(AttachPoint, bool),
    /// Detach the XDP program from the uplink by force; then attach a foreign one for a moment (true).
    Xdp(bool),
    /// Remove the pin of one of our maps.
    DeleteMapPin(usize),
    /// Remove everything below the pin directory.
    DeletePins,
    /// Kill the daemon.
    Kill,
    /// Stop it by SIGTERM.
    Stop,
    /// Start it and wait until it is ready.
    Start,
    /// Start it without a wait.
    StartOnly,
    /// Reload its configuration: by signal (true), or by request.
    Reload(bool),
    /// Give 6in4 tunnels another carrier by a reload, and the first one by another reload.
    Carrier,
    /// Stop its execution (SIGSTOP).
    Freeze,
    /// Overrun its netlink event socket with changes.
    Flood,
    /// Send from the outside with the source address of one tunnel to the address and the prefix of the
    /// other.
    Forge(usize),
    /// Add a route in another table that makes an interface an exit, wait until it is guarded, remove it.
    Exit,
    /// Replace the address of a link that the daemon follows, wait until both addresses are guarded, send from them.
    Renumber,
    /// Continue the daemon (SIGCONT).
    Thaw,
    /// Set its clock to this number of seconds from the machine's.
    Wall(i64),
    /// Simulate that the machine slept for this number of seconds.
    Sleep(u64),
}

impl Action {
    /// Whether it is a fault, and not the undoing of one.
    pub const fn is_fault(self) -> bool {
        !matches!(
            self,
            Self::GiveBack(..) | Self::Start | Self::StartOnly | Self::Thaw
        )
    }

    /// Its name without its target.
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

impl fmt::Display for Action {
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
            Self::Xdp(false) => write!(f, "the XDP program is detached"),
            Self::Xdp(true) => write!(f, "somebody's XDP program replaces ours for a moment"),
            other => write!(f, "{other:?}"),
        }
    }
}
