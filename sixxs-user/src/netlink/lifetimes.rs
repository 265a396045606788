//! Lifetimes of IPv6 addresses.

use std::net::IpAddr;

use anyhow::{Context as _, bail};
use rtnetlink::{
    packet_core::{NLM_F_ACK, NLM_F_REPLACE, NLM_F_REQUEST},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, CacheInfo},
    },
};
use sixxs_core::{
    deprecation::{Lifetime, ListedAddress},
    types::{IfIndex, Prefix},
};

use super::{
    Netlink, RequestError,
    addresses::{messages, parse_address},
    prefix_routes::PrefixRoutes,
};

/// Flags that a change of an address has to repeat. The kernel clears them before, and ignores other flags; those that
/// only it may set stay (`inet6_addr_modify` and `inet6_rtm_newaddr`, the same from Linux 6.1 to 6.18).
const REPEATED: AddressFlags = AddressFlags::Nodad
    .union(AddressFlags::Homeaddress)
    .union(AddressFlags::Managetempaddr)
    .union(AddressFlags::Noprefixroute)
    .union(AddressFlags::Mcautojoin);

impl Netlink {
    /// All IPv6 addresses with their lifetimes.
    pub async fn listed_addresses(&self) -> anyhow::Result<Vec<ListedAddress>> {
        let messages = self.address_messages().await?;
        Ok(messages.filter_map(|found| listed(&found)).collect())
    }

    /// Sets the preferred lifetime of an address. Nothing else about the address changes, except that it may get the flag
    /// `noprefixroute`, and no route changes. Returns whether it was set: it is not if the address is gone, or its lifetimes
    /// have been set since it was listed. An error if the kernel would change a foreign route.
    pub async fn set_preferred(
        &self,
        address: &ListedAddress,
        preferred: Lifetime,
    ) -> anyhow::Result<bool> {
        let Some(first) = self.address(address).await? else {
            return Ok(false);
        };
        let hides_routes = self.hides_routes(&first).await?;
        // The kernel would add a missing address, also without NLM_F_CREATE. So it is queried immediately before.
        let Some(present) = self.address(address).await? else {
            return Ok(false);
        };
        let is_same = listed(&present)
            .is_some_and(|now| (now.created, now.changed) == (address.created, address.changed));
        if !is_same {
            return Ok(false);
        }
        let change = with_preferred(present, preferred, hides_routes);
        let change = RouteNetlinkMessage::NewAddress(change);
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_REPLACE;
        match self.request(change, flags).await {
            Err(error) if is_gone(&error) => Ok(false),
            outcome => {
                outcome?;
                Ok(true)
            }
        }
    }

    /// Whether a change of an address has to have the flag `noprefixroute`, so that the kernel leaves the routes of its prefix
    /// alone.
    ///
    /// For an address whose valid lifetime ends, the kernel would always add a route, also where a router has advertised that
    /// the prefix is not on the link. A present route would not belong to the router advertisements any more. The flag has no
    /// other effect there.
    async fn hides_routes(&self, present: &AddressMessage) -> anyhow::Result<bool> {
        let flags = flags(present);
        if flags.contains(AddressFlags::Noprefixroute) || !flags.contains(AddressFlags::Permanent) {
            return Ok(true);
        }
        let index = IfIndex(present.header.index);
        let mut attributes = present.attributes.iter();
        let metric = attributes.find_map(|attribute| match attribute {
            AddressAttribute::RoutePriority(metric) => Some(*metric),
            _ => None,
        });
        let prefixes = prefixes(present);
        match self.prefix_routes(index, &prefixes, metric).await? {
            PrefixRoutes::InPlace => Ok(false),
            PrefixRoutes::Missing => Ok(true),
            PrefixRoutes::Ambiguous(prefix) => bail!(
                "the kernel would change the route of other software to {prefix} by the same interface; remove that route, \
                 or add the address with `noprefixroute`"
            ),
        }
    }

    /// The kernel's present message about an address; `None` if it is gone.
    async fn address(&self, address: &ListedAddress) -> anyhow::Result<Option<AddressMessage>> {
        let mut request = AddressMessage::default();
        request.header.family = AddressFamily::Inet6;
        request.header.index = address.index.0;
        request.attributes = vec![AddressAttribute::Address(address.address.into())];
        let request = RouteNetlinkMessage::GetAddress(request);
        match self.request(request, NLM_F_REQUEST).await {
            Err(error) if is_gone(&error) => Ok(None),
            answers => Ok(messages(answers.context("look an IPv6 address up")?).next()),
        }
    }
}

/// Whether the address or its interface does not exist any more.
fn is_gone(error: &RequestError) -> bool {
    let RequestError::Kernel(error) = error else {
        return false;
    };
    matches!(
        error.raw_os_error(),
        Some(libc::EADDRNOTAVAIL | libc::ENODEV | libc::ENXIO)
    )
}

fn listed(message: &AddressMessage) -> Option<ListedAddress> {
    let seen = parse_address(message)?;
    let info = cache_info(message)?;
    Some(ListedAddress {
        index: seen.index,
        address: seen.address,
        preferred: Lifetime::from_kernel(info.ifa_preferred),
        valid: Lifetime::from_kernel(info.ifa_valid),
        created: info.cstamp,
        changed: info.tstamp,
        is_usable: seen.unusable().is_none(),
        // In IPv6 this bit means IFA_F_TEMPORARY.
        is_temporary: flags(message).contains(AddressFlags::Secondary),
    })
}

