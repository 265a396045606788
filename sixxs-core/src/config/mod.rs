//! The configuration file: TOML in, [`Config`] or a list of faults out.
//!
//! After [`parse`] nothing is checked again: every value in [`Config`] is in range, and no two
//! tunnels contradict each other.

mod account;
mod added;
mod kind;
mod learned;
mod reader;
mod together;

use std::{fmt, net::Ipv6Addr, ops::RangeInclusive, time::Duration};

use toml::de::DeTable;

pub use account::{Account, Files, Tls};
pub use added::Refused;
pub use kind::{Ayiya, BadRemote, Heartbeat, Kind, Remote, SixInFour};
pub use learned::{Conflict, Learned};
pub use reader::Fault;
use reader::{At, Faults, Place, Table};
use together::Places;

use crate::{
    broker::{
        ayiya::wire::{HEADER_BYTES, LARGEST_BYTES},
        connects::{Limit, MAX_CONNECTS},
    },
    routing::SUBTREES_TABLE,
    types::{IfName, InterfaceAddress, Mtu, Prefix, RulePriority, TableId},
};

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Native uplinks; `None`: every interface with an IPv6 default route that is no tunnel.
    pub uplinks: Option<Vec<IfName>>,
    /// What the programs do with a leak.
    pub on_leak: OnLeak,
    /// Priority of the rules by source; those for direct destinations come right before.
    pub rule_priority: RulePriority,
    /// How often brokers are connected to.
    pub connect_limit: Limit,
    /// How packets are led to the tunnels.
    pub rule_mode: RuleMode,
    /// The tunnels in the order of the file.
    pub tunnels: Vec<Tunnel>,
}

/// No tunnels, and everything else as it is unless told otherwise.
impl Default for Config {
    fn default() -> Self {
        Self {
            uplinks: None,
            on_leak: OnLeak::default(),
            rule_priority: RulePriority(RULE_PRIORITY),
            connect_limit: Limit::default(),
            rule_mode: RuleMode::default(),
            tunnels: Vec::new(),
        }
    }
}

impl Config {
    /// If it has tunnels. Without any there is nothing to do, which nobody wants.
    pub fn with_tunnels(self, file: &str) -> Result<Self, Invalid> {
        if !self.tunnels.is_empty() {
            return Ok(self);
        }
        Err(Invalid {
            file: file.to_owned(),
            faults: vec![Fault {
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
        self.tunnels.iter().any(|tunnel| tunnel.kind.has_secrets())
    }
}

/// What the programs do with a leak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnLeak {
    /// Put it into the right tunnel.
    #[default]
    Redirect,
    /// Drop it.
    Drop,
    /// Count and report it, and let it pass.
    Observe,
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
}

/// The file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Invalid {
    /// Its path.
    pub file: String,
    /// What is wrong, by line; at least one.
    pub faults: Vec<Fault>,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.faults.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}: {fault}", self.file)?;
        }
        Ok(())
    }
}

/// First table handed out.
const FIRST_TABLE: u32 = 200;

/// `default`, `main` and `local`.
const SYSTEM_TABLES: RangeInclusive<u32> = 253..=255;

/// Priority of the rules by source unless told otherwise.
const RULE_PRIORITY: u32 = 16383;

const KEYS: &[&str] = &[
    "uplinks",
    "on_leak",
    "rule_priority",
    "rule_mode",
    "connect_limit",
    "tunnel",
];

/// Of the times of a connect limit: a month.
const LONGEST_SECONDS: u32 = 31 * 24 * 3600;

const TUNNEL_KEYS: &[&str] = &[
    "name",
    "address",
    "peer",
    "check_target",
    "prefixes",
    "direct",
    "table",
    "mtu",
    "gateway",
];

/// Reads a configuration that refers to no other files. `file` is only for messages.
pub fn parse(file: &str, text: &str) -> Result<Config, Invalid> {
    let none = |other: &str| Err(format!("expected no other file, found {other:?}"));
    parse_with(file, text, &none)?.with_tunnels(file)
}

