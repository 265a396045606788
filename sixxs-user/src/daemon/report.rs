//! The state in the shapes that people and scripts see.

use std::{collections::BTreeMap, net::Ipv6Addr, sync::atomic::Ordering, time::Duration};

use sixxs_common::{
    layout::NO_UID,
    packet::{ICMPV6, TCP, UDP},
    stat::{CAPACITY, Counters, Stat},
    treatment::Treatment,
};
use sixxs_core::{
    alert::Leaks,
    broker::{ayiya::wire::Fault, connects::Standing},
    config::Tunnel,
    health::Level,
    types::{IfIndex, IfName},
};

use super::{
    answers::{Waiting, monotonic_ns, proof, seconds},
    culprit,
    state::State,
    tunnels::Running,
};
use crate::{api, driver::Driver, netlink::index_to_name};

const NONE: Counters = [0; CAPACITY];

pub(super) fn status(
    state: &State,
    standings: anyhow::Result<BTreeMap<String, Standing>>,
) -> anyhow::Result<api::Status> {
    let mut problems = state.problems.clone();
    let standings = standings.unwrap_or_else(|error| {
        problems.push(format!("{error:#}"));
        BTreeMap::new()
    });
    problems.extend(recursions(state));
    let now_ns = monotonic_ns()?;
    let configured = state.config.tunnels.iter();
    let counters: Vec<_> = configured
        .clone()
        .map(|tunnel| read(state, &tunnel.name))
        .collect::<Result<_, _>>()?;
    let waiting = Waiting::look(&state.kernel, &counters, now_ns)?;
    let tunnels: Vec<_> = configured
        .zip(&counters)
        .map(|(tunnel, counters)| tunnel_status(state, tunnel, counters, &waiting, now_ns))
        .collect::<Result<_, _>>()?;
    let uplinks = uplinks(state)?;
    let is_healthy = |tunnel: &api::Tunnel| tunnel.health == Level::Healthy.name();
    let healthy =
        tunnels.iter().all(is_healthy) && uplinks.iter().all(|uplink| uplink.program == ATTACHED);
    Ok(api::Status {
        healthy,
        corrections: state.tamper_log.corrections(),
        tunnels,
        uplinks,
        brokers: standings.into_iter().map(broker).collect(),
        problems,
    })
}

/// A tunnel's own outer packets are told of for so long after the last one.
const RECENT: Duration = Duration::from_secs(300);

/// Tunnels whose own outer packets would go into them, with what to do about it.
fn recursions(state: &State) -> impl Iterator<Item = String> {
    let now = state.started.elapsed();
    let slots = state.kernel.slots().iter();
    slots.filter_map(move |(name, slot)| {
        let recursion = state.recursions.get(slot)?;
        let cause = culprit::recursion(name, &recursion.flow);
        (now.saturating_sub(recursion.at) <= RECENT).then(|| {
            format!(
                "{name}: packets are dropped: {}; {}",
                cause.sentence(),
                cause.cure()
            )
        })
    })
}

fn broker((name, standing): (String, Standing)) -> api::Broker {
    let lockout = standing.locked_out;
    api::Broker {
        name,
        slots_left: if lockout.is_some() {
            0
        } else {
            standing.slots_left
        },
        slots: standing.slots,
        next_slot_in_seconds: standing.next_free.map(|free| free.as_secs_f64().ceil()),
        locked_out_until: lockout
            .map(|wait| rfc3339(unix_seconds().saturating_add(wait.remaining.as_secs()))),
    }
}

fn unix_seconds() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0)
}

const IN_PLACE: &str = "in_place";
const ATTACHED: &str = "attached";
const MISSING: &str = "missing";

pub(super) fn read(state: &State, name: &IfName) -> anyhow::Result<Counters> {
    match state.kernel.slot(name) {
        Some(slot) => state.kernel.counters(slot),
        None => Ok(NONE),
    }
}

