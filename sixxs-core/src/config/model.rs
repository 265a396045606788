//! The types of a checked configuration: values that are in range and do not contradict each other.

use std::{
    collections::BTreeMap,
    fmt,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use sixxs_common::{layout::SHORTEST_ROUTED, treatment::OnLeak};

use super::{
    account::Account, alerting::Alerting, endpoint_update::EndpointUpdate, follows::Follows,
    link_group::Group, probe_limits::Probe, remote_endpoint::RemoteEndpoint, wireguard::WireGuard,
};
use crate::{
    broker::connects::Limit,
    diagnostics::{Diagnostic, Invalid},
    host::HostName,
    remote::Remote,
    secret::Secret,
    types::{IfName, InterfaceAddress, Mtu, Prefix, RulePriority, TableId},
};

/// The desired configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Native uplinks; `None`: every exit that is not a tunnel.
    pub uplinks: Option<Vec<IfName>>,
    /// The action for leaks.
    pub on_leak: OnLeak,
    /// What answers echo requests to the tunnels' own addresses.
    pub answer_echo: AnswerEcho,
    /// Which uplinks get the XDP program.
    pub xdp: XdpChoices,
    /// How often the daemon tests from inside whether a tunnel answers; `None`: only on request.
    pub inside_test: Option<Duration>,
    /// Whether local networks are reached without the tunnels (`routing::connected`).
    pub direct_connected: bool,
    /// Priority of the policy rules that select by source. In [`RuleMode::Rules`], the rules for direct
    /// destinations have this priority minus 1.
    pub rule_priority: RulePriority,
    /// The limit of connects to each broker.
    pub connect_limit: Limit,
    /// The method by which the kernel selects the routes of a tunnel.
    pub rule_mode: RuleMode,
    /// TCP address at which the metrics are served, and the page too.
    pub metrics: Option<SocketAddr>,
    /// The same for the page, if it is to have another address. With neither, nothing is served over TCP.
    pub page: Option<SocketAddr>,
    /// Host names with which clients may request the metrics and the page, in addition to addresses and this
    /// host's own name.
    pub metrics_hosts: Vec<HostName>,
    /// The hooks that receive alerts.
    pub alerting: Alerting,
    /// The tunnels in the order of the file.
    pub tunnels: Vec<Tunnel>,
    /// The groups of tunnels that carry the same prefixes, in the order of the file.
    pub groups: Vec<Group>,
}

/// No tunnels, and the default of each setting.
impl Default for Config {
    fn default() -> Self {
        Self {
            uplinks: None,
            on_leak: OnLeak::default(),
            answer_echo: AnswerEcho::default(),
            xdp: XdpChoices::default(),
            inside_test: Some(INSIDE_TEST),
            direct_connected: true,
            rule_priority: RulePriority(RULE_PRIORITY),
            connect_limit: Limit::default(),
            rule_mode: RuleMode::default(),
            metrics: None,
            page: None,
            metrics_hosts: Vec::new(),
            alerting: Alerting::default(),
            tunnels: Vec::new(),
            groups: Vec::new(),
        }
    }
}

impl Config {
    /// Whether there are tunnels whose parameters come from a broker.
    #[must_use]
    pub fn has_accounts(&self) -> bool {
        let mut tunnels = self.tunnels.iter();
        tunnels.any(|tunnel| matches!(tunnel.kind, Kind::Account(_)))
    }

    /// The names of all interfaces in it, patterns too.
    pub fn names(&self) -> impl Iterator<Item = &IfName> {
        let tunnels = self.tunnels.iter().map(|tunnel| &tunnel.name);
        tunnels.chain(self.uplinks.iter().flatten())
    }

    /// Whether a native tunnel has a peer.
    #[must_use]
    pub fn has_peers(&self) -> bool {
        let mut tunnels = self.tunnels.iter();
        tunnels.any(|tunnel| tunnel.kind.is_native() && tunnel.peer.is_some())
    }

    /// Returns the configuration if it has tunnels, otherwise an error: without tunnels the daemon has no
    /// task.
    pub fn with_tunnels(self, file: &str) -> Result<Self, Invalid> {
        if !self.tunnels.is_empty() {
            return Ok(self);
        }
        Err(Invalid {
            file: file.to_owned(),
            diagnostics: vec![Diagnostic {
                line: 1,
                key: "tunnel".to_owned(),
                message: "expected at least one [[tunnel]]".to_owned(),
            }],
        })
    }

