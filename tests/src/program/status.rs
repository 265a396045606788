//! The format of `sixxs status --json`, as documented. Unknown keys are ignored, so that keys can be added; a
//! missing or renamed key is an error.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The whole status.
#[derive(Clone, Debug, Deserialize)]
#[expect(
    missing_docs,
    reason = "named as the keys of the contract, which explains them"
)]
pub struct Status {
    pub healthy: bool,
    pub corrections: u64,
    pub tunnels: Vec<Tunnel>,
    #[serde(default)]
    pub groups: Vec<Group>,
    pub uplinks: Vec<Uplink>,
    pub problems: Vec<String>,
}

impl Status {
    /// Whether everything works: all tunnels are healthy, except for leaks by other software that the
    /// programs redirect.
    pub fn works(&self) -> bool {
        let is_caught = |reason: &String| reason.contains("the program redirects them");
        let works = |tunnel: &Tunnel| {
            tunnel.health == "healthy"
                || tunnel.health == "degraded" && tunnel.health_reasons.iter().all(is_caught)
        };
        let attached = |uplink: &Uplink| uplink.program == "attached";
        self.tunnels.iter().all(works) && self.uplinks.iter().all(attached)
    }

    /// The tunnel with this name; panics if there is none.
    pub fn tunnel(&self, name: &str) -> &Tunnel {
        let found = self.tunnels.iter().find(|tunnel| tunnel.name == name);
        found.unwrap_or_else(|| panic!("status has no tunnel {name}: {self:#?}"))
    }
}

/// An element of `tunnels`.
#[derive(Clone, Debug, Deserialize)]
#[expect(
    missing_docs,
    reason = "named as the keys of the contract, which explains them"
)]
pub struct Tunnel {
    pub name: String,
    pub kind: String,
    pub state: String,
    #[serde(default)]
    pub retrying: bool,
    pub reason: Option<String>,
    pub health: String,
    #[serde(default)]
    pub health_reasons: Vec<String>,
    #[serde(default)]
    pub available_percent_24h: Option<f64>,
    #[serde(default)]
    pub outages_24h: Option<u32>,
    #[serde(default)]
    pub until: Option<String>,
    #[serde(default)]
    pub carrier: Option<String>,
    #[serde(default)]
    pub wireguard: Option<WireGuard>,
    pub update: Option<Update>,
    #[serde(default)]
    pub refused: BTreeMap<String, u64>,
    #[serde(default)]
    pub interface: Option<String>,
    pub ifindex: Option<u32>,
    pub addresses: Vec<String>,
    #[serde(default)]
    pub deprecated: Vec<String>,
    pub prefixes: Vec<String>,
    pub table: u32,
    pub mtu: Option<u32>,
    pub routing: String,
    pub program: String,
    pub packets: InOut,
    pub bytes: InOut,
    pub echo: Echo,
    pub proof: Proof,
    #[serde(default)]
    pub probes: Option<Probes>,
    pub leaks: Leaks,
    #[serde(default)]
    pub loops: u64,
    #[serde(default)]
    pub recursions: u64,
}

impl Tunnel {
    /// Whether it is up, with routing and programs in place.
    pub fn is_whole(&self) -> bool {
        self.state == "up" && self.routing == "in_place" && self.program == "attached"
    }
}

/// `wireguard` of a tunnel.
#[derive(Clone, Debug, Deserialize)]
#[expect(
    missing_docs,
    reason = "named as the keys of the contract, which explains them"
)]
pub struct WireGuard {
    pub public_key: Option<String>,
    pub listen_port: Option<u16>,
    pub latest_handshake_seconds_ago: Option<f64>,
    pub endpoint: Option<String>,
    pub peers: Vec<WireGuardPeer>,
}

/// An element of `peers` of `wireguard`.
#[derive(Clone, Debug, Deserialize)]
#[expect(
    missing_docs,
    reason = "named as the keys of the contract, which explains them"
)]
pub struct WireGuardPeer {
    pub public_key: String,
    pub endpoint: Option<String>,
    pub latest_handshake_seconds_ago: Option<f64>,
    pub keepalive_seconds: Option<u16>,
}

