//! Computes the changes that a reload would make, without applying them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use sixxs_core::{
    change::Change,
    config::{Config, Followed, Kind, Learned, Tunnel},
    enforce::{Enforcement, Role},
    link::{Candidate, Link, Links},
    routing::{Desired, connected::local_networks, diff},
    types::{IfIndex, IfName, Mtu},
};

use crate::{
    broker::{
        connects::{self, Connects},
        endpoint_update::UpdateStore,
    },
    control::api,
    host::clock::{Clock, time_of_day},
    host::kernel_support,
    netlink::{Netlink, Scope},
};

/// The state before a reload.
pub struct CurrentState<'a> {
    /// The configuration from the file.
    pub config: &'a Config,
    /// The configuration with the brokers' parameters.
    pub in_force: &'a Config,
    /// Tunnels that the user stopped; they stay stopped.
    pub stopped: BTreeSet<IfName>,
}

/// What is known about connects to brokers.
#[derive(Clone, Copy)]
pub struct Ledgers<'a> {
    /// The connect limit.
    pub connects: &'a Connects,
    /// The records of endpoint updates.
    pub updates: &'a UpdateStore,
    /// The clock.
    pub clock: &'a Clock,
}

/// The changes that a reload of `new` would make. `learned`: parameters from brokers.
pub async fn preview(
    before: CurrentState<'_>,
    new: &Config,
    learned: &BTreeMap<IfName, Learned>,
    netlink: &mut Netlink,
    ledgers: Ledgers<'_>,
) -> anyhow::Result<api::Preview> {
    let change = Change::between(before.config, new, kernel_support::can_carry());
    let starts = change.starts();
    let is_wanted = |tunnel: &Tunnel| !before.stopped.contains(&tunnel.name);
    let mut observed = netlink.observe(&Scope::of(new)).await?;
    let (whole, conflicts) =
        new.with_learned(learned, &new.host_prefixes(&observed), before.config);
    let present = Followed::in_force(before.in_force);
    let followed = Followed::of(new, &observed, &present, Duration::ZERO);
    let whole = whole
        .with_followed(&followed)
        .with_former_of(before.in_force);
    let networks = local_networks(&whole, &observed.links, &observed.connected);
    let active = whole.active_links(&observed);
    let whole = whole
        .with_direct(&networks.clone().unwrap_or_default())
        .with_active(&active);

    let mut desired = Desired::new(&whole, is_wanted);
    let is_started = |tunnel: &&Tunnel| starts.contains(&tunnel.name);
    let made = whole.tunnels.iter().filter(is_started);
    made.clone()
        .filter(|tunnel| tunnel.kind.is_native() && is_wanted(tunnel))
        .for_each(|tunnel| desired.set_up(tunnel));
    let uplinks = uplink_changes(
        &guarded(before.in_force, &observed.links, is_wanted),
        &guarded(&whole, &observed.links, is_wanted),
    );

    // Interfaces of kind `interface` are not made by this program.
    let made = made.filter(|tunnel| !matches!(tunnel.kind, Kind::Interface));
    observed.links = with_new_interfaces(&observed.links, made);
    let plan = diff(&desired, &observed);

    let problems = conflicts
        .iter()
        .map(|conflict| format!("{}: {conflict}", conflict.tunnel))
        .chain(followed.problems().iter().map(ToString::to_string))
        .chain(networks.err().map(|error| error.to_string()))
        .chain(plan.problems.iter().map(ToString::to_string))
        .collect();
    let mut connects = connects_of_starts(new, &whole, &starts, learned);
    connects.extend(connects_of_updates(before.config, new, &ledgers).await?);
    Ok(api::Preview {
        faults: Vec::new(),
        tunnels: tunnel_changes(&change),
        settings: change.settings.iter().map(ToString::to_string).collect(),
        uplinks,
        connects: connects_left(connects, ledgers).await?,
        commands: plan.steps.iter().map(ToString::to_string).collect(),
        problems,
    })
}

fn tunnel_changes(change: &Change) -> api::TunnelChanges {
    let names = |list: &[IfName]| list.iter().map(ToString::to_string).collect();
    api::TunnelChanges {
        added: names(&change.added),
        removed: names(&change.removed),
        restarted: names(&change.restarted),
        altered: names(&change.altered),
    }
}

