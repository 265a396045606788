//! Web addresses in the configuration.

use std::net::IpAddr;

use crate::secret::Secret;

/// A URL with the scheme `http` or `https`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// Whether to use TLS.
    pub tls: bool,
    /// The name or address of the server: an IPv6 address is in brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Path and query, from the first slash. They often work like a password.
    pub target: Secret,
}

/// The maximum length of a URL, in bytes.
const LONGEST: usize = 2048;

impl Url {
    /// Reads a URL (RFC 3986 §3). The errors contain no part of it.
    pub fn parse(url: &str) -> Result<Self, &'static str> {
        if url.len() > LONGEST {
            return Err("it is too long");
        }
        if !url.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("it contains a space, or another character that has to be escaped by %");
        }
        let (tls, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return Err("it begins otherwise"),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, behind) = rest.split_at(end);
        if authority.contains('@') {
            return Err("it contains a user name, which is not supported");
        }
        let (host, port) = host_and_port(authority)?;
        let behind = behind.split_once('#').map_or(behind, |(behind, _)| behind);
        let target = if behind.starts_with('/') {
            behind.to_owned()
        } else {
            format!("/{behind}")
        };
        Ok(Self {
            tls,
            host: host.to_owned(),
            port: port.unwrap_or(usual_port(tls)),
            target: Secret::from(target),
        })
    }

    /// The host without brackets.
    #[must_use]
    pub fn bare_host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// The host, with the port if it is not the usual one: the header `Host`.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.port == usual_port(self.tls) {
            return self.host.clone();
        }
        format!("{}:{}", self.host, self.port)
    }

    /// Whether requests stay on this host.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self.bare_host().parse::<IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => self.host == "localhost",
        }
    }
}

const fn usual_port(tls: bool) -> u16 {
    if tls { 443 } else { 80 }
}

fn host_and_port(authority: &str) -> Result<(&str, Option<u16>), &'static str> {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let is_address = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .is_some_and(|host| host.parse::<std::net::Ipv6Addr>().is_ok());
    let of_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let is_name = !host.is_empty() && host.bytes().all(of_name);
    if !(is_address || is_name) {
        return Err("it contains no host name or address");
    }
    match port.map(str::parse) {
        None => Ok((host, None)),
        Some(Ok(0) | Err(_)) => Err("its port is not valid"),
        Some(Ok(port)) => Ok((host, Some(port))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[rustfmt::skip] // one case per line
    fn urls() {
        for (url, tls, host, port, target) in [
            ("https://example.net/a/b?c=d", true, "example.net", 443, "/a/b?c=d"),
            ("http://127.0.0.1:8080", false, "127.0.0.1", 8080, "/"),
            ("https://[2001:db8::1]:8443/x#y", true, "[2001:db8::1]", 8443, "/x"),
            ("https://[2001:db8::1]/", true, "[2001:db8::1]", 443, "/"),
            ("http://alerts?to=me", false, "alerts", 80, "/?to=me"),
        ] {
            let read = Url::parse(url).unwrap();
            assert_eq!((read.tls, read.host.as_str(), read.port), (tls, host, port), "{url}");
            assert_eq!(read.target.expose(), target, "{url}");
        }
        for (url, wrong) in [
            ("", "begins"), ("ftp://a/", "begins"), ("https://", "no host"), ("https:///x", "no host"),
            ("https://a b/", "space"), ("https://a/\r\nX: y", "space"), ("https://é/", "space"),
            ("https://u:p@a/", "user"), ("https://a:0/", "port"), ("https://a:99999/", "port"),
            ("https://[::1/", "no host"), ("https://[::1]x/", "no host"), ("https://a:b:1/", "no host"),
        ] {
            assert!(Url::parse(url).unwrap_err().contains(wrong), "{url}");
        }
        assert!(Url::parse(&format!("https://a/{}", "x".repeat(LONGEST))).is_err());
    }

    #[test]
    fn only_addresses_of_this_host_are_loopback() {
        for (host, is_loopback) in [
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("[::1]", true),
            ("localhost", true),
            ("[::2]", false),
            ("localhost.example.net", false),
            ("198.51.100.1", false),
        ] {
            let read = Url::parse(&format!("http://{host}/")).unwrap();
            assert_eq!(read.is_loopback(), is_loopback, "{host}");
        }
        let read = Url::parse("https://[2001:db8::1]:8443/x").unwrap();
        assert_eq!(
            (read.bare_host(), read.authority().as_str()),
            ("2001:db8::1", "[2001:db8::1]:8443")
        );
        assert_eq!(Url::parse("http://a:80/").unwrap().authority(), "a");
    }
}
