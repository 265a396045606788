//! The routers of interfaces, from the default routes that other software or router advertisements make.

use std::{cmp::Reverse, net::Ipv6Addr};

use crate::types::{IfIndex, Metric, TableId};

/// How a router ranks itself among those of its link (RFC 4191 §2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Preference {
    /// Low.
    Low,
    /// Medium, also for routes that have no preference.
    #[default]
    Medium,
    /// High.
    High,
}

/// The next hop of a foreign default route, in any table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Router {
    /// Its interface.
    pub index: IfIndex,
    /// Its address.
    pub address: Ipv6Addr,
    /// The table of the route.
    pub table: TableId,
    /// The metric of the route.
    pub metric: Metric,
    /// Its preference.
    pub preference: Preference,
}

/// The router of an interface: the one with the highest preference, then that of the route with the lowest metric, then the
/// one with the lowest address.
#[must_use]
pub fn of_interface(routers: &[Router], index: IfIndex) -> Option<Ipv6Addr> {
    let mut its = routers.iter().filter(|router| router.index == index);
    let rank = |router: &&Router| {
        let Router {
            preference,
            metric,
            address,
            ..
        } = **router;
        (preference, Reverse(metric), Reverse(address))
    };
    its.by_ref().max_by_key(rank).map(|router| router.address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preference_counts_before_the_metric_and_that_before_the_address() {
        use Preference::{High, Low, Medium};
        let router = |index, address: &str, metric, preference| Router {
            index: IfIndex(index),
            address: address.parse().unwrap(),
            table: TableId(254),
            metric: Metric(metric),
            preference,
        };
        let (two, one, three) = ("fe80::2", "fe80::1", "fe80::3");
        for (routers, expected) in [
            (vec![], None),
            (vec![router(3, one, 1, High)], None),
            (vec![router(2, two, 1024, Medium)], Some(two)),
            (
                vec![router(2, two, 1, Medium), router(2, one, 1024, High)],
                Some(one),
            ),
            (
                vec![router(2, two, 1, Low), router(2, one, 1024, Medium)],
                Some(one),
            ),
            (
                vec![router(2, three, 512, Medium), router(2, two, 1024, Medium)],
                Some(three),
            ),
            (
                vec![router(2, two, 1024, Medium), router(2, one, 1024, Medium)],
                Some(one),
            ),
        ] {
            let found = of_interface(&routers, IfIndex(2));
            assert_eq!(
                found.map(|found| found.to_string()).as_deref(),
                expected,
                "{routers:?}"
            );
        }
    }
}
