//! The file in `rt_tables.d` with the names of the routing tables of sixxs.

use std::fmt::Write as _;

use crate::{
    config::{Config, RuleMode, SUBTREES_TABLE},
    routing::DIRECTS_TABLE,
    types::TableId,
};

/// Name of the file in `/etc/iproute2/rt_tables.d`.
pub const FILE: &str = "sixxs.conf";

const HEADER: &str = "# Written by sixxs, removed by `sixxs down`. Do not edit.\n";

/// Written to the file if this program also made its directory, which is then removed with the
/// file.
const DIRECTORY_TOO: &str = "# The directory was made by sixxs too.\n";

/// The text of the file: a line `NUMBER NAME` per tunnel and group.
#[must_use]
pub fn text(config: &Config, made_directory: bool) -> String {
    let mut text = HEADER.to_owned();
    if made_directory {
        text.push_str(DIRECTORY_TOO);
    }
    let mut name = |table: TableId, name: &str| {
        // Writing into a String does not fail.
        let _infallible = writeln!(text, "{table} {name}");
    };
    match config.rule_mode {
        RuleMode::Rules => {
            for tunnel in &config.tunnels {
                name(tunnel.table, tunnel.name.as_str());
            }
            for group in &config.groups {
                name(group.table, group.name.as_str());
            }
        }
        RuleMode::Subtrees => {
            name(SUBTREES_TABLE, "sixxs");
            name(DIRECTS_TABLE, "sixxs-direct");
        }
    }
    text
}

/// Whether this program wrote the file.
#[must_use]
pub fn is_ours(text: &str) -> bool {
    text.starts_with(HEADER)
}

/// Whether this program also made the directory, which is then removed with the file.
#[must_use]
pub fn made_directory(text: &str) -> bool {
    is_ours(text) && text[HEADER.len()..].starts_with(DIRECTORY_TOO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_file_is_recognised() {
        let config = crate::config::parse(
            "test",
            "[[tunnel]]\nname = \"sixxs0\"\nkind = \"interface\"\naddress = \"2001:db8::1\"\n",
        )
        .unwrap();
        for made in [false, true] {
            let text = text(&config, made);
            assert!(is_ours(&text));
            assert_eq!(made_directory(&text), made);
            assert!(text.ends_with("\n200 sixxs0\n"));
        }
        assert!(!is_ours("200 sixxs0\n"));
    }

    #[test]
    fn with_subtrees_the_shared_tables_have_names() {
        let config = Config {
            rule_mode: RuleMode::Subtrees,
            ..Config::default()
        };
        let text = text(&config, false);
        assert!(text.ends_with("\n200 sixxs\n201 sixxs-direct\n"), "{text}");
        assert!(is_ours(&text) && !made_directory(&text));
    }
}
