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
    /// With a /48 routed to the host, and two LANs in it: a separate one, and one on the uplink's link.
    pub lans: bool,
    /// Kinds of native tunnels. Brokers then speak their protocols, and the host has no tunnel interface
    /// until the program under test makes it.
    pub brokers: Option<[Kind; 2]>,
    /// The `carrier` of native 6in4 tunnels in the configuration; `None`: it has none.
    pub carrier: Option<&'static str>,
    /// Number of additional native tunnels at pop0, all AYIYA.
    pub extra_tunnels: u8,
    /// NAT of IPv4 at the ISP.
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
            carrier: None,
            extra_tunnels: 0,
            nat: false,
            interactive: false,
        }
    }

    /// The kind of each tunnel that the program under test makes.
    pub(crate) fn kinds(&self) -> [Option<Kind>; 2] {
        self.brokers.map_or([None; 2], |kinds| kinds.map(Some))
    }

    /// A lab with native tunnels.
    pub fn native(kinds: [Kind; 2]) -> Self {
        Self {
            brokers: Some(kinds),
            ..Self::new(Flavour::Tun)
        }
    }
}
