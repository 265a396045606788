//! The daemon's JSON, which scripts rely on.
//!
//! Keys may be added, but not renamed. An unknown value is `null`.

use std::{collections::BTreeMap, net::Ipv6Addr};

use serde::{Deserialize, Serialize};
use sixxs_core::routing;

/// `sixxs status --json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Whether every tunnel is healthy, and every uplink has its program.
    pub healthy: bool,
    /// Number of repairs since the daemon started.
    pub corrections: u64,
    /// The tunnels, in the order of the configuration.
    pub tunnels: Vec<Tunnel>,
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
    /// `interface`, `command`, …
    pub kind: String,
    /// `down`, `waiting`, `connecting`, `up`, `locked_out`, `failed`.
    pub state: String,
    /// Whether it is `failed`, and the next attempt is within minutes.
    #[serde(default, skip_serializing_if = "is_false")]
    pub retrying: bool,
    /// The aiccu.conf that it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// End of the lockout in the state `locked_out`, in RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// The broker's endpoint of a native tunnel: address and port, or only the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The carrier of a native tunnel: `tun` or `sit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carrier: Option<String>,
    /// The reason for the state, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// `healthy`, `degraded` (replies leave by the tunnel because the programs redirect them) or `failing`.
    #[serde(default)]
    pub health: String,
    /// The reasons why it is not healthy, the worst first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub health_reasons: Vec<String>,
    /// The index of its interface.
    pub ifindex: Option<u32>,
    /// Its addresses.
    pub addresses: Vec<Ipv6Addr>,
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
    /// `in_place` or `missing`.
    pub routing: String,
    /// `attached` or `missing`.
    pub program: String,
    /// Number of packets on its interface.
    pub packets: InOut,
    /// Number of bytes on its interface, without link layer.
    pub bytes: InOut,
    /// Echo messages on its interface.
    pub echo: Echo,
    /// Whether echo requests are answered.
    #[serde(default)]
    pub proof: Proof,
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
    /// Refused packets from the broker of a native tunnel, by reason; reasons with count 0 are left out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub refused: BTreeMap<String, u64>,
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
    /// `attached` or `missing`.
    pub program: String,
    /// `tcx` or `clsact`.
    pub hook: Option<String>,
    /// Number of packets that left.
    pub packets: Out,
    /// Number of bytes that left, without link layer.
    pub bytes: Out,
    /// Leaks detected here.
    pub leaks: u64,
}

/// A count in one direction.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Out {
    /// Outgoing.
    pub out: u64,
}

/// `sixxs counters --json`: by interface, then by the counter's name.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Every interface that has or had a map slot.
    pub interfaces: BTreeMap<String, BTreeMap<String, u64>>,
}

/// One line of `sixxs alerts --json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Alert {
    /// The time, in RFC 3339.
    pub time: String,
    /// The subject.
    #[serde(flatten)]
    pub about: About,
    /// Number of similar alerts that this one stands for: they differ in numbers, addresses or names of
    /// interfaces.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_false(truth: &bool) -> bool {
    !*truth
}

/// The subject of an alert.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum About {
    /// Packets with a tunnel's source were about to leave by the wrong interface.
    Leak(Box<Leak>),
    /// An object of this program was missing, and was restored.
    Correction {
        /// The tunnel, if it belongs to one.
        tunnel: Option<String>,
        /// The repair, as a command if possible.
        correction: String,
        /// The process that removed the object, if known: its name and process ID.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
    },
    /// A tunnel changed its state.
    Tunnel {
        /// The tunnel.
        tunnel: String,
        /// Its new state.
        state: String,
        /// The reason, if there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A tunnel's health has changed for more than a moment.
    Health {
        /// The tunnel.
        tunnel: String,
        /// `healthy`, `degraded` or `failing`.
        health: String,
        /// The reasons why it is not healthy, the worst first.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        reasons: Vec<String>,
    },
    /// A problem.
    Problem {
        /// The error, and what to do.
        problem: String,
    },
}

/// A line about leaks: of one flow, or of all flows of a tunnel if there are too many to name. In the second
/// case only `tunnel` and `packets` are set.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Leak {
    /// The tunnel that owns the source.
    pub tunnel: String,
    /// The interface by which the packets were about to leave.
    pub interface: Option<String>,
    /// The source address.
    pub source: Option<Ipv6Addr>,
    /// The destination address.
    pub destination: Option<Ipv6Addr>,
    /// `tcp`, `udp`, `icmpv6`, or the protocol number.
    pub protocol: Option<String>,
    /// Source and destination port; for echo messages the identifier twice.
    pub ports: Option<[u16; 2]>,
    /// Number of packets since the last line of this kind.
    pub packets: u64,
    /// `redirected`, `dropped`, `observed`, `too_big`, or `no_tunnel` (dropped because the tunnel was missing).
    pub treatment: Option<String>,
    /// User ID of the sending socket's owner.
    pub uid: Option<u32>,
    /// Control group of the sending socket, as its inode number.
    pub cgroup: Option<u64>,
    /// The path below the root of the control groups; `null` if the group is gone.
    #[serde(default)]
    pub cgroup_path: Option<String>,
    /// The systemd unit of that group.
    #[serde(default)]
    pub unit: Option<String>,
    /// The container of that group: its runtime, and its name or ID.
    #[serde(default)]
    pub container: Option<String>,
    /// The mark of the flow's first packet; `null` if there is none.
    #[serde(default)]
    pub mark: Option<u32>,
    /// The interface that the sending socket is bound to.
    pub bound_to: Option<String>,
    /// The incoming interface of a forwarded packet.
    pub forwarded_from: Option<String>,
    /// The cause of the leak: `bound`, `stopped`, `shadowed`, `put_back` or `not_asked`, like `sixxs explain`.
    #[serde(default)]
    pub cause: Option<String>,
    /// The cause as a sentence.
    #[serde(default)]
    pub why: Option<String>,
    /// What to do about it, in one line.
    #[serde(default)]
    pub cure: Option<String>,
}