/// The uplinks where a program is attached.
fn guarded(
    config: &Config,
    links: &Links,
    is_wanted: impl Fn(&Tunnel) -> bool,
) -> BTreeSet<IfName> {
    let enforcement = Enforcement::new(config, links, is_wanted);
    let interfaces = enforcement.interfaces.into_iter();
    let uplinks = interfaces.filter(|(_, interface)| interface.role == Role::Uplink);
    uplinks.map(|(name, _)| name).collect()
}

fn uplink_changes(before: &BTreeSet<IfName>, after: &BTreeSet<IfName>) -> api::UplinkChanges {
    let only = |these: &BTreeSet<IfName>, those: &BTreeSet<IfName>| {
        these.difference(those).map(ToString::to_string).collect()
    };
    api::UplinkChanges {
        guarded: only(after, before),
        released: only(before, after),
    }
}

/// The links after the interfaces of these tunnels are made.
fn with_new_interfaces<'a>(links: &Links, made: impl Iterator<Item = &'a Tunnel>) -> Links {
    let is_missing = |tunnel: &&Tunnel| links.by_name(&tunnel.name).is_none();
    // The kernel never assigns these indexes: it counts up to the largest `int`.
    let to_come = made.filter(is_missing).zip(0..).map(|(tunnel, at)| Link {
        candidate: Candidate::Settled,
        ..Link::up(
            IfIndex(u32::MAX - at),
            tunnel.name.clone(),
            // An impossible MTU, so that the plan contains the commands that set up a native tunnel's interface.
            if tunnel.kind.is_native() {
                Mtu(u32::MAX)
            } else {
                tunnel.mtu.unwrap_or(Mtu::MINIMUM)
            },
        )
    });
    links.iter().cloned().chain(to_come).collect()
}

/// The brokers of the connects that the starts of these tunnels need, one entry per connect.
fn connects_of_starts(
    new: &Config,
    whole: &Config,
    starts: &[IfName],
    learned: &BTreeMap<IfName, Learned>,
) -> Vec<String> {
    let mut brokers = Vec::new();
    for name in starts {
        let login = new.tunnels.iter().find_map(|tunnel| match &tunnel.kind {
            // The broker's parameters are not known, so the start needs a login.
            Kind::Account(account) if tunnel.name == *name && !learned.contains_key(name) => {
                Some(account.aiccu.server.host.clone())
            }
            _ => None,
        });
        let mut tunnels = whole.tunnels.iter();
        let set_up = tunnels.find(|tunnel| tunnel.name == *name);
        let set_up = set_up.and_then(|tunnel| tunnel.kind.connects_to());
        brokers.extend(login.into_iter().chain(set_up));
    }
    brokers
}

/// The servers of new or changed endpoint updates that have no address of this host yet.
async fn connects_of_updates(
    old: &Config,
    new: &Config,
    ledgers: &Ledgers<'_>,
) -> anyhow::Result<Vec<String>> {
    let now = connects::Clock::now(ledgers.clock)?;
    let mut hosts = Vec::new();
    for Tunnel { name, update, .. } in &new.tunnels {
        let mut before = old.tunnels.iter();
        let before = before.find(|tunnel| tunnel.name == *name);
        let before = before.and_then(|tunnel| tunnel.update.as_ref());
        let Some(update) = update.as_ref().filter(|update| before != Some(update)) else {
            continue;
        };
        let record = ledgers.updates.load(name, update, &now).await;
        if !record.has_accepted() {
            hosts.push(update.url.bare_host().to_owned());
        }
    }
    Ok(hosts)
}

/// What is left for these connects, by broker.
async fn connects_left(
    brokers: Vec<String>,
    Ledgers {
        connects, clock, ..
    }: Ledgers<'_>,
) -> anyhow::Result<Vec<api::ConnectsNeeded>> {
    let mut needed: BTreeMap<String, u32> = BTreeMap::new();
    for broker in brokers {
        *needed.entry(broker).or_default() += 1;
    }
    let mut all = Vec::new();
    for (broker, count) in needed {
        let standing = connects.standing(&broker).await?;
        let wait = standing
            .wait_for(count)
            .map(|wait| wait.as_secs().saturating_add(1));
        all.push(api::ConnectsNeeded {
            broker,
            connects: count,
            left: if standing.locked_out.is_some() {
                0
            } else {
                standing.slots_left
            },
            next: wait.and_then(|wait| time_of_day(clock.unix_seconds().saturating_add(wait))),
        });
    }
    Ok(all)
}
