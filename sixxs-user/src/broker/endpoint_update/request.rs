//! The request of the dyndns2 protocol.

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    time::Duration,
};

use anyhow::{Context as _, bail};
use sixxs_core::{
    broker::endpoint_update::{Failure, Outcome, Subject},
    config::{EndpointUpdate, Url},
    secret::Secret,
};
use tokio::{net::lookup_host, time::timeout};

use crate::web::{self, Message, Route, basic_authorization};

/// Time limit for a name server to answer.
const LOOKUP_LIMIT: Duration = Duration::from_secs(10);

/// Time limit to connect, with TLS.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Time limit of the answer. Hurricane Electric pings the address first.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// An answer has a word and an address, and an error of Hurricane Electric some sentences.
const MAX_ANSWER_BYTES: usize = 4096;

/// The server's IPv4 address: by IPv6 it would not see this host's IPv4 address, and the way there may lead through
/// the tunnel itself.
pub(super) async fn server_address(url: &Url) -> anyhow::Result<SocketAddrV4> {
    let host = url.bare_host();
    let looked_up = timeout(LOOKUP_LIMIT, lookup_host((host, url.port))).await;
    let Ok(looked_up) = looked_up else {
        bail!("look up {host}: no answer for {} s", LOOKUP_LIMIT.as_secs());
    };
    let mut addresses = looked_up.with_context(|| format!("look up {host}"))?;
    let address = addresses.find_map(|address| match address {
        SocketAddr::V4(address) => Some(address),
        SocketAddr::V6(_) => None,
    });
    address.with_context(|| format!("{host} has no IPv4 address"))
}

/// Sends a request. Returns the outcome, with more about a failure in words; no part of the answer is among them, since
/// a server may repeat what it was sent.
pub(super) async fn send(
    settings: &EndpointUpdate,
    subject: Subject,
    source: Ipv4Addr,
    server: SocketAddrV4,
) -> (Outcome, Option<String>) {
    let failed =
        |failure, error: anyhow::Error| (Outcome::Failed(failure), Some(format!("{error:#}")));
    let message = match basic_authorization(&settings.user, &settings.password) {
        Ok(authorization) => Message::Get(authorization),
        Err(error) => return failed(Failure::Unreachable, error),
    };
    let url = &settings.url;
    let opened = web::open(url, settings.ca.as_deref(), Route::From { source, server });
    let opened = match timeout(CONNECT_LIMIT, opened).await {
        Ok(opened) => opened,
        Err(_) => Err(too_slow("connect to", url, CONNECT_LIMIT)),
    };
    let stream = match opened {
        Ok(stream) => stream,
        Err(error) => return failed(Failure::Unreachable, error),
    };
    let target = target(settings, subject);
    let answered = web::exchange(stream, url, &target, message, MAX_ANSWER_BYTES);
    match timeout(ANSWER_LIMIT, answered).await {
        Ok(Ok(answer)) => {
            let outcome = Outcome::read(answer.status, &answer.body, answer.is_too_long);
            (outcome, None)
        }
        Ok(Err(error)) => failed(Failure::NoAnswer, error),
        Err(_) => failed(Failure::NoAnswer, too_slow("wait for", url, ANSWER_LIMIT)),
    }
}

fn too_slow(verb: &str, url: &Url, limit: Duration) -> anyhow::Error {
    anyhow::anyhow!(
        "{verb} {}: no answer within {} s",
        url.host,
        limit.as_secs()
    )
}

/// Path and query: the URL's, with the tunnel and the address.
fn target(settings: &EndpointUpdate, subject: Subject) -> Secret {
    let mut target = settings.url.target.expose().to_owned();
    target.push(if target.contains('?') { '&' } else { '?' });
    target.push_str("hostname=");
    push_escaped(&mut target, &settings.hostname);
    if let Some(address) = subject.address() {
        // Writing into a String does not fail.
        let _infallible = write!(target, "&myip={address}");
    }
    Secret::from(target)
}

/// Percent-encoding of all but the unreserved characters (RFC 3986 §2.3).
fn push_escaped(target: &mut String, text: &str) {
    for byte in text.bytes() {
        // Writing into a String does not fail.
        let _infallible = match byte {
            b'-' | b'.' | b'_' | b'~' => write!(target, "{}", char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => write!(target, "{}", char::from(byte)),
            byte => write!(target, "%{byte:02X}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(url: &str, hostname: &str) -> EndpointUpdate {
        EndpointUpdate {
            url: Url::parse(url).unwrap(),
            user: "me".to_owned(),
            password: Secret::from("geheim"),
            hostname: hostname.to_owned(),
            ca: None,
            remote: Ipv4Addr::new(198, 51, 100, 1),
            local4: None,
        }
    }

    const PUBLIC: Subject = Subject::Public(Ipv4Addr::new(192, 0, 2, 1));

    /// A server that accepts connections and never answers; and one that does not exist.
    #[tokio::test(start_paused = true)]
    async fn a_server_that_hangs_is_given_up() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let SocketAddr::V4(server) = listener.local_addr().unwrap() else {
            panic!("IPv4");
        };
        let source = Ipv4Addr::LOCALHOST;
        for (scheme, failure, words) in [
            (
                "http",
                Failure::NoAnswer,
                "wait for 127.0.0.1: no answer within 30 s",
            ),
            (
                "https",
                Failure::Unreachable,
                "connect to 127.0.0.1: no answer within 10 s",
            ),
        ] {
            let settings = settings(&format!("{scheme}://127.0.0.1/nic/update"), "1");
            let (outcome, detail) = send(&settings, PUBLIC, source, server).await;
            assert_eq!(outcome, Outcome::Failed(failure));
            assert_eq!(detail.as_deref(), Some(words));
        }
        drop(listener);
        let settings = settings("http://127.0.0.1/nic/update", "1");
        let (outcome, detail) = send(&settings, PUBLIC, source, server).await;
        assert_eq!(outcome, Outcome::Failed(Failure::Unreachable));
        assert!(detail.unwrap().contains("refused"));
    }

    #[tokio::test]
    async fn a_server_needs_an_ipv4_address() {
        let url = |host: &str| Url::parse(&format!("https://{host}:8443/")).unwrap();
        let found = server_address(&url("127.0.0.1")).await.unwrap();
        assert_eq!(found, "127.0.0.1:8443".parse().unwrap());
        let error = server_address(&url("[::1]")).await.unwrap_err();
        assert_eq!(error.to_string(), "::1 has no IPv4 address");
    }

    #[test]
    fn the_query_has_the_tunnel_and_a_public_address() {
        let private = Subject::of(Ipv4Addr::new(10, 0, 0, 1), None);
        for (url, hostname, subject, expected) in [
            (
                "https://a/nic/update",
                "123",
                PUBLIC,
                "/nic/update?hostname=123&myip=192.0.2.1",
            ),
            (
                "https://a/nic/update",
                "123",
                private,
                "/nic/update?hostname=123",
            ),
            (
                "https://a/u?x=1",
                "a b&c/é",
                private,
                "/u?x=1&hostname=a%20b%26c%2F%C3%A9",
            ),
        ] {
            let made = target(&settings(url, hostname), subject);
            assert_eq!(made.expose(), expected);
        }
    }
}