/// The missing objects, as commands.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Plan {
    /// Shell commands.
    pub commands: Vec<String>,
    /// Problems, as messages.
    pub problems: Vec<String>,
    /// The configuration file; `null` if it is the requested one.
    #[serde(default)]
    pub config: Option<String>,
}

impl From<&routing::Plan> for Plan {
    fn from(plan: &routing::Plan) -> Self {
        Self {
            config: None,
            commands: plan.steps.iter().map(ToString::to_string).collect(),
            problems: plan.problems.iter().map(ToString::to_string).collect(),
        }
    }
}

/// The tunnels to act on; empty for all.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Names {
    /// Their names.
    pub tunnels: Vec<String>,
    /// When starting: whether to query brokers again although their parameters are known.
    #[serde(default)]
    pub refresh: bool,
}

/// The tunnel of an aiccu.conf.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AccountFile {
    /// The path of the file.
    pub file: String,
    /// A file with the certificate authority for the TIC server; `null`: the system's.
    #[serde(default)]
    pub tls_ca: Option<String>,
    /// Whether to verify the TIC server's certificate.
    #[serde(default = "yes")]
    pub tls_verify: bool,
    /// Whether to query the broker again although its parameters are known.
    #[serde(default)]
    pub refresh: bool,
}

const fn yes() -> bool {
    true
}

/// The displacement of the daemon's clock from the machine's.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Displacement {
    /// Displacement of the wall clock, in seconds.
    pub wall_seconds: i64,
    /// Seconds to add to the time since boot; a value below the present one changes nothing.
    #[serde(default)]
    pub slept_seconds: u64,
}

/// A request to reload the configuration file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Reload {
    /// Time limit for the confirmation; without it the daemon reverts. `null`: no confirmation needed.
    #[serde(default)]
    pub confirm_within_seconds: Option<u64>,
}

/// A request for a preview of a reload.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CheckReload {
    /// Another file than the daemon's, as the client reads it; `null`: the daemon's file.
    #[serde(default)]
    pub instead: Option<ConfigText>,
}

/// A configuration file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConfigText {
    /// Its absolute path. Messages name it, and relative paths in the text start at its directory.
    pub file: String,
    /// Its contents.
    pub text: String,
}

/// The changes that a reload would make.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Preview {
    /// Errors in the file; if there are any, all other fields are empty.
    pub faults: Vec<String>,
    /// Changes of tunnels.
    pub tunnels: TunnelChanges,
    /// Changed keys outside of tunnels.
    pub settings: Vec<String>,
    /// Changes of guarded interfaces.
    pub uplinks: UplinkChanges,
    /// Connects that the reload needs, by broker.
    pub connects: Vec<ConnectsNeeded>,
    /// Shell commands.
    pub commands: Vec<String>,
    /// Problems, as messages.
    pub problems: Vec<String>,
}

impl Preview {
    /// Whether there are no changes and no errors.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        let TunnelChanges {
            added,
            removed,
            restarted,
            altered,
        } = &self.tunnels;
        let UplinkChanges { guarded, released } = &self.uplinks;
        let lists = [
            &self.faults,
            added,
            removed,
            restarted,
            altered,
            &self.settings,
            guarded,
            released,
            &self.commands,
            &self.problems,
        ];
        self.connects.is_empty() && lists.iter().all(|list| list.is_empty())
    }
}

/// Names of tunnels, by change.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct TunnelChanges {
    /// New tunnels.
    pub added: Vec<String>,
    /// Removed tunnels.
    pub removed: Vec<String>,
    /// Tunnels that restart with new settings.
    pub restarted: Vec<String>,
    /// Tunnels that keep running, with other rules, routes or checks.
    pub altered: Vec<String>,
}

/// Names of interfaces, by change.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct UplinkChanges {
    /// Interfaces where a program is attached.
    pub guarded: Vec<String>,
    /// Interfaces where it is detached.
    pub released: Vec<String>,
}

/// Connects that a broker would get.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConnectsNeeded {
    /// The broker.
    pub broker: String,
    /// Number of connects.
    pub connects: u32,
    /// Number of connects that are allowed now.
    pub left: u32,
    /// The time of day when the next connect is allowed, if `left` is too small; `null`: now.
    pub next: Option<String>,
}

/// The body of an error response.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Refusal {
    /// The error, and what to do.
    pub error: String,
}
