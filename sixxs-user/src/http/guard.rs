//! Decides which requests are answered: those that read, and that no foreign web page has caused. Pure.
//!
//! A foreign page can make a browser send requests here, and read the answers under a name of its own (DNS rebinding,
//! [`sixxs_core::host`]). Browsers state where a request comes from: the page's origin (RFC 6454 §7), and its relation to
//! the destination (`Sec-Fetch-Site`, W3C Fetch Metadata). Other clients, such as Prometheus, send neither.

use hyper::{
    HeaderMap, Method, Uri,
    header::{HOST, HeaderName, ORIGIN},
};
use sixxs_core::host::{HostName, is_served};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Why a request is refused. The text is for the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error(
        "this is not a name of this host; request its address, or add the name to metrics_hosts"
    )]
    ForeignName,
    #[error("a web page of another site has made this request; open the address itself")]
    ForeignPage,
    #[error("GET only")]
    Method,
}

/// Checks a request. `names`: those of this host.
pub(super) fn check(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    names: &[HostName],
) -> Result<(), Refusal> {
    if !is_for_us(uri, headers, names) {
        return Err(Refusal::ForeignName);
    }
    if !is_from_us(headers) {
        return Err(Refusal::ForeignPage);
    }
    match *method {
        Method::GET | Method::HEAD => Ok(()),
        _ => Err(Refusal::Method),
    }
}

/// Whether the request is for this host. A request without a host name is accepted: browsers always send one.
fn is_for_us(uri: &Uri, headers: &HeaderMap, names: &[HostName]) -> bool {
    let in_uri = uri.authority().map(|authority| authority.as_str());
    in_uri
        .into_iter()
        .chain(values(headers, &HOST))
        .all(|host| is_served(host, names))
}

/// Whether the user has made the request, or the page itself. A proxy for TLS may be in between.
fn is_from_us(headers: &HeaderMap) -> bool {
    let host = values(headers, &HOST).next();
    let is_own = |origin: &str| {
        let authority = ["http://", "https://"]
            .iter()
            .find_map(|scheme| origin.strip_prefix(scheme));
        authority.is_some_and(|own| host.is_some_and(|host| own.eq_ignore_ascii_case(host)))
    };
    values(headers, &ORIGIN).all(is_own)
        && values(headers, &SEC_FETCH_SITE).all(|site| matches!(site, "same-origin" | "none"))
}

/// The values of a field. One that is not text is empty, and matches nothing.
fn values<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter();
    values.map(|value| value.to_str().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn checked(method: &str, headers: &[(&str, &str)]) -> Result<(), Refusal> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: HeaderName = name.parse().unwrap();
            map.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let method = method.parse().unwrap();
        let names = ["web1.example.net".parse().unwrap()];
        check(&method, &Uri::from_static("/"), &map, &names)
    }

    #[test]
    fn only_own_names_are_served() {
        for (host, expected) in [
            ("127.0.0.1:9347", Ok(())),
            ("[::1]:9347", Ok(())),
            ("web1.example.net:9347", Ok(())),
            ("rebound.example:9347", Err(Refusal::ForeignName)),
            ("käse", Err(Refusal::ForeignName)),
            ("", Err(Refusal::ForeignName)),
        ] {
            assert_eq!(checked("GET", &[("host", host)]), expected, "{host}");
        }
        assert_eq!(checked("GET", &[]), Ok(()));
        let twice = [("host", "127.0.0.1"), ("host", "rebound.example")];
        assert_eq!(checked("GET", &twice), Err(Refusal::ForeignName));
        let uri = Uri::from_static("http://rebound.example/");
        let refused = check(&Method::GET, &uri, &HeaderMap::new(), &[]);
        assert_eq!(refused, Err(Refusal::ForeignName));
    }

    #[test]
    fn foreign_pages_are_refused() {
        let host = ("host", "127.0.0.1:9347");
        for (field, value, expected) in [
            ("origin", "http://127.0.0.1:9347", Ok(())),
            ("origin", "https://127.0.0.1:9347", Ok(())),
            ("origin", "http://127.0.0.1:80", Err(Refusal::ForeignPage)),
            ("origin", "http://evil.example", Err(Refusal::ForeignPage)),
            ("origin", "null", Err(Refusal::ForeignPage)),
            ("origin", "", Err(Refusal::ForeignPage)),
            ("sec-fetch-site", "same-origin", Ok(())),
            ("sec-fetch-site", "none", Ok(())),
            ("sec-fetch-site", "same-site", Err(Refusal::ForeignPage)),
            ("sec-fetch-site", "cross-site", Err(Refusal::ForeignPage)),
        ] {
            let found = checked("GET", &[host, (field, value)]);
            assert_eq!(found, expected, "{field}: {value}");
        }
        let no_host = [("origin", "http://127.0.0.1:9347")];
        assert_eq!(checked("GET", &no_host), Err(Refusal::ForeignPage));
    }

    #[test]
    fn only_reading_is_allowed() {
        for (method, expected) in [
            ("GET", Ok(())),
            ("HEAD", Ok(())),
            ("POST", Err(Refusal::Method)),
            ("OPTIONS", Err(Refusal::Method)),
            ("BREW", Err(Refusal::Method)),
        ] {
            assert_eq!(checked(method, &[]), expected, "{method}");
        }
    }
}