fn tunnel_status(
    state: &State,
    tunnel: &Tunnel,
    counters: &Counters,
    waiting: &Waiting,
    now_ns: u64,
) -> anyhow::Result<api::Tunnel> {
    let get = |stat: Stat| counters[stat.index()];
    let ago = |stat: Stat| match get(stat) {
        0 => None,
        then_ns => Some(seconds(now_ns.saturating_sub(then_ns))),
    };
    let running = &state.tunnels[&tunnel.name];
    let link = state.observed.links.by_name(&tunnel.name);
    let seen = running.state(link);
    let said = running.said();
    let attached = state.has_program(&tunnel.name);
    let routed = state.is_routed(tunnel);
    let health = state.health(tunnel, &seen, (routed, attached), (counters, waiting));
    Ok(api::Tunnel {
        name: tunnel.name.to_string(),
        kind: tunnel.kind.name().to_owned(),
        state: seen.name().to_owned(),
        retrying: seen.is_retrying(),
        reason: seen.reason().map(str::to_owned),
        health: health.level.name().to_owned(),
        health_reasons: health.reasons.iter().map(ToString::to_string).collect(),
        account: state.account_of(&tunnel.name),
        until: seen.until_unix().map(rfc3339),
        endpoint: said.as_ref().and_then(|said| said.endpoint.clone()),
        carrier: said.and_then(|said| said.carrier.map(str::to_owned)),
        ifindex: link.map(|link| link.index.0),
        addresses: tunnel.addresses.iter().map(|a| a.address).collect(),
        prefixes: tunnel.prefixes.iter().map(ToString::to_string).collect(),
        peer: tunnel.peer,
        check_target: tunnel.check_target,
        table: tunnel.table.0,
        mtu: match (tunnel.mtu, link) {
            (Some(mtu), Some(link)) => Some(mtu.min(link.mtu).0),
            (Some(mtu), None) => Some(mtu.0),
            (None, link) => link.map(|link| link.mtu.0),
        },
        routing: if routed { IN_PLACE } else { MISSING }.to_owned(),
        program: if attached { ATTACHED } else { MISSING }.to_owned(),
        packets: api::InOut {
            incoming: get(Stat::InPackets),
            out: packets_out(counters),
        },
        bytes: api::InOut {
            incoming: get(Stat::InBytes),
            out: get(Stat::OutBytes),
        },
        echo: api::Echo {
            requests_in: get(Stat::InRequests),
            replies_out: get(Stat::OutReplies),
            requests_out: get(Stat::OutRequests),
            replies_in: get(Stat::InReplies),
            last_request_in_seconds_ago: ago(Stat::LastRequestIn),
            last_reply_out_seconds_ago: ago(Stat::LastReplyOut),
        },
        proof: match state.kernel.slot(&tunnel.name) {
            Some(slot) => proof(&state.kernel, slot, counters, waiting, now_ns)?,
            None => api::Proof::default(),
        },
        leaks: api::Leaks {
            redirected: get(Stat::LeakRedirected),
            dropped: get(Stat::LeakDropped),
            observed: get(Stat::LeakObserved),
            too_big: get(Stat::LeakTooBig),
        },
        strays: get(Stat::VerdictStray),
        loops: get(Stat::VerdictLoop),
        recursions: get(Stat::Recursions),
        refused: refused(running, get(Stat::InOwnSource)),
    })
}

/// What was refused, by the driver and (in the kernel) by the programs.
fn refused(running: &Running, own_source: u64) -> BTreeMap<String, u64> {
    let driver = running.driver.as_ref();
    let counts = driver.map(Driver::refusals).into_iter().flatten();
    let counts = counts.map(|count| count.load(Ordering::Relaxed));
    let mut refused: BTreeMap<String, u64> = Fault::ALL
        .iter()
        .zip(counts)
        .map(|(fault, count)| (fault.name().to_owned(), count))
        .collect();
    *refused
        .entry(Fault::OwnSource.name().to_owned())
        .or_default() += own_source;
    refused.retain(|_, count| *count > 0);
    refused
}

/// A time of people's. One that no calendar has is not worth an error.
fn rfc3339(unix_seconds: u64) -> String {
    let seconds = i64::try_from(unix_seconds).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds)
        .unwrap_or(jiff::Timestamp::MAX)
        .to_string()
}

fn uplinks(state: &State) -> anyhow::Result<Vec<api::Uplink>> {
    let names: Vec<IfName> = match &state.config.uplinks {
        Some(names) => names.clone(),
        None => sixxs_core::enforce::uplinks(&state.config, &state.observed.links)
            .into_iter()
            .map(|link| link.name.clone())
            .collect(),
    };
    names
        .iter()
        .map(|name| uplink_status(state, name))
        .collect()
}

