//! The configuration file: TOML in, [`Config`] or a list of faults out.
//!
//! After [`parse`] nothing is checked again: every value in [`Config`] is in range, and no two
//! tunnels contradict each other.

mod account;
mod alerting;
mod broker_overlay;
mod cross_check;
mod kind;
mod model;
mod runtime_tunnels;
mod section;
mod tunnel;

use std::{path::Path, time::Duration};

use toml::de::DeTable;

use account::Includes;
pub use account::{Account, Files, Tls};
pub use alerting::{Alerting, Webhook};
pub use broker_overlay::{Conflict, Learned, Taken};
use model::RULE_PRIORITY;
pub use model::{
    Ayiya, BadRemote, Config, Heartbeat, Kind, Remote, RuleMode, SUBTREES_TABLE, SixInFour, Tunnel,
    UnknownValue,
};
pub use runtime_tunnels::Refused;
use section::{Faults, Located, Section};
pub use sixxs_common::treatment::OnLeak;

use crate::{
    broker::connects::{Limit, MAX_CONNECTS},
    diagnostics::{Diagnostic, Invalid, Location},
    types::{IfName, RulePriority},
};

const KEYS: &[&str] = &[
    "uplinks",
    "on_leak",
    "direct_connected",
    "rule_priority",
    "rule_mode",
    "metrics",
    "metrics_hosts",
    "alert",
    "connect_limit",
    "tunnel",
];

/// Of the times of a connect limit: a month.
const LONGEST_SECONDS: u32 = 31 * 24 * 3600;

/// Reads a configuration that refers to no other files. `file` is only for messages.
pub fn parse(file: &str, text: &str) -> Result<Config, Invalid> {
    let none = |other: &str| Err(format!("expected no other file, found {other:?}"));
    parse_with(file, text, &none)?.with_tunnels(file)
}

/// The text of a configuration.
pub fn text<'a>(file: &str, bytes: &'a [u8]) -> Result<&'a str, Invalid> {
    str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        let message = format!(
            "not UTF-8: the byte 0x{:02x} is no character; save the file as UTF-8",
            bytes[before.len()]
        );
        Invalid {
            file: file.to_owned(),
            diagnostics: vec![Diagnostic {
                line,
                key: String::new(),
                message,
            }],
        }
    })
}

/// Reads a configuration, and by `files` those that it refers to; it may have no tunnels. Relative
/// paths begin at the directory of `file`, which else is only for messages.
pub fn parse_with(file: &str, text: &str, files: Files<'_>) -> Result<Config, Invalid> {
    let mut faults = Faults::new(text);
    let config = match DeTable::parse(text) {
        Ok(table) => {
            let table = Section::new(table.into_inner(), String::new(), 1, &faults);
            let includes = Includes {
                directory: Path::new(file).parent().unwrap_or(Path::new("")),
                read: files,
            };
            read(table, includes, &mut faults)
        }
        Err(error) => {
            let place = Location {
                line: error.span().map_or(1, |span| faults.line(&span)),
                key: String::new(),
            };
            faults.add(&place, format!("not valid TOML: {}", error.message()));
            None
        }
    };
    faults.into_diagnostics().check(file, config)
}

fn read(mut table: Section<'_>, includes: Includes<'_>, faults: &mut Faults) -> Option<Config> {
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
    let direct_connected = table
        .boolean("direct_connected", faults)
        .is_none_or(|at| at.value);
    // Below: 0 is the local table's, and the rules for direct destinations need the place before.
    // Above: 32766 is the main table's, and a rule behind it is never asked.
    let rule_priority = table
        .integer("rule_priority", 2..=32765, faults)
        .map_or(RULE_PRIORITY, |at| at.value);
    let rule_mode = table
        .parsed::<RuleMode>("rule_mode", "\"rules\" or \"subtrees\"", faults)
        .map_or(RuleMode::default(), |at| at.value);
    let metrics = table
        .parsed(
            "metrics",
            "an address with a port, such as \"127.0.0.1:9346\"",
            faults,
        )
        .map(|at| at.value);
    let metrics_hosts = table.one_or_many("metrics_hosts", "a list of names of hosts", faults);

    let connect_limit = table.table("connect_limit", faults);
    let connect_limit = connect_limit.map_or_else(Limit::default, |table| limit(table, faults));

    let alerting = table.table("alert", faults);
    let alerting = alerting.map_or_else(Alerting::default, |table| alerting::read(table, faults));

    let tables = table.tables("tunnel", faults);
    table.finish(KEYS, faults);

    let mut places = Vec::new();
    let mut tunnels = Vec::new();
    for (position, table) in (0..).zip(tables) {
        if let Some((tunnel, place)) = tunnel::read(table, position, includes, rule_mode, faults) {
            tunnels.push(tunnel);
            places.push(place);
        }
    }
    cross_check::check(
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
        direct_connected,
        rule_priority: RulePriority(rule_priority),
        connect_limit,
        rule_mode,
        metrics,
        metrics_hosts: metrics_hosts.map(values).unwrap_or_default(),
        alerting,
        tunnels,
    })
}

/// Reads `[connect_limit]`.
fn limit(mut table: Section<'_>, faults: &mut Faults) -> Limit {
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

fn values<T>(list: Vec<Located<T>>) -> Vec<T> {
    list.into_iter().map(|at| at.value).collect()
}

#[cfg(test)]
mod tests;
