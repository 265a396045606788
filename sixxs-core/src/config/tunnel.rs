//! Reads a `[[tunnel]]` section.

use std::net::Ipv6Addr;

use super::{
    CarrierChoice, EndpointUpdate, Follows, Kind, PrefixSource, Probe, RemoteEndpoint, RuleMode,
    Tunnel, WireGuard,
    account::Includes,
    check_ends,
    cross_check::Locations,
    endpoint_update,
    follows::OrAuto,
    kind, name_pattern, probe,
    section::{Field, List, Located, Section, SectionHeader},
    sources::{PREFIXES, unusable_prefix},
    table::{check_table, table_of},
    update_path, wireguard,
};
use crate::{
    diagnostics::{Diagnostics, Location},
    types::{IfName, InterfaceAddress, Mtu, Prefix, TableId, is_unicast},
    wireguard::DEFAULT_MTU,
};

mod native;

const KEYS: &[&str] = &[
    "name",
    "address",
    "peer",
    "check_target",
    "check_source",
    "check_address",
    "prefixes",
    "prefix_from",
    "direct",
    "table",
    "mtu",
    "gateway",
    "update",
    "probe",
    "deprecate_when_failing",
];

const PREFIXES_OR_AUTO: &str = "IPv6 prefixes, such as 2001:db8:bb::/48, or \"auto\"";

/// Reads the section at `position`: takes all fields, checks each of them, then checks them together.
pub(super) fn read(
    mut section: Section<'_>,
    position: u32,
    includes: Includes<'_>,
    rule_mode: RuleMode,
) -> (Option<(Tunnel, Locations)>, Diagnostics) {
    let kind_fields = kind::Fields::take(&mut section);
    let update = section.section("update");
    let probe = section.section("probe");
    let mut fields = Fields::take(section);
    let has_account = kind_fields.has_account();
    let carrier = kind_fields.carrier();
    let remote = kind_fields.remote_endpoint(&mut fields.diagnostics);
    let wireguard_file = kind_fields.wireguard_file();
    let kind = kind_fields.check(includes, &mut fields.diagnostics);
    fields.check_name(kind.as_ref());
    // The file may have the address.
    let is_unread = kind.is_none() && wireguard_file.is_some();
    if let (Some(Kind::WireGuard(wireguard)), Some(location)) = (&kind, wireguard_file) {
        fields.take_from_file(wireguard, &location);
    }
    fields.check_addresses();
    fields.check_auto_addresses(kind.as_ref());
    fields.check_prefixes();
    fields.check_ends();
    fields.check_prefix_source(kind.as_ref());
    fields.check_table(rule_mode);
    fields.check_gateway();
    if matches!(kind, Some(Kind::Account(_))) {
        fields.check_beside_account();
    }
    fields.check_presence(kind.as_ref(), has_account || is_unread);
    fields.check_deprecation(has_account || is_unread);
    if let Some(kind) = kind.as_ref().filter(|kind| kind.is_native()) {
        fields.check_native(kind);
    }
    let update = fields.check_update(update, kind.as_ref(), remote, includes);
    let probe = fields.check_probe(probe, kind.as_ref());
    let (tunnel, diagnostics) = fields.into_tunnel(kind, (carrier, remote, update), position);
    let with_probe = |(tunnel, locations)| (Tunnel { probe, ..tunnel }, locations);
    (tunnel.map(with_probe), diagnostics)
}

/// The fields that all kinds of tunnel have.
struct Fields {
    head: SectionHeader,
    diagnostics: Diagnostics,
    name: Field<IfName>,
    addresses: List<InterfaceAddress>,
    /// Where the addresses are `auto`.
    auto_addresses: Option<Location>,
    peer: Field<Ipv6Addr>,
    check_target: Field<Ipv6Addr>,
    check_source: Field<Ipv6Addr>,
    check_address: List<Ipv6Addr>,
    prefixes: List<Prefix>,
    /// Where the prefixes are `auto`.
    auto_prefixes: Option<Location>,
    prefix_from: List<IfName>,
    direct: List<Prefix>,
    table: Field<u32>,
    mtu: Field<u32>,
    gateway: Field<OrAuto<Ipv6Addr>>,
    deprecate_when_failing: Field<bool>,
}

