//! The status, from a snapshot. Pure.

use std::{collections::BTreeMap, time::Duration};

use sixxs_common::{
    screening::Forgery,
    stat::{Counters, Stat},
};
use sixxs_core::{
    broker::{ayiya::wire::DropReason, connects::Standing, endpoint_update::Report},
    config::{Config, Tunnel},
    enforce::screening::XdpPlace,
    link::{Link, Links},
    types::IfName,
};

use super::{
    echo_health::proof, group_status, health, outer_traffic::outer, readings::Readings,
    snapshot::Snapshot, wireguard::wireguard,
};
use crate::{bpf::Hook, control::api};

/// The status of the daemon. `standings`: how each broker limits connects. `unix_seconds`: the time.
pub(super) fn status(
    snapshot: &Snapshot<'_>,
    standings: BTreeMap<String, Standing>,
    unix_seconds: u64,
) -> api::Status {
    let configured = snapshot.config.tunnels.iter();
    let tunnels: Vec<_> = configured
        .map(|tunnel| tunnel_status(snapshot, tunnel))
        .collect();
    let uplink_names = uplink_names(snapshot.config, snapshot.links);
    let uplinks: Vec<_> = uplink_names
        .iter()
        .map(|name| uplink(snapshot, name))
        .collect();
    let is_healthy = |tunnel: &api::Tunnel| tunnel.health == api::Health::Healthy;
    let has_program = |uplink: &api::Uplink| uplink.program == api::Program::Attached;
    let brokers = standings.into_iter();
    api::Status {
        healthy: tunnels.iter().all(is_healthy) && uplinks.iter().all(has_program),
        corrections: snapshot.corrections,
        tunnels,
        groups: group_status::groups(snapshot),
        uplinks,
        brokers: brokers
            .map(|(name, standing)| broker(name, standing, unix_seconds))
            .collect(),
        problems: snapshot.problems.clone(),
    }
}

fn broker(name: String, standing: Standing, unix_seconds: u64) -> api::Broker {
    let lockout = standing.locked_out;
    let slots_left = match lockout {
        Some(_) => 0,
        None => standing.slots_left,
    };
    api::Broker {
        name,
        slots_left,
        slots: standing.slots,
        next_slot_in_seconds: standing.next_free.map(|free| free.as_secs_f64().ceil()),
        locked_out_until: lockout
            .map(|wait| rfc3339(unix_seconds.saturating_add(wait.remaining.as_secs()))),
    }
}

fn tunnel_status(snapshot: &Snapshot<'_>, tunnel: &Tunnel) -> api::Tunnel {
    let name = &tunnel.name;
    let readings = &snapshot.readings;
    let get = |stat| readings.get(name, stat);
    let known = &snapshot.tunnels[name];
    let state = &known.view.state;
    let link = snapshot.links.by_name(name);
    let by_wireguard = known.view.wireguard.as_ref();
    let health = health::judge(snapshot, tunnel);
    let last_day = snapshot.last_days.get(name);
    api::Tunnel {
        name: name.to_string(),
        kind: api::Kind::from(&tunnel.kind),
        state: state.into(),
        retrying: state.is_retrying(),
        reason: state.reason().map(str::to_owned),
        health: health.level.into(),
        health_reasons: health.reasons.iter().map(ToString::to_string).collect(),
        available_percent_24h: last_day.map(|day| f64::from(day.hundredths) / 100.0),
        outages_24h: last_day.map(|day| day.outages),
        account: known.account.clone(),
        until: state.until_unix().map(rfc3339),
        update: known.update.as_ref().map(update),
        endpoint: known.view.endpoint.map(|endpoint| endpoint.to_string()),
        carrier: known.view.carrier.map(api::Carrier::from),
        interface: link.and_then(|link| link.matched.as_ref().map(ToString::to_string)),
        wireguard: by_wireguard.map(|view| wireguard(view, snapshot.since_boot)),
        ifindex: link.map(|link| link.index.0),
        addresses: tunnel.addresses.iter().map(|a| a.address).collect(),
        deprecated: known.deprecated.clone(),
        prefixes: tunnel.prefixes.iter().map(ToString::to_string).collect(),
        peer: tunnel.peer,
        check_target: tunnel.check_target,
        table: tunnel.table.0,
        mtu: mtu(tunnel, link),
        routing: match snapshot.is_routed(tunnel) {
            true => api::Routing::InPlace,
            false => api::Routing::Missing,
        },
        program: program(snapshot.hooks.get(name)),
        packets: packets(readings.counters(name)),
        bytes: bytes(readings.counters(name)),
        echo: echo(name, readings),
        proof: proof(name, readings, snapshot.echo_times.get(name)),
        probes: known.probes.as_ref().map(group_status::probes),
        outer: outer(name, readings, &known.endpoints, known.silent.as_ref()),
        leaks: group_status::leaks(name, readings),
        strays: get(Stat::VerdictStray),
        loops: get(Stat::VerdictLoop),
        recursions: get(Stat::Recursions),
        refused: refused(
            &known.view.refused,
            get(Stat::InOwnSource),
            readings.forged(name),
        ),
    }
}

