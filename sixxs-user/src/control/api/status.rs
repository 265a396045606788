//! The state of tunnels, uplinks and brokers.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};

use super::value::{
    Carrier, Health, Hook, Kind, LinkState, Program, Routing, Silence, State, UpdateState, XdpMode,
};

/// `sixxs status --json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Whether every tunnel is healthy, and every uplink has its program.
    pub healthy: bool,
    /// Number of repairs since the daemon started.
    pub corrections: u64,
    /// The tunnels, in the order of the configuration.
    pub tunnels: Vec<Tunnel>,
    /// The groups of links, in the order of the configuration.
    #[serde(default)]
    pub groups: Vec<Group>,
    /// The native uplinks.
    pub uplinks: Vec<Uplink>,
    /// Brokers with recent connects.
    #[serde(default)]
    pub brokers: Vec<Broker>,
    /// Problems, as messages.
    pub problems: Vec<String>,
}

/// The remaining connect limit of a broker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Broker {
    /// Its name or address, as used for connects.
    pub name: String,
    /// Number of connects that are allowed now.
    pub slots_left: u32,
    /// Maximum of `slots_left`.
    pub slots: u32,
    /// Seconds until another connect is allowed; `null` if all are available.
    pub next_slot_in_seconds: Option<f64>,
    /// End of its lockout, in RFC 3339; `null` if there is none.
    pub locked_out_until: Option<String>,
}

/// A tunnel.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tunnel {
    /// The name of its interface.
    pub name: String,
    /// The software that creates its interface.
    pub kind: Kind,
    /// Its state.
    pub state: State,
    /// Whether it is `failed`, and the next attempt is within minutes.
    #[serde(default, skip_serializing_if = "is_false")]
    pub retrying: bool,
    /// The aiccu.conf that it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// End of the lockout in the state `locked_out`, in RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// The updates of this host's IPv4 address at the broker, if it has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update: Option<EndpointUpdate>,
    /// The broker's endpoint of a native tunnel: address and port, or only the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The carrier of a native tunnel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carrier: Option<Carrier>,
    /// The interface and its peers, if the daemon has made it by WireGuard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wireguard: Option<WireGuard>,
    /// The reason for the state, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its health.
    #[serde(default)]
    pub health: Health,
    /// The reasons why it is not healthy, the worst first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub health_reasons: Vec<String>,
    /// Percentage of the last 24 hours in which it did not fail; `null` if nothing is recorded.
    #[serde(default)]
    pub available_percent_24h: Option<f64>,
    /// Number of outages in that time; `null` if nothing is recorded.
    #[serde(default)]
    pub outages_24h: Option<u32>,
    /// The name of its interface, if the configuration has a pattern for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// The index of its interface.
    pub ifindex: Option<u32>,
    /// Its addresses.
    pub addresses: Vec<Ipv6Addr>,
    /// Addresses of its interface that are deprecated because it fails.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deprecated: Vec<Ipv6Addr>,
    /// Prefixes that are routed through it.
    pub prefixes: Vec<String>,
    /// The address of its far end.
    pub peer: Option<Ipv6Addr>,
    /// The address that `sixxs check` pings.
    pub check_target: Option<Ipv6Addr>,
    /// Its routing table.
    pub table: u32,
    /// MTU of the interface, in bytes.
    pub mtu: Option<u32>,
    /// Whether its rules and routes are there.
    pub routing: Routing,
    /// Whether the programs are attached.
    pub program: Program,
    /// Number of packets on its interface.
    pub packets: InOut,
    /// Number of bytes on its interface, without link layer.
    pub bytes: InOut,
    /// Echo messages on its interface.
    pub echo: Echo,
    /// Whether echo requests are answered.
    #[serde(default)]
    pub proof: Proof,
    /// Its probes in the last window, if it is probed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probes: Option<Probes>,
    /// Its outer packets at the uplinks, if its endpoint is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outer: Option<Outer>,
    /// Leaks of packets with its sources, at any interface.
    pub leaks: Leaks,
    /// Packets that left by its interface, with a source that belongs to no tunnel.
    pub strays: u64,
    /// Packets that did not leave by its interface, because a tunnel would have routed them back.
    #[serde(default)]
    pub loops: u64,
    /// Its own outer packets that were routed into it, at any interface; they were dropped.
    #[serde(default)]
    pub recursions: u64,
    /// Refused packets for a native tunnel, by reason; reasons with count 0 are left out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub refused: BTreeMap<String, u64>,
}

/// A WireGuard interface. Contains public keys, and no others.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct WireGuard {
    /// The public key of this end.
    pub public_key: Option<String>,
    /// Its UDP port.
    pub listen_port: Option<u16>,
    /// Seconds since the latest handshake with any peer; `null` for never.
    pub latest_handshake_seconds_ago: Option<f64>,
    /// The endpoint of that peer.
    pub endpoint: Option<String>,
    /// The peers.
    pub peers: Vec<WireGuardPeer>,
}

/// A peer of a WireGuard interface.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct WireGuardPeer {
    /// Its public key.
    pub public_key: String,
    /// Where it is reached: address and port.
    pub endpoint: Option<String>,
    /// Seconds since the latest handshake; `null` for never.
    pub latest_handshake_seconds_ago: Option<f64>,
    /// Seconds between keepalives; `null` for none.
    pub keepalive_seconds: Option<u16>,
}

