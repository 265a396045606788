//! The configuration as values that are in range and do not contradict each other.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use sixxs_common::{layout::SHORTEST_ROUTED, treatment::OnLeak};

use super::{account::Account, alerting::Alerting};
use crate::{
    broker::connects::Limit,
    diagnostics::{Diagnostic, Invalid},
    host::HostName,
    secret::Secret,
    types::{IfName, InterfaceAddress, Mtu, Prefix, RulePriority, TableId},
};

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Native uplinks; `None`: every exit that is no tunnel.
    pub uplinks: Option<Vec<IfName>>,
    /// What the programs do with a leak.
    pub on_leak: OnLeak,
    /// Whether local networks are direct (`routing::connected`).
    pub direct_connected: bool,
    /// Priority of the rules by source; those for direct destinations come right before.
    pub rule_priority: RulePriority,
    /// How often brokers are connected to.
    pub connect_limit: Limit,
    /// How packets are led to the tunnels.
    pub rule_mode: RuleMode,
    /// Where metrics are served by TCP; `None`: nowhere.
    pub metrics: Option<SocketAddr>,
    /// Names by which they may be asked for, beside addresses and this host's own name.
    pub metrics_hosts: Vec<HostName>,
    /// Whom alerts are handed to.
    pub alerting: Alerting,
    /// The tunnels in the order of the file.
    pub tunnels: Vec<Tunnel>,
}

/// No tunnels, and everything else as it is unless told otherwise.
impl Default for Config {
    fn default() -> Self {
        Self {
            uplinks: None,
            on_leak: OnLeak::default(),
            direct_connected: true,
            rule_priority: RulePriority(RULE_PRIORITY),
            connect_limit: Limit::default(),
            rule_mode: RuleMode::default(),
            metrics: None,
            metrics_hosts: Vec::new(),
            alerting: Alerting::default(),
            tunnels: Vec::new(),
        }
    }
}

impl Config {
    /// Whether brokers are asked for anything.
    #[must_use]
    pub fn has_accounts(&self) -> bool {
        let mut tunnels = self.tunnels.iter();
        tunnels.any(|tunnel| matches!(tunnel.kind, Kind::Account(_)))
    }

    /// If it has tunnels. Without any there is nothing to do, which nobody wants.
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

    /// What the user should know: what stands in a file that is referred to and has no effect.
    pub fn notes(&self) -> impl Iterator<Item = String> {
        self.tunnels.iter().flat_map(|tunnel| match &tunnel.kind {
            Kind::Account(account) => account.notes(&tunnel.name),
            _ => Vec::new(),
        })
    }

    /// Whether there is something in it that others must not read.
    #[must_use]
    pub fn has_secrets(&self) -> bool {
        self.alerting.webhook.is_some()
            || self.tunnels.iter().any(|tunnel| tunnel.kind.has_secrets())
    }
}

/// How packets are led to the tunnels by their source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RuleMode {
    /// A rule per address and prefix, and a table per tunnel.
    #[default]
    Rules,
    /// One rule, and one table with source-specific routes (`CONFIG_IPV6_SUBTREES`): a packet costs
    /// the same however many tunnels there are.
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

/// The one table of [`RuleMode::Subtrees`].
pub const SUBTREES_TABLE: TableId = TableId(200);

/// Priority of the rules by source unless told otherwise.
pub(super) const RULE_PRIORITY: u32 = 16383;

/// The word is none of the expected ones.
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
    /// Its interface.
    pub name: IfName,
    /// Who makes the interface.
    pub kind: Kind,
    /// Its addresses; with `prefixes` at least one entry.
    pub addresses: Vec<InterfaceAddress>,
    /// Its far end.
    pub peer: Option<Ipv6Addr>,
    /// What `sixxs check` pings.
    pub check_target: Option<Ipv6Addr>,
    /// Routed prefixes whose packets belong to this tunnel too.
    pub prefixes: Vec<Prefix>,
    /// Destinations reached without the tunnel.
    pub direct: Vec<Prefix>,
    /// Its routing table.
    pub table: TableId,
    /// The largest packet; `None`: what the interface says.
    pub mtu: Option<Mtu>,
    /// Next hop on an interface with a link layer.
    pub gateway: Option<Ipv6Addr>,
    /// Whether an interface of our making gets its addresses from somebody else (`noconfigure`).
    pub addresses_by_others: bool,
}

impl Tunnel {
    /// Whether `other`, of the same name, is another tunnel to whoever makes the interface. All else
    /// is rules, routes and programs.
    #[must_use]
    pub fn differs_to_driver(&self, other: &Self) -> bool {
        let has_other_ends = self.addresses != other.addresses || self.peer != other.peer;
        self.kind != other.kind
            || (self.kind.is_native() && has_other_ends)
            || self.addresses_by_others != other.addresses_by_others
    }