fn uplink_status(state: &State, name: &IfName) -> anyhow::Result<api::Uplink> {
    let counters = read(state, name)?;
    let interface = state.enforcement.interfaces.get(name);
    let hook = interface.and_then(|interface| state.kernel.hook(interface));
    let link = state.observed.links.by_name(name);
    Ok(api::Uplink {
        name: name.to_string(),
        ifindex: link.map(|link| link.index.0),
        program: if hook.is_some() { ATTACHED } else { MISSING }.to_owned(),
        hook: hook.map(|hook| hook.name().to_owned()),
        packets: api::Out {
            out: packets_out(&counters),
        },
        bytes: api::Out {
            out: counters[Stat::OutBytes.index()],
        },
        leaks: CAUGHT.iter().map(|stat| counters[stat.index()]).sum(),
    })
}

const CAUGHT: [Stat; 4] = [
    Stat::VerdictRedirected,
    Stat::VerdictDropped,
    Stat::VerdictObserved,
    Stat::VerdictTooBig,
];

/// Packets that really left: all that were seen, without those taken off their way.
fn packets_out(counters: &Counters) -> u64 {
    let taken = [
        Stat::VerdictRedirected,
        Stat::VerdictDropped,
        Stat::VerdictTooBig,
        Stat::VerdictLoop,
        Stat::VerdictRecursion,
    ];
    Stat::VERDICTS
        .iter()
        .filter(|stat| !taken.contains(stat))
        .map(|stat| counters[stat.index()])
        .sum()
}

pub(super) fn counters(state: &State) -> anyhow::Result<api::Counters> {
    let mut all = api::Counters::default();
    for (name, slot) in state.kernel.slots() {
        let values = state.kernel.counters(*slot)?;
        let named: BTreeMap<_, _> = Stat::ALL
            .iter()
            .map(|stat| (stat.name().to_owned(), values[stat.index()]))
            .collect();
        all.interfaces.insert(name.to_string(), named);
    }
    Ok(all)
}

/// A line about leaks, with names for numbers.
pub(super) fn leak(state: &State, line: &Leaks) -> api::Leak {
    let tunnel = state
        .kernel
        .slots()
        .iter()
        .find(|(_, slot)| **slot == line.tunnel)
        .map_or_else(
            || format!("slot {}", line.tunnel),
            |(name, _)| name.to_string(),
        );
    let flow = line.flow.as_ref().map(|(flow, _)| flow);
    let record = line.flow.as_ref().map(|(_, record)| record);
    api::Leak {
        tunnel,
        interface: record.and_then(|record| interface_name(record.ifindex)),
        source: flow.map(|flow| Ipv6Addr::from(flow.local.octets())),
        destination: flow.map(|flow| Ipv6Addr::from(flow.remote.octets())),
        protocol: flow.map(|flow| protocol(flow.protocol)),
        ports: flow
            .filter(|flow| flow.local_port != 0 || flow.remote_port != 0)
            .map(|flow| [flow.local_port, flow.remote_port]),
        packets: line.packets,
        treatment: record.map(|record| treatment(record.treatment).to_owned()),
        uid: record.map(|record| record.uid).filter(|uid| *uid != NO_UID),
        cgroup: record
            .map(|record| record.cgroup)
            .filter(|cgroup| *cgroup != 0),
        cgroup_path: None,
        unit: None,
        container: None,
        mark: record.map(|record| record.mark).filter(|mark| *mark != 0),
        bound_to: record.and_then(|record| interface_name(record.bound_ifindex)),
        forwarded_from: record.and_then(|record| interface_name(record.from_ifindex)),
        cause: None,
        why: None,
        cure: None,
    }
}

/// The name of an interface, or its number where it is gone; 0 is none.
pub(super) fn interface_name(index: u32) -> Option<String> {
    let named = || index_to_name(IfIndex(index)).map(|name| name.to_string());
    (index != 0).then(|| named().unwrap_or_else(|| format!("#{index}")))
}

fn protocol(number: u32) -> String {
    match u8::try_from(number) {
        Ok(TCP) => "tcp".to_owned(),
        Ok(UDP) => "udp".to_owned(),
        Ok(ICMPV6) => "icmpv6".to_owned(),
        _ => number.to_string(),
    }
}

fn treatment(number: u32) -> &'static str {
    Treatment::try_from(number).map_or("unknown", Treatment::name)
}
