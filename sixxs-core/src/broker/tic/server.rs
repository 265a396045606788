//! The address of a TIC server.

use std::{fmt, net::Ipv6Addr, str::FromStr};

/// The TCP port of TIC servers.
pub const PORT: u16 = 3874;

/// A TIC server: `HOST`, `HOST:PORT` or `[ADDRESS]:PORT`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Server {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// The text is not a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a host name or address; a port may follow, as in tic.example:3874")]
pub struct BadServer;

impl FromStr for Server {
    type Err = BadServer;

    fn from_str(text: &str) -> Result<Self, BadServer> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or(BadServer)?;
                host.parse::<Ipv6Addr>().map_err(|_| BadServer)?;
                match port {
                    "" => (host, None),
                    port => (host, Some(port.strip_prefix(':').ok_or(BadServer)?)),
                }
            }
            // More than one colon: an address without a port.
            None => match text.split_once(':') {
                Some((_, port)) if port.contains(':') => {
                    text.parse::<Ipv6Addr>().map_err(|_| BadServer)?;
                    (text, None)
                }
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let fits = (1..=253).contains(&host.len());
        let clean = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':');
        if !fits || !host.bytes().all(clean) {
            return Err(BadServer);
        }
        let digits = |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        let port = match port {
            None => PORT,
            Some(port) if digits(port) => port.parse().map_err(|_| BadServer)?,
            Some(_) => return Err(BadServer),
        };
        if port == 0 {
            return Err(BadServer);
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.host.contains(':'), self.port) {
            (false, PORT) => f.write_str(&self.host),
            (false, port) => write!(f, "{}:{port}", self.host),
            (true, PORT) => write!(f, "[{}]", self.host),
            (true, port) => write!(f, "[{}]:{port}", self.host),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_by_name_address_and_port() {
        for (text, host, port) in [
            ("tic.sixxs.net", "tic.sixxs.net", 3874),
            ("tic.example:4000", "tic.example", 4000),
            ("192.0.2.1", "192.0.2.1", 3874),
            ("192.0.2.1:1", "192.0.2.1", 1),
            ("2001:db8::1", "2001:db8::1", 3874),
            ("[2001:db8::1]", "2001:db8::1", 3874),
            ("[2001:db8::1]:65535", "2001:db8::1", 65535),
        ] {
            let server: Server = text.parse().unwrap();
            assert_eq!((server.host.as_str(), server.port), (host, port));
            let printed: Server = server.to_string().parse().unwrap();
            assert_eq!(printed, server);
        }
        for text in [
            "",
            ":3874",
            "a b",
            "a:",
            "a:x",
            "a:+1",
            "a:0",
            "a:65536",
            "[a]",
            "[::1",
            "::1:x",
            "[::1]1",
            "a\n",
            "[192.0.2.1]:1",
        ] {
            assert!(text.parse::<Server>().is_err(), "{text:?}");
        }
    }
}
