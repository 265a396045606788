//! `[tunnel.update]`: the broker gets this host's IPv4 address by the dyndns2 protocol.

use std::net::Ipv4Addr;

use super::{
    account::Includes,
    section::{Field, Located, Section},
    url::Url,
};
use crate::{
    diagnostics::{Diagnostics, Location},
    secret::Secret,
};

/// The settings of the updates of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointUpdate {
    /// The server.
    pub url: Url,
    /// The user name.
    pub user: String,
    /// The password.
    pub password: Secret,
    /// The name of the tunnel at the server; at Hurricane Electric its number.
    pub hostname: String,
    /// A file with the certificates (PEM) of the trusted authorities; `None`: the system's authorities.
    pub ca: Option<String>,
    /// The far end of the tunnel: the broker gets the source address of packets to it.
    pub remote: Ipv4Addr,
    /// That source address, if the configuration has it.
    pub local4: Option<Ipv4Addr>,
}

const KEYS: &[&str] = &["url", "user", "password_file", "hostname", "ca"];

const URL: &str = "expected \"https://HOST/PATH\"";

/// The maximum length of each text, in bytes.
const LONGEST: usize = 256;

/// The values of a section, before it is checked that the tunnel has updates.
pub(super) struct Values {
    location: Location,
    url: Url,
    user: String,
    password: Secret,
    hostname: String,
    ca: Option<String>,
}

/// Reads the section.
pub(super) fn read(
    Located {
        value: mut section,
        location,
    }: Located<Section<'_>>,
    includes: Includes<'_>,
) -> (Option<Values>, Diagnostics) {
    let url = section.secret("url");
    let user = section.parsed::<String>("user", "a user name");
    let file = section.parsed::<String>("password_file", "the path of a file with the password");
    let hostname = section.parsed::<String>("hostname", "the name or the number of the tunnel");
    let ca = section.parsed::<String>("ca", "the path of a certificate");
    let mut diagnostics = section.finish(KEYS);
    let url = read_url(url, &mut diagnostics);
    let user = text(user, "the user name at the broker", &mut diagnostics);
    let hostname = text(
        hostname,
        "the name of the tunnel at the broker; at Hurricane Electric its number",
        &mut diagnostics,
    );
    if let Some(user) = &user
        && user.value.contains(':')
    {
        let message = "expected a user name without a colon: HTTP separates the password by it";
        diagnostics.add(&user.location, message);
    }
    let password = read_password(file, includes, &mut diagnostics);
    let ca = ca.value().map(|ca| includes.path(&ca));
    let (Some(url), Some(user), Some(password), Some(hostname)) = (url, user, password, hostname)
    else {
        return (None, diagnostics);
    };
    let values = Values {
        location,
        url,
        user: user.value,
        password,
        hostname: hostname.value,
        ca,
    };
    (Some(values), diagnostics)
}

fn read_url(url: Field<Secret>, diagnostics: &mut Diagnostics) -> Option<Url> {
    let expected = "the server, such as \"https://ipv4.tunnelbroker.net/nic/update\"";
    let Located { value, location } = url.required(expected, diagnostics)?;
    match Url::parse(value.expose()) {
        Ok(url) if url.tls || url.is_loopback() => Some(url),
        Ok(_) => {
            let message = format!(
                "{URL}, found http, which would show the password to everybody on the way; http is for servers on this \
                 host"
            );
            diagnostics.add(&location, message);
            None
        }
        Err(wrong) => {
            diagnostics.add(&location, format!("{URL}: {wrong}"));
            None
        }
    }
}

/// A text in one line.
fn text(
    field: Field<String>,
    expected: &str,
    diagnostics: &mut Diagnostics,
) -> Option<Located<String>> {
    let text = field.required(expected, diagnostics)?;
    match fault(&text.value) {
        None => Some(text),
        Some(fault) => {
            diagnostics.add(
                &text.location,
                format!("expected {expected}, found {fault}"),
            );
            None
        }
    }
}

/// Why a text cannot be sent.
fn fault(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        Some("nothing")
    } else if text.len() > LONGEST {
        Some("a text that is too long")
    } else if text.chars().any(char::is_control) {
        Some("several lines, or a control character")
    } else {
        None
    }
}

fn read_password(
    file: Field<String>,
    includes: Includes<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<Secret> {
    let expected = "the path of a file that holds the password alone";
    let Located { value, location } = file.required(expected, diagnostics)?;
    let path = includes.path(&value);
    let bytes = match (includes.read)(&path) {
        Ok(bytes) => bytes,
        Err(reason) => {
            diagnostics.add(&location, reason.to_string());
            return None;
        }
    };
    let Ok(text) = str::from_utf8(&bytes) else {
        diagnostics.add(&location, format!("{path}: expected text in UTF-8"));
        return None;
    };
    let text = text.trim_end_matches(['\n', '\r']);
    if let Some(fault) = fault(text) {
        let message = format!("{path}: expected the password in one line, found {fault}");
        diagnostics.add(&location, message);
        return None;
    }
    Some(Secret::from(text))
}

impl Values {
    /// Where the section is.
    pub(super) const fn location(&self) -> &Location {
        &self.location
    }

    /// The settings of a tunnel with this far end.
    pub(super) fn with_path(self, remote: Ipv4Addr, local4: Option<Ipv4Addr>) -> EndpointUpdate {
        let Self {
            location: _,
            url,
            user,
            password,
            hostname,
            ca,
        } = self;
        EndpointUpdate {
            url,
            user,
            password,
            hostname,
            ca,
            remote,
            local4,
        }
    }
}