fn cache_info(message: &AddressMessage) -> Option<CacheInfo> {
    let mut attributes = message.attributes.iter();
    attributes.find_map(|attribute| match attribute {
        AddressAttribute::CacheInfo(info) => Some(*info),
        _ => None,
    })
}

fn flags(message: &AddressMessage) -> AddressFlags {
    let mut attributes = message.attributes.iter();
    let flags = attributes.find_map(|attribute| match attribute {
        AddressAttribute::Flags(flags) => Some(*flags),
        _ => None,
    });
    flags.unwrap_or(AddressFlags::empty())
}

/// The prefixes for which the kernel makes routes: that of the address, and that of its peer.
fn prefixes(message: &AddressMessage) -> Vec<Prefix> {
    let addresses = message
        .attributes
        .iter()
        .filter_map(|attribute| match attribute {
            AddressAttribute::Local(IpAddr::V6(address))
            | AddressAttribute::Address(IpAddr::V6(address)) => Some(*address),
            _ => None,
        });
    let bits = message.header.prefix_len;
    let mut prefixes: Vec<_> = addresses
        .map(|address| Prefix::containing(address, bits))
        .collect();
    prefixes.sort_unstable();
    prefixes.dedup();
    prefixes
}

/// The message that sets another preferred lifetime. It repeats what the kernel would otherwise clear: flags, origin
/// (IFA_PROTO), peer. The valid lifetime is what is left of it.
fn with_preferred(
    mut message: AddressMessage,
    preferred: Lifetime,
    hides_routes: bool,
) -> AddressMessage {
    let mut repeated = flags(&message) & REPEATED;
    repeated.set(AddressFlags::Noprefixroute, hides_routes);
    let mut lifetimes = CacheInfo::default();
    lifetimes.ifa_valid = cache_info(&message).map_or(u32::MAX, |info| info.ifa_valid);
    lifetimes.ifa_preferred = preferred.to_kernel().min(lifetimes.ifa_valid);
    message.header.flags = AddressHeaderFlags::empty();
    message.attributes.retain(|attribute| {
        matches!(
            attribute,
            AddressAttribute::Local(_)
                | AddressAttribute::Address(_)
                | AddressAttribute::RoutePriority(_)
                | AddressAttribute::Protocol(_)
        )
    });
    message.attributes.extend([
        AddressAttribute::Flags(repeated),
        AddressAttribute::CacheInfo(lifetimes),
    ]);
    message
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::address::AddressProtocol;

    use super::*;

    fn message(flags: AddressFlags, preferred: u32, valid: u32) -> AddressMessage {
        let mut info = CacheInfo::default();
        (info.ifa_preferred, info.ifa_valid) = (preferred, valid);
        (info.cstamp, info.tstamp) = (7, 8);
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet6;
        message.header.index = 3;
        message.header.prefix_len = 64;
        message.header.flags = AddressHeaderFlags::Permanent;
        message.attributes = vec![
            AddressAttribute::Local("2001:db8:a::2".parse().unwrap()),
            AddressAttribute::Address("2001:db8:a::1".parse().unwrap()),
            AddressAttribute::RoutePriority(77),
            AddressAttribute::CacheInfo(info),
            AddressAttribute::Flags(flags),
            AddressAttribute::Protocol(AddressProtocol::Other(99)),
        ];
        message
    }

    #[test]
    fn an_address_is_listed_with_its_times() {
        let all = AddressFlags::Secondary | AddressFlags::Tentative;
        let found = listed(&message(all, 300, u32::MAX)).unwrap();
        assert_eq!(found.address.to_string(), "2001:db8:a::2");
        assert_eq!((found.index.0, found.created, found.changed), (3, 7, 8));
        assert_eq!(found.preferred, Lifetime::Seconds(300));
        assert_eq!(found.valid, Lifetime::Forever);
        assert!(found.is_temporary && !found.is_usable);
        let plain = listed(&message(AddressFlags::Permanent, 0, 5)).unwrap();
        assert!(!plain.is_temporary && plain.is_usable);
    }

    #[test]
    fn a_change_repeats_what_the_kernel_would_clear() {
        let own = AddressFlags::Permanent | AddressFlags::StablePrivacy;
        let kept = AddressFlags::Nodad | AddressFlags::Managetempaddr;
        let change = |flags, valid, preferred, hides_routes| {
            let change = with_preferred(message(flags, 300, valid), preferred, hides_routes);
            let info = cache_info(&change).unwrap();
            assert_eq!(change.attributes.len(), 6, "{change:?}");
            assert_eq!(change.header.flags, AddressHeaderFlags::empty());
            (super::flags(&change), info.ifa_preferred, info.ifa_valid)
        };
        let forever = Lifetime::Forever;
        let permanent = change(own | kept, u32::MAX, Lifetime::OVER, false);
        assert_eq!(permanent, (kept, 0, u32::MAX));
        let no_route = AddressFlags::Noprefixroute;
        assert_eq!(change(own, u32::MAX, forever, true).0, no_route);
        // It is never preferred for longer than it is valid.
        let ends = change(kept, 600, forever, true);
        assert_eq!(ends, (kept | no_route, 600, 600));
    }

    #[test]
    fn an_address_and_its_peer_have_prefixes() {
        let mut message = message(AddressFlags::Permanent, 0, 0);
        let texts = |message: &AddressMessage| -> Vec<_> {
            prefixes(message).iter().map(ToString::to_string).collect()
        };
        assert_eq!(texts(&message), ["2001:db8:a::/64"]);
        message.header.prefix_len = 128;
        assert_eq!(texts(&message), ["2001:db8:a::1", "2001:db8:a::2"]);
    }
}