/// Packets on a tunnel's interface.
fn packets(counters: &Counters) -> api::InOut {
    api::InOut {
        incoming: counters[Stat::InPackets.index()],
        out: packets_out(counters),
    }
}

/// Bytes on a tunnel's interface.
const fn bytes(counters: &Counters) -> api::InOut {
    api::InOut {
        incoming: counters[Stat::InBytes.index()],
        out: counters[Stat::OutBytes.index()],
    }
}

/// The largest packet, in bytes.
fn mtu(tunnel: &Tunnel, link: Option<&Link>) -> Option<u32> {
    match (tunnel.mtu, link) {
        (Some(mtu), Some(link)) => Some(mtu.min(link.mtu).0),
        (Some(mtu), None) => Some(mtu.0),
        (None, link) => link.map(|link| link.mtu.0),
    }
}

/// The endpoint updates of a tunnel.
fn update(report: &Report) -> api::EndpointUpdate {
    let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
    api::EndpointUpdate {
        state: report.state.into(),
        address: report.address,
        sentence: report.sentence.clone(),
        confirmed_seconds_ago: seconds(report.confirmed_ago),
        next_in_seconds: seconds(report.next_in),
        requests: report.requests,
    }
}

/// Echo messages of a tunnel.
fn echo(name: &IfName, readings: &Readings) -> api::Echo {
    let get = |stat| readings.get(name, stat);
    api::Echo {
        requests_in: get(Stat::InRequests),
        replies_out: get(Stat::OutReplies),
        requests_out: get(Stat::OutRequests),
        replies_in: get(Stat::InReplies),
        answered_by_programs: get(Stat::EchoByPrograms),
        last_request_in_seconds_ago: readings.age(name, Stat::LastRequestIn),
        last_reply_out_seconds_ago: readings.age(name, Stat::LastReplyOut),
    }
}

/// Packets refused by the driver and by the kernel programs. Counts of zero are left out.
fn refused(
    by_driver: &BTreeMap<String, u64>,
    own_source: u64,
    forged: impl Iterator<Item = (Forgery, u64)>,
) -> BTreeMap<String, u64> {
    let mut refused = by_driver.clone();
    let by_programs = forged.map(|(reason, count)| (reason.name(), count));
    for (reason, count) in by_programs.chain([(DropReason::OwnSource.name(), own_source)]) {
        let total = refused.entry(reason.to_owned()).or_default();
        *total = total.saturating_add(count);
    }
    refused.retain(|_, count| *count > 0);
    refused
}

/// A Unix time in RFC 3339. The calendar ends in the year 9999.
fn rfc3339(unix_seconds: u64) -> String {
    let seconds = i64::try_from(unix_seconds).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds)
        .unwrap_or(jiff::Timestamp::MAX)
        .to_string()
}