    /// Everything that a packet's source can be to belong to this tunnel: addresses, then prefixes.
    pub fn sources(&self) -> impl Iterator<Item = Prefix> {
        let addresses = self.addresses.iter().map(|a| Prefix::host(a.address));
        addresses.chain(self.prefixes.iter().copied())
    }

    /// The prefixes that a broker may have routed to it.
    pub fn routed_prefixes(&self) -> impl Iterator<Item = Prefix> {
        let prefixes = self.prefixes.iter().copied();
        prefixes.filter(|prefix| u16::from(prefix.bits()) >= SHORTEST_ROUTED)
    }
}

/// Who makes a tunnel's interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Somebody else.
    Interface,
    /// Commands of the user's: argument vectors, run without a shell.
    Command {
        /// Makes the interface.
        up: Vec<String>,
        /// Removes it; empty: nothing is run.
        down: Vec<String>,
    },
    /// We do: IPv6 in IPv4 (RFC 4213).
    SixInFour(SixInFour),
    /// We do: AYIYA.
    Ayiya(Ayiya),
    /// We do, once the broker has said how.
    Account(Box<Account>),
}

impl Kind {
    /// Its name in the configuration and in status.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Interface => "interface",
            Self::Command { .. } => "command",
            Self::SixInFour(SixInFour {
                heartbeat: None, ..
            }) => "6in4",
            Self::SixInFour(SixInFour {
                heartbeat: Some(_), ..
            }) => "6in4-heartbeat",
            Self::Ayiya(_) => "ayiya",
            Self::Account(_) => "aiccu",
        }
    }

    /// Whether the interface is ours: then so are its addresses, its MTU and its being up.
    #[must_use]
    pub const fn is_native(&self) -> bool {
        matches!(self, Self::SixInFour(_) | Self::Ayiya(_) | Self::Account(_))
    }

    /// The broker that it connects to when it starts, as the configuration names it; `None`: a start
    /// is no connect, or it is not known yet of which kind the tunnel is.
    #[must_use]
    pub fn connects_to(&self) -> Option<String> {
        match self {
            Self::Ayiya(ayiya) => Some(ayiya.remote.to_string()),
            Self::SixInFour(SixInFour {
                remote4,
                heartbeat: Some(_),
                ..
            }) => Some(remote4.to_string()),
            Self::SixInFour(_) | Self::Interface | Self::Command { .. } | Self::Account(_) => None,
        }
    }

    /// Whether there is a password in it.
    pub(super) const fn has_secrets(&self) -> bool {
        matches!(
            self,
            Self::SixInFour(SixInFour {
                heartbeat: Some(_),
                ..
            }) | Self::Ayiya(_)
        )
    }
}

/// IPv6 in IPv4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SixInFour {
    /// Our address outside; `None`: the one that the route to the broker uses.
    pub local4: Option<Ipv4Addr>,
    /// The broker's.
    pub remote4: Ipv4Addr,
    /// Tells the broker our address; `None`: it knows.
    pub heartbeat: Option<Heartbeat>,
}

/// What tells the broker where we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Shared with the broker.
    pub password: Secret,
    /// Between beats.
    pub interval: Duration,
}

/// AYIYA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ayiya {
    /// Our address outside; `None`: the one that the route to the broker uses.
    pub local4: Option<Ipv4Addr>,
    /// The broker.
    pub remote: Remote,
    /// The password and the time between beats.
    pub heartbeat: Heartbeat,
}

/// A host by address or by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remote {
    /// Its address.
    Address(IpAddr),
    /// Its name, looked up when needed.
    Name(String),
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// The text is neither an address nor a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither an IP address nor a host name")]
pub struct BadRemote;

impl FromStr for Remote {
    type Err = BadRemote;

    fn from_str(text: &str) -> Result<Self, BadRemote> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        };
        let name = text.strip_suffix('.').unwrap_or(text);
        // All digits and dots would be an address written wrongly.
        let has_letter = name.bytes().any(|byte| byte.is_ascii_alphabetic());
        if name.len() <= 253 && has_letter && name.split('.').all(is_label) {
            Ok(Self::Name(text.to_owned()))
        } else {
            Err(BadRemote)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remotes() {
        for good in ["pop.example.net", "pop-1.example.net.", "a", "3com.example"] {
            assert_eq!(good.parse(), Ok(Remote::Name(good.to_owned())), "{good}");
        }
        for good in ["192.0.2.1", "2001:db8::1"] {
            assert_eq!(good.parse(), Ok(Remote::Address(good.parse().unwrap())));
        }
        for bad in [
            "",
            "192.0.2",
            "192.0.2.256",
            "a b",
            "a..b",
            ".",
            "-",
            "a:1",
            "ö",
        ] {
            assert_eq!(bad.parse::<Remote>(), Err(BadRemote), "{bad}");
        }
    }
}
