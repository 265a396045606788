//! Facts about the host, for the cause of a failed test.

use sixxs_core::inside_test::{
    Probe, Subject,
    cause::{Facts, Forwarding, limits_replies},
};

use super::{
    plan::{Plan, Planned},
    run::Lost,
};
use crate::{
    bpf::seen_at,
    netlink::{Netlink, RouteQuery, RouteResult, route_error, tc::Direction},
};

/// Facts about the host after a test without reply.
pub(super) async fn facts(plan: &Plan, test: &Planned, lost: &Lost, netlink: &Netlink) -> Facts {
    let Subject {
        address,
        source,
        probe,
        ..
    } = test.subject;
    // The host itself answers pings to its own addresses.
    let is_answered_here = |_: &bool| probe == Probe::Ping && !test.subject.is_behind;
    let to_us = RouteQuery {
        destination: Some(address),
        iif: test.subject.is_behind.then_some(test.index),
        ..RouteQuery::default()
    };
    let reply = RouteQuery {
        source: Some(address),
        destination: Some(source),
        ..RouteQuery::default()
    };
    let to_us = netlink.query_route(to_us).await;
    let no_route = match netlink.query_route(reply).await {
        Ok(RouteResult::Refused(error)) => Some(route_error(&error)),
        Ok(RouteResult::By(_)) | Err(_) => None,
    };
    let is_set = |path: &str| Some(setting(path)? != "0");
    let interval = setting("icmp/ratelimit").and_then(|text| text.parse().ok());
    let mask = setting("icmp/ratemask");
    Facts {
        has_address: matches!(&to_us, Ok(RouteResult::By(found)) if found.is_local),
        forwarding: forwarding(plan, test, to_us),
        arrived: lost.arrived,
        reached_icmp: lost.reached_icmp,
        is_disabled: is_set(&format!("conf/{}/disable_ipv6", test.device)),
        ignores_echo: is_set("icmp/echo_ignore_all").filter(is_answered_here),
        limits_replies: interval
            .zip(mask)
            .map(|(interval, mask)| limits_replies(interval, &mask))
            .filter(is_answered_here),
        no_route,
        programs_in: others_at(netlink, test, Direction::Ingress).await,
        programs_out: others_at(netlink, test, Direction::Egress).await,
    }
}

/// How the request is forwarded, by its route. `None`: it is not.
fn forwarding(
    plan: &Plan,
    test: &Planned,
    route: anyhow::Result<RouteResult>,
) -> Option<Forwarding> {
    let route = match route {
        Ok(RouteResult::By(found)) if found.is_local => return None,
        Ok(RouteResult::By(found)) => Ok(found
            .index
            .map_or_else(|| "no interface".to_owned(), |index| plan.name(index.0))),
        Ok(RouteResult::Refused(error)) => Err(route_error(&error)),
        Err(error) => Err(format!("{error:#}")),
    };
    test.subject.is_behind.then(|| Forwarding {
        is_on: setting("conf/all/forwarding").map(|text| text != "0"),
        route,
    })
}

/// A setting below /proc/sys/net/ipv6.
fn setting(path: &str) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/sys/net/ipv6/{path}")).ok()?;
    Some(text.trim().to_owned())
}

/// The programs and filters of other software at the tunnel's interface.
async fn others_at(netlink: &Netlink, test: &Planned, direction: Direction) -> Vec<String> {
    let seen = seen_at(netlink, &test.device, test.index, direction).await;
    let others = seen
        .unwrap_or_default()
        .into_iter()
        .filter(|seen| !seen.is_ours);
    let shown = others.map(|seen| {
        let name = match seen.name.as_str() {
            "" => "program",
            name => name,
        };
        format!("{name} {} by {}", seen.number, seen.hook.name())
    });
    shown.collect()
}
