//! Owns the rules and routes with the mark of the program under test: their list, and commands that delete
//! them.

use anyhow::{Context as _, Result};

use crate::lab::netns::Namespace;

/// The routing protocol number that marks the program's rules and routes.
pub const PROTOCOL: u32 = 116;

/// The rules with the mark, one per line.
pub fn rules(host: &Namespace) -> Result<String> {
    Ok(marked(&host.sh("ip -6 -details rule show")?))
}

/// The routes with the mark in all tables, one per line.
pub fn routes(host: &Namespace) -> Result<String> {
    Ok(marked(&host.sh("ip -6 -details route show table all")?))
}

/// The command that deletes a rule of [`rules`].
pub fn delete_rule(line: &str) -> Result<String> {
    let (priority, selector) = line.split_once(':').context("a rule has a priority")?;
    let words: Vec<&str> = selector.split_whitespace().collect();
    let lookup = words.iter().position(|word| *word == "lookup");
    let end = lookup.context("a rule has a table")? + 2;
    let selector = words.get(..end).context("a table follows")?.join(" ");
    Ok(format!(
        "ip -6 rule del priority {priority} {selector} protocol {PROTOCOL}"
    ))
}

/// The command that deletes a route of [`routes`].
pub fn delete_route(line: &str) -> Result<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [kind, destination, ..] = words[..] else {
        anyhow::bail!("a route has a kind and a destination: {line}");
    };
    let mut command = format!("ip -6 route del {kind} {destination}");
    for name in ["dev", "table", "metric"] {
        let value = words.iter().position(|word| *word == name);
        if let Some(value) = value.and_then(|at| words.get(at + 1)) {
            command += &format!(" {name} {value}");
        }
    }
    Ok(command)
}

fn marked(lines: &str) -> String {
    let mark = format!("proto {PROTOCOL}");
    let lines = lines.lines().filter(|line| {
        let (_, after) = line.split_once(&mark).unwrap_or_default();
        line.contains(&mark) && !after.starts_with(|c: char| c.is_ascii_digit())
    });
    // Each with a newline, for easy comparison.
    lines.map(|line| format!("{}\n", line.trim_end())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_listed_can_be_deleted() {
        let rule = "16383:\tfrom 2001:db8:a::2 lookup 200 proto 116";
        assert_eq!(
            delete_rule(rule).unwrap(),
            "ip -6 rule del priority 16383 from 2001:db8:a::2 lookup 200 protocol 116"
        );
        let route = "unreachable default dev lo table 200 proto 116 scope global metric 4278198272 \
                     error -101 pref medium";
        assert_eq!(
            delete_route(route).unwrap(),
            "ip -6 route del unreachable default dev lo table 200 metric 4278198272"
        );
    }

    #[test]
    fn the_mark_is_a_whole_number() {
        let lines = "a proto 116 b\nc proto 1160\nd proto 116\n";
        assert_eq!(marked(lines), "a proto 116 b\nd proto 116\n");
    }
}
