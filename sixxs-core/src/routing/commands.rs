//! Steps, routes and rules as `ip` commands.

use std::fmt;

use super::{
    KERNEL_METRIC, LOCAL_TABLE, MAIN_TABLE, Neighbour, Rule,
    desired::{OwnAddress, RouteKey},
    observed::{ObservedNeighbour, ObservedRoute, ObservedRule, ObservedTarget},
    plan::{Route, RouteTarget, Step},
};
use crate::types::{InterfaceAddress, PROTOCOL, Prefix};

/// The `ip -6` command for the step.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetUp(_, name, mtu) => write!(f, "ip link set {name} mtu {mtu} up"),
            Self::AddAddress(_, name, OwnAddress { address, peer }) => {
                let InterfaceAddress { address, bits } = address;
                match peer {
                    Some(peer) => write!(
                        f,
                        "ip -6 address add {address} peer {peer}/{bits} dev {name} nodad noprefixroute"
                    ),
                    None => write!(f, "ip -6 address add {address}/{bits} dev {name} nodad"),
                }
            }
            Self::AddPeerRoute(_, name, peer) => {
                write!(
                    f,
                    "ip -6 route add {peer} dev {name} proto kernel metric {KERNEL_METRIC}"
                )
            }
            Self::AddRoute(route) => write!(f, "ip -6 route add {route}"),
            Self::ReplaceRoute(route) => write!(f, "ip -6 route replace {route}"),
            Self::KeepNeighbour(_, interface, Neighbour { address, .. }) => write!(
                f,
                "ip -6 neigh replace {address} dev {interface} managed protocol {PROTOCOL}"
            ),
            Self::DeleteNeighbour(ObservedNeighbour { address, .. }, interface) => {
                write!(f, "ip -6 neigh del {address} dev {interface}")
            }
            Self::AddRule(rule) => write!(f, "ip -6 rule add {rule} protocol {PROTOCOL}"),
            Self::DeleteRule(ObservedRule::Plain(rule)) => {
                write!(f, "ip -6 rule del {rule} protocol {PROTOCOL}")
            }
            Self::DeleteRule(ObservedRule::Foreign(position)) => write!(
                f,
                "# rule {position} of `ip -6 rule` has protocol {PROTOCOL} and was not made like this by sixxs"
            ),
            Self::DeleteRoute(route) => delete_route(route, f),
        }
    }
}

/// The command that removes a route.
fn delete_route(route: &ObservedRoute, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("ip -6 route del ")?;
    match route.target {
        ObservedTarget::Unreachable => f.write_str("unreachable ")?,
        ObservedTarget::Throw => f.write_str("throw ")?,
        ObservedTarget::Interface { .. } | ObservedTarget::Other => {}
    }
    write!(f, "{}", Destination(route.destination))?;
    if route.source.bits() != 0 {
        write!(f, " from {}", route.source)?;
    }
    if let ObservedTarget::Interface {
        gateway: Some(gateway),
        ..
    } = &route.target
    {
        write!(f, " via {gateway}")?;
    }
    write!(
        f,
        " table {} proto {PROTOCOL} metric {}",
        route.table, route.metric
    )
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RouteKey {
            table,
            metric,
            destination,
            source,
        } = self.key;
        let via = match &self.to {
            RouteTarget::Interface(via) => Some(via),
            RouteTarget::Unreachable => {
                f.write_str("unreachable ")?;
                None
            }
            RouteTarget::Throw => {
                f.write_str("throw ")?;
                None
            }
        };
        write!(f, "{}", Destination(destination))?;
        if source != Prefix::ALL {
            write!(f, " from {source}")?;
        }
        let Some(via) = via else {
            return write!(f, " table {table} proto {PROTOCOL} metric {metric}");
        };
        if let Some(gateway) = via.gateway {
            write!(f, " via {gateway}")?;
        }
        write!(
            f,
            " dev {} table {table} proto {PROTOCOL} metric {metric}",
            via.name
        )?;
        if let Some(mtu) = via.mtu {
            write!(f, " mtu {mtu} advmss {}", mtu.advertised_mss())?;
        }
        Ok(())
    }
}

