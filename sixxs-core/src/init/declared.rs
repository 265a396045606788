//! Tunnels in the files of network managers: ifupdown, systemd-networkd, NetworkManager, netplan and wg-quick.
//!
//! Only what a proposal needs is read; anything else is skipped. A file that is no such file has no tunnels.

use std::{collections::BTreeMap, net::Ipv4Addr};

use crate::types::{IfName, InterfaceAddress};

/// What a tunnel is, as far as its file shows that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeclaredKind {
    /// IPv6 in IPv4, to this broker.
    SixInFour(Ipv4Addr),
    /// WireGuard.
    WireGuard,
    /// Another kind.
    Other,
}

/// A tunnel in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    /// Its interface.
    pub name: IfName,
    /// Its kind.
    pub kind: DeclaredKind,
    /// Its IPv6 addresses.
    pub addresses: Vec<InterfaceAddress>,
    /// Whether the file also gives it the default route of IPv6.
    pub takes_default_route: bool,
}

impl Declared {
    fn new(name: &str, kind: DeclaredKind) -> Option<Self> {
        Some(Self {
            name: name.parse().ok()?,
            kind,
            addresses: Vec::new(),
            takes_default_route: false,
        })
    }

    /// Adds the addresses in a list; those of IPv4 are skipped.
    fn add_addresses(&mut self, list: &str) {
        let items = list.split([',', ';', ' ']).map(str::trim);
        self.addresses
            .extend(items.filter_map(|item| item.parse::<InterfaceAddress>().ok()));
    }
}

fn six_in_four(remote: Option<&str>) -> DeclaredKind {
    let remote = remote.and_then(|remote| remote.trim().parse().ok());
    remote.map_or(DeclaredKind::Other, DeclaredKind::SixInFour)
}

/// Reads `/etc/network/interfaces` (interfaces(5)): the stanzas `iface NAME inet6 v4tunnel`.
#[must_use]
pub fn ifupdown(text: &str) -> Vec<Declared> {
    let mut found = Vec::new();
    let mut stanza: Option<(String, BTreeMap<String, String>)> = None;
    let ends = [
        "iface",
        "auto",
        "mapping",
        "source",
        "source-directory",
        "rename",
    ];
    for line in text.lines().map(str::trim).chain(["auto end"]) {
        let mut words = line.split_whitespace();
        let Some(first) = words.next().filter(|word| !word.starts_with('#')) else {
            continue;
        };
        if ends.contains(&first) || first.starts_with("allow-") {
            found.extend(
                stanza
                    .take()
                    .and_then(|(name, keys)| v4tunnel(&name, &keys)),
            );
            let rest: Vec<_> = words.collect();
            if let ("iface", [name, "inet6", "v4tunnel", ..]) = (first, &rest[..]) {
                stanza = Some(((*name).to_owned(), BTreeMap::new()));
            }
        } else if let Some((_, keys)) = &mut stanza {
            keys.insert(first.to_owned(), words.collect::<Vec<_>>().join(" "));
        }
    }
    found
}

fn v4tunnel(name: &str, keys: &BTreeMap<String, String>) -> Option<Declared> {
    let remote = keys.get("endpoint").map(String::as_str);
    let mut tunnel = Declared::new(name, six_in_four(remote))?;
    if let Some(address) = keys.get("address") {
        let has_length = address.contains('/');
        let bits = keys.get("netmask").filter(|_| !has_length);
        tunnel.add_addresses(&bits.map_or(address.clone(), |bits| format!("{address}/{bits}")));
    }
    let leads_everywhere = |text: &String| text.contains("::/0") || text.contains("default");
    tunnel.takes_default_route = keys.contains_key("gateway")
        || ["up", "post-up"]
            .iter()
            .any(|key| keys.get(*key).is_some_and(leads_everywhere));
    Some(tunnel)
}

