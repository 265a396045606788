//! Finds the exits: interfaces through which a rule can lead packets to the internet.
//!
//! The decision uses only routes by destination. Conditions of rules (sources, marks, user IDs, …) do not
//! matter: a packet that must not leave there may meet any of them.

use std::collections::{BTreeMap, BTreeSet};

use super::{LOCAL_TABLE, MAIN_TABLE};
use crate::{
    explain::rules::{Action, PolicyRule},
    types::{IfIndex, Prefix, TableId},
};

/// A prefix of at most this many bits counts as the internet: all addresses, a half, a quarter or an eighth.
/// Global unicast, `2000::/3`, is an eighth (RFC 4291 §2.4).
const WORLD_BITS: u8 = 3;

/// The longest prefix that counts as a part of the internet. It limits the amount of data from a full
/// routing table, which has only a few dozen routes of this length or shorter.
pub const PIECE_BITS: u8 = 16;

/// The number of values of the first [`PIECE_BITS`] bits in an eighth of all addresses.
const EIGHTH: u32 = 1 << (PIECE_BITS - WORLD_BITS);

/// The table number in a rule for the tables of VRFs (`l3mdev`).
const VRF_TABLES: TableId = TableId(0);

/// The loopback's index in every network namespace (`LOOPBACK_IFINDEX`).
pub const LOOPBACK: IfIndex = IfIndex(1);

/// A foreign unicast route with a short destination, by one of its next hops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WideRoute {
    /// Its table.
    pub table: TableId,
    /// Its destination, of [`PIECE_BITS`] bits or fewer.
    pub destination: Prefix,
    /// The interface.
    pub index: IfIndex,
}

/// Tables that rules look up.
///
/// `suppress_prefixlength` does not exclude a table. The kernel compares it with the length of the route
/// that it found, which is 128 for a destination with a learned path MTU (`fib6_rule_suppress`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookedUpTables(BTreeSet<TableId>);

impl LookedUpTables {
    /// From foreign `rules`. `own`: the tables of the rules of sixxs; `vrfs`: the tables of VRFs.
    #[must_use]
    pub fn of(rules: &[PolicyRule], own: &BTreeSet<TableId>, vrfs: &BTreeSet<TableId>) -> Self {
        let mut tables = own.clone();
        for rule in rules {
            match rule.action {
                Action::Lookup(LOCAL_TABLE, _) => {}
                Action::Lookup(VRF_TABLES, _) => tables.extend(vrfs),
                Action::Lookup(table, _) => {
                    tables.insert(table);
                }
                Action::Goto(_) | Action::Nop | Action::Refuse(_) | Action::Other => {}
            }
        }
        Self(tables)
    }

    /// The interfaces that are exits according to `routes`.
    #[must_use]
    pub fn exits(&self, routes: &[WideRoute]) -> BTreeSet<IfIndex> {
        let mut by_interface: BTreeMap<IfIndex, Vec<Prefix>> = BTreeMap::new();
        for route in routes.iter().filter(|route| self.0.contains(&route.table)) {
            let pieces = by_interface.entry(route.index).or_default();
            pieces.push(route.destination);
        }
        let exits = by_interface.into_iter();
        let exits = exits.filter(|(index, pieces)| *index != LOOPBACK && is_world(pieces));
        exits.map(|(index, _)| index).collect()
    }

    /// Whether the main table is one of them.
    #[must_use]
    pub fn has_main(&self) -> bool {
        self.0.contains(&MAIN_TABLE)
    }
}

/// Whether the prefixes, alone or together, cover at least an eighth of all addresses.
fn is_world(pieces: &[Prefix]) -> bool {
    let mut ranges: Vec<_> = pieces.iter().filter_map(|piece| range(*piece)).collect();
    ranges.sort_unstable();
    // Start and end of the current run of adjacent ranges.
    let (mut start, mut end) = (0, 0);
    for (from, to) in ranges {
        if from > end {
            start = from;
            end = to;
        }
        end = end.max(to);
        if start.next_multiple_of(EIGHTH) + EIGHTH <= end {
            return true;
        }
    }
    false
}

