//! What the daemon tells, as JSON: the shapes that scripts rely on.
//!
//! Keys may be added here, none renamed. Unknown is `null`.

use std::{collections::BTreeMap, net::Ipv6Addr};

use serde::{Deserialize, Serialize};
use sixxs_core::routing;

/// `sixxs status --json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Whether every tunnel is healthy, and every uplink has its program.
    pub healthy: bool,
    /// Repairs since the daemon started.
    pub corrections: u64,
    /// The tunnels in the order of the file.
    pub tunnels: Vec<Tunnel>,
    /// The native uplinks.
    pub uplinks: Vec<Uplink>,
    /// Brokers that were connected to lately.
    #[serde(default)]
    pub brokers: Vec<Broker>,
    /// What could not be done, in words.
    pub problems: Vec<String>,
}

/// How we stand with a broker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Broker {
    /// Its name or address, as it is connected to.
    pub name: String,
    /// Connects that can be made at once.
    pub slots_left: u32,
    /// Of how many.
    pub slots: u32,
    /// Until there is one more, in seconds; `null` when all are free.
    pub next_slot_in_seconds: Option<f64>,
    /// Until when it refuses us, in RFC 3339; `null` when it does not.
    pub locked_out_until: Option<String>,
}

/// A tunnel.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tunnel {
    /// Its interface.
    pub name: String,
    /// `interface`, `command`, …
    pub kind: String,
    /// `down`, `waiting`, `connecting`, `up`, `locked_out`, `failed`.
    pub state: String,
    /// Whether it is `failed` and tried again within minutes.
    #[serde(default, skip_serializing_if = "is_false")]
    pub retrying: bool,
    /// The aiccu.conf that it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// Until when it is `locked_out`, in RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// The broker that a native tunnel sends to: address and port, or address alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// What carries a native tunnel: `tun` or `sit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carrier: Option<String>,
    /// Why, where there is something to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// `healthy`, `degraded` (replies leave by the tunnel because the programs redirect them) or `failing`.
    #[serde(default)]
    pub health: String,
    /// Why it is not healthy, the worst reason first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub health_reasons: Vec<String>,
    /// Index of its interface.
    pub ifindex: Option<u32>,
    /// Its addresses.
    pub addresses: Vec<Ipv6Addr>,
    /// Prefixes routed by it.
    pub prefixes: Vec<String>,
    /// Its far end.
    pub peer: Option<Ipv6Addr>,
    /// What `sixxs check` pings.
    pub check_target: Option<Ipv6Addr>,
    /// Its routing table.
    pub table: u32,
    /// The largest packet, in bytes.
    pub mtu: Option<u32>,
    /// `in_place` or `missing`.
    pub routing: String,
    /// `attached` or `missing`.
    pub program: String,
    /// Packets through its interface.
    pub packets: InOut,
    /// Bytes through its interface, without link layer.
    pub bytes: InOut,
    /// Echo messages through its interface.
    pub echo: Echo,
    /// Whether it answers.
    #[serde(default)]
    pub proof: Proof,
    /// Leaks of its own addresses, wherever they leaked.
    pub leaks: Leaks,
    /// Packets with a source of no tunnel that left by its interface.
    pub strays: u64,
    /// Packets that did not leave by its interface, since a tunnel would have brought them back.
    #[serde(default)]
    pub loops: u64,
    /// Its own outer packets that would have gone into it, wherever; dropped.
    #[serde(default)]
    pub recursions: u64,
    /// What came from the broker of a native tunnel and was refused, by reason; those at 0 are left
    /// out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub refused: BTreeMap<String, u64>,
}

/// Both directions.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct InOut {
    /// Came in.
    #[serde(rename = "in")]
    pub incoming: u64,
    /// Left.
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
    /// Since the last request from outside, in seconds; `null` for never.
    pub last_request_in_seconds_ago: Option<f64>,
    /// Since our last reply, in seconds; `null` for never.
    pub last_reply_out_seconds_ago: Option<f64>,
}

