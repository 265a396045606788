//! `aiccu.conf`, the configuration file of the AICCU client.
//!
//! Each line is `key value`, separated by one space. Further spaces belong to the value; a tab is not a
//! separator. A value may be in quotes. Lines that begin with `#`, `;` or `//` are comments. [`Aiccu::notes`]
//! names the keys of AICCU that have no effect here, and unknown keys, for which AICCU only printed a
//! warning.
//!
//! The file contains a password. No message shows a value of a key that could be the password.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::Ipv4Addr,
    str::FromStr,
};

use crate::{
    broker::tic::Server,
    diagnostics::{Diagnostics, Invalid, Location, Note},
    secret::Secret,
    types::IfName,
};

/// The contents of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aiccu {
    /// The user name at the broker.
    pub username: String,
    /// The user's password at the broker.
    pub password: Secret,
    /// The TIC server.
    pub server: Server,
    /// The tunnel's interface (`ipv6_interface`).
    pub interface: IfName,
    /// The tunnel's ID; `None`: the only tunnel of the account.
    pub tunnel_id: Option<String>,
    /// The local IPv4 address, instead of the address from TIC.
    pub local_ipv4_override: Option<Ipv4Addr>,
    /// A program that runs once, after the setup.
    pub setupscript: Option<String>,
    /// The path of the file for the process ID.
    pub pidfile: String,
    /// Whether to run in the background.
    pub daemonize: bool,
    /// Whether to print more messages.
    pub verbose: bool,
    /// Whether to stop if the TIC server does not offer TLS.
    pub requiretls: bool,
    /// Whether to send heartbeats.
    pub makebeats: bool,
    /// Whether the broker receives packets from another IPv4 address than the host's own, because of a NAT.
    pub behindnat: bool,
    /// Whether to leave addresses and routes to other software.
    pub noconfigure: bool,
    /// Notes for the user, in the order of the file.
    pub notes: Vec<Note>,
}

/// The default TIC server. It no longer answers, so the file has to name another one. With an old file, the
/// connect fails and reports this.
const SERVER: &str = "tic.sixxs.net";
const INTERFACE: &str = "aiccu";
const PIDFILE: &str = "/var/run/aiccu.pid";

/// The maximum length of a file. AICCU's own file, with all its comments, has 3 KiB.
pub const MAX_BYTES: usize = 64 * 1024;

/// The maximum length of a line.
const MAX_LINE_BYTES: usize = 4096;

const TRUE: &[&str] = &["yes", "true"];
const FALSE: &[&str] = &["no", "false"];

/// Keys of AICCU that have no effect here, with the reason.
const WITHOUT_EFFECT: &[(&str, &str)] = &[
    (
        "automatic",
        "tunnels are started by the daemon and by `start`",
    ),
    (
        "defaultroute",
        "the default route is in the tunnel's own table, for packets from its addresses; the host's \
         default route is not changed",
    ),
];

/// Keys whose values are used.
const KEYS: &[&str] = &[
    "username",
    "password",
    "protocol",
    "server",
    "ipv6_interface",
    "tunnel_id",
    "local_ipv4_override",
    "setupscript",
    "pidfile",
    "daemonize",
    "verbose",
    "requiretls",
    "makebeats",
    "behindnat",
    "noconfigure",
];

/// Reads the bytes of the file. `file` is the name for messages.
pub fn parse(file: &str, bytes: &[u8]) -> Result<Aiccu, Invalid> {
    let mut reader = Reader::default();
    let draft = if bytes.len() > MAX_BYTES {
        let message = format!("expected at most {MAX_BYTES} bytes");
        reader.fault(1, "", message);
        None
    } else {
        reader.read(bytes)
    };
    let aiccu = draft.map(|aiccu| Aiccu {
        notes: reader.notes,
        ..aiccu
    });
    reader.diagnostics.check(file, aiccu)
}

/// A value and its line.
#[derive(Clone, Copy)]
struct Value<'a> {
    line: usize,
    text: &'a str,
}

#[derive(Default)]
struct Reader<'a> {
    values: BTreeMap<&'static str, Value<'a>>,
    /// Keys with an invalid value.
    invalid: BTreeSet<&'static str>,
    notes: Vec<Note>,
    diagnostics: Diagnostics,
}

