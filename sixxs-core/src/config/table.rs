//! Routing tables of tunnels and groups.

use std::ops::RangeInclusive;

use super::{
    RuleMode,
    section::{Field, Located},
};
use crate::diagnostics::Diagnostics;

/// The routing table of the first tunnel.
const FIRST_TABLE: u32 = 200;

/// The routing tables `default`, `main` and `local`.
const SYSTEM_TABLES: RangeInclusive<u32> = 253..=255;

/// Checks the routing table of a tunnel or a group.
pub(super) fn check_table(table: &Field<u32>, rule_mode: RuleMode, diagnostics: &mut Diagnostics) {
    let Some(Located { value, location }) = table.as_set() else {
        return;
    };
    if SYSTEM_TABLES.contains(value) {
        let owner = ["default", "main", "local"][(value - SYSTEM_TABLES.start()) as usize];
        let message =
            format!("expected a table of its own, found {value}, which is the {owner} table");
        diagnostics.add(location, message);
    }
    if rule_mode == RuleMode::Subtrees {
        let message = "expected only with rule_mode = \"rules\": with subtrees all share one";
        diagnostics.add(location, message);
    }
}

/// The routing table of the tunnel at this position, if the configuration does not name one: 200, 201, …
/// without the tables of the system.
pub(super) const fn table_of(position: u32) -> u32 {
    let id = FIRST_TABLE + position;
    if id < *SYSTEM_TABLES.start() {
        id
    } else {
        id + 3
    }
}