/// Reads a configuration, and by `files` those that it refers to; it may have no tunnels. `file` is
/// only for messages.
pub fn parse_with(file: &str, text: &str, files: Files<'_>) -> Result<Config, Invalid> {
    let mut faults = Faults::new(text);
    let config = match DeTable::parse(text) {
        Ok(table) => {
            let table = Table::new(table.into_inner(), String::new(), 1, &faults);
            read(table, files, &mut faults)
        }
        Err(error) => {
            let place = Place {
                line: error.span().map_or(1, |span| faults.line(&span)),
                key: String::new(),
            };
            faults.add(&place, format!("not valid TOML: {}", error.message()));
            None
        }
    };
    let faults = faults.into_sorted();
    match config {
        Some(config) if faults.is_empty() => Ok(config),
        _ => Err(Invalid {
            file: file.to_owned(),
            faults,
        }),
    }
}

fn read(mut table: Table<'_>, files: Files<'_>, faults: &mut Faults) -> Option<Config> {
    let uplinks = table.one_or_many::<IfName>("uplinks", "a list of interface names", faults);
    if uplinks.as_ref().is_some_and(Vec::is_empty) {
        let place = table.place("uplinks");
        faults.add(
            &place,
            "expected at least one name; leave the key out for all native uplinks",
        );
    }
    let on_leak = table
        .parsed("on_leak", "\"redirect\", \"drop\" or \"observe\"", faults)
        .map_or(OnLeak::default(), |at| at.value);
    // Below: 0 is the local table's, and the rules for direct destinations need the place before.
    // Above: 32766 is the main table's, and a rule behind it is never asked.
    let rule_priority = table
        .integer("rule_priority", 2..=32765, faults)
        .map_or(RULE_PRIORITY, |at| at.value);
    let rule_mode = table
        .parsed::<RuleMode>("rule_mode", "\"rules\" or \"subtrees\"", faults)
        .map_or(RuleMode::default(), |at| at.value);
    table.parsed::<NotYet>("metrics", "no such key yet", faults);

    let connect_limit = table.table("connect_limit", faults);
    let connect_limit = connect_limit.map_or_else(Limit::default, |table| limit(table, faults));

    let tables = table.tables("tunnel", faults);
    table.finish(KEYS, faults);

    let mut places = Vec::new();
    let mut tunnels = Vec::new();
    for (position, table) in (0..).zip(tables) {
        if let Some((tunnel, place)) = read_tunnel(table, position, files, rule_mode, faults) {
            tunnels.push(tunnel);
            places.push(place);
        }
    }
    together::check(
        uplinks.as_deref().unwrap_or_default(),
        &tunnels,
        &places,
        faults,
    );
    if rule_mode == RuleMode::Subtrees {
        for tunnel in &mut tunnels {
            tunnel.table = SUBTREES_TABLE;
        }
    }
    Some(Config {
        uplinks: uplinks.map(values),
        on_leak,
        rule_priority: RulePriority(rule_priority),
        connect_limit,
        rule_mode,
        tunnels,
    })
}

/// Reads `[connect_limit]`.
fn limit(mut table: Table<'_>, faults: &mut Faults) -> Limit {
    let mut limit = Limit::default();
    if let Some(connects) = table.integer("connects", 1..=MAX_CONNECTS, faults) {
        limit.connects = connects.value;
    }
    for (key, time) in [
        ("seconds", &mut limit.window),
        ("lockout_seconds", &mut limit.lockout),
        ("block_seconds", &mut limit.block),
    ] {
        if let Some(seconds) = table.integer(key, 1..=LONGEST_SECONDS, faults) {
            *time = Duration::from_secs(seconds.value.into());
        }
    }
    table.finish(
        &["connects", "seconds", "lockout_seconds", "block_seconds"],
        faults,
    );
    limit
}

fn values<T>(list: Vec<At<T>>) -> Vec<T> {
    list.into_iter().map(|at| at.value).collect()
}