/// `update` of a tunnel.
#[derive(Clone, Debug, Deserialize)]
#[expect(
    missing_docs,
    reason = "named as the keys of the contract, which explains them"
)]
pub struct Update {
    pub state: String,
    pub address: Option<String>,
    pub sentence: String,
    pub confirmed_seconds_ago: Option<f64>,
    pub next_in_seconds: Option<f64>,
    pub requests: u64,
}

/// `packets` and `bytes` of a tunnel.
#[derive(Clone, Copy, Debug, Deserialize)]
#[expect(
    missing_docs,
    reason = "named as the keys of the contract, which explains them"
)]
pub struct InOut {
    #[serde(rename = "in")]
    pub into: u64,
    pub out: u64,
}

/// `echo` of a tunnel.
#[derive(Clone, Copy, Debug, Deserialize)]
#[expect(
    missing_docs,
    reason = "named as the keys of the contract, which explains them"
)]
pub struct Echo {
    pub requests_in: u64,
    pub replies_out: u64,
    pub requests_out: u64,
    pub replies_in: u64,
    pub last_request_in_seconds_ago: Option<f64>,
    pub last_reply_out_seconds_ago: Option<f64>,
}

/// `proof` of a tunnel.
#[derive(Clone, Copy, Debug, Deserialize)]
#[expect(
    missing_docs,
    reason = "named as the keys of the contract, which explains them"
)]
pub struct Proof {
    pub requests: u64,
    pub answered: u64,
    pub astray: u64,
    pub unanswered: u64,
    pub answered_percent: Option<f64>,
    pub last_answered_seconds_ago: Option<f64>,
    pub median_seconds: Option<f64>,
    pub watched_seconds: Option<f64>,
}

/// `probes` of a tunnel.
#[derive(Clone, Copy, Debug, Deserialize)]
#[expect(
    missing_docs,
    reason = "named as the keys of the contract, which explains them"
)]
pub struct Probes {
    pub sent: u32,
    pub lost: u32,
    pub loss_percent: Option<f64>,
    pub median_seconds: Option<f64>,
}

/// An element of `groups`.
#[derive(Clone, Debug, Deserialize)]
#[expect(
    missing_docs,
    reason = "named as the keys of the contract, which explains them"
)]
pub struct Group {
    pub name: String,
    pub active: String,
    pub active_seconds: f64,
    pub switches: u64,
    pub links: Vec<GroupLink>,
    pub prefixes: Vec<String>,
    pub table: u32,
    pub routing: String,
    pub leaks: Leaks,
}

/// An element of `links` of a group.
#[derive(Clone, Debug, Deserialize)]
#[expect(
    missing_docs,
    reason = "named as the keys of the contract, which explains them"
)]
pub struct GroupLink {
    pub name: String,
    pub state: String,
}

/// `leaks` of a tunnel.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "named as the keys of the contract, which explains them"
)]
pub struct Leaks {
    pub redirected: u64,
    pub dropped: u64,
    pub observed: u64,
    pub too_big: u64,
}

/// An element of `uplinks`.
#[derive(Clone, Debug, Deserialize)]
#[expect(
    missing_docs,
    reason = "named as the keys of the contract, which explains them"
)]
pub struct Uplink {
    pub name: String,
    pub ifindex: Option<u32>,
    pub program: String,
    pub hook: Option<String>,
    pub xdp: Option<Xdp>,
    pub packets: Out,
    pub bytes: Out,
    pub leaks: u64,
}

/// `xdp` of an uplink.
#[derive(Clone, Debug, Deserialize)]
#[expect(
    missing_docs,
    reason = "named as the keys of the contract, which explains them"
)]
pub struct Xdp {
    pub mode: Option<String>,
    pub reason: Option<String>,
}

/// `packets` and `bytes` of an uplink.
#[derive(Clone, Copy, Debug, Deserialize)]
#[expect(
    missing_docs,
    reason = "named as the keys of the contract, which explains them"
)]
pub struct Out {
    pub out: u64,
}
