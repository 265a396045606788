//! Proposes a configuration for the tunnels that a host has, or that the files of its network managers have.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::{Ipv4Addr, Ipv6Addr},
};

use super::{
    comment,
    declared::{Declared, DeclaredKind},
    quoted,
};
use crate::types::IfName;

/// An interface that may be a tunnel: it has no link layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub name: IfName,
    /// What it is, such as `sit` or `wireguard`.
    pub what: String,
    /// Its IPv6 addresses.
    pub addresses: Vec<Ipv6Addr>,
    /// Whether the host's packets to the internet leave by it.
    pub is_exit: bool,
}

/// The facts about a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Interfaces by which packets leave to the internet, and that are no tunnels.
    pub uplinks: Vec<IfName>,
    /// Interfaces that may be tunnels.
    pub candidates: Vec<Candidate>,
    /// Tunnels in files, each with its file.
    pub declared: Vec<(String, Declared)>,
}

/// Everything about one tunnel.
#[derive(Default)]
struct Found<'a> {
    candidate: Option<&'a Candidate>,
    declared: Option<(&'a str, &'a Declared)>,
}

/// The text of a configuration.
#[must_use]
pub fn propose(facts: &Facts) -> String {
    let mut found: BTreeMap<&IfName, Found<'_>> = BTreeMap::new();
    for candidate in &facts.candidates {
        found.entry(&candidate.name).or_default().candidate = Some(candidate);
    }
    for (file, declared) in &facts.declared {
        let entry = found.entry(&declared.name).or_default();
        entry.declared.get_or_insert((file, declared));
    }
    let usable: Vec<_> = found
        .into_iter()
        .map(|(name, found)| (name, addresses(&found), found))
        .filter(|(_, addresses, _)| !addresses.is_empty())
        .collect();
    let mut text = "# A proposal of `sixxs init` for this host. Look through it; sixxs.toml(5) describes each key.\n\
                    # As /etc/sixxs/sixxs.toml it takes effect by: systemctl start sixxs\n\n"
        .to_owned();
    push_uplinks(&mut text, &facts.uplinks);
    if usable.is_empty() {
        text += "\n# No tunnel was found: no interface without a link layer has a global IPv6 address, and no file of ifupdown,\n\
                 # systemd-networkd, NetworkManager, netplan or wg-quick has a tunnel with one. sixxs can make the tunnel\n\
                 # itself: `sixxs init he` asks Hurricane Electric, `sixxs aiccu` takes an aiccu.conf.\n";
    }
    for (name, addresses, found) in usable {
        push_tunnel(&mut text, name, &addresses, &found);
    }
    text
}

fn push_uplinks(text: &mut String, uplinks: &[IfName]) {
    // Writing into a String does not fail.
    let _infallible = match uplinks {
        [] => writeln!(
            text,
            "# No native uplink was found: no interface with a link layer leads to the IPv6 internet now."
        ),
        uplinks => {
            let names: Vec<_> = uplinks.iter().map(|name| quoted(name.as_str())).collect();
            writeln!(
                text,
                "# Native uplinks, where leaks are caught. Without this line sixxs finds them itself, as now.\n# uplinks = [{}]",
                names.join(", ")
            )
        }
    };
}

/// The global addresses of a tunnel, as the configuration has them: those of the interface, or of the file.
fn addresses(found: &Found<'_>) -> Vec<String> {
    // 2000::/3, global unicast (RFC 4291 §2.4).
    let is_global = |address: &Ipv6Addr| address.segments()[0] & 0xe000 == 0x2000;
    let of_file = || {
        let declared = found
            .declared
            .iter()
            .flat_map(|(_, declared)| &declared.addresses);
        declared.filter(|own| is_global(&own.address))
    };
    let of_interface = found
        .candidate
        .iter()
        .flat_map(|candidate| &candidate.addresses);
    let of_interface: Vec<_> = of_interface
        .filter(|address| is_global(address))
        .map(|address| {
            // The file also has the length.
            let same = of_file().find(|own| own.address == *address);
            same.map_or(address.to_string(), |own| {
                format!("{}/{}", own.address, own.bits)
            })
        })
        .collect();
    if !of_interface.is_empty() {
        return of_interface;
    }
    of_file()
        .map(|own| format!("{}/{}", own.address, own.bits))
        .collect()
}

