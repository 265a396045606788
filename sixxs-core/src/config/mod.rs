//! The configuration file: TOML in, [`Config`] or a list of faults out.
//!
//! After [`parse`] nothing is checked again: every value in [`Config`] is in range, and no two
//! tunnels contradict each other.

mod reader;
mod together;

use std::{fmt, net::Ipv6Addr, ops::RangeInclusive};

use toml::de::DeTable;

pub use reader::Fault;
use reader::{At, Faults, Place, Table};
use together::Places;

use crate::types::{IfName, InterfaceAddress, Mtu, Prefix, RulePriority, TableId};

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Native uplinks; `None`: every interface with an IPv6 default route that is no tunnel.
    pub uplinks: Option<Vec<IfName>>,
    /// What the programs do with a leak.
    pub on_leak: OnLeak,
    /// Priority of the rules by source; those for direct destinations come right before.
    pub rule_priority: RulePriority,
    /// The tunnels in the order of the file; at least one.
    pub tunnels: Vec<Tunnel>,
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
}

impl Tunnel {
    /// Everything that a packet's source can be to belong to this tunnel: addresses, then prefixes.
    pub fn sources(&self) -> impl Iterator<Item = Prefix> {
        let addresses = self.addresses.iter().map(|a| Prefix::host(a.address));
        addresses.chain(self.prefixes.iter().copied())
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
}

impl Kind {
    /// Its name in the configuration and in status.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Interface => "interface",
            Self::Command { .. } => "command",
        }
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

const KEYS: &[&str] = &["uplinks", "on_leak", "rule_priority", "rule_mode", "tunnel"];

const TUNNEL_KEYS: &[&str] = &[
    "name",
    "kind",
    "up",
    "down",
    "address",
    "peer",
    "check_target",
    "prefixes",
    "direct",
    "table",
    "mtu",
    "gateway",
];

/// Reads a configuration. `file` is only for messages.
pub fn parse(file: &str, text: &str) -> Result<Config, Invalid> {
    let mut faults = Faults::new(text);
    let config = match DeTable::parse(text) {
        Ok(table) => {
            let table = Table::new(table.into_inner(), String::new(), 1, &faults);
            read(table, &mut faults)
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

fn read(mut table: Table<'_>, faults: &mut Faults) -> Option<Config> {
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
    table.parsed::<RuleMode>("rule_mode", "\"rules\"", faults);
    table.parsed::<NotYet>("metrics", "no such key yet", faults);

    let missing = table.place("tunnel");
    let tables = table.tables("tunnel", faults);
    table.finish(KEYS, faults);
    if tables.is_empty() {
        faults.add(&missing, "expected at least one [[tunnel]]");
    }

    let mut places = Vec::new();
    let mut tunnels = Vec::new();
    for (position, table) in (0..).zip(tables) {
        if let Some((tunnel, place)) = read_tunnel(table, position, faults) {
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
    Some(Config {
        uplinks: uplinks.map(values),
        on_leak,
        rule_priority: RulePriority(rule_priority),
        tunnels,
    })
}

fn values<T>(list: Vec<At<T>>) -> Vec<T> {
    list.into_iter().map(|at| at.value).collect()
}

fn read_tunnel(
    mut table: Table<'_>,
    position: u32,
    faults: &mut Faults,
) -> Option<(Tunnel, Places)> {
    let name = table.parsed::<IfName>("name", "an interface name", faults);
    let kind_place = table.place("kind");
    let kind = table.parsed::<KindName>("kind", "\"interface\" or \"command\"", faults);
    let up = table.strings(
        "up",
        "a list of strings: a program and its arguments",
        faults,
    );
    let down = table.strings(
        "down",
        "a list of strings: a program and its arguments",
        faults,
    );
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
    let mtu = table.integer("mtu", Mtu::MINIMUM.0..=65535, faults);
    let gateway = table.parsed::<Ipv6Addr>("gateway", "an IPv6 address", faults);
    let name_place = table.place("name");
    table.parsed::<NotYet>("aiccu", "no such key yet", faults);
    table.finish(TUNNEL_KEYS, faults);

    if let Some(At { value, place }) = &gateway
        && (value.is_unspecified() || value.is_multicast())
    {
        faults.add(place, format!("expected a unicast address, found {value}"));
    }
    if addresses.is_empty() && prefixes.is_empty() {
        faults.add(
            &address_place,
            "missing; expected the tunnel's IPv6 address, or prefixes routed by it",
        );
    }
    let kind = read_kind(kind, &kind_place, up, down, faults);
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
    let tunnel = Tunnel {
        name: name.value,
        kind: kind?,
        addresses: values(addresses),
        peer: peer.map(|at| at.value),
        check_target: check_target.map(|at| at.value),
        direct: direct.map_or_else(|| prefixes.clone(), values),
        prefixes,
        table: TableId(id.map_or_else(|| table_of(position), |id| id.value)),
        mtu: mtu.map(|at| Mtu(at.value)),
        gateway: gateway.map(|at| at.value),
    };
    Some((tunnel, places))
}

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

fn read_kind(
    kind: Option<At<KindName>>,
    missing: &Place,
    up: Option<At<Vec<String>>>,
    down: Option<At<Vec<String>>>,
    faults: &mut Faults,
) -> Option<Kind> {
    let Some(kind) = kind else {
        if !faults.has(&missing.key) {
            faults.add(missing, "missing; expected \"interface\" or \"command\"");
        }
        return None;
    };
    match kind.value {
        KindName::Interface => {
            for command in [up, down].into_iter().flatten() {
                faults.add(&command.place, "expected only with kind = \"command\"");
            }
            Some(Kind::Interface)
        }
        KindName::Command => {
            let Some(up) = up else {
                let place = Place {
                    key: missing.key.replace("kind", "up"),
                    ..kind.place
                };
                if !faults.has(&place.key) {
                    faults.add(
                        &place,
                        "missing; expected a list of strings: a program and its arguments",
                    );
                }
                return None;
            };
            if up.value.is_empty() {
                faults.add(
                    &up.place,
                    "expected a program and its arguments, found an empty list",
                );
            }
            Some(Kind::Command {
                up: up.value,
                down: down.map(|at| at.value).unwrap_or_default(),
            })
        }
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

enum KindName {
    Interface,
    Command,
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

impl std::str::FromStr for KindName {
    type Err = NotThat;

    fn from_str(text: &str) -> Result<Self, NotThat> {
        match text {
            "interface" => Ok(Self::Interface),
            "command" => Ok(Self::Command),
            "6in4" | "6in4-heartbeat" | "ayiya" => Err(NotThat(LATER)),
            _ => Err(NotThat("no such kind")),
        }
    }
}

/// A key that is known, and not available.
struct NotYet;

impl std::str::FromStr for NotYet {
    type Err = NotThat;

    fn from_str(_: &str) -> Result<Self, NotThat> {
        Err(NotThat(LATER))
    }
}

struct RuleMode;

impl std::str::FromStr for RuleMode {
    type Err = NotThat;

    fn from_str(text: &str) -> Result<Self, NotThat> {
        match text {
            "rules" => Ok(Self),
            "subtrees" => Err(NotThat(LATER)),
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
