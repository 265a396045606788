//! Facts about the host, for the cause of a failed test.

use sixxs_core::inside_test::{
    Probe, Subject,
    cause::{Facts, limits_replies},
};

use super::{plan::Planned, run::Lost};
use crate::{
    bpf::seen_at,
    netlink::{Netlink, RouteQuery, RouteResult, route_error, tc::Direction},
};

/// Facts about the host after a test without reply.
pub(super) async fn facts(test: &Planned, lost: &Lost, netlink: &Netlink) -> Facts {
    let Subject {
        address,
        source,
        probe,
        ..
    } = test.subject;
    let is_ping = |_: &bool| probe == Probe::Ping;
    let to_us = RouteQuery {
        destination: Some(address),
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
        has_address: matches!(to_us, Ok(RouteResult::By(found)) if found.is_local),
        arrived: lost.arrived,
        reached_icmp: lost.reached_icmp,
        is_disabled: is_set(&format!("conf/{}/disable_ipv6", test.device)),
        ignores_echo: is_set("icmp/echo_ignore_all").filter(is_ping),
        limits_replies: interval
            .zip(mask)
            .map(|(interval, mask)| limits_replies(interval, &mask))
            .filter(is_ping),
        no_route,
        programs_in: others_at(netlink, test, Direction::Ingress).await,
        programs_out: others_at(netlink, test, Direction::Egress).await,
    }
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