/// The sections of an INI file, in order: name, and keys with values.
fn ini(text: &str) -> Vec<(String, Vec<(String, String)>)> {
    let mut sections: Vec<(String, Vec<(String, String)>)> = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            sections.push((name.to_owned(), Vec::new()));
        } else if let (Some((key, value)), Some((_, keys))) =
            (line.split_once('='), sections.last_mut())
        {
            keys.push((key.trim().to_owned(), value.trim().to_owned()));
        }
    }
    sections
}

/// The values of a key in sections of a name.
fn values<'a>(
    sections: &'a [(String, Vec<(String, String)>)],
    section: &'a str,
    key: &'a str,
) -> impl Iterator<Item = &'a str> {
    let named = sections.iter().filter(move |(name, _)| name == section);
    let pairs = named.flat_map(|(_, pairs)| pairs);
    pairs
        .filter(move |(name, _)| name == key)
        .map(|(_, value)| value.as_str())
}

/// Reads the files of systemd-networkd: `.netdev` files make tunnels, `.network` files have their addresses.
#[must_use]
pub fn networkd<'a>(
    netdevs: impl Iterator<Item = &'a str>,
    networks: impl Iterator<Item = &'a str>,
) -> Vec<Declared> {
    let mut tunnels: Vec<Declared> = netdevs.filter_map(netdev).collect();
    for text in networks {
        let sections = ini(text);
        let names: Vec<_> = values(&sections, "Match", "Name")
            .flat_map(str::split_whitespace)
            .collect();
        let mine = tunnels
            .iter_mut()
            .filter(|tunnel| names.contains(&tunnel.name.as_str()));
        for tunnel in mine {
            for section in ["Network", "Address"] {
                values(&sections, section, "Address").for_each(|list| tunnel.add_addresses(list));
            }
            let is_default = |value: &str| matches!(value, "::/0" | "::");
            tunnel.takes_default_route |= values(&sections, "Route", "Destination").any(is_default)
                || ["Network", "Route"]
                    .iter()
                    .any(|section| values(&sections, section, "Gateway").any(|g| g.contains(':')))
                || values(&sections, "Network", "DefaultRouteOnDevice").any(|value| value == "yes");
        }
    }
    tunnels
}

fn netdev(text: &str) -> Option<Declared> {
    let sections = ini(text);
    let value = |section, key| values(&sections, section, key).next();
    let kind = match value("NetDev", "Kind")? {
        "sit" => six_in_four(value("Tunnel", "Remote")),
        "wireguard" => DeclaredKind::WireGuard,
        "gre" | "ip6gre" | "ip6tnl" | "tun" => DeclaredKind::Other,
        _ => return None,
    };
    Declared::new(value("NetDev", "Name")?, kind)
}

/// Reads a connection of NetworkManager (nm-settings-keyfile(5)).
#[must_use]
pub fn network_manager(text: &str) -> Option<Declared> {
    let sections = ini(text);
    let value = |section, key| values(&sections, section, key).next();
    let kind = match value("connection", "type")? {
        // NMIPTunnelMode: 3 is SIT.
        "ip-tunnel" if value("ip-tunnel", "mode") == Some("3") => {
            six_in_four(value("ip-tunnel", "remote"))
        }
        "ip-tunnel" | "tun" => DeclaredKind::Other,
        "wireguard" => DeclaredKind::WireGuard,
        _ => return None,
    };
    let mut tunnel = Declared::new(value("connection", "interface-name")?, kind)?;
    for (name, pairs) in &sections {
        for (key, value) in pairs.iter().filter(|_| name == "ipv6") {
            if key.starts_with("address") {
                // The address may be followed by a gateway.
                let (address, gateway) = value.split_once(',').unwrap_or((value, ""));
                tunnel.add_addresses(address);
                tunnel.takes_default_route |= !gateway.is_empty();
            }
        }
    }
    let never = value("ipv6", "never-default") == Some("true");
    let is_manual = value("ipv6", "method") == Some("manual");
    tunnel.takes_default_route |= is_manual && value("ipv6", "gateway").is_some();
    tunnel.takes_default_route &= !never;
    Some(tunnel)
}

