//! `[alert]`: the hooks that receive alerts.

use super::section::{Located, Section};
use crate::{diagnostics::Diagnostics, secret::Secret};

/// The hooks that receive alerts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alerting {
    /// A program and its arguments, run for each alert; empty: no program.
    pub command: Vec<String>,
    /// A web server.
    pub webhook: Option<Webhook>,
}

/// A web server to which alerts are posted. The path of its URL often works like a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// Whether to use TLS.
    pub tls: bool,
    /// The name or address from the URL: an IPv6 address is in brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Path and query, from the first slash.
    pub target: Secret,
    /// A file with the certificates (PEM) of the trusted authorities; `None`: the system's authorities.
    pub ca: Option<String>,
}

const URL: &str = "expected \"https://HOST/PATH\" or \"http://HOST/PATH\"";

/// The maximum length of a URL, in bytes.
const LONGEST: usize = 2048;

/// Reads `[alert]`.
pub(super) fn read(mut section: Section<'_>) -> (Alerting, Diagnostics) {
    let command = section.strings("command", "a list of strings: a program and its arguments");
    let url = section.secret("webhook");
    let ca = section.parsed::<String>("webhook_ca", "the path of a certificate");
    let ca_location = section.head().location("webhook_ca");
    let mut diagnostics = section.finish(&["command", "webhook", "webhook_ca"]);
    if let Some(Located { value, location }) = command.as_set()
        && value.first().is_none_or(String::is_empty)
    {
        diagnostics.add(location, "expected a program first");
    }
    if ca.as_set().is_some() && url.as_set().is_none() {
        diagnostics.add(&ca_location, "expected only together with webhook");
    }
    let webhook = url
        .as_set()
        .and_then(|url| match webhook(url.value.expose()) {
            Ok(webhook) => Some(webhook),
            Err(wrong) => {
                diagnostics.add(&url.location, format!("{URL}: {wrong}"));
                None
            }
        });
    let alerting = Alerting {
        command: command.value().unwrap_or_default(),
        webhook: webhook.map(|webhook| Webhook {
            ca: ca.value(),
            ..webhook
        }),
    };
    (alerting, diagnostics)
}

/// Reads a URL (RFC 3986 §3). The errors contain no part of it.
fn webhook(url: &str) -> Result<Webhook, &'static str> {
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
    let behind = behind.split_once('#').map_or(behind, |(behind, _)| behind);
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
    let port = match port {
        Some(port) => match port.parse() {
            Ok(0) | Err(_) => return Err("its port is not valid"),
            Ok(port) => port,
        },
        None if tls => 443,
        None => 80,
    };
    let target = if behind.starts_with('/') {
        behind.to_owned()
    } else {
        format!("/{behind}")
    };
    Ok(Webhook {
        tls,
        host: host.to_owned(),
        port,
        target: Secret::from(target),
        ca: None,
    })
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
            let read = webhook(url).unwrap();
            assert_eq!((read.tls, read.host.as_str(), read.port), (tls, host, port), "{url}");
            assert_eq!(read.target.expose(), target, "{url}");
        }
        for (url, wrong) in [
            ("", "begins"), ("ftp://a/", "begins"), ("https://", "no host"), ("https:///x", "no host"),
            ("https://a b/", "space"), ("https://a/\r\nX: y", "space"), ("https://é/", "space"),
            ("https://u:p@a/", "user"), ("https://a:0/", "port"), ("https://a:99999/", "port"),
            ("https://[::1/", "no host"), ("https://[::1]x/", "no host"), ("https://a:b:1/", "no host"),
        ] {
            assert!(webhook(url).unwrap_err().contains(wrong), "{url}");
        }
        assert!(webhook(&format!("https://a/{}", "x".repeat(LONGEST))).is_err());
    }
}
