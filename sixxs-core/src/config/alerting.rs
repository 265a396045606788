//! `[alert]`: the hooks that receive alerts.

use super::{
    section::{Located, Section},
    url::Url,
};
use crate::diagnostics::Diagnostics;

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
    /// Where alerts are posted.
    pub url: Url,
    /// A file with the certificates (PEM) of the trusted authorities; `None`: the system's authorities.
    pub ca: Option<String>,
}

const URL: &str = "expected \"https://HOST/PATH\" or \"http://HOST/PATH\"";

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
    let url = url
        .as_set()
        .and_then(|url| match Url::parse(url.value.expose()) {
            Ok(read) => Some(read),
            Err(wrong) => {
                diagnostics.add(&url.location, format!("{URL}: {wrong}"));
                None
            }
        });
    let alerting = Alerting {
        command: command.value().unwrap_or_default(),
        webhook: url.map(|url| Webhook {
            url,
            ca: ca.value(),
        }),
    };
    (alerting, diagnostics)
}