    /// Notes for the user: entries without effect in the files to which the configuration refers.
    pub fn notes(&self) -> impl Iterator<Item = String> {
        self.tunnels.iter().flat_map(|tunnel| match &tunnel.kind {
            Kind::Account(account) => account.notes(&tunnel.name),
            Kind::WireGuard(wireguard) => wireguard.notes(&tunnel.addresses),
            _ => Vec::new(),
        })
    }

    /// Whether the configuration contains a secret, which other users must not read.
    #[must_use]
    pub fn has_secrets(&self) -> bool {
        let has_secrets = |tunnel: &Tunnel| {
            let update = tunnel.update.as_ref();
            // A query of its own may be a password.
            let has_query = update.is_some_and(|update| update.url.target.expose().contains('?'));
            tunnel.kind.has_secrets() || has_query
        };
        self.alerting.webhook.is_some() || self.tunnels.iter().any(has_secrets)
    }
}

/// What answers echo requests to the tunnels' own addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AnswerEcho {
    /// The host's network stack.
    #[default]
    Host,
    /// The programs in the kernel; the host answers what they leave.
    Kernel,
}

impl FromStr for AnswerEcho {
    type Err = UnknownValue;

    fn from_str(text: &str) -> Result<Self, UnknownValue> {
        match text {
            "host" => Ok(Self::Host),
            "kernel" => Ok(Self::Kernel),
            _ => Err(UnknownValue("no such value")),
        }
    }
}

/// Where the XDP program is attached, for an uplink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpChoice {
    /// In the driver, if that costs the uplink nothing.
    #[default]
    Auto,
    /// In the driver.
    Native,
    /// In the kernel, after it has made an `sk_buff`.
    Generic,
    /// Nowhere.
    Off,
}

impl FromStr for XdpChoice {
    type Err = UnknownValue;

    fn from_str(text: &str) -> Result<Self, UnknownValue> {
        match text {
            "auto" => Ok(Self::Auto),
            "native" => Ok(Self::Native),
            "generic" => Ok(Self::Generic),
            "off" => Ok(Self::Off),
            _ => Err(UnknownValue("no such value")),
        }
    }
}

/// The choices for all uplinks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct XdpChoices {
    /// For uplinks without their own choice.
    pub(super) all: XdpChoice,
    pub(super) by_uplink: BTreeMap<IfName, XdpChoice>,
}

impl XdpChoices {
    /// The choice for an uplink.
    #[must_use]
    pub fn of(&self, uplink: &IfName) -> XdpChoice {
        self.by_uplink.get(uplink).copied().unwrap_or(self.all)
    }
}

/// The method by which packets reach their tunnel, by source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RuleMode {
    /// A policy rule per address and prefix, and a routing table per tunnel.
    #[default]
    Rules,
    /// One policy rule, and one routing table with source-specific routes (`CONFIG_IPV6_SUBTREES`). The cost
    /// of a packet does not depend on the number of tunnels.
    Subtrees,
}

impl FromStr for RuleMode {
    type Err = UnknownValue;

    fn from_str(text: &str) -> Result<Self, UnknownValue> {
        match text {
            "rules" => Ok(Self::Rules),
            "subtrees" => Ok(Self::Subtrees),
            _ => Err(UnknownValue("no such mode")),
        }
    }
}

/// The routing table of [`RuleMode::Subtrees`].
pub const SUBTREES_TABLE: TableId = TableId(200);

/// Default time between two inside tests of a tunnel.
pub(super) const INSIDE_TEST: Duration = Duration::from_secs(600);

/// Default priority of the policy rules that select by source.
pub(super) const RULE_PRIORITY: u32 = 16383;