/// The range of the first [`PIECE_BITS`] bits of addresses in a prefix: the first value, and the one after
/// the last.
fn range(piece: Prefix) -> Option<(u32, u32)> {
    let free = PIECE_BITS.checked_sub(piece.bits())?;
    let start = u32::from(piece.address().segments()[0]);
    Some((start, start + (1 << free)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{explain::rules::Selector, types::RulePriority};

    fn rule(table: u32, suppressed: Option<u32>) -> PolicyRule {
        PolicyRule {
            priority: RulePriority(5269),
            is_ours: false,
            selector: Selector::ALL,
            action: Action::Lookup(TableId(table), suppressed),
        }
    }

    fn tables(tables: &[u32]) -> BTreeSet<TableId> {
        tables.iter().copied().map(TableId).collect()
    }

    fn routes(routes: &[(u32, &str, u32)]) -> Vec<WideRoute> {
        let route = |(table, destination, index): &(u32, &str, u32)| WideRoute {
            table: TableId(*table),
            destination: destination.parse().unwrap(),
            index: IfIndex(*index),
        };
        routes.iter().map(route).collect()
    }

    fn exits(led: &LookedUpTables, of: &[(u32, &str, u32)]) -> Vec<u32> {
        let exits = led.exits(&routes(of)).into_iter();
        exits.map(|index| index.0).collect()
    }

    #[test]
    #[rustfmt::skip] // one table is easier to read
    fn an_interface_with_routes_to_an_eighth_of_all_addresses_is_an_exit() {
        let led = LookedUpTables::of(&[rule(254, None), rule(53, None)], &tables(&[]), &tables(&[]));
        /// A table, a destination and an interface.
        type Via<'a> = (u32, &'a str, u32);
        let cases: [(&str, &[Via<'_>], &[u32]); 22] = [
            ("nothing", &[], &[]),
            ("a default route", &[(254, "::/0", 2)], &[2]),
            ("one in another table", &[(53, "::/0", 7)], &[7]),
            ("one in each of two tables", &[(254, "::/0", 2), (53, "::/0", 7)], &[2, 7]),
            ("one in a table that no rule leads to", &[(54, "::/0", 7)], &[]),
            ("two next hops", &[(53, "::/0", 7), (53, "::/0", 8)], &[7, 8]),
            ("half of it", &[(53, "::/1", 7)], &[7]),
            ("the other half", &[(53, "8000::/1", 7)], &[7]),
            ("a quarter", &[(53, "::/2", 7)], &[7]),
            ("global unicast", &[(53, "2000::/3", 7)], &[7]),
            ("another eighth", &[(53, "e000::/3", 7)], &[7]),
            ("half an eighth", &[(53, "2000::/4", 7)], &[]),
            ("two halves of an eighth", &[(53, "2000::/4", 7), (53, "3000::/4", 7)], &[7]),
            ("in another order", &[(53, "3000::/4", 7), (53, "2000::/4", 7)], &[7]),
            ("halves of two eighths", &[(53, "1000::/4", 7), (53, "2000::/4", 7)], &[]),
            ("halves out of two interfaces", &[(53, "2000::/4", 7), (53, "3000::/4", 8)], &[]),
            ("halves in two tables", &[(53, "2000::/4", 7), (254, "3000::/4", 7)], &[7]),
            ("the same half twice", &[(53, "2000::/4", 7), (254, "2000::/4", 7)], &[]),
            ("pieces of pieces", &[(53, "2000::/5", 7), (53, "2800::/5", 7), (53, "3000::/5", 7), (53, "3000::/4", 7)], &[7]),
            ("a hole", &[(53, "2000::/5", 7), (53, "3000::/5", 7), (53, "3800::/5", 7)], &[]),
            ("6to4 and unique local addresses", &[(254, "2002::/16", 7), (254, "fc00::/7", 7)], &[]),
            ("the loopback", &[(254, "::/0", 1)], &[]),
        ];
        for (name, routes, expected) in cases {
            assert_eq!(exits(&led, routes), expected, "{name}");
        }
    }

    #[test]
    fn the_longest_prefixes_may_cover_an_eighth_together() {
        let led = LookedUpTables::of(&[rule(53, None)], &tables(&[]), &tables(&[]));
        let piece = |first: u16| WideRoute {
            table: TableId(53),
            destination: Prefix::containing([first, 0, 0, 0, 0, 0, 0, 0].into(), PIECE_BITS),
            index: IfIndex(7),
        };
        let mut pieces: Vec<_> = (0x2000..0x4000).map(piece).collect();
        assert_eq!(led.exits(&pieces).len(), 1);
        pieces.remove(77);
        assert_eq!(led.exits(&pieces).len(), 0);
        // Longer prefixes do not count: the routes are read without them.
        pieces[0].destination = "2000::/17".parse().unwrap();
        assert_eq!(led.exits(&pieces).len(), 0);
    }

    #[test]
    fn looked_up_tables_are_those_of_the_rules() {
        let all: &[_] = &[
            (254, "::/0", 2),
            (53, "::/0", 7),
            (60, "::/1", 8),
            (200, "::/0", 9),
            (255, "::/0", 10),
        ];
        let exits_by = |rules: &[PolicyRule], own: &[u32], vrfs: &[u32]| {
            exits(&LookedUpTables::of(rules, &tables(own), &tables(vrfs)), all)
        };
        assert_eq!(exits_by(&[rule(254, None)], &[], &[]), [2]);
        // A suppressed route may still be found.
        let suppressing = [rule(254, Some(0)), rule(60, Some(3))];
        assert_eq!(exits_by(&suppressing, &[], &[]), [2, 8]);
        // A foreign default route in a table of sixxs.
        assert_eq!(exits_by(&[], &[200], &[]), [9]);
        // One rule leads to the tables of all VRFs; without it, no rule does.
        assert_eq!(exits_by(&[rule(0, None)], &[], &[53, 60]), [7, 8]);
        assert_eq!(exits_by(&[rule(254, None)], &[], &[53]), [2]);
        // The local table leads to this host.
        assert_eq!(exits_by(&[rule(255, None)], &[], &[]), [0; 0]);
        let mut refusing = rule(53, None);
        refusing.action = Action::Refuse("unreachable");
        assert_eq!(exits_by(&[refusing], &[], &[]), [0; 0]);
    }

    #[test]
    fn the_main_table_is_one_of_them_or_not() {
        for (table, expected) in [(254, true), (53, false), (255, false)] {
            let led = LookedUpTables::of(&[rule(table, None)], &tables(&[]), &tables(&[]));
            assert_eq!(led.has_main(), expected, "{table}");
        }
    }
}