fn push_tunnel(text: &mut String, name: &IfName, addresses: &[String], found: &Found<'_>) {
    let what = match (found.declared, found.candidate) {
        (Some((_, declared)), _) if declared.kind != DeclaredKind::Other => kind(declared.kind),
        (_, Some(candidate)) => comment(&candidate.what),
        _ => "a tunnel".to_owned(),
    };
    let made_by = match found.declared {
        Some((file, _)) => format!("made by {}", comment(file)),
        None => "made by other software".to_owned(),
    };
    let absent = match found.candidate {
        Some(_) => "",
        None => ", and not there now",
    };
    // Writing into a String does not fail.
    let _infallible = writeln!(text, "\n# {name}: {what}, {made_by}{absent}.");
    let takes_default = found
        .declared
        .is_some_and(|(_, declared)| declared.takes_default_route);
    if takes_default || found.candidate.is_some_and(|candidate| candidate.is_exit) {
        text.push_str(
            "# It takes the default route: remove that where it is made, so that the native uplink keeps it. sixxs gives the\n\
             # tunnel a default route of its own.\n",
        );
    }
    if let Some((_, declared)) = found.declared
        && let DeclaredKind::SixInFour(remote4) = declared.kind
    {
        push_alternative(text, remote4);
    }
    let quoted_addresses: Vec<_> = addresses.iter().map(|address| quoted(address)).collect();
    let address = match &quoted_addresses[..] {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    };
    let _infallible = writeln!(
        text,
        "[[tunnel]]\nname = {}\nkind = \"interface\"\naddress = {address}\n\
         # peer = \"…\"          # the far end's address in the tunnel, which `sixxs check` pings\n\
         # prefixes = [\"…\"]    # networks that are routed to this host by the tunnel",
        quoted(name.as_str())
    );
}

fn push_alternative(text: &mut String, remote4: Ipv4Addr) {
    // Writing into a String does not fail.
    let _infallible = writeln!(
        text,
        "# sixxs can make it too, and then carries it faster: remove it there, and replace the line with kind by\n\
         #   kind = \"6in4\"\n#   remote4 = \"{remote4}\""
    );
}

fn kind(kind: DeclaredKind) -> String {
    match kind {
        DeclaredKind::SixInFour(remote4) => format!("6in4 to {remote4}"),
        DeclaredKind::WireGuard => "WireGuard".to_owned(),
        DeclaredKind::Other => "a tunnel".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Kind, parse_with};

    fn candidate(name: &str, address: &str, is_exit: bool) -> Candidate {
        Candidate {
            name: name.parse().unwrap(),
            what: "tun".to_owned(),
            addresses: vec!["fe80::1".parse().unwrap(), address.parse().unwrap()],
            is_exit,
        }
    }

    fn declared(name: &str, kind: DeclaredKind) -> (String, Declared) {
        let declared = Declared {
            name: name.parse().unwrap(),
            kind,
            addresses: vec!["2001:db8:a::2/64".parse().unwrap()],
            takes_default_route: false,
        };
        ("/etc/network/interfaces".to_owned(), declared)
    }

    /// The tunnels of a proposal, which has to be a valid configuration.
    fn read(text: &str) -> Vec<crate::config::Tunnel> {
        let none = |_: &str| Err("no file".into());
        parse_with("f", text, &none).unwrap().tunnels
    }

    #[test]
    fn interfaces_and_files_are_put_together() {
        let sit = DeclaredKind::SixInFour(Ipv4Addr::new(198, 51, 100, 1));
        let facts = Facts {
            uplinks: vec!["net0".parse().unwrap()],
            candidates: vec![
                candidate("he-ipv6", "2001:db8:a::2", false),
                candidate("wg0", "2001:db8:b::2", true),
                candidate("tailscale0", "fd7a::1", false),
            ],
            declared: vec![declared("he-ipv6", sit)],
        };
        let text = propose(&facts);
        let tunnels = read(&text);
        let names: Vec<_> = tunnels.iter().map(|tunnel| tunnel.name.as_str()).collect();
        assert_eq!(names, ["he-ipv6", "wg0"], "{text}");
        assert!(
            tunnels.iter().all(|tunnel| tunnel.kind == Kind::Interface),
            "{text}"
        );
        assert_eq!(tunnels[0].addresses[0], "2001:db8:a::2/64".parse().unwrap());
        for words in [
            "# uplinks = [\"net0\"]",
            "# he-ipv6: 6in4 to 198.51.100.1, made by /etc/network/interfaces.",
            "#   remote4 = \"198.51.100.1\"",
            "# wg0: tun, made by other software.\n# It takes the default route",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
    }

    #[test]
    fn a_tunnel_that_is_only_in_a_file() {
        let facts = Facts {
            declared: vec![declared("wg0", DeclaredKind::WireGuard)],
            ..Facts::default()
        };
        let text = propose(&facts);
        assert_eq!(read(&text).len(), 1, "{text}");
        let words = "# wg0: WireGuard, made by /etc/network/interfaces, and not there now.";
        assert!(text.contains(words), "{text}");
        assert!(text.contains("# No native uplink was found"), "{text}");
    }

    #[test]
    fn a_host_without_tunnels() {
        let facts = Facts {
            candidates: vec![candidate("tailscale0", "fd7a::1", false)],
            ..Facts::default()
        };
        let text = propose(&facts);
        assert_eq!(read(&text).len(), 0, "{text}");
        assert!(text.contains("# No tunnel was found"), "{text}");
    }
}
