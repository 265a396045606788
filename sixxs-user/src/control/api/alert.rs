//! Alerts: leaks, corrections, and changes of tunnels.

use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};

use super::value::{Health, State, Treatment};

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
        state: State,
        /// The reason, if there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A tunnel's health has changed for more than a moment.
    Health {
        /// The tunnel.
        tunnel: String,
        /// Its new health.
        health: Health,
        /// The reasons why it is not healthy, the worst first.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        reasons: Vec<String>,
    },
    /// Another link carries the prefixes of a group.
    Switch {
        /// The group.
        group: String,
        /// The link that carried them.
        from: String,
        /// The link that carries them now.
        to: String,
        /// The reason, with the link that it is about.
        reason: String,
    },
    /// Addresses of a tunnel were deprecated because it fails, or are preferred again.
    Deprecation {
        /// The tunnel.
        tunnel: String,
        /// Whether they are deprecated now.
        deprecated: bool,
        /// The addresses.
        addresses: Vec<Ipv6Addr>,
        /// The reason.
        reason: String,
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
    /// What became of them.
    pub treatment: Option<Treatment>,
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

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}