/// Echo requests from outside to a tunnel's own addresses, paired with their replies by identifier and
/// sequence number. (To those of a routed prefix, others reply, or nobody.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Proof {
    /// Requests whose reply was waited for.
    pub requests: u64,
    /// Those whose reply left by the tunnel.
    pub answered: u64,
    /// Those whose reply was about to leave elsewhere, and was let pass or dropped there.
    pub astray: u64,
    /// Those without any reply after a second.
    pub unanswered: u64,
    /// Of those that had time for a reply, how many were answered; 100 only if all were. `null`: none
    /// had.
    pub answered_percent: Option<f64>,
    /// Since the last answer, in seconds; `null` for never.
    pub last_answered_seconds_ago: Option<f64>,
    /// From request to reply, in seconds: half of the answers took no longer. `null`: there are none.
    pub median_seconds: Option<f64>,
    /// Since the first of the requests, in seconds; `null`: there are none.
    pub watched_seconds: Option<f64>,
}

/// Leaks by treatment.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Leaks {
    /// Put into the tunnel.
    pub redirected: u64,
    /// Dropped.
    pub dropped: u64,
    /// Let pass.
    pub observed: u64,
    /// Answered by Packet Too Big.
    pub too_big: u64,
}

/// A native uplink.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Uplink {
    /// Its interface.
    pub name: String,
    /// Its index.
    pub ifindex: Option<u32>,
    /// `attached` or `missing`.
    pub program: String,
    /// `tcx` or `clsact`.
    pub hook: Option<String>,
    /// Packets that left.
    pub packets: Out,
    /// Bytes that left, without link layer.
    pub bytes: Out,
    /// Leaks caught here.
    pub leaks: u64,
}

/// One direction.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Out {
    /// Left.
    pub out: u64,
}

/// `sixxs counters --json`: by interface, then by the counter's name.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Every interface that has or had a slot.
    pub interfaces: BTreeMap<String, BTreeMap<String, u64>>,
}

/// One line of `sixxs alerts --json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Alert {
    /// When, in RFC 3339.
    pub time: String,
    /// What it is about.
    #[serde(flatten)]
    pub about: About,
    /// How many more like it there were, which are told by this one: they differ in numbers, addresses or
    /// names of interfaces.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more: u64,
}

// What serde calls is given a reference.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_false(truth: &bool) -> bool {
    !*truth
}

/// What an alert is about.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum About {
    /// Packets with a tunnel's source were about to leave by the wrong interface.
    Leak(Box<Leak>),
    /// Something of ours was missing, and was put back.
    Correction {
        /// The tunnel, where it is about one.
        tunnel: Option<String>,
        /// What was done, as a command where it can be one.
        correction: String,
        /// Who had taken it away, where that is known: name and number of a process.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
    },
    /// A tunnel changed its state.
    Tunnel {
        /// Which.
        tunnel: String,
        /// Its new state.
        state: String,
        /// Why, where there is something to say.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A tunnel's health has changed, and not only for the moment.
    Health {
        /// Which.
        tunnel: String,
        /// `healthy`, `degraded` or `failing`.
        health: String,
        /// Why it is not healthy, the worst first.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        reasons: Vec<String>,
    },
    /// Something could not be done.
    Problem {
        /// What, and what to do.
        problem: String,
    },
}

/// A line about leaks: of one flow, or (all but `tunnel` and `packets` `null`) of all flows of a
/// tunnel that are too many to name.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Leak {
    /// The tunnel that the source belongs to.
    pub tunnel: String,
    /// The interface by which they were about to leave.
    pub interface: Option<String>,
    /// Their source.
    pub source: Option<Ipv6Addr>,
    /// Their destination.
    pub destination: Option<Ipv6Addr>,
    /// `tcp`, `udp`, `icmpv6`, or the number.
    pub protocol: Option<String>,
    /// Source and destination port; for echo messages the identifier twice.
    pub ports: Option<[u16; 2]>,
    /// Packets since the last such line.
    pub packets: u64,
    /// `redirected`, `dropped`, `observed`, `too_big`, or `no_tunnel` (dropped for want of one).
    pub treatment: Option<String>,
    /// Owner of the sending socket.
    pub uid: Option<u32>,
    /// Control group of the sending socket, as its inode number.
    pub cgroup: Option<u64>,
    /// Its path below the root of the control groups; `null` where it is gone.
    #[serde(default)]
    pub cgroup_path: Option<String>,
    /// systemd's unit that it belongs to.
    #[serde(default)]
    pub unit: Option<String>,
    /// The container that it belongs to: who runs it, and its name or number.
    #[serde(default)]
    pub container: Option<String>,
    /// The mark of the flow's first packet; `null` for none.
    #[serde(default)]
    pub mark: Option<u32>,
    /// Interface that the sending socket is bound to.
    pub bound_to: Option<String>,
    /// Interface that a forwarded packet came in by.
    pub forwarded_from: Option<String>,
    /// Why it leaked: `bound`, `stopped`, `shadowed`, `put_back`, `not_asked`; as `sixxs explain` says.
    #[serde(default)]
    pub cause: Option<String>,
    /// The same in a sentence.
    #[serde(default)]
    pub why: Option<String>,
    /// What to do about it, in one line.
    #[serde(default)]
    pub cure: Option<String>,
}