/// The word is not one of the expected words.
#[derive(Clone, Copy, Debug)]
pub struct UnknownValue(pub(super) &'static str);

impl fmt::Display for UnknownValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// A tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// The name of its interface.
    pub name: IfName,
    /// The software that creates the interface.
    pub kind: Kind,
    /// The tunnel's own addresses. `addresses` and `prefixes` together have at least one entry.
    pub addresses: Vec<InterfaceAddress>,
    /// The tunnel's address at the far end.
    pub peer: Option<Ipv6Addr>,
    /// The address that `sixxs check` pings.
    pub check_target: Option<Ipv6Addr>,
    /// The source of the requests of the inside test; `None`: [`DEFAULT_SOURCE`](crate::inside_test::DEFAULT_SOURCE).
    pub check_source: Option<Ipv6Addr>,
    /// Addresses of hosts in the prefixes, which `sixxs check` tests through the forwarding of this host.
    pub check_addresses: Vec<Ipv6Addr>,
    /// Routed prefixes: packets from them also belong to this tunnel.
    pub prefixes: Vec<Prefix>,
    /// Destinations that are reached without the tunnel.
    pub direct: Vec<Prefix>,
    /// Its routing table.
    pub table: TableId,
    /// The largest packet; `None`: the interface's MTU applies.
    pub mtu: Option<Mtu>,
    /// The next hop, for an interface with a link layer.
    pub gateway: Option<Ipv6Addr>,
    /// What it takes from the host, instead of from the file.
    pub follows: Follows,
    /// Followed addresses that are not usable yet: duplicate address detection has not ended. They are guarded already.
    pub tentative: Vec<Ipv6Addr>,
    /// Addresses and prefixes that it has lost lately: their users get errors.
    pub former: Vec<Prefix>,
    /// Networks on its link, if it follows its addresses: the programs take an address in them for its own, also before
    /// the daemon knows it.
    pub on_link: Vec<Prefix>,
    /// Whether other software sets the addresses of an interface that the daemon creates (`noconfigure`).
    pub addresses_by_others: bool,
    /// What carries its packets, if it is a 6in4 tunnel.
    pub carrier: CarrierChoice,
    /// The far end of its outer packets, if other software creates the interface and the configuration has it.
    pub remote: Option<RemoteEndpoint>,
    /// How its broker learns this host's IPv4 address; `None`: in no way, or by the tunnel itself.
    pub update: Option<EndpointUpdate>,
    /// How it is probed, if it has a section about that.
    pub probe: Option<Probe>,
    /// Whether the addresses of its interface are deprecated while it fails.
    pub deprecate_when_failing: bool,
}

/// What is to carry the packets of a 6in4 tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CarrierChoice {
    /// The best that the kernel has.
    #[default]
    Auto,
    /// The programs in the kernel.
    Ebpf,
    /// The kernel's `sit`.
    Sit,
    /// The daemon.
    Tun,
}

impl CarrierChoice {
    /// Whether the programs in the kernel are to carry packets, if they can.
    #[must_use]
    pub const fn is_by_programs(self) -> bool {
        matches!(self, Self::Auto | Self::Ebpf)
    }

    /// Whether the driver is to look for `sit`. `has_programs`: the programs of this kernel can carry packets.
    #[must_use]
    pub const fn is_by_sit(self, has_programs: bool) -> bool {
        match self {
            Self::Sit => true,
            Self::Auto => !has_programs,
            Self::Ebpf | Self::Tun => false,
        }
    }
}

impl FromStr for CarrierChoice {
    type Err = UnknownValue;

    fn from_str(text: &str) -> Result<Self, UnknownValue> {
        match text {
            "auto" => Ok(Self::Auto),
            "ebpf" => Ok(Self::Ebpf),
            "sit" => Ok(Self::Sit),
            "tun" => Ok(Self::Tun),
            _ => Err(UnknownValue("no such carrier")),
        }
    }
}

impl Tunnel {
    /// Whether the driver has to restart the tunnel to change it into `other`, which has the same name. All
    /// other differences concern only rules, routes and programs. `has_programs`: the programs of this kernel can carry
    /// packets.
    #[must_use]
    pub fn differs_to_driver(&self, other: &Self, has_programs: bool) -> bool {
        let has_other_ends = self.addresses != other.addresses || self.peer != other.peer;
        let is_other_kind = match (&self.kind, &other.kind) {
            // Its driver changes the interface without a restart.
            (Kind::WireGuard(_), Kind::WireGuard(_)) => false,
            (kind, other) => kind != other,
        };
        is_other_kind
            || (self.kind.is_native() && has_other_ends)
            || self.addresses_by_others != other.addresses_by_others
            // The daemon and the programs use the same device.
            || self.carrier.is_by_sit(has_programs) != other.carrier.is_by_sit(has_programs)
    }

