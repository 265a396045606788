//! IPv6 addresses of interfaces.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
};

use anyhow::Context as _;
use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage},
};
use sixxs_core::{
    link::Unusable,
    routing::connected::ConnectedRoute,
    types::{IfIndex, Prefix},
};

use super::{DUMP, Netlink};

/// An address of an interface, with its state.
#[derive(Clone, Copy, Debug)]
pub struct SeenAddress {
    /// The interface.
    pub index: IfIndex,
    /// The address.
    pub address: Ipv6Addr,
    /// Its on-link prefix.
    pub prefix: Prefix,
    /// Whether duplicate address detection found another owner on the link.
    pub is_duplicate: bool,
    /// Whether duplicate address detection is still running.
    pub is_tentative: bool,
}

impl SeenAddress {
    /// The on-link prefix as a connected route.
    pub(super) const fn on_link(&self) -> ConnectedRoute {
        ConnectedRoute {
            destination: self.prefix,
            index: self.index,
        }
    }

    /// Why it cannot be used, if it cannot.
    #[must_use]
    pub const fn unusable(&self) -> Option<Unusable> {
        match (self.is_duplicate, self.is_tentative) {
            // A duplicate stays tentative.
            (true, _) => Some(Unusable::Duplicate),
            (false, true) => Some(Unusable::Tentative),
            (false, false) => None,
        }
    }
}

impl Netlink {
    /// All IPv6 addresses, as the kernel sends them.
    pub(super) async fn address_messages(
        &self,
    ) -> anyhow::Result<impl Iterator<Item = AddressMessage> + use<>> {
        let mut request = AddressMessage::default();
        request.header.family = AddressFamily::Inet6;
        let answers = self
            .request(RouteNetlinkMessage::GetAddress(request), DUMP)
            .await
            .context("list the IPv6 addresses")?;
        Ok(messages(answers))
    }

    /// All addresses.
    pub async fn seen_addresses(&self) -> anyhow::Result<Vec<SeenAddress>> {
        let messages = self.address_messages().await?;
        Ok(messages
            .filter_map(|message| parse_address(&message))
            .collect())
    }

    /// The addresses of each interface.
    pub(super) async fn addresses(&self) -> anyhow::Result<BTreeMap<IfIndex, Vec<SeenAddress>>> {
        let mut addresses: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for seen in self.seen_addresses().await? {
            addresses.entry(seen.index).or_default().push(seen);
        }
        Ok(addresses)
    }
}

/// The addresses among the kernel's answers.
pub(super) fn messages(answers: Vec<RouteNetlinkMessage>) -> impl Iterator<Item = AddressMessage> {
    answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewAddress(message) => Some(message),
        _ => None,
    })
}

/// The address in a message of the kernel.
pub(super) fn parse_address(message: &AddressMessage) -> Option<SeenAddress> {
    let (mut local, mut other) = (None, None);
    let mut flags = None;
    for attribute in &message.attributes {
        match attribute {
            // In a point-to-point address IFA_LOCAL is the local end and IFA_ADDRESS the peer.
            AddressAttribute::Local(IpAddr::V6(address)) => local = Some(*address),
            AddressAttribute::Address(IpAddr::V6(address)) => other = Some(*address),
            AddressAttribute::Flags(all) => flags = Some(*all),
            _ => {}
        }
    }
    let header = message.header.flags;
    let has = |all, short| flags.map_or(header.contains(short), |flags| flags.contains(all));
    let address = local.or(other)?;
    Some(SeenAddress {
        index: IfIndex(message.header.index),
        address,
        prefix: Prefix::containing(other.unwrap_or(address), message.header.prefix_len),
        is_duplicate: has(AddressFlags::Dadfailed, AddressHeaderFlags::Dadfailed),
        is_tentative: has(AddressFlags::Tentative, AddressHeaderFlags::Tentative),
    })
}
