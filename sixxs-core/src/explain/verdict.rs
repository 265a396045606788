//! The programs' decision about a packet: from the contents of their maps, or from the configuration.

use std::net::Ipv6Addr;

use sixxs_common::{
    address::Address,
    decide::{self, Verdict, decide},
    layout::{Source, Tunnel},
    packet::Ipv6,
    treatment::{Decision, Fit, Leak, treat},
};

use super::{Endpoint, Packet};
use crate::{
    enforce::{Enforcement, Role},
    types::{IfIndex, IfName},
};

/// A program's decision about a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// The verdict; `None`: the interface is inactive, and everything passes.
    pub verdict: Option<Verdict>,
    /// For a leak: the tunnel's entry.
    pub tunnel: Tunnel,
    /// For a leak: the tunnel's name.
    pub name: Option<IfName>,
    /// The endpoint of the flow between the packet's addresses that the programs treat as outer packets of a
    /// tunnel.
    pub recursion: Option<Endpoint>,
}

/// The program's action for the packet, if it is a leak of `bytes` bytes.
#[must_use]
pub fn treated(decided: &Decided, bytes: u32) -> Decision {
    let is_recursion = decided.recursion.is_some();
    treat(
        &decided.tunnel,
        &HypotheticalLeak {
            bytes,
            is_recursion,
        },
    )
}

/// A leak that is not real.
struct HypotheticalLeak {
    bytes: u32,
    is_recursion: bool,
}

impl Leak for HypotheticalLeak {
    fn longest_bytes(&self) -> u32 {
        self.bytes
    }

    /// The tunnel's entry has the interface's index and MTU, so no query of the kernel is needed.
    fn fit(&self, _ifindex: u32) -> Fit {
        Fit::Fits
    }

    fn is_recursion(&self) -> bool {
        self.is_recursion
    }
}

/// The programs' verdict for a packet that leaves by an interface, according to the configuration. An
/// interface that is neither uplink nor tunnel counts as an uplink.
#[must_use]
pub fn verdict(wanted: &Enforcement, packet: &Packet, name: &IfName, index: IfIndex) -> Verdict {
    let tables = DesiredTables(wanted);
    let role = wanted.interfaces.get(name).map(|interface| interface.role);
    let exit = match (role, tables.slot(name)) {
        (Some(Role::Tunnel), Some(slot)) => decide::Exit::Tunnel(slot),
        _ => decide::Exit::Uplink(index.0),
    };
    decide(Ok(&header(packet)), exit, &tables)
}

/// The header of a packet, with the fields that the decision uses.
#[must_use]
pub fn header(packet: &Packet) -> Ipv6 {
    Ipv6 {
        offset: 0,
        source: Address::from_octets(packet.source.octets()),
        destination: Address::from_octets(packet.destination.octets()),
        payload_bytes: 0,
        next_header: 59,
    }
}

/// The desired state as tables; a tunnel's slot is its position in the order of names.
struct DesiredTables<'a>(&'a Enforcement);

impl DesiredTables<'_> {
    fn slot(&self, tunnel: &IfName) -> Option<u32> {
        let place = self.0.tunnels.keys().position(|name| name == tunnel)?;
        u32::try_from(place).ok()
    }
}

impl decide::Tables for DesiredTables<'_> {
    fn source(&self, address: Address) -> Option<Source> {
        let address = Ipv6Addr::from(address.octets());
        let mut sources = self.0.sources.iter();
        let source = sources.find(|source| source.prefix.contains(address))?;
        let slot = self.slot(&source.tunnel)?;
        Some(match source.is_far_end {
            true => Source::far_end(slot),
            false => Source::new(slot, source.prefix.bits(), source.home_number()),
        })
    }

    fn is_direct(&self, tunnel: u32, destination: Address) -> bool {
        let destination = Ipv6Addr::from(destination.octets());
        let mut directs = self.0.directs.iter();
        directs
            .any(|(name, prefix)| self.slot(name) == Some(tunnel) && prefix.contains(destination))
    }
}
