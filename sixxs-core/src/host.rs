//! Checks the host name of web requests.
//!
//! A foreign web page can direct a browser on this host, or in its network, to an address that is served
//! here, by a name of its own (DNS rebinding). The browser then treats the answer as part of the foreign
//! site. Such a request has the foreign name in its `Host` field (RFC 9110 §7.2). An address instead of a
//! name is safe.

use std::{fmt, net::IpAddr, str::FromStr};

/// A host name, in lower case, without the final dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostName(String);

/// The text is not a host name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a host, without a port")]
pub struct NoHostName;

impl FromStr for HostName {
    type Err = NoHostName;

    fn from_str(text: &str) -> Result<Self, NoHostName> {
        let name = text.strip_suffix('.').unwrap_or(text);
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        // RFC 1035 §2.3.4.
        let is_label = |label: &str| (1..=63).contains(&label.len()) && label.chars().all(is_part);
        match name.len() <= 253 && name.split('.').all(is_label) {
            true => Ok(Self(name.to_ascii_lowercase())),
            false => Err(NoHostName),
        }
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether the requested host is served here: `authority` is a host with or without a port, as in the `Host`
/// field or in a URI.
#[must_use]
pub fn is_served<'a>(authority: &str, names: impl IntoIterator<Item = &'a HostName>) -> bool {
    let host = without_port(authority);
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    if bare.unwrap_or(host).parse::<IpAddr>().is_ok() {
        return true;
    }
    let Ok(asked) = host.parse::<HostName>() else {
        return false;
    };
    asked.0 == "localhost" || names.into_iter().any(|name| *name == asked)
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            // One colon precedes a port; several colons without brackets belong to an address.
            if host.ends_with(']') || !host.contains(':') {
                host
            } else {
                authority
            }
        }
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_names_are_not_served() {
        let names = ["web1.example.net", "Web2."].map(|name| name.parse::<HostName>().unwrap());
        for (authority, expected) in [
            ("127.0.0.1:9346", true),
            ("127.0.0.1", true),
            ("[::1]:9346", true),
            ("[2001:db8::1]", true),
            ("2001:db8::1", true),
            ("localhost:9346", true),
            ("LocalHost.", true),
            ("web1.example.net:9346", true),
            ("WEB1.example.net.", true),
            ("web2", true),
            ("web3", false),
            ("evil.example", false),
            ("localhost.evil.example", false),
            ("web1.example.net.evil.example:9346", false),
            ("127.0.0.1.evil.example:80", false),
            ("user@127.0.0.1:80", false),
            ("[::1]evil:80", false),
            ("", false),
            (":9346", false),
        ] {
            assert_eq!(is_served(authority, &names), expected, "{authority:?}");
        }
    }

    #[test]
    fn names_are_names() {
        for name in [
            "",
            ".",
            "a..b",
            "web1:9346",
            "http://web1",
            "ünï",
            "*",
            &"a".repeat(64),
        ] {
            assert_eq!(name.parse::<HostName>(), Err(NoHostName), "{name:?}");
        }
    }

    #[test]
    fn names_are_printed_in_one_form() {
        let longest = ["a"; 4].map(|letter| letter.repeat(62)).join(".") + ".b";
        assert_eq!(longest.len(), 253);
        for (name, expected) in [
            ("Web1.Example.NET.", "web1.example.net"),
            ("a_b-c", "a_b-c"),
            (&"a".repeat(63), &"a".repeat(63)),
            (&longest, &longest),
        ] {
            let parsed = name.parse::<HostName>();
            assert_eq!(parsed.unwrap().to_string(), expected);
        }
        assert!(format!("{longest}b").parse::<HostName>().is_err());
    }
}
