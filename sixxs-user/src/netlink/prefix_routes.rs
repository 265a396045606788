//! The prefix routes of an address, which the kernel changes together with the address.
//!
//! A change of an address without an end makes the kernel look for the on-link route of the prefix by the interface
//! (`modify_prefix_route`). It adds the route if it is missing. It takes the route with the lowest metric, also a foreign one,
//! and replaces it if its metric is not that of the address. With the flag `noprefixroute` it removes that route instead
//! (`cleanup_prefix_route`).

use anyhow::Context as _;
use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteAttribute, RouteMessage, RouteProtocol, RouteType},
};
use sixxs_core::{
    routing::{
        KERNEL_METRIC, LOCAL_TABLE,
        observed::{ObservedRoute, ObservedTarget},
    },
    types::{IfIndex, Metric, Prefix},
};

use super::{DUMP, Netlink, observe::route};

/// What the kernel would do with the prefix routes of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PrefixRoutes {
    /// It would leave them as they are.
    InPlace,
    /// It would add them: other software has removed them.
    Missing,
    /// It would remove another route.
    Ambiguous(Prefix),
}

impl Netlink {
    /// What the kernel would do with the routes of these prefixes, of an address whose routes have this metric.
    pub(super) async fn prefix_routes(
        &self,
        index: IfIndex,
        prefixes: &[Prefix],
        metric: Option<u32>,
    ) -> anyhow::Result<PrefixRoutes> {
        let mut request = RouteMessage::default();
        request.header.address_family = AddressFamily::Inet6;
        request.header.kind = RouteType::Unspec;
        request.attributes = vec![RouteAttribute::Oif(index.0)];
        let answers = self
            .request(RouteNetlinkMessage::GetRoute(request), DUMP)
            .await
            .context("list the routes of an interface")?;
        let routes = answers.iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewRoute(message) => route(message),
            _ => None,
        });
        let on_link: Vec<_> = routes.filter(|route| is_on_link(route, index)).collect();
        let metric = metric.map_or(KERNEL_METRIC, Metric);
        Ok(judge(&on_link, prefixes, metric))
    }
}

/// Whether a route leads to neighbours by an interface. The local table has this host's own addresses.
fn is_on_link(route: &ObservedRoute, by: IfIndex) -> bool {
    let is_by = matches!(
        route.target,
        ObservedTarget::Interface { index, gateway: None, .. } if index == by
    );
    is_by && route.table != LOCAL_TABLE && !route.is_ours()
}

fn judge(on_link: &[ObservedRoute], prefixes: &[Prefix], metric: Metric) -> PrefixRoutes {
    let of_prefix = |prefix: Prefix| {
        let routes = on_link
            .iter()
            .filter(move |route| route.destination == prefix);
        routes.min_by_key(|route| route.metric)
    };
    let is_kernels = |route: &ObservedRoute| {
        route.protocol == u8::from(RouteProtocol::Kernel) && route.metric == metric
    };
    let first: Vec<_> = prefixes.iter().map(|prefix| of_prefix(*prefix)).collect();
    if first.iter().all(Option::is_none) {
        return PrefixRoutes::Missing;
    }
    let ambiguous = prefixes
        .iter()
        .zip(first)
        .find(|(_, route)| !route.is_some_and(is_kernels));
    match ambiguous {
        Some((prefix, _)) => PrefixRoutes::Ambiguous(*prefix),
        None => PrefixRoutes::InPlace,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use sixxs_core::{
        routing::MAIN_TABLE,
        types::{PROTOCOL, TableId},
    };

    use super::*;

    const INDEX: IfIndex = IfIndex(3);
    const KERNEL: u8 = 2;
    const STATIC: u8 = 4;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn to(text: &str, protocol: u8, metric: u32) -> ObservedRoute {
        ObservedRoute {
            table: MAIN_TABLE,
            destination: prefix(text),
            source: Prefix::ALL,
            metric: Metric(metric),
            protocol,
            target: ObservedTarget::Interface {
                index: INDEX,
                gateway: None,
                mtu: 0,
                advertised_mss: 0,
            },
        }
    }

    #[test]
    fn only_the_kernels_own_route_may_change() {
        use PrefixRoutes::{Ambiguous, InPlace, Missing};
        let (own, peer) = ("2001:db8:a::/64", "2001:db8:a::1");
        for (routes, prefixes, expected) in [
            (vec![], vec![own], Missing),
            (vec![to("2001:db8:b::/64", KERNEL, 256)], vec![own], Missing),
            (vec![to(own, KERNEL, 256)], vec![own], InPlace),
            // The one with the lowest metric counts.
            (
                vec![to(own, STATIC, 300), to(own, KERNEL, 256)],
                vec![own],
                InPlace,
            ),
            (
                vec![to(own, KERNEL, 256), to(own, STATIC, 100)],
                vec![own],
                Ambiguous(prefix(own)),
            ),
            (
                vec![to(own, STATIC, 256)],
                vec![own],
                Ambiguous(prefix(own)),
            ),
            (vec![to(own, KERNEL, 77)], vec![own], Ambiguous(prefix(own))),
            (
                vec![to(own, KERNEL, 256), to(peer, KERNEL, 256)],
                vec![own, peer],
                InPlace,
            ),
            (
                vec![to(own, KERNEL, 256)],
                vec![own, peer],
                Ambiguous(prefix(peer)),
            ),
        ] {
            let prefixes: Vec<_> = prefixes.into_iter().map(prefix).collect();
            let found = judge(&routes, &prefixes, KERNEL_METRIC);
            assert_eq!(found, expected, "{routes:?}");
        }
        let found = judge(&[to(own, KERNEL, 77)], &[prefix(own)], Metric(77));
        assert_eq!(found, InPlace);
    }

    #[test]
    fn routes_to_neighbours_are_on_link() {
        let own = to("2001:db8:a::/64", KERNEL, 256);
        assert!(is_on_link(&own, INDEX) && !is_on_link(&own, IfIndex(4)));
        let gateway = ObservedTarget::Interface {
            index: INDEX,
            gateway: Some(Ipv6Addr::LOCALHOST),
            mtu: 0,
            advertised_mss: 0,
        };
        for other in [
            ObservedRoute {
                target: gateway,
                ..own.clone()
            },
            ObservedRoute {
                table: LOCAL_TABLE,
                ..own.clone()
            },
            ObservedRoute {
                protocol: PROTOCOL,
                table: TableId(200),
                ..own
            },
        ] {
            assert!(!is_on_link(&other, INDEX), "{other:?}");
        }
    }
}
