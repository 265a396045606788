//! What the programs say of a packet: by what their maps hold, or by what they should know.

use std::net::Ipv6Addr;

use sixxs_common::{
    address::Address,
    decide::{self, Verdict, decide},
    layout::{ON_LEAK_DROP, ON_LEAK_OBSERVE, Source, Tunnel},
    packet::Ipv6,
};

use super::{Endpoint, Packet};
use crate::{
    enforce::{Enforcement, Role},
    types::{IfIndex, IfName, Mtu},
};

/// What a program says of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// What it is; `None`: the interface is not in use as uplink or tunnel, and everything passes.
    pub verdict: Option<Verdict>,
    /// Of a leak: the tunnel's entry.
    pub tunnel: Tunnel,
    /// Of a leak: the tunnel's name.
    pub name: Option<IfName>,
    /// Where the packets go that the programs take for outer packets of a tunnel, and that are between the same
    /// addresses.
    pub recursion: Option<Endpoint>,
}

/// What the program does about a leak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes into the tunnel.
    Redirect,
    /// It is dropped.
    Drop,
    /// It passes, and is counted.
    Observe,
    /// It is dropped, as the tunnel is not there.
    NoTunnel,
    /// It is too big: the sender is told this MTU, in bytes.
    TooBig(u32),
}

/// As the kernel program has it (`leak.rs` there), for a packet that is no batch.
#[must_use]
pub fn fate(tunnel: &Tunnel, bytes: u32) -> Fate {
    match tunnel.on_leak {
        ON_LEAK_DROP => Fate::Drop,
        ON_LEAK_OBSERVE => Fate::Observe,
        _ if tunnel.ifindex == 0 => Fate::NoTunnel,
        _ if bytes > Mtu::MINIMUM.0 && bytes > tunnel.mtu => {
            Fate::TooBig(tunnel.mtu.max(Mtu::MINIMUM.0))
        }
        _ => Fate::Redirect,
    }
}

/// What a packet that leaves by an interface would be to the programs, by what they should know. An
/// interface that is neither uplink nor tunnel counts as an uplink.
#[must_use]
pub fn verdict(wanted: &Enforcement, packet: &Packet, name: &IfName, index: IfIndex) -> Verdict {
    let tables = Wanted(wanted);
    let role = wanted.interfaces.get(name).map(|interface| interface.role);
    let exit = match (role, tables.slot(name)) {
        (Some(Role::Tunnel), Some(slot)) => decide::Exit::Tunnel(slot),
        _ => decide::Exit::Uplink(index.0),
    };
    decide(Ok(&header(packet)), exit, &tables)
}

/// The header of a packet, as far as a decision asks.
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

/// What the programs should know, as tables; a tunnel's slot is its place in their order.
struct Wanted<'a>(&'a Enforcement);

impl Wanted<'_> {
    fn slot(&self, tunnel: &IfName) -> Option<u32> {
        let place = self.0.tunnels.keys().position(|name| name == tunnel)?;
        u32::try_from(place).ok()
    }
}

impl decide::Tables for Wanted<'_> {
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
