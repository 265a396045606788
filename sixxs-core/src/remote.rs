//! Hosts that files name by address or by name.

use std::{fmt, net::IpAddr, str::FromStr};

/// A host by address or by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remote {
    /// Its address.
    Address(IpAddr),
    /// Its name, which is resolved when it is needed.
    Name(String),
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// The text is neither an address nor a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither an IP address nor a host name")]
pub struct BadRemote;

impl FromStr for Remote {
    type Err = BadRemote;

    fn from_str(text: &str) -> Result<Self, BadRemote> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        };
        let name = text.strip_suffix('.').unwrap_or(text);
        // A name of only digits and dots is an invalid IPv4 address.
        let has_letter = name.bytes().any(|byte| byte.is_ascii_alphabetic());
        if name.len() <= 253 && has_letter && name.split('.').all(is_label) {
            Ok(Self::Name(text.to_owned()))
        } else {
            Err(BadRemote)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remotes() {
        for good in ["pop.example.net", "pop-1.example.net.", "a", "3com.example"] {
            assert_eq!(good.parse(), Ok(Remote::Name(good.to_owned())), "{good}");
        }
        for good in ["192.0.2.1", "2001:db8::1"] {
            assert_eq!(good.parse(), Ok(Remote::Address(good.parse().unwrap())));
        }
        for bad in [
            "",
            "192.0.2",
            "192.0.2.256",
            "a b",
            "a..b",
            ".",
            "-",
            "a:1",
            "ö",
        ] {
            assert_eq!(bad.parse::<Remote>(), Err(BadRemote), "{bad}");
        }
    }
}