/// The values in a list, and where it has the word `auto`.
fn split<T>(list: List<OrAuto<T>>) -> (List<T>, Option<Location>) {
    let mut auto = None;
    let values = list.map(|items| {
        let value = |Located { value, location }| match value {
            OrAuto::Is(value) => Some(Located { value, location }),
            OrAuto::Auto => {
                auto = Some(location);
                None
            }
        };
        items.into_iter().filter_map(value).collect()
    });
    (values, auto)
}

impl Fields {
    /// Takes the remaining keys of a section.
    fn take(mut section: Section<'_>) -> Self {
        let address = "an IPv6 address, such as 2001:db8::2/64, or \"auto\"";
        let head = section.head();
        let name = section.parsed("name", "an interface name");
        let (addresses, auto_addresses) = split(section.one_or_many("address", address));
        let (prefixes, auto_prefixes) = split(section.one_or_many("prefixes", PREFIXES_OR_AUTO));
        Self {
            head,
            name,
            addresses,
            auto_addresses,
            peer: section.ipv6("peer"),
            check_target: section.ipv6("check_target"),
            check_source: section.ipv6("check_source"),
            check_address: section
                .one_or_many("check_address", "addresses of hosts behind this one"),
            prefixes,
            auto_prefixes,
            prefix_from: section.one_or_many("prefix_from", "names of interfaces, such as lan0"),
            direct: section.one_or_many("direct", PREFIXES),
            table: section.integer("table", 1..=u32::MAX),
            mtu: section.integer("mtu", Mtu::MINIMUM.0..=65535),
            gateway: section.ipv6_or_auto("gateway"),
            deprecate_when_failing: section.boolean("deprecate_when_failing"),
            // Last, because it reports all other keys as unknown.
            diagnostics: section.finish(&[KEYS, kind::KEYS, wireguard::KEYS].concat()),
        }
    }

    /// Takes addresses and MTU from the file that `location` names, where the section has none.
    fn take_from_file(&mut self, wireguard: &WireGuard, location: &Location) {
        let Some(file) = &wireguard.file else {
            return;
        };
        let located = |value| Located {
            value,
            location: location.clone(),
        };
        if self.addresses.is_absent() && self.auto_addresses.is_none() && !file.addresses.is_empty()
        {
            let addresses = file.addresses.iter().copied().map(located);
            self.addresses = Field::Set(Located {
                value: addresses.collect(),
                location: location.clone(),
            });
        }
        if let (true, Some(mtu)) = (self.mtu.is_absent(), file.mtu) {
            self.mtu = Field::Set(Located {
                value: mtu.0,
                location: location.clone(),
            });
        }
    }

    fn check_name(&mut self, kind: Option<&Kind>) {
        if let Some(Located { value, location }) = self.name.as_set()
            && let Some(fault) = name_pattern::fault(value, kind)
        {
            self.diagnostics.add(location, fault);
        }
    }

    fn check_addresses(&mut self) {
        for Located { value, location } in self.addresses.items() {
            if !is_unicast(value.address) {
                let found = value.address;
                let message = format!("expected a global unicast address, found {found}");
                self.diagnostics.add(location, message);
            }
        }
        let own = self.addresses.items();
        if let Some(Located { value, location }) = self.peer.as_set()
            && own.iter().any(|own| own.value.address == *value)
        {
            let message = format!(
                "expected the address of the tunnel's far end, found {value}, which is its own (address); \
                 write the broker's, or leave peer out"
            );
            self.diagnostics.add(location, message);
        }
    }

    /// Addresses that are taken from the interface are the only ones, and other software assigns them.
    fn check_auto_addresses(&mut self, kind: Option<&Kind>) {
        let Some(location) = &self.auto_addresses else {
            return;
        };
        if !self.addresses.items().is_empty() {
            let message = "expected \"auto\" alone, found other addresses beside it";
            self.diagnostics.add(location, message);
        }
        if kind.is_some_and(Kind::is_native) {
            let message = "expected an address: the daemon makes the interface of this kind of tunnel, and \"auto\" is for \
                           interfaces that other software sets up";
            self.diagnostics.add(location, message);
        }
    }

    fn check_prefixes(&mut self) {
        for Located { value, location } in self.prefixes.items() {
            if let Some(message) = unusable_prefix(*value) {
                self.diagnostics.add(location, message);
            }
        }
    }

