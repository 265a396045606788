//! Owns snapshots of a host's routing: all rules, routes and addresses, foreign ones too. They leave out
//! interface indices and everything that the kernel generates for a new interface.

use std::collections::BTreeSet;

use anyhow::Result;

use super::renumbering::NETWORK;
use crate::lab::netns::Namespace;

/// Rules, routes and addresses, one per line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostSnapshot(BTreeSet<String>);

impl HostSnapshot {
    /// Takes one.
    pub fn take(host: &Namespace) -> Result<Self> {
        let mut lines = BTreeSet::new();
        for command in [
            // By number: the host does not control the names.
            "ip -N -6 -details rule show",
            "ip -N -6 -details route show table all",
            "ip -N -4 route show",
        ] {
            let shown = host.sh(command)?;
            lines.extend(shown.lines().filter(|line| is_stable(line)).map(plain));
        }
        let addresses = host.sh("ip -6 -oneline address show")?;
        let addresses = addresses.lines().filter(|line| is_stable(line));
        lines.extend(addresses.filter_map(address));
        Ok(Self(lines))
    }

    /// Lines that `now` lacks (`-`) or adds (`+`).
    pub fn differences(&self, now: &Self) -> Vec<String> {
        let missing = self.0.difference(&now.0).map(|line| format!("- {line}"));
        let besides = now.0.difference(&self.0).map(|line| format!("+ {line}"));
        missing.chain(besides).collect()
    }
}

/// Link-local addresses and their routes contain random numbers or MAC addresses, and multicast routes come
/// with them. Other addresses are replaced on purpose.
fn is_stable(line: &str) -> bool {
    let changing = ["fe80:", "ff00::/8", NETWORK];
    !changing.iter().any(|part| line.contains(part))
}

fn plain(line: &str) -> String {
    // A link has `linkdown` for a moment while it comes up.
    line.replace(" linkdown", "").trim_end().to_owned()
}

/// `7: sixxs0    inet6 2001:db8:a::2/64 scope global nodad ...` without its index and flags.
fn address(line: &str) -> Option<String> {
    let mut words = line.split_whitespace().skip(1);
    let interface = words.next()?;
    let address = words.nth(1)?;
    Some(format!("{address} dev {interface}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_no_difference() {
        let line = "7: sixxs0    inet6 2001:db8:a::2/64 scope global nodad \\  valid_lft forever";
        let other = line.replacen('7', "12", 1);
        assert_eq!(address(line).unwrap(), "2001:db8:a::2/64 dev sixxs0");
        assert_eq!(address(line), address(&other));
    }

    #[test]
    fn missing_and_new_lines_are_reported() {
        let snapshot =
            |lines: &[&str]| HostSnapshot(lines.iter().map(|line| line.to_string()).collect());
        let differences = snapshot(&["a", "b"]).differences(&snapshot(&["b", "c"]));
        assert_eq!(differences, ["- a", "+ c"]);
    }
}
