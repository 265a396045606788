//! Inside tests: would a ping from outside be answered, and if not, what drops it.

use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};

/// What to test.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InsideRequest {
    /// The tunnels; empty for all.
    pub tunnels: Vec<String>,
    /// TCP ports, in addition to pings.
    pub tcp: Vec<u16>,
    /// UDP ports.
    pub udp: Vec<u16>,
    /// Whether hosts behind this one are tested too (`check_address`).
    pub behind: bool,
    /// Whether the requests come from the peers, and the answers are sent to them.
    pub let_go: bool,
}

/// The results for the tunnels that are up.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct InsideTests {
    /// One per address and packet.
    pub tests: Vec<InsideTest>,
}

/// The result for an address.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InsideTest {
    /// The tunnel.
    pub tunnel: String,
    /// Its interface in the kernel.
    pub device: String,
    /// The tested address.
    pub address: Option<Ipv6Addr>,
    /// The source of the request.
    pub source: Option<Ipv6Addr>,
    /// `icmpv6`, `tcp` or `udp`.
    pub protocol: Option<String>,
    /// The tested port; `null` for a ping.
    pub port: Option<u16>,
    /// Whether the address is of a host behind this one.
    pub behind: bool,
    /// Whether the answer was sent.
    pub let_go: bool,
    /// Whether somebody outside would get an answer that is no refusal.
    pub pass: bool,
    /// The interface by which the answer was about to leave; `null`: there was none.
    pub interface: Option<String>,
    /// Whether the program there redirects it into the tunnel.
    pub redirected: bool,
    /// Whether the programs made the answer.
    pub by_programs: bool,
    /// The time from the request to the answer.
    pub milliseconds: Option<f64>,
    /// Why there is no answer, as a word; `null` where there is one.
    pub cause: Option<String>,
    /// The kernel's reason for dropping it.
    pub reason: Option<String>,
    /// The kernel's function that dropped it.
    pub location: Option<String>,
    /// What drops it in nftables, as `--trace-filters` finds it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dropped_by: Vec<FilterRule>,
    /// The sentence for users.
    pub sentence: String,
    /// What to do; `null`: nothing.
    pub cure: Option<String>,
}

/// What drops a packet in nftables.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FilterRule {
    /// The family of the table.
    pub family: String,
    /// The table.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// The rule's handle; `null`: the policy of the chain.
    pub handle: Option<u64>,
    /// The rule, as `nft` prints it; `null`: it does not.
    pub rule: Option<String>,
}