/// The uplinks: those of the configuration, or those found by the last scan.
pub(super) fn uplink_names(config: &Config, links: &Links) -> Vec<IfName> {
    match &config.uplinks {
        Some(names) => names.clone(),
        None => sixxs_core::enforce::uplinks(config, links)
            .into_iter()
            .map(|link| link.name.clone())
            .collect(),
    }
}

/// The XDP program of an uplink.
fn xdp(state: &Result<XdpPlace, String>) -> api::Xdp {
    match state {
        Ok(place) => api::Xdp {
            mode: Some(place.mode.into()),
            shared: place.is_shared,
            reason: None,
        },
        Err(reason) => api::Xdp {
            mode: None,
            shared: false,
            reason: Some(reason.clone()),
        },
    }
}

fn uplink(snapshot: &Snapshot<'_>, name: &IfName) -> api::Uplink {
    let counters = snapshot.readings.counters(name);
    let hook = snapshot.hooks.get(name);
    let link = snapshot.links.by_name(name);
    api::Uplink {
        name: name.to_string(),
        ifindex: link.map(|link| link.index.0),
        program: program(hook),
        hook: hook.map(|hook| match hook {
            Hook::Tcx => api::Hook::Tcx,
            Hook::Clsact => api::Hook::Clsact,
        }),
        xdp: snapshot.xdp.get(name).map(xdp),
        packets: api::Out {
            out: packets_out(counters),
        },
        bytes: api::Out {
            out: counters[Stat::OutBytes.index()],
        },
        leaks: CAUGHT.iter().map(|stat| counters[stat.index()]).sum(),
    }
}

/// Whether the programs are attached, from the hook at which they were found.
const fn program(hook: Option<&Hook>) -> api::Program {
    match hook {
        Some(_) => api::Program::Attached,
        None => api::Program::Missing,
    }
}

/// Verdicts on leaks.
const CAUGHT: [Stat; 4] = [
    Stat::VerdictRedirected,
    Stat::VerdictDropped,
    Stat::VerdictObserved,
    Stat::VerdictTooBig,
];

/// Packets that left: all that were counted, without those that were redirected or dropped.
fn packets_out(counters: &Counters) -> u64 {
    let stopped = [
        Stat::VerdictRedirected,
        Stat::VerdictDropped,
        Stat::VerdictTooBig,
        Stat::VerdictLoop,
        Stat::VerdictRecursion,
    ];
    let verdicts = Stat::VERDICTS.iter();
    let left = verdicts.filter(|stat| !stopped.contains(stat));
    left.map(|stat| counters[stat.index()]).sum()
}

/// All counters of these interfaces, by name.
pub(super) fn counters(readings: &Readings) -> api::Counters {
    let mut all = api::Counters::default();
    for (name, _) in readings.slots() {
        let values = readings.counters(name);
        let stats = Stat::ALL.iter();
        let named = stats.map(|stat| (stat.name().to_owned(), values[stat.index()]));
        all.interfaces.insert(name.to_string(), named.collect());
    }
    all
}

#[cfg(test)]
mod tests {
    use sixxs_core::{
        broker::connects::{Wait, WaitReason},
        history::LastDay,
        routing::{Desired, Plan, diff},
    };

    use super::*;
    use crate::daemon::fixture::{config, host, snapshot};

    #[test]
    fn missing_objects_appear_in_the_status() {
        let config = config(&["sixxs0", "sixxs1"]);
        let host = host(&["sixxs0", "sixxs1", "net0"]);
        let plan = Plan::default();
        let mut now = snapshot(&config, &host, &plan);
        now.hooks = ["sixxs0", "net0"]
            .map(|name| (name.parse().unwrap(), Hook::Tcx))
            .into();
        let shown = status(&now, BTreeMap::new(), 0);
        let programs = shown.tunnels.iter().map(|tunnel| tunnel.program);
        assert_eq!(
            programs.collect::<Vec<_>>(),
            [api::Program::Attached, api::Program::Missing]
        );
        assert_eq!(shown.uplinks[0].hook, Some(api::Hook::Tcx));
        assert_eq!(shown.tunnels[0].routing, api::Routing::InPlace);
        assert!(!shown.healthy);
        let plan = diff(&Desired::new(&config, |_| true), &host);
        let now = snapshot(&config, &host, &plan);
        let shown = status(&now, BTreeMap::new(), 0);
        assert_eq!(shown.tunnels[0].routing, api::Routing::Missing);
    }