fn read_tunnel(
    mut table: Table<'_>,
    position: u32,
    files: Files<'_>,
    rule_mode: RuleMode,
    faults: &mut Faults,
) -> Option<(Tunnel, Places)> {
    let name = table.parsed::<IfName>("name", "an interface name", faults);
    let kind = kind::read(&mut table, files, faults);
    let address_place = table.place("address");
    let addresses = table
        .one_or_many::<InterfaceAddress>(
            "address",
            "an IPv6 address, such as 2001:db8::2/64",
            faults,
        )
        .unwrap_or_default();
    for At { value, place } in &addresses {
        if !is_unicast(value.address) {
            faults.add(
                place,
                format!("expected a global unicast address, found {}", value.address),
            );
        }
    }
    let peer_place = table.place("peer");
    let peer = table.parsed::<Ipv6Addr>("peer", "an IPv6 address", faults);
    let check_target = table.parsed::<Ipv6Addr>("check_target", "an IPv6 address", faults);
    let prefixes = table
        .one_or_many::<Prefix>(
            "prefixes",
            "IPv6 prefixes, such as 2001:db8:bb::/48",
            faults,
        )
        .unwrap_or_default();
    for At { value, place } in &prefixes {
        if !is_unicast(value.address()) {
            faults.add(
                place,
                format!("expected global unicast addresses, found {value}"),
            );
        }
        if value.bits() < 16 {
            faults.add(place, format!("expected a prefix of 16 bits or more, found {value}: it would catch the packets of others"));
        }
    }
    let direct =
        table.one_or_many::<Prefix>("direct", "IPv6 prefixes, such as 2001:db8:bb::/48", faults);
    let table_place = table.place("table");
    let id = table.integer("table", 1..=u32::MAX, faults);
    if let Some(At {
        value: id @ 253..=255,
        place,
    }) = &id
    {
        let owner = ["default", "main", "local"][*id as usize - 253];
        faults.add(
            place,
            format!("expected a table of its own, found {id}, which is the {owner} table"),
        );
    }
    if let (Some(id), RuleMode::Subtrees) = (&id, rule_mode) {
        let message = "expected only with rule_mode = \"rules\": with subtrees all share one";
        faults.add(&id.place, message);
    }
    let mtu = table.integer("mtu", Mtu::MINIMUM.0..=65535, faults);
    let gateway = table.parsed::<Ipv6Addr>("gateway", "an IPv6 address", faults);
    let name_place = table.place("name");
    table.finish(&[TUNNEL_KEYS, kind::KEYS].concat(), faults);

    if let Some(At { value, place }) = &gateway
        && (value.is_unspecified() || value.is_multicast())
    {
        faults.add(place, format!("expected a unicast address, found {value}"));
    }
    let is_account = matches!(kind, Some(Kind::Account(_)));
    if is_account {
        let found = addresses.first().map(|at| &at.place);
        for place in found.into_iter().chain(peer.as_ref().map(|at| &at.place)) {
            faults.add(place, "expected none beside aiccu: the broker says it");
        }
    }
    if addresses.is_empty() && prefixes.is_empty() && !is_account {
        faults.add(
            &address_place,
            "missing; expected the tunnel's IPv6 address, or prefixes routed by it",
        );
    }
    if let Some(kind) = &kind
        && kind.is_native()
    {
        let native = Native {
            kind,
            addresses: &addresses,
            missing_address: &address_place,
            peer: peer.as_ref(),
            missing_peer: &peer_place,
            mtu: mtu.as_ref(),
            gateway: gateway.as_ref(),
        };
        check_native(&native, faults);
    }
    let Some(name) = name else {
        if !faults.has(&name_place.key) {
            faults.add(
                &name_place,
                "missing; expected the name of the tunnel's interface",
            );
        }
        return None;
    };
    let places = Places {
        name: name.place,
        table: id.as_ref().map_or(table_place, |id| id.place.clone()),
        sources: addresses
            .iter()
            .map(|at| at.place.clone())
            .chain(prefixes.iter().map(|at| at.place.clone()))
            .collect(),
    };
    let prefixes = values(prefixes);
    let kind = kind?;
    let addresses_by_others = matches!(&kind, Kind::Account(a) if a.aiccu.noconfigure);
    let mtu = mtu.map(|at| Mtu(at.value));
    let mtu = mtu.or((kind.is_native() && !is_account).then_some(Mtu::MINIMUM));
    let tunnel = Tunnel {
        name: name.value,
        kind,
        addresses: values(addresses),
        peer: peer.map(|at| at.value),
        check_target: check_target.map(|at| at.value),
        direct: direct.map_or_else(|| prefixes.clone(), values),
        prefixes,
        table: TableId(id.map_or_else(|| table_of(position), |id| id.value)),
        mtu,
        gateway: gateway.map(|at| at.value),
        addresses_by_others,
    };
    Some((tunnel, places))
}

