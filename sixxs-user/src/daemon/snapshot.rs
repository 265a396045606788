//! The whole state at one moment, as plain data.
//!
//! The status, the metrics and the health of tunnels are functions of it. It sits above the parts: no part
//! imports it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
    time::Duration,
};

use sixxs_common::treatment::Treatment;
use sixxs_core::{
    broker::endpoint_update::Report,
    config::Config,
    doctor::routing::Shadow,
    echo_health::EchoHealth,
    endpoint::Endpoint,
    enforce::screening::XdpPlace,
    health::NoAnswer,
    history::LastDay,
    link::Links,
    link_quality::{Quality, Summary},
    outer_traffic::SilentTunnel,
    routing::Plan,
    types::IfName,
};

use super::{
    groups::GroupView,
    readings::{EchoTimes, Readings},
    tunnels::TunnelView,
};
use crate::bpf::Hook;

/// The state of the daemon and of the host.
pub(super) struct Snapshot<'a> {
    /// The configuration in force.
    pub(super) config: &'a Config,
    /// Interfaces, as of the last scan.
    pub(super) links: &'a Links,
    /// The steps and problems that the last round left.
    pub(super) plan: &'a Plan,
    /// Foreign policy rules before the rules of sixxs, as of the last scan.
    pub(super) shadows: &'a [Shadow],
    /// How the programs of interfaces are attached.
    pub(super) hooks: BTreeMap<IfName, Hook>,
    /// Where the XDP program is attached to uplinks, or why it is not.
    pub(super) xdp: BTreeMap<IfName, Result<XdpPlace, String>>,
    /// The tunnels that are started.
    pub(super) started: BTreeSet<IfName>,
    /// The tunnels of the configuration.
    pub(super) tunnels: BTreeMap<IfName, TunnelState>,
    /// The groups of the configuration.
    pub(super) groups: BTreeMap<IfName, GroupView>,
    /// Counters of tunnels, groups and uplinks.
    pub(super) readings: Readings,
    /// Echo times by tunnel. Empty if they were not requested.
    pub(super) echo_times: BTreeMap<IfName, EchoTimes>,
    /// The last day of tunnels, by the history.
    pub(super) last_days: BTreeMap<IfName, LastDay>,
    /// The time since the start of the daemon.
    pub(super) now: Duration,
    /// The time since boot.
    pub(super) since_boot: Duration,
    /// Corrections of this run.
    pub(super) corrections: u64,
    /// Problems, as messages.
    pub(super) problems: Vec<String>,
}

/// A tunnel.
#[derive(Clone, Debug)]
pub(super) struct TunnelState {
    /// The report of its driver.
    pub(super) view: TunnelView,
    /// The file of its account, if it has one.
    pub(super) account: Option<String>,
    /// The recent result of echo pairing.
    pub(super) echo_health: EchoHealth,
    /// Echo requests since its last reply.
    pub(super) unanswered_in_a_row: u64,
    /// Its endpoint updates, if it has any.
    pub(super) update: Option<Report>,
    /// Its addresses that sixxs has deprecated, because it fails.
    pub(super) deprecated: Vec<Ipv6Addr>,
    /// The treatment of its packets that leak at present.
    pub(super) leaks: Option<Treatment>,
    /// The endpoints whose packets are counted for it.
    pub(super) endpoints: Vec<Endpoint>,
    /// Where its outer packets are lost, if they are.
    pub(super) silent: Option<SilentTunnel>,
    /// Why it would not answer, by the last inside test.
    pub(super) no_answer: Option<NoAnswer>,
    /// The result of its probes.
    pub(super) quality: Quality,
    /// Its probes; `None`: it is not probed.
    pub(super) probes: Option<Summary>,
}

impl Snapshot<'_> {
    /// Whether a tunnel is started and lacks no rule and no route.
    pub(super) fn is_routed(&self, tunnel: &sixxs_core::config::Tunnel) -> bool {
        self.started.contains(&tunnel.name) && self.plan.is_complete_for(tunnel)
    }

    /// Whether the programs of an interface are attached, where it should have any.
    pub(super) fn has_program(&self, name: &IfName) -> bool {
        self.hooks.contains_key(name)
    }
}
