//! The configuration file: reads TOML into a [`Config`], or into a list of diagnostics.
//!
//! After [`parse`], no other module checks the values: every value in [`Config`] is in range, and no two
//! tunnels contradict each other. The modules, in the order in which the text passes through them:
//!
//! * `follows` – the word `auto`
//! * `sources`, `table` – check values that tunnels and groups have
//! * `section` – takes the keys of a table: each is set, absent or invalid, with its line
//! * `tunnel`, `kind`, `account`, `wireguard`, `probe`, `group`, `alerting`, `xdp` – check the fields of one section
//! * `cross_check` – checks the properties that tunnels must not share
//! * `model`, `link_group`, `probe_limits` – the types of the result
//!
//! `broker_overlay`, `followed` and `runtime_tunnels` change an existing [`Config`].

mod account;
mod alerting;
mod broker_overlay;
mod check_ends;
mod cross_check;
mod endpoint_update;
mod followed;
mod follows;
mod group;
mod kind;
mod link_group;
mod model;
mod name_pattern;
mod not_followed;
mod probe;
mod probe_limits;
mod remote_endpoint;
mod runtime_tunnels;
mod section;
mod sources;
mod table;
mod tunnel;
mod update_path;
mod url;
mod wireguard;
mod xdp;

use std::{path::Path, time::Duration};

use toml::de::DeTable;

pub use crate::remote::{BadRemote, Remote};
use account::Includes;
pub use account::{Account, Files, Tls};
pub use alerting::{Alerting, Webhook};
pub use broker_overlay::{Conflict, HostPrefixes, Learned};
pub use endpoint_update::EndpointUpdate;
pub use followed::Followed;
pub use follows::{Follows, PrefixSource};
pub use link_group::Group;
pub use model::{
    AnswerEcho, Ayiya, CarrierChoice, Config, Heartbeat, Kind, RuleMode, SUBTREES_TABLE, SixInFour,
    Tunnel, UnknownValue, XdpChoice, XdpChoices,
};
use model::{INSIDE_TEST, RULE_PRIORITY};
pub use not_followed::{MAX_FOLLOWED, NotFollowed};
pub use probe_limits::Probe;
pub use remote_endpoint::RemoteEndpoint;
pub use runtime_tunnels::Refused;
use section::{Lines, Section, SectionHeader};
pub use sixxs_common::treatment::OnLeak;
pub use url::Url;
pub use wireguard::WireGuard;

use crate::{
    broker::connects::{Limit, MAX_CONNECTS},
    diagnostics::{Diagnostic, Diagnostics, Invalid, Location},
    types::{IfName, RulePriority},
};

const KEYS: &[&str] = &[
    "uplinks",
    "on_leak",
    "answer_echo",
    "xdp",
    "inside_test_minutes",
    "direct_connected",
    "rule_priority",
    "rule_mode",
    "metrics",
    "page",
    "metrics_hosts",
    "alert",
    "connect_limit",
    "link",
    "tunnel",
    "group",
];

/// The maximum for each time of a connect limit: a month.
const LONGEST_SECONDS: u32 = 31 * 24 * 3600;

/// Reads a configuration that refers to no other files. `file` is the name for messages.
pub fn parse(file: &str, text: &str) -> Result<Config, Invalid> {
    let none = |other: &str| Err(format!("expected no other file, found {other:?}").into());
    parse_with(file, text, &none)?.with_tunnels(file)
}

/// The bytes of a configuration as text; an error if they are not UTF-8. `file` is the name for messages.
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

/// Reads a configuration that may have no tunnels. `files` reads the files to which it refers. Relative paths
/// begin at the directory of `file`; otherwise `file` is only the name for messages.
pub fn parse_with(file: &str, text: &str, files: Files<'_>) -> Result<Config, Invalid> {
    let lines = Lines::of(text);
    let includes = Includes {
        directory: Path::new(file).parent().unwrap_or(Path::new("")),
        read: files,
    };
    let mut diagnostics = Diagnostics::default();
    let config = match DeTable::parse(text) {
        Ok(table) => {
            let section = Section::new(table.into_inner(), SectionHeader::of_file(), &lines);
            Some(diagnostics.absorb(read(section, includes)))
        }
        Err(error) => {
            let location = Location {
                line: error.span().map_or(1, |span| lines.line(&span)),
                key: String::new(),
            };
            diagnostics.add(&location, format!("not valid TOML: {}", error.message()));
            None
        }
    };
    diagnostics.check(file, config)
}