    #[test]
    fn a_tunnel_without_records_has_no_last_day() {
        let config = config(&["sixxs0", "sixxs1"]);
        let host = host(&["sixxs0", "sixxs1"]);
        let plan = Plan::default();
        let mut now = snapshot(&config, &host, &plan);
        let last_day = LastDay {
            hundredths: 9980,
            outages: 2,
        };
        now.last_days.insert("sixxs0".parse().unwrap(), last_day);
        let shown = status(&now, BTreeMap::new(), 0);
        let found = shown.tunnels.iter();
        let found: Vec<_> = found
            .map(|tunnel| (tunnel.available_percent_24h, tunnel.outages_24h))
            .collect();
        assert_eq!(found, [(Some(99.8), Some(2)), (None, None)]);
        let text = crate::control::text::status(&shown);
        assert_eq!(
            text.matches("  24 h      99.8% available, 2 outages\n")
                .count(),
            1,
            "{text}"
        );
    }

    #[test]
    fn redirected_packets_did_not_leave() {
        let config = config(&["sixxs0"]);
        let host = host(&["sixxs0", "net0"]);
        let plan = Plan::default();
        let mut now = snapshot(&config, &host, &plan);
        let counted = [
            (Stat::VerdictNotOurs, 5),
            (Stat::VerdictObserved, 2),
            (Stat::VerdictRedirected, 7),
            (Stat::VerdictDropped, 1),
            (Stat::OutBytes, 1000),
        ];
        now.readings = Readings::fake(1, &[("net0", &counted)]);
        let shown = status(&now, BTreeMap::new(), 0);
        let uplink = &shown.uplinks[0];
        assert_eq!((uplink.packets.out, uplink.bytes.out), (7, 1000));
        assert_eq!(uplink.leaks, 10);
        let all = counters(&now.readings);
        assert_eq!(all.interfaces["net0"]["out_bytes"], 1000);
    }

    #[test]
    fn refusals_of_driver_and_kernel_add_up() {
        let own_source = DropReason::OwnSource.name();
        let by_driver = BTreeMap::from([(own_source.to_owned(), 2), ("other".to_owned(), 0)]);
        let expected = BTreeMap::from([(own_source.to_owned(), 9), ("stranger".to_owned(), 1)]);
        let forged = [(Forgery::OwnSource, 4), (Forgery::Stranger, 1)];
        assert_eq!(refused(&by_driver, 3, forged.into_iter()), expected);
        let nothing = [(Forgery::Header, 0)].into_iter();
        assert_eq!(refused(&BTreeMap::new(), 0, nothing), BTreeMap::new());
    }

    #[test]
    fn a_broker_with_a_lockout_has_no_slot_left() {
        let mut standing = Standing {
            slots: 4,
            slots_left: 3,
            next_free: Some(Duration::from_millis(1500)),
            locked_out: None,
        };
        let shown = broker("broker".to_owned(), standing, 1000);
        assert_eq!((shown.slots_left, shown.slots), (3, 4));
        assert_eq!(shown.next_slot_in_seconds, Some(2.0));
        standing.locked_out = Some(Wait {
            remaining: Duration::from_secs(60),
            why: WaitReason::Slots(4),
        });
        let shown = broker("broker".to_owned(), standing, 1_000_000_000);
        assert_eq!(shown.slots_left, 0);
        assert_eq!(
            shown.locked_out_until.as_deref(),
            Some("2001-09-09T01:47:40Z")
        );
    }
}