/// Checks what an interface of our own making needs.
fn check_native(found: &Native<'_>, faults: &mut Faults) {
    let Native {
        kind,
        addresses,
        missing_address,
        peer,
        missing_peer,
        mtu,
        gateway,
    } = found;
    let is_account = matches!(kind, Kind::Account(_));
    if addresses.is_empty() && !is_account && !faults.has(&missing_address.key) {
        faults.add(
            missing_address,
            "missing; expected the address of our end of the tunnel",
        );
    }
    if let Kind::Ayiya(_) = kind {
        // It signs with one identity, and knows the broker by its own.
        if peer.is_none() && !faults.has(&missing_peer.key) {
            faults.add(
                missing_peer,
                "missing; expected the broker's address in the tunnel",
            );
        }
        if let Some(mtu) = mtu
            && mtu.value > AYIYA_MTU
        {
            let message = format!(
                "expected at most {AYIYA_MTU} for AYIYA, found {}",
                mtu.value
            );
            faults.add(&mtu.place, message);
        }
    }
    if let Some(gateway) = gateway {
        let message = "expected only for interfaces with a link layer, which this tunnel is not";
        faults.add(&gateway.place, message);
    }
}

/// What [`check_native`] looks at.
struct Native<'a> {
    kind: &'a Kind,
    addresses: &'a [At<InterfaceAddress>],
    missing_address: &'a Place,
    peer: Option<&'a At<Ipv6Addr>>,
    missing_peer: &'a Place,
    mtu: Option<&'a At<u32>>,
    gateway: Option<&'a At<Ipv6Addr>>,
}

/// The largest packet that fits into a datagram that AYIYA's brokers take.
#[expect(clippy::cast_possible_truncation, reason = "some 2,000")]
const AYIYA_MTU: u32 = (LARGEST_BYTES - HEADER_BYTES) as u32;

/// The table of the tunnel at this position, unless it names one: 200, 201, … without those that
/// the system has.
const fn table_of(position: u32) -> u32 {
    let id = FIRST_TABLE + position;
    if id < *SYSTEM_TABLES.start() {
        id
    } else {
        id + 3
    }
}

/// An address that a host can have and be reached by from elsewhere.
fn is_unicast(address: Ipv6Addr) -> bool {
    let first = address.segments()[0];
    !(address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || first & 0xffc0 == 0xfe80
        || address.to_ipv4_mapped().is_some())
}

/// The word is none of those expected.
#[derive(Clone, Copy, Debug)]
pub struct NotThat(&'static str);

impl fmt::Display for NotThat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

const LATER: &str = "not available in this version";

/// A key that is known, and not available.
struct NotYet;

impl std::str::FromStr for NotYet {
    type Err = NotThat;

    fn from_str(_: &str) -> Result<Self, NotThat> {
        Err(NotThat(LATER))
    }
}

impl std::str::FromStr for RuleMode {
    type Err = NotThat;

    fn from_str(text: &str) -> Result<Self, NotThat> {
        match text {
            "rules" => Ok(Self::Rules),
            "subtrees" => Ok(Self::Subtrees),
            _ => Err(NotThat("no such mode")),
        }
    }
}

impl std::str::FromStr for OnLeak {
    type Err = NotThat;

    fn from_str(text: &str) -> Result<Self, NotThat> {
        match text {
            "redirect" => Ok(Self::Redirect),
            "drop" => Ok(Self::Drop),
            "observe" => Ok(Self::Observe),
            _ => Err(NotThat("no such treatment")),
        }
    }
}

impl fmt::Display for OnLeak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Redirect => "redirect",
            Self::Drop => "drop",
            Self::Observe => "observe",
        })
    }
}

#[cfg(test)]
mod tests;
