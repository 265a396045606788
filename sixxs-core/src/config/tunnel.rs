//! Reads a `[[tunnel]]`.

use std::{net::Ipv6Addr, ops::RangeInclusive};

use super::{
    Kind, RuleMode, Tunnel,
    account::Includes,
    cross_check::Locations,
    kind,
    section::{Faults, Located, Section},
    values,
};
use crate::{
    broker::ayiya::wire::{HEADER_BYTES, LARGEST_BYTES},
    diagnostics::Location,
    types::{IfName, InterfaceAddress, Mtu, Prefix, TableId},
};

/// First table handed out.
const FIRST_TABLE: u32 = 200;

/// `default`, `main` and `local`.
const SYSTEM_TABLES: RangeInclusive<u32> = 253..=255;

const KEYS: &[&str] = &[
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

/// Reads one.
pub(super) fn read(
    mut table: Section<'_>,
    position: u32,
    includes: Includes<'_>,
    rule_mode: RuleMode,
    faults: &mut Faults,
) -> Option<(Tunnel, Locations)> {
    let name = table.parsed::<IfName>("name", "an interface name", faults);
    let kind = kind::read(&mut table, includes, faults);
    let address_place = table.place("address");
    let other_places = ["prefixes", "aiccu"].map(|key| table.place(key));
    let addresses = table.one_or_many::<InterfaceAddress>(
        "address",
        "an IPv6 address, such as 2001:db8::2/64",
        faults,
    );
    let has_list = addresses.is_some();
    let addresses = addresses.unwrap_or_default();
    for Located { value, place } in &addresses {
        if !is_unicast(value.address) {
            faults.add(
                place,
                format!("expected a global unicast address, found {}", value.address),
            );
        }
    }
    let peer_place = table.place("peer");
    let peer = table.ipv6("peer", faults);
    if let Some(Located { value, place }) = &peer
        && addresses.iter().any(|own| own.value.address == *value)
    {
        let message = format!(
            "expected the address of the tunnel's far end, found {value}, which is its own (address); \
             write the broker's, or leave peer out"
        );
        faults.add(place, message);
    }
    let check_target = table.ipv6("check_target", faults);
    let prefixes = table
        .one_or_many::<Prefix>(
            "prefixes",
            "IPv6 prefixes, such as 2001:db8:bb::/48",
            faults,
        )
        .unwrap_or_default();
    for Located { value, place } in &prefixes {
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
    if let Some(Located {
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
    let gateway = table.ipv6("gateway", faults);
    let name_place = table.place("name");
    table.finish(&[KEYS, kind::KEYS].concat(), faults);

    if let Some(Located { value, place }) = &gateway
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
    // What was wrong with one that is there was said.
    let is_told = |place: &Location| faults.has(&place.key);
    if addresses.is_empty()
        && prefixes.is_empty()
        && !is_account
        && !is_told(&address_place)
        && !other_places.iter().any(is_told)
    {
        let expected = "expected the tunnel's IPv6 address, or prefixes routed by it";
        let message = if has_list {
            format!("{expected}, found an empty list")
        } else {
            format!("missing; {expected}")
        };
        faults.add(&address_place, message);
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
    let places = Locations {
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
    for Located { value, place } in *addresses {
        if !InterfaceAddress::TUNNEL_BITS.contains(&value.bits) {
            let message = format!(
                "expected a length of 64 to 128, found {}/{}: destinations within it would be led into \
                 the tunnel, those of others too; what the broker routes to you goes under prefixes",
                value.address, value.bits
            );
            faults.add(place, message);
        }
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
    addresses: &'a [Located<InterfaceAddress>],
    missing_address: &'a Location,
    peer: Option<&'a Located<Ipv6Addr>>,
    missing_peer: &'a Location,
    mtu: Option<&'a Located<u32>>,
    gateway: Option<&'a Located<Ipv6Addr>>,
}

/// The largest packet that fits into a datagram that AYIYA's brokers take.
#[expect(clippy::cast_possible_truncation, reason = "some 2,000")]
const AYIYA_MTU: u32 = (LARGEST_BYTES - HEADER_BYTES) as u32;

/// The table of the tunnel at this position, unless it names one: 200, 201, … without those that
/// the system has.
pub(super) const fn table_of(position: u32) -> u32 {
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