    /// The sources of packets that belong to this tunnel: addresses, then prefixes, then tentative addresses.
    pub fn sources(&self) -> impl Iterator<Item = Prefix> {
        let addresses = self.addresses.iter().map(|a| Prefix::host(a.address));
        let tentative = self.tentative.iter().copied().map(Prefix::host);
        addresses
            .chain(self.prefixes.iter().copied())
            .chain(tentative)
    }

    /// The prefixes that a broker may have routed to the tunnel.
    pub fn routed_prefixes(&self) -> impl Iterator<Item = Prefix> {
        let prefixes = self.prefixes.iter().copied();
        prefixes.filter(|prefix| u16::from(prefix.bits()) >= SHORTEST_ROUTED)
    }
}

/// The software that creates a tunnel's interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Other software.
    Interface,
    /// Commands of the user: argument vectors, run without a shell.
    Command {
        /// Creates the interface.
        up: Vec<String>,
        /// Removes the interface; empty: no command is run.
        down: Vec<String>,
    },
    /// The daemon: IPv6 in IPv4 (RFC 4213).
    SixInFour(SixInFour),
    /// The daemon: AYIYA.
    Ayiya(Ayiya),
    /// The daemon makes the interface, and the kernel carries the packets.
    WireGuard(Box<WireGuard>),
    /// The daemon, with the kind and the parameters from the broker.
    Account(Box<Account>),
}

impl Kind {
    /// Whether the daemon creates the interface. Then it also sets the addresses and the MTU, and brings the
    /// interface up.
    #[must_use]
    pub const fn is_native(&self) -> bool {
        match self {
            Self::SixInFour(_) | Self::Ayiya(_) | Self::WireGuard(_) | Self::Account(_) => true,
            Self::Interface | Self::Command { .. } => false,
        }
    }

    /// The broker to which a tunnel of this kind connects when it starts, as named in the configuration.
    /// `None`: the start is not a connect, or the kind is not known yet.
    #[must_use]
    pub fn connects_to(&self) -> Option<String> {
        match self {
            Self::Ayiya(ayiya) => Some(ayiya.remote.to_string()),
            Self::SixInFour(SixInFour {
                remote4,
                heartbeat: Some(_),
                ..
            }) => Some(remote4.to_string()),
            Self::SixInFour(_)
            | Self::Interface
            | Self::Command { .. }
            | Self::WireGuard(_)
            | Self::Account(_) => None,
        }
    }

    /// Whether the kernel alone knows the far ends of its outer packets.
    #[must_use]
    pub const fn has_endpoints_in_kernel(&self) -> bool {
        matches!(
            self,
            Self::Interface | Self::Command { .. } | Self::WireGuard(_)
        )
    }

    /// Whether the configuration itself contains a password or a key for it.
    pub(super) const fn has_secrets(&self) -> bool {
        match self {
            Self::SixInFour(outer) => outer.heartbeat.is_some(),
            Self::Ayiya(_) => true,
            Self::WireGuard(wireguard) => wireguard.has_keys,
            Self::Interface | Self::Command { .. } | Self::Account(_) => false,
        }
    }
}

/// IPv6 in IPv4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SixInFour {
    /// The local IPv4 address; `None`: the source address of the route to the broker.
    pub local4: Option<Ipv4Addr>,
    /// The broker's IPv4 address.
    pub remote4: Ipv4Addr,
    /// Reports the local IPv4 address to the broker; `None`: the broker already knows the address.
    pub heartbeat: Option<Heartbeat>,
}

/// The parameters of the signed heartbeats that report this host's endpoint to the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The password that this host shares with the broker.
    pub password: Secret,
    /// Time between heartbeats.
    pub interval: Duration,
}

/// AYIYA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ayiya {
    /// The local IPv4 address; `None`: the source address of the route to the broker.
    pub local4: Option<Ipv4Addr>,
    /// The broker.
    pub remote: Remote,
    /// The password, and the time between heartbeats.
    pub heartbeat: Heartbeat,
}