    fn check_ends(&mut self) {
        let are_from_host = self.auto_prefixes.is_some() || !self.prefix_from.is_absent();
        let (prefixes, diagnostics) = (&self.prefixes, &mut self.diagnostics);
        check_ends::check_source(&self.check_source, &self.addresses, prefixes, diagnostics);
        check_ends::check_addresses(&self.check_address, prefixes, are_from_host, diagnostics);
    }

    /// The prefixes are in the file, or delegated, or on the link of other interfaces.
    fn check_prefix_source(&mut self, kind: Option<&Kind>) {
        if let Some(location) = &self.auto_prefixes {
            if !self.prefixes.items().is_empty() {
                let message = "expected \"auto\" alone, found other prefixes beside it";
                self.diagnostics.add(location, message);
            }
            if kind.is_some_and(Kind::is_native) {
                let message = "expected prefixes: no DHCPv6 client gets any by the interface of this kind of tunnel; \
                               write those that the broker routes to you, or prefix_from";
                self.diagnostics.add(location, message);
            }
        }
        let Some(Located { value, location }) = self.prefix_from.as_set() else {
            return;
        };
        if value.is_empty() {
            let message = "expected at least one name, found an empty list";
            self.diagnostics.add(location, message);
        }
        let own = self.name.as_set().map(|name| &name.value);
        for Located { value, location } in value {
            if value.has_wildcard() || Some(value) == own {
                let message = format!(
                    "expected the name of another interface, behind this host, found {value}"
                );
                self.diagnostics.add(location, message);
            }
        }
        if !self.prefixes.is_absent() {
            let message = "expected only one of prefixes and prefix_from";
            self.diagnostics.add(location, message);
        }
    }

    fn follows(&self) -> Follows {
        Follows {
            addresses: self.auto_addresses.is_some(),
            gateway: matches!(&self.gateway, Field::Set(gateway) if gateway.value == OrAuto::Auto),
            prefixes: self.prefix_source(),
            direct: self.direct.is_absent(),
        }
    }

    fn prefix_source(&self) -> PrefixSource {
        if self.auto_prefixes.is_some() {
            return PrefixSource::Delegated;
        }
        match self.prefix_from.as_set() {
            Some(names) => {
                let names = names.value.iter().map(|name| name.value.clone());
                PrefixSource::Interfaces(names.collect())
            }
            None if self.prefixes.is_absent() => PrefixSource::Unknown,
            None => PrefixSource::File,
        }
    }

    fn check_table(&mut self, rule_mode: RuleMode) {
        check_table(&self.table, rule_mode, &mut self.diagnostics);
    }

    fn check_gateway(&mut self) {
        if let Some(Located {
            value: OrAuto::Is(value),
            location,
        }) = self.gateway.as_set()
            && (value.is_unspecified() || value.is_multicast())
        {
            let message = format!("expected a unicast address, found {value}");
            self.diagnostics.add(location, message);
        }
    }

    fn check_beside_account(&mut self) {
        let address = self.addresses.items().first();
        let address = address.map(|address| &address.location);
        for location in address.into_iter().chain(self.peer.location()) {
            let message = "expected none together with aiccu: the broker provides it";
            self.diagnostics.add(location, message);
        }
    }

    /// Reports a missing address. A tunnel needs an address or a prefix, unless the broker of an account
    /// assigns the address. A native tunnel needs an address. A key with an invalid value counts as present.
    fn check_presence(&mut self, kind: Option<&Kind>, has_account: bool) {
        let is_empty = self.addresses.items().is_empty() && !self.addresses.is_invalid();
        if !is_empty || self.auto_addresses.is_some() {
            return;
        }
        let has_prefixes = !self.prefixes.items().is_empty()
            || self.prefixes.is_invalid()
            || self.prefix_source().is_host()
            || self.prefix_from.is_invalid();
        let is_native = |kind: &Kind| kind.is_native() && !matches!(kind, Kind::Account(_));
        let message = if !has_prefixes && !has_account {
            let expected = "expected the tunnel's IPv6 address, or prefixes routed by it";
            match self.addresses.is_absent() {
                true => format!("missing; {expected}"),
                false => format!("{expected}, found an empty list"),
            }
        } else if kind.is_some_and(is_native) {
            "missing; expected the address of this end of the tunnel".to_owned()
        } else {
            return;
        };
        self.diagnostics
            .add(&self.head.location("address"), message);
    }