/// The updates of this host's IPv4 address at the broker of a tunnel.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct EndpointUpdate {
    /// Their state.
    pub state: UpdateState,
    /// The address that the broker has confirmed last; `null` if there is none.
    pub address: Option<Ipv4Addr>,
    /// The state as a sentence.
    pub sentence: String,
    /// Seconds since the broker has confirmed the address; after a reboot at least that; `null` for never.
    pub confirmed_seconds_ago: Option<f64>,
    /// Seconds until the next request, if nothing changes; `null` if there is none to come.
    pub next_in_seconds: Option<f64>,
    /// Number of requests since the updates were started.
    pub requests: u64,
}

/// The outer packets of a tunnel, by which its packets travel between this host and the far end.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outer {
    /// The far ends: address and port, or only the address.
    pub endpoints: Vec<String>,
    /// Number of outer packets. A batch of segments counts as one.
    pub packets: InOut,
    /// Their bytes, with the outer IP header.
    pub bytes: InOut,
    /// Seconds since the last one that arrived; `null` for never.
    pub last_in_seconds_ago: Option<f64>,
    /// Seconds since the last one that left; `null` for never.
    pub last_out_seconds_ago: Option<f64>,
    /// Where the tunnel is silent; `null`: it is not, or it has no traffic.
    #[serde(default)]
    pub silence: Option<Silence>,
    /// The same as a sentence about the tunnel.
    #[serde(default)]
    pub sentence: Option<String>,
}

/// Counts in both directions.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct InOut {
    /// Incoming.
    #[serde(rename = "in")]
    pub incoming: u64,
    /// Outgoing.
    pub out: u64,
}

/// Echo messages.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Echo {
    /// Requests from outside.
    pub requests_in: u64,
    /// Our replies.
    pub replies_out: u64,
    /// Our requests.
    pub requests_out: u64,
    /// Replies from outside.
    pub replies_in: u64,
    /// Requests from outside that the programs answered (`answer_echo`). They prove nothing about this host.
    #[serde(default)]
    pub answered_by_programs: u64,
    /// Seconds since the last request from outside; `null` for never.
    pub last_request_in_seconds_ago: Option<f64>,
    /// Seconds since our last reply; `null` for never.
    pub last_reply_out_seconds_ago: Option<f64>,
}

/// Echo requests from outside to a tunnel's own addresses, paired with their replies by identifier and
/// sequence number. (For addresses of a routed prefix, other hosts reply, or none.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Proof {
    /// Requests for which a reply was expected.
    pub requests: u64,
    /// Requests whose reply left by the tunnel.
    pub answered: u64,
    /// Requests whose reply was about to leave by another interface, where it passed or was dropped.
    pub astray: u64,
    /// Requests without any reply after a second.
    pub unanswered: u64,
    /// Percentage of answered requests, among those old enough for a reply; 100 only if all were answered.
    /// `null` if there are none.
    pub answered_percent: Option<f64>,
    /// Seconds since the last answer; `null` for never.
    pub last_answered_seconds_ago: Option<f64>,
    /// Median time from request to reply, in seconds; `null` if there are no replies.
    pub median_seconds: Option<f64>,
    /// Seconds since the first of the requests; `null` if there are none.
    pub watched_seconds: Option<f64>,
}

/// The probes of a link in the last window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Probes {
    /// Probes that have finished.
    pub sent: u32,
    /// Those without a reply.
    pub lost: u32,
    /// The same as a percentage; `null` if there are none.
    pub loss_percent: Option<f64>,
    /// Median time from probe to reply, in seconds; `null` if there are no replies.
    pub median_seconds: Option<f64>,
}

/// Links that carry the same prefixes, one of them at a time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// The link that carries the prefixes.
    pub active: String,
    /// Seconds since that link took over, or since the daemon started.
    pub active_seconds: f64,
    /// Times that another link took over since the daemon started.
    pub switches: u64,
    /// Its links, in the order of preference.
    pub links: Vec<GroupLink>,
    /// Its prefixes.
    pub prefixes: Vec<String>,
    /// Its routing table.
    pub table: u32,
    /// Whether its rules and routes are there.
    pub routing: Routing,
    /// Leaks of packets from its prefixes, at any interface.
    pub leaks: Leaks,
}

/// A link of a group.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GroupLink {
    /// Its name.
    pub name: String,
    /// Whether it can carry packets.
    pub state: LinkState,
}

/// Number of leaks, by treatment.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Leaks {
    /// Redirected into the tunnel.
    pub redirected: u64,
    /// Dropped.
    pub dropped: u64,
    /// Passed unchanged.
    pub observed: u64,
    /// Answered with Packet Too Big.
    pub too_big: u64,
}

/// A native uplink.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Uplink {
    /// The name of its interface.
    pub name: String,
    /// The index of its interface.
    pub ifindex: Option<u32>,
    /// Whether the programs are attached.
    pub program: Program,
    /// How the programs are attached.
    pub hook: Option<Hook>,
    /// The XDP program; `null` if there is nothing to screen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xdp: Option<Xdp>,
    /// Number of packets that left.
    pub packets: Out,
    /// Number of bytes that left, without link layer.
    pub bytes: Out,
    /// Leaks detected here.
    pub leaks: u64,
}

/// The XDP program of an uplink, which drops forged outer packets.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Xdp {
    /// Where it is attached; `null`: nowhere.
    pub mode: Option<XdpMode>,
    /// Whether libxdp's dispatcher runs it, together with programs of other software.
    #[serde(default)]
    pub shared: bool,
    /// Why it is not attached.
    pub reason: Option<String>,
}

/// A count in one direction.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Out {
    /// Outgoing.
    pub out: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_false(truth: &bool) -> bool {
    !*truth
}