/// What is missing, as commands.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Plan {
    /// Lines for a shell.
    pub commands: Vec<String>,
    /// What stands in the way, in words.
    pub problems: Vec<String>,
    /// The configuration file that it is about; `null`: the one that was asked for.
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

/// Which tunnels to act on; none named: all.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Names {
    /// Their names.
    pub tunnels: Vec<String>,
    /// When they start: whether their brokers are asked anew, though what they said is known.
    #[serde(default)]
    pub refresh: bool,
}

/// The tunnel of an aiccu.conf.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AccountFile {
    /// The path of the file.
    pub file: String,
    /// The file with the authority that vouches for the TIC server; `null`: the system's.
    #[serde(default)]
    pub tls_ca: Option<String>,
    /// Whether the TIC server's certificate is checked.
    #[serde(default = "yes")]
    pub tls_verify: bool,
    /// Whether the broker is asked anew, though what it said is known.
    #[serde(default)]
    pub refresh: bool,
}

const fn yes() -> bool {
    true
}

/// How far the daemon's clock is to be from the machine's.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Displacement {
    /// The wall clock, in seconds.
    pub wall_seconds: i64,
    /// The time since boot, in seconds; less than before changes nothing.
    #[serde(default)]
    pub slept_seconds: u64,
}

/// The configuration file is to be taken over.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Reload {
    /// Go back after this time unless it is confirmed; `null`: for good.
    #[serde(default)]
    pub confirm_within_seconds: Option<u64>,
}

/// What a reload would change is to be told.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CheckReload {
    /// Another file than the daemon's, as whoever asks sees it; `null`: the daemon's.
    #[serde(default)]
    pub instead: Option<ConfigText>,
}

/// A configuration file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConfigText {
    /// Its absolute path: messages name it, and relative paths in it begin at its directory.
    pub file: String,
    /// What is in it.
    pub text: String,
}

/// What a reload would change.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Preview {
    /// What is wrong with the file; then nothing else is said.
    pub faults: Vec<String>,
    /// Tunnels.
    pub tunnels: TunnelChanges,
    /// Keys outside of tunnels that have another value.
    pub settings: Vec<String>,
    /// Interfaces whose leaks are caught.
    pub uplinks: UplinkChanges,
    /// Connects that it costs, by broker.
    pub connects: Vec<ConnectsNeeded>,
    /// Lines for a shell.
    pub commands: Vec<String>,
    /// What stands in the way, in words.
    pub problems: Vec<String>,
}

impl Preview {
    /// Whether nothing would change, and nothing is wrong.
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

/// Names of tunnels, by what becomes of them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct TunnelChanges {
    /// They are new.
    pub added: Vec<String>,
    /// They go.
    pub removed: Vec<String>,
    /// They stop, and start as what they are now.
    pub restarted: Vec<String>,
    /// They go on, with other rules, routes or checks.
    pub altered: Vec<String>,
}

/// Names of interfaces.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct UplinkChanges {
    /// The program is attached.
    pub guarded: Vec<String>,
    /// It is taken away.
    pub released: Vec<String>,
}

/// Connects with a broker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConnectsNeeded {
    /// The broker.
    pub broker: String,
    /// How many.
    pub connects: u32,
    /// How many can be made at once.
    pub left: u32,
    /// The time of day when the next one can be made, if these are too few; `null`: now.
    pub next: Option<String>,
}

/// An answer to what was refused.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Refusal {
    /// Why, and what to do.
    pub error: String,
}