/// A destination in the form of `ip route`.
struct Destination(Prefix);

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == Prefix::ALL {
            f.write_str("default")
        } else {
            self.0.fmt(f)
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.from == Prefix::ALL {
            f.write_str("from all")?;
        } else {
            write!(f, "from {}", self.from)?;
        }
        if let Some(to) = self.to {
            write!(f, " to {to}")?;
        }
        match self.table {
            MAIN_TABLE => f.write_str(" lookup main")?,
            LOCAL_TABLE => f.write_str(" lookup local")?,
            table => write!(f, " lookup {table}")?,
        }
        if self.no_default {
            f.write_str(" suppress_prefixlength 0")?;
        }
        write!(f, " priority {}", self.priority)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;
    use crate::{
        routing::DEFAULT_METRIC,
        types::{IfIndex, IfName, RulePriority, TableId},
    };

    #[test]
    fn removals_read_as_commands() {
        let rule = |from: &str, table, no_default| Rule {
            priority: RulePriority(16383),
            from: from.parse().unwrap(),
            to: None,
            table: TableId(table),
            no_default,
        };
        let route = |destination: &str, source: &str, target| ObservedRoute {
            table: TableId(200),
            destination: destination.parse().unwrap(),
            source: source.parse().unwrap(),
            metric: DEFAULT_METRIC,
            protocol: PROTOCOL,
            target,
        };
        let by = |gateway: Option<&str>| ObservedTarget::Interface {
            index: IfIndex(3),
            gateway: gateway.map(|gateway| gateway.parse().unwrap()),
            mtu: 0,
            advertised_mss: 0,
        };
        let gateway: Ipv6Addr = "fe80::1".parse().unwrap();
        let interface: IfName = "sixxs1".parse().unwrap();
        let neighbour = ObservedNeighbour {
            index: IfIndex(4),
            address: gateway,
            is_ours: true,
            stays_resolved: true,
        };
        for (step, expected) in [
            (
                Step::KeepNeighbour(
                    IfIndex(4),
                    interface.clone(),
                    Neighbour {
                        interface: interface.clone(),
                        address: gateway,
                    },
                ),
                "ip -6 neigh replace fe80::1 dev sixxs1 managed protocol 116",
            ),
            (
                Step::DeleteNeighbour(neighbour, interface),
                "ip -6 neigh del fe80::1 dev sixxs1",
            ),
            (
                Step::DeleteRule(ObservedRule::Plain(rule("2001:db8:a::2", 200, false))),
                "ip -6 rule del from 2001:db8:a::2 lookup 200 priority 16383 protocol 116",
            ),
            (
                Step::DeleteRule(ObservedRule::Plain(rule("::/0", 255, true))),
                "ip -6 rule del from all lookup local suppress_prefixlength 0 priority 16383 protocol 116",
            ),
            (
                Step::DeleteRule(ObservedRule::Foreign(7)),
                "# rule 7 of `ip -6 rule` has protocol 116 and was not made like this by sixxs",
            ),
            (
                Step::DeleteRoute(route("::/0", "::/0", ObservedTarget::Unreachable)),
                "ip -6 route del unreachable default table 200 proto 116 metric 1024",
            ),
            (
                Step::DeleteRoute(route(
                    "2001:db8:b::/48",
                    "2001:db8:a::2",
                    ObservedTarget::Throw,
                )),
                "ip -6 route del throw 2001:db8:b::/48 from 2001:db8:a::2 table 200 proto 116 metric 1024",
            ),
            (
                Step::DeleteRoute(route("::/0", "2001:db8:a::/48", by(Some("fe80::1")))),
                "ip -6 route del default from 2001:db8:a::/48 via fe80::1 table 200 proto 116 metric 1024",
            ),
            (
                Step::DeleteRoute(route("::/0", "::/0", by(None))),
                "ip -6 route del default table 200 proto 116 metric 1024",
            ),
            (
                Step::DeleteRoute(route("::/0", "::/0", ObservedTarget::Other)),
                "ip -6 route del default table 200 proto 116 metric 1024",
            ),
        ] {
            assert_eq!(step.to_string(), expected);
        }
    }
}