/// Reads a file of wg-quick(8), which has the name of the interface.
#[must_use]
pub fn wg_quick(name: &str, text: &str) -> Option<Declared> {
    let sections = ini(text);
    let mut tunnel = Declared::new(name, DeclaredKind::WireGuard)?;
    values(&sections, "Interface", "Address").for_each(|list| tunnel.add_addresses(list));
    let has_table = values(&sections, "Interface", "Table").any(|table| table == "off");
    let leads_everywhere = values(&sections, "Peer", "AllowedIPs")
        .flat_map(|list| list.split(','))
        .any(|prefix| prefix.trim() == "::/0");
    tunnel.takes_default_route = leads_everywhere && !has_table;
    Some(tunnel)
}

/// Reads `tunnels` of a file of netplan. Of YAML it knows what such files use: mappings by indentation, and lists of
/// scalars, with `-` or in brackets.
#[must_use]
pub fn netplan(text: &str) -> Vec<Declared> {
    let mut found: Vec<(Declared, BTreeMap<String, String>)> = Vec::new();
    // The indentation of `tunnels`, and of the names below it.
    let (mut block, mut names): (Option<usize>, Option<usize>) = (None, None);
    let mut list = String::new();
    for line in text.lines() {
        let line = line.split(" #").next().unwrap_or_default().trim_end();
        let content = line.trim_start();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        let indent = line.len() - content.len();
        if block.is_some_and(|block| indent <= block && !content.starts_with('-')) {
            (block, names) = (None, None);
        }
        if block.is_none() {
            if content == "tunnels:" {
                block = Some(indent);
            }
            continue;
        }
        let names_at = *names.get_or_insert(indent);
        if indent == names_at {
            let name = content.trim_end_matches(':');
            found.extend(Declared::new(name, DeclaredKind::Other).map(|t| (t, BTreeMap::new())));
            list.clear();
        } else if let Some((tunnel, keys)) = found.last_mut() {
            netplan_line(content, tunnel, keys, &mut list);
        }
    }
    let with_kind = found.into_iter().map(|(mut tunnel, keys)| {
        tunnel.kind = match keys.get("mode").map(String::as_str) {
            Some("sit") => six_in_four(keys.get("remote").map(String::as_str)),
            Some("wireguard") => DeclaredKind::WireGuard,
            _ => DeclaredKind::Other,
        };
        tunnel
    });
    with_kind.collect()
}

/// One line about a tunnel. `list`: the key whose items follow.
fn netplan_line(
    content: &str,
    tunnel: &mut Declared,
    keys: &mut BTreeMap<String, String>,
    list: &mut String,
) {
    let unquoted = |text: &str| text.trim().trim_matches(['"', '\'']).to_owned();
    let is_default = |text: &str| matches!(text, "::/0" | "default");
    let item = content.strip_prefix("- ").unwrap_or(content);
    if content.starts_with("- ") && list == "addresses" {
        tunnel.add_addresses(&unquoted(item));
        return;
    }
    let Some((key, value)) = item.split_once(':') else {
        return;
    };
    let value = unquoted(value);
    match key.trim() {
        "addresses" => {
            let inside = value.trim_matches(['[', ']']);
            let inside = inside.replace(['"', '\''], "");
            tunnel.add_addresses(&inside);
        }
        "gateway6" => tunnel.takes_default_route = true,
        "to" if is_default(&value) => tunnel.takes_default_route = true,
        key => {
            keys.insert(key.to_owned(), value.clone());
        }
    }
    if value.is_empty() {
        *list = key.trim().to_owned();
    }
}

#[cfg(test)]
#[path = "declared_tests.rs"]
mod tests;