    /// Only addresses on the interface can be deprecated. `has_others`: the broker or a file has them.
    fn check_deprecation(&mut self, has_others: bool) {
        if let Some(Located {
            value: true,
            location,
        }) = self.deprecate_when_failing.as_set()
            && self.addresses.items().is_empty()
            && !self.addresses.is_invalid()
            && self.auto_addresses.is_none()
            && !has_others
        {
            let message = "expected only with an address on the interface, found prefixes alone; add address, or leave the \
                           key out";
            self.diagnostics.add(location, message);
        }
    }

    /// Reads `[tunnel.update]`.
    fn check_update(
        &mut self,
        section: Field<Section<'_>>,
        kind: Option<&Kind>,
        remote: Option<RemoteEndpoint>,
        includes: Includes<'_>,
    ) -> Option<EndpointUpdate> {
        let Field::Set(section) = section else {
            return None;
        };
        let values = self
            .diagnostics
            .absorb(endpoint_update::read(section, includes))?;
        match update_path::of_kind(kind?, remote) {
            Ok((remote, local4)) => Some(values.with_path(remote, local4)),
            Err(message) => {
                self.diagnostics.add(values.location(), message);
                None
            }
        }
    }

    /// Reads `[tunnel.probe]`. Probes need an address that answers.
    fn check_probe(&mut self, section: Field<Section<'_>>, kind: Option<&Kind>) -> Option<Probe> {
        let Field::Set(Located { value, location }) = section else {
            return None;
        };
        let has_target = !self.check_target.is_absent() || !self.peer.is_absent();
        if !has_target && !matches!(kind, Some(Kind::Account(_))) {
            let message =
                "expected check_target beside it, an address that answers pings through the tunnel";
            self.diagnostics.add(&location, message);
        }
        self.diagnostics.absorb(probe::read(value))
    }

    fn into_tunnel(
        mut self,
        kind: Option<Kind>,
        (carrier, remote, update): (
            Option<CarrierChoice>,
            Option<RemoteEndpoint>,
            Option<EndpointUpdate>,
        ),
        position: u32,
    ) -> (Option<(Tunnel, Locations)>, Diagnostics) {
        let follows = self.follows();
        let expected = "the name of the tunnel's interface";
        let name = self.name.required(expected, &mut self.diagnostics);
        let (Some(name), Some(kind)) = (name, kind) else {
            return (None, self.diagnostics);
        };
        let addresses = self.addresses.items().iter().map(|own| &own.location);
        let prefixes = self.prefixes.items().iter().map(|prefix| &prefix.location);
        let table = self.table.location().cloned();
        let locations = Locations {
            name: name.location,
            table: table.unwrap_or_else(|| self.head.location("table")),
            sources: addresses.chain(prefixes).cloned().collect(),
        };
        let prefixes = self.prefixes.values().unwrap_or_default();
        let default_mtu = default_mtu(&kind);
        let tunnel = Tunnel {
            name: name.value,
            addresses_by_others: matches!(&kind, Kind::Account(a) if a.aiccu.noconfigure),
            kind,
            addresses: self.addresses.values().unwrap_or_default(),
            peer: self.peer.value(),
            check_target: self.check_target.value(),
            check_source: self.check_source.value(),
            check_addresses: self.check_address.values().unwrap_or_default(),
            direct: match self.direct {
                Field::Absent(_) => prefixes.clone(),
                direct => direct.values().unwrap_or_default(),
            },
            prefixes,
            table: TableId(self.table.value().unwrap_or_else(|| table_of(position))),
            mtu: self.mtu.value().map(Mtu).or(default_mtu),
            follows,
            tentative: Vec::new(),
            former: Vec::new(),
            on_link: Vec::new(),
            gateway: match self.gateway.value() {
                Some(OrAuto::Is(gateway)) => Some(gateway),
                Some(OrAuto::Auto) | None => None,
            },
            carrier: carrier.unwrap_or_default(),
            remote,
            update,
            probe: None,
            deprecate_when_failing: self.deprecate_when_failing.value().unwrap_or_default(),
        };
        (Some((tunnel, locations)), self.diagnostics)
    }
}

/// The MTU of a tunnel of this kind without one in the file; `None`: that of its interface, or of its account.
const fn default_mtu(kind: &Kind) -> Option<Mtu> {
    match kind {
        Kind::WireGuard(_) => Some(DEFAULT_MTU),
        Kind::SixInFour(_) | Kind::Ayiya(_) => Some(Mtu::MINIMUM),
        Kind::Interface | Kind::Command { .. } | Kind::Account(_) => None,
    }
}
