//! Owns the description of a lab.

use crate::broker::Kind;
use crate::lab::topology::{Flavour, TUNNEL_MTU};

/// The kind of lab to build.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Whether the tunnels have a link layer.
    pub flavour: Flavour,
    /// The tunnels' MTU, at both ends.
    pub mtu: u32,
    /// With a /48 behind the host: one LAN of its own, one on the uplink's wire.
    pub lans: bool,
    /// Native tunnels of these kinds: brokers that speak their protocols, and no interface in the
    /// host until the program under test makes it.
    pub brokers: Option<[Kind; 2]>,
    /// Number of additional native tunnels at pop0, all AYIYA.
    pub extra_tunnels: u8,
    /// Address translation of IPv4 at the ISP.
    pub nat: bool,
    /// Namespaces are called `sixxs-host` and so on. There is at most one such lab at a time.
    pub interactive: bool,
}

impl Spec {
    /// A lab for a test: tunnels of this flavour with [`TUNNEL_MTU`], no LANs.
    pub fn new(flavour: Flavour) -> Self {
        Self {
            flavour,
            mtu: TUNNEL_MTU,
            lans: false,
            brokers: None,
            extra_tunnels: 0,
            nat: false,
            interactive: false,
        }
    }

    /// A lab with native tunnels.
    pub fn native(kinds: [Kind; 2]) -> Self {
        Self {
            brokers: Some(kinds),
            ..Self::new(Flavour::Tun)
        }
    }
}