/// Reads the whole file: the settings, then each tunnel, then the checks over all tunnels.
fn read(mut section: Section<'_>, includes: Includes<'_>) -> (Config, Diagnostics) {
    let uplinks = section.one_or_many::<IfName>("uplinks", "a list of interface names");
    if !uplinks.is_absent() && uplinks.items().is_empty() {
        let message = "expected at least one name; leave the key out for all native uplinks";
        section.report("uplinks", message);
    }
    // Both names mean the same. The order in the file decides on routing tables.
    let mut tunnels = section.sections("tunnel");
    tunnels.extend(section.sections("link"));
    tunnels.sort_by_key(Section::line);
    let groups = section.sections("group");
    let first_group = u32::try_from(tunnels.len()).unwrap_or(u32::MAX);
    let (mut config, mut diagnostics) = settings(section);
    let mut locations = Vec::new();
    for (position, section) in (0..).zip(tunnels) {
        let read = tunnel::read(section, position, includes, config.rule_mode);
        if let Some((tunnel, at)) = diagnostics.absorb(read) {
            config.tunnels.push(tunnel);
            locations.push(at);
        }
    }
    let mut group_locations = Vec::new();
    for (position, section) in (0..).zip(groups) {
        let read = group::read(section, position, first_group, config.rule_mode);
        if let Some((group, at)) = diagnostics.absorb(read) {
            config.groups.push(group);
            group_locations.push(at);
        }
    }
    diagnostics.extend(cross_check::check(
        uplinks.items(),
        (&config.tunnels[..], &locations[..]),
        (&config.groups[..], &group_locations[..]),
    ));
    // A link with faults of its own is not among the tunnels.
    if config.tunnels.len() == first_group as usize {
        let links = cross_check::check_links(&config, &group_locations);
        diagnostics.extend(links);
    }
    config.uplinks = uplinks.values();
    if config.rule_mode == RuleMode::Subtrees {
        for tunnel in &mut config.tunnels {
            tunnel.table = SUBTREES_TABLE;
        }
        for group in &mut config.groups {
            group.table = SUBTREES_TABLE;
        }
    }
    (config, diagnostics)
}

/// Reads the remaining keys of the file: all except uplinks and tunnels.
fn settings(mut section: Section<'_>) -> (Config, Diagnostics) {
    let on_leak = section.parsed("on_leak", "\"redirect\", \"drop\" or \"observe\"");
    let answer_echo = section.parsed("answer_echo", "\"host\" or \"kernel\"");
    let (xdp, xdp_diagnostics) = xdp::read(&mut section);
    let inside_test = section.integer("inside_test_minutes", 0..=1440);
    let direct_connected = section.boolean("direct_connected");
    // Minimum: priority 0 belongs to the rule of the local table, and the rules for direct destinations use
    // this priority minus 1. Maximum: 32766 belongs to the rule of the main table, and the kernel does
    // not reach a rule after it.
    let rule_priority = section.integer("rule_priority", 2..=32765);
    let rule_mode = section.parsed("rule_mode", "\"rules\" or \"subtrees\"");
    let address = "an address with a port, such as \"127.0.0.1:9346\"";
    let metrics = section.parsed("metrics", address);
    let page = section.parsed("page", address);
    let metrics_hosts = section.one_or_many("metrics_hosts", "a list of names of hosts");
    let connect_limit = section.section("connect_limit");
    let alert = section.section("alert");
    let mut diagnostics = section.finish(KEYS);
    diagnostics.extend(xdp_diagnostics);
    let connect_limit = connect_limit.value().map(limit);
    let alerting = alert.value().map(alerting::read);
    let config = Config {
        uplinks: None,
        on_leak: on_leak.value().unwrap_or_default(),
        answer_echo: answer_echo.value().unwrap_or_default(),
        xdp,
        inside_test: match inside_test.value() {
            None => Some(INSIDE_TEST),
            Some(0) => None,
            Some(minutes) => Some(Duration::from_secs(u64::from(minutes) * 60)),
        },
        direct_connected: direct_connected.value().unwrap_or(true),
        rule_priority: RulePriority(rule_priority.value().unwrap_or(RULE_PRIORITY)),
        connect_limit: diagnostics.absorb(connect_limit.unwrap_or_default()),
        rule_mode: rule_mode.value().unwrap_or_default(),
        metrics: metrics.value(),
        page: page.value(),
        metrics_hosts: metrics_hosts.values().unwrap_or_default(),
        alerting: diagnostics.absorb(alerting.unwrap_or_default()),
        tunnels: Vec::new(),
        groups: Vec::new(),
    };
    (config, diagnostics)
}

/// Reads `[connect_limit]`.
fn limit(mut section: Section<'_>) -> (Limit, Diagnostics) {
    let mut limit = Limit::default();
    if let Some(connects) = section.integer("connects", 1..=MAX_CONNECTS).value() {
        limit.connects = connects;
    }
    for (key, time) in [
        ("seconds", &mut limit.window),
        ("lockout_seconds", &mut limit.lockout),
        ("block_seconds", &mut limit.block),
    ] {
        if let Some(seconds) = section.integer(key, 1..=LONGEST_SECONDS).value() {
            *time = Duration::from_secs(seconds.into());
        }
    }
    let known = ["connects", "seconds", "lockout_seconds", "block_seconds"];
    (limit, section.finish(&known))
}

#[cfg(test)]
mod tests;