impl<'a> Reader<'a> {
    fn read(&mut self, bytes: &'a [u8]) -> Option<Aiccu> {
        for (line, bytes) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
            self.line(line, bytes);
        }
        let protocol = self.values.remove("protocol");
        if let Some(Value { line, text }) = protocol
            && !text.eq_ignore_ascii_case("tic")
        {
            let message = format!("expected tic, found {}", quoted(text));
            self.fault(line, "protocol", message);
        }
        let username = self.required("username", "the user's name at the broker");
        let password = self.required("password", "the password that goes with it");
        let server = self.parsed(
            "server",
            "a TIC server, such as tic.example or tic.example:3874",
        );
        let interface = self.parsed("ipv6_interface", "an interface name");
        let local_ipv4_override = self.parsed("local_ipv4_override", "an IPv4 address");
        let tunnel_id = self.word("tunnel_id", "a tunnel's id, such as T1234");
        let setupscript = self.path("setupscript");
        let pidfile = self.path("pidfile");
        let mut flag = |key, default| self.boolean(key).unwrap_or(default);
        Some(Aiccu {
            daemonize: flag("daemonize", false),
            verbose: flag("verbose", false),
            requiretls: flag("requiretls", false),
            makebeats: flag("makebeats", true),
            behindnat: flag("behindnat", false),
            noconfigure: flag("noconfigure", false),
            username: username?.to_owned(),
            password: Secret::from(password?),
            server: server.or_else(|| SERVER.parse().ok())?,
            interface: interface.or_else(|| INTERFACE.parse().ok())?,
            tunnel_id,
            local_ipv4_override,
            setupscript,
            pidfile: pidfile.unwrap_or_else(|| PIDFILE.to_owned()),
            notes: Vec::new(),
        })
    }

    fn line(&mut self, line: usize, bytes: &'a [u8]) {
        let comment = [&b"#"[..], b";", b"//"];
        if comment.iter().any(|start| bytes.starts_with(start)) {
            return;
        }
        if bytes.len() > MAX_LINE_BYTES {
            let message = format!("expected at most {MAX_LINE_BYTES} bytes in a line");
            return self.fault(line, "", message);
        }
        let Ok(text) = str::from_utf8(bytes) else {
            return self.fault(line, "", "expected UTF-8");
        };
        let text = text.strip_suffix('\r').unwrap_or(text);
        if text.trim().is_empty() {
            return;
        }
        let (word, value) = text.split_once(' ').unwrap_or((text, ""));
        if let Some((key, why)) = WITHOUT_EFFECT.iter().find(|(key, _)| *key == word) {
            self.check_boolean(key, Value { line, text: value });
            return self.note(line, format!("{key} has no effect: {why}"));
        }
        let Some(key) = KEYS.iter().find(|key| **key == word) else {
            return self.unknown(line, word, value);
        };
        let value = unquoted(value);
        if value.is_empty() {
            return self.invalid(line, key, "expected one blank, and a value");
        }
        if value.chars().any(|c| c.is_control() && c != '\t') {
            return self.invalid(line, key, "expected no control characters in the value");
        }
        if self
            .values
            .insert(key, Value { line, text: value })
            .is_some()
        {
            self.note(line, format!("{key} is given twice: this one counts"));
        }
    }

    fn unknown(&mut self, line: usize, word: &str, value: &str) {
        let begins = |key: &&&str| {
            word.strip_prefix(**key)
                .is_some_and(|r| r.starts_with('\t'))
        };
        if let Some(key) = KEYS.iter().find(begins) {
            let message = "expected one blank between key and value, found a tab";
            return self.invalid(line, key, message);
        }
        // A single word may be anything, for instance a password without its key. So no message shows it.
        let is_key = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
        if !value.is_empty() && (1..=32).contains(&word.len()) && word.bytes().all(is_key) {
            self.note(line, format!("unknown key {word} has no effect"));
        } else {
            self.note(
                line,
                "a line that is no key and value has no effect".to_owned(),
            );
        }
    }

    fn required(&mut self, key: &'static str, expected: &str) -> Option<&'a str> {
        let value = self.values.remove(key).map(|value| value.text);
        if value.is_none() && !self.invalid.contains(key) {
            self.fault(1, key, format!("missing; expected {expected}"));
        }
        value
    }

    fn parsed<T: FromStr<Err: fmt::Display>>(
        &mut self,
        key: &'static str,
        expected: &str,
    ) -> Option<T> {
        let Value { line, text } = self.values.remove(key)?;
        let parsed = text.parse();
        if let Err(error) = &parsed {
            let found = quoted(text);
            self.fault(
                line,
                key,
                format!("expected {expected}, found {found}: {error}"),
            );
        }
        parsed.ok()
    }

    fn word(&mut self, key: &'static str, expected: &str) -> Option<String> {
        let Value { line, text } = self.values.remove(key)?;
        if text.contains(char::is_whitespace) {
            let found = quoted(text);
            self.fault(line, key, format!("expected {expected}, found {found}"));
            return None;
        }
        Some(text.to_owned())
    }

    fn path(&mut self, key: &'static str) -> Option<String> {
        let Value { line, text } = self.values.remove(key)?;
        if !text.starts_with('/') {
            let found = quoted(text);
            self.fault(
                line,
                key,
                format!("expected an absolute path, found {found}"),
            );
            return None;
        }
        Some(text.to_owned())
    }

    fn boolean(&mut self, key: &'static str) -> Option<bool> {
        let value = self.values.remove(key)?;
        self.check_boolean(key, value)
    }

    fn check_boolean(&mut self, key: &str, Value { line, text }: Value<'_>) -> Option<bool> {
        let text = unquoted(text);
        let is = |words: &[&str]| words.iter().any(|word| word.eq_ignore_ascii_case(text));
        match (is(TRUE), is(FALSE)) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => {
                let found = quoted(text);
                self.fault(
                    line,
                    key,
                    format!("expected yes, true, no or false, found {found}"),
                );
                None
            }
        }
    }

    fn note(&mut self, line: usize, text: String) {
        self.notes.push(Note { line, text });
    }

    fn invalid(&mut self, line: usize, key: &'static str, message: &str) {
        self.invalid.insert(key);
        self.fault(line, key, message);
    }

    fn fault(&mut self, line: usize, key: &str, message: impl Into<String>) {
        let key = key.to_owned();
        self.diagnostics.add(&Location { line, key }, message);
    }
}

/// The value without its quotes, if it has quotes.
fn unquoted(value: &str) -> &str {
    let within = |quote| value.strip_prefix(quote)?.strip_suffix(quote);
    within('"').or_else(|| within('\'')).unwrap_or(value)
}

/// A value for a message. A long value may be a secret in the wrong place, so it is not part of the message.
fn quoted(text: &str) -> String {
    if text.chars().count() <= 40 {
        format!("{text:?}")
    } else {
        "a long value".to_owned()
    }
}

#[cfg(test)]
#[path = "aiccu_tests.rs"]
mod tests;
