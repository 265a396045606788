//! `xdp`: which uplinks get the XDP program, for all of them in one word, or by name in a table.

use super::{
    model::XdpChoices,
    section::{OneOrTable, Section},
};
use crate::{diagnostics::Diagnostics, types::IfName};

const EXPECTED: &str = "\"auto\", \"native\", \"generic\" or \"off\"";

/// Reads the key.
pub(super) fn read(section: &mut Section<'_>) -> (XdpChoices, Diagnostics) {
    let mut choices = XdpChoices::default();
    let mut diagnostics = Diagnostics::default();
    match section.parsed_or_section("xdp", EXPECTED).value() {
        Some(OneOrTable::One(all)) => choices.all = all,
        Some(OneOrTable::Table(mut table)) => {
            for name in table.keys() {
                let Ok(uplink) = name.parse::<IfName>() else {
                    let message = "expected the name of an uplink, at most 15 characters";
                    table.report(&name, message);
                    continue;
                };
                if let Some(choice) = table.parsed(&name, EXPECTED).value() {
                    choices.by_uplink.insert(uplink, choice);
                }
            }
            // A name that is no interface's has its message already.
            diagnostics = table.diagnostics();
        }
        None => {}
    }
    (choices, diagnostics)
}
