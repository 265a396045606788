//! Numbers of routing tables.

use std::ops::RangeInclusive;

/// The routing table of the first tunnel.
const FIRST: u32 = 200;

/// The routing tables `default`, `main` and `local`.
const SYSTEM: RangeInclusive<u32> = 253..=255;

/// The routing table of the tunnel at this position, if the configuration does not name one: 200, 201, …
/// without the tables of the system.
pub(super) const fn at(position: u32) -> u32 {
    let id = FIRST + position;
    if id < *SYSTEM.start() { id } else { id + 3 }
}

/// The name of a table of the system; `None` for any other table.
pub(super) fn system_owner(table: u32) -> Option<&'static str> {
    let names = ["default", "main", "local"];
    SYSTEM
        .zip(names)
        .find_map(|(id, name)| (id == table).then_some(name))
}
