//! The file of `wg-quick`, such as `/etc/wireguard/wg0.conf`.
//!
//! Sections `[Interface]` and `[Peer]`, with lines `Key = value`; names in any case, comments from `#` on. What
//! `wg-quick` would do beside the interface (commands, name servers, routes) has no effect here:
//! [`QuickFile::notes`] names it. Unlike `wg-quick`, the parser refuses a key that a section has twice, and
//! peers that share a key or a prefix: there, the last one counts silently.
//!
//! The file contains keys. No message shows a value that could be one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::Ipv4Addr,
    num::NonZeroU16,
    str::FromStr,
};

use super::{
    key::{PublicKey, SecretKey},
    settings::{Peer, Settings, conflict},
};
use crate::{
    diagnostics::{Diagnostics, Invalid, Location, Note},
    types::{InterfaceAddress, Mtu},
};

/// The maximum length of a file, in bytes.
pub const MAX_BYTES: usize = 1024 * 1024;

/// The contents of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuickFile {
    /// The interface and its peers.
    pub settings: Settings,
    /// The IPv6 addresses of the interface.
    pub addresses: Vec<InterfaceAddress>,
    /// Its MTU, if the file has one.
    pub mtu: Option<Mtu>,
    /// Notes about entries without effect, in the order of the file.
    pub notes: Vec<Note>,
}

/// Reads the bytes of a file. `file` is the name for messages.
pub fn parse(file: &str, bytes: &[u8]) -> Result<QuickFile, Invalid> {
    let mut reader = Reader::default();
    let read = match str::from_utf8(bytes) {
        _ if bytes.len() > MAX_BYTES => {
            reader.fault(1, "", format!("expected at most {MAX_BYTES} bytes"));
            None
        }
        Ok(text) => reader.read(text),
        Err(_) => {
            reader.fault(1, "", "not UTF-8; save the file as UTF-8");
            None
        }
    };
    let quick_file = read.map(|(settings, addresses, mtu)| QuickFile {
        settings,
        addresses,
        mtu,
        notes: reader.notes,
    });
    reader.diagnostics.check(file, quick_file)
}

/// The value of `off`, or of a number that is zero, is `None`.
#[must_use]
pub fn parse_keepalive(text: &str) -> Option<Option<NonZeroU16>> {
    match text.to_ascii_lowercase().as_str() {
        "off" => Some(None),
        digits => number(digits).map(NonZeroU16::new),
    }
}

/// `off`, a decimal number, or a hexadecimal one that begins with `0x`.
#[must_use]
pub fn parse_fwmark(text: &str) -> Option<u32> {
    let text = text.to_ascii_lowercase();
    match text.strip_prefix("0x") {
        _ if text == "off" => Some(0),
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            u32::from_str_radix(digits, 16).ok()
        }
        Some(_) => None,
        None => number(&text),
    }
}

/// A wrong value in a message, unless it may be a key in the wrong place.
fn shown(text: &str) -> String {
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
    let runs = text.split(|character: char| !character.is_ascii() || !is_base64(character as u8));
    match runs.max_by_key(|run| run.len()) {
        Some(longest) if longest.len() >= 32 => "what may be a key".to_owned(),
        _ => format!("{text:?}"),
    }
}

/// A number of decimal digits alone: the standard parser also accepts a sign.
fn number<T: FromStr>(text: &str) -> Option<T> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

/// The keys of a section, in small letters, with their spelling for messages.
const INTERFACE_KEYS: &[&str] = &[
    "PrivateKey",
    "ListenPort",
    "FwMark",
    "Address",
    "MTU",
    "DNS",
    "Table",
    "PreUp",
    "PostUp",
    "PreDown",
    "PostDown",
    "SaveConfig",
];

const PEER_KEYS: &[&str] = &[
    "PublicKey",
    "PresharedKey",
    "AllowedIPs",
    "Endpoint",
    "PersistentKeepalive",
];

/// Keys that a section may have several times.
const LISTS: &[&str] = &[
    "Address",
    "DNS",
    "PreUp",
    "PostUp",
    "PreDown",
    "PostDown",
    "AllowedIPs",
];

/// A value and its line.
#[derive(Clone, Copy)]
struct Value<'a> {
    line: usize,
    text: &'a str,
}

impl<'a> Value<'a> {
    /// The parts of a list.
    fn parts(self) -> impl Iterator<Item = &'a str> {
        let parts = self.text.split(',').map(str::trim);
        parts.filter(|part| !part.is_empty())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SectionKind {
    Interface,
    Peer,
}

impl SectionKind {
    const fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Interface => INTERFACE_KEYS,
            Self::Peer => PEER_KEYS,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Interface => "[Interface]",
            Self::Peer => "[Peer]",
        }
    }
}

/// A section, by its keys.
struct Section<'a> {
    kind: SectionKind,
    line: usize,
    values: BTreeMap<&'static str, Vec<Value<'a>>>,
}

impl<'a> Section<'a> {
    fn all(&self, key: &str) -> impl Iterator<Item = Value<'a>> {
        self.values.get(key).into_iter().flatten().copied()
    }

    fn one(&self, key: &str) -> Option<Value<'a>> {
        self.all(key).next()
    }
}

#[derive(Default)]
struct Reader {
    diagnostics: Diagnostics,
    notes: Vec<Note>,
}

impl Reader {
    fn fault(&mut self, line: usize, key: &str, message: impl Into<String>) {
        let key = key.to_owned();
        self.diagnostics.add(&Location { line, key }, message);
    }

    fn note(&mut self, line: usize, text: String) {
        self.notes.push(Note { line, text });
    }

    fn read(&mut self, text: &str) -> Option<(Settings, Vec<InterfaceAddress>, Option<Mtu>)> {
        let sections = self.sections(text);
        let mut interfaces = sections.iter().filter(|s| s.kind == SectionKind::Interface);
        let interface = interfaces.next();
        if let Some(second) = interfaces.next() {
            self.fault(
                second.line,
                "",
                "expected one section [Interface], found another one",
            );
        }
        let Some(interface) = interface else {
            self.fault(1, "", "expected a section [Interface], found none");
            return None;
        };
        let private_key = self.private_key(interface);
        let listen_port = self.listen_port(interface);
        let fwmark = self.parsed(interface, "FwMark", "a number, 0x… or off", parse_fwmark);
        let addresses = self.addresses(interface);
        let mtu = self.mtu(interface);
        self.note_without_effect(interface);
        let mut peers = BTreeMap::new();
        for section in sections.iter().filter(|s| s.kind == SectionKind::Peer) {
            let Some((key, peer)) = self.peer(section) else {
                continue;
            };
            match conflict(&peers, &key, &peer) {
                Some(conflict) => self.fault(section.line, "Peer", conflict.to_string()),
                None => {
                    peers.insert(key, peer);
                }
            }
        }
        let settings = Settings {
            private_key: private_key?.clamped(),
            listen_port,
            fwmark: fwmark.unwrap_or(0),
            peers,
        };
        Some((settings, addresses, mtu))
    }

    /// Splits the text into sections. Reports lines that belong to none, and unknown keys.
    fn sections<'a>(&mut self, text: &'a str) -> Vec<Section<'a>> {
        let mut sections: Vec<Section<'a>> = Vec::new();
        for (line, text) in (1..).zip(text.lines()) {
            let text = text
                .split_once('#')
                .map_or(text, |(before, _)| before)
                .trim();
            if text.is_empty() {
                continue;
            }
            if text.starts_with('[') {
                let kind = match text.to_ascii_lowercase().as_str() {
                    "[interface]" => SectionKind::Interface,
                    "[peer]" => SectionKind::Peer,
                    _ => {
                        self.fault(line, "", "expected [Interface] or [Peer]");
                        return Vec::new();
                    }
                };
                sections.push(Section {
                    kind,
                    line,
                    values: BTreeMap::new(),
                });
                continue;
            }
            // The text may be part of a key: no message shows it.
            let Some((key, text)) = text.split_once('=') else {
                self.fault(line, "", "expected Key = value");
                continue;
            };
            let text = text.trim();
            match sections.last_mut() {
                Some(section) => self.add(section, key.trim(), Value { line, text }),
                None => self.fault(line, "", "expected [Interface] before the first key"),
            }
        }
        sections
    }

    fn add<'a>(&mut self, section: &mut Section<'a>, key: &str, value: Value<'a>) {
        let line = value.line;
        let mut known = section.kind.keys().iter();
        let Some(key) = known.find(|known| known.eq_ignore_ascii_case(key)) else {
            let (section, keys) = (section.kind.name(), section.kind.keys().join(", "));
            let message = format!("unknown key in {section}; expected one of {keys}");
            // A secret on a line of its own may end in `=`.
            let is_word = key.len() <= 20 && key.bytes().all(|byte| byte.is_ascii_alphabetic());
            return self.fault(line, if is_word { key } else { "" }, message);
        };
        let values = section.values.entry(key).or_default();
        if let Some(first) = values.first()
            && !LISTS.contains(key)
        {
            let message = format!(
                "expected once in a section, found in line {} too; a further peer needs [Peer] before it",
                first.line
            );
            return self.fault(line, key, message);
        }
        values.push(value);
    }

    fn private_key(&mut self, interface: &Section<'_>) -> Option<SecretKey> {
        if interface.one("PrivateKey").is_none() {
            let message = "missing; expected the key of this end, made by `wg genkey`";
            self.fault(interface.line, "PrivateKey", message);
        }
        self.key(interface, "PrivateKey")
    }

    /// A key. The message about a wrong one does not show it.
    fn key<T: FromStr<Err: fmt::Display>>(
        &mut self,
        section: &Section<'_>,
        key: &str,
    ) -> Option<T> {
        let value = section.one(key)?;
        match value.text.parse() {
            Ok(parsed) => Some(parsed),
            Err(error) => {
                self.fault(
                    value.line,
                    key,
                    format!("expected a WireGuard key: {error}"),
                );
                None
            }
        }
    }

    /// A value that is no secret.
    fn parsed<T>(
        &mut self,
        section: &Section<'_>,
        key: &str,
        expected: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let value = section.one(key)?;
        let parsed = parse(value.text);
        if parsed.is_none() {
            let message = format!("expected {expected}, found {}", shown(value.text));
            self.fault(value.line, key, message);
        }
        parsed
    }

    fn listen_port(&mut self, interface: &Section<'_>) -> Option<NonZeroU16> {
        let expected = "a port from 0 to 65535; 0 is any";
        let port = self.parsed(interface, "ListenPort", expected, number);
        port.and_then(NonZeroU16::new)
    }

    fn mtu(&mut self, interface: &Section<'_>) -> Option<Mtu> {
        let expected = "1280 to 65535 bytes: IPv6 needs 1280";
        let range = Mtu::MINIMUM.0..=65535;
        let read = |text: &str| number(text).filter(|mtu| range.contains(mtu));
        self.parsed(interface, "MTU", expected, read).map(Mtu)
    }

    /// The IPv6 addresses. IPv4 addresses are left to other software, with a note.
    fn addresses(&mut self, interface: &Section<'_>) -> Vec<InterfaceAddress> {
        let mut addresses = Vec::new();
        for value in interface.all("Address") {
            for part in value.parts() {
                let without_length = part.split_once('/').map_or(part, |(address, _)| address);
                if without_length.parse::<Ipv4Addr>().is_ok() {
                    let text = format!(
                        "Address {part} has no effect: the interface gets its IPv6 addresses alone; `ip address add \
                         {part} dev …` adds it"
                    );
                    self.note(value.line, text);
                    continue;
                }
                match part.parse() {
                    Ok(address) => addresses.push(address),
                    Err(error) => {
                        let message = format!("expected addresses, found {}: {error}", shown(part));
                        self.fault(value.line, "Address", message);
                    }
                }
            }
        }
        addresses
    }

    fn note_without_effect(&mut self, interface: &Section<'_>) {
        for (key, why) in [
            ("PreUp", "commands of the file are not run"),
            ("PostUp", "commands of the file are not run"),
            ("PreDown", "commands of the file are not run"),
            ("PostDown", "commands of the file are not run"),
            ("DNS", "the host's name servers are not changed"),
        ] {
            for value in interface.all(key) {
                self.note(value.line, format!("{key} has no effect: {why}"));
            }
        }
        let is_word = |value: &Value<'_>, word: &str| value.text.eq_ignore_ascii_case(word);
        if let Some(value) = interface
            .one("Table")
            .filter(|value| !is_word(value, "off"))
        {
            let text = "Table has no effect: `table` in the configuration of sixxs names the routing table, and the \
                        host's default route is not changed";
            self.note(value.line, text.to_owned());
        }
        let saved = interface.one("SaveConfig");
        if let Some(value) = saved.filter(|value| !is_word(value, "false")) {
            self.note(
                value.line,
                "SaveConfig has no effect: the file is never written".to_owned(),
            );
        }
        self.notes.sort_by_key(|note| note.line);
    }

    fn peer(&mut self, section: &Section<'_>) -> Option<(PublicKey, Peer)> {
        if section.one("PublicKey").is_none() {
            let message = "missing; expected the peer's public key, made by `wg pubkey`";
            self.fault(section.line, "PublicKey", message);
        }
        let key = self.key(section, "PublicKey");
        let preshared_key = self.key(section, "PresharedKey");
        let expected = "off or seconds from 0 to 65535";
        let keepalive = self.parsed(section, "PersistentKeepalive", expected, parse_keepalive);
        let mut allowed_ips = BTreeSet::new();
        for value in section.all("AllowedIPs") {
            for part in value.parts() {
                match part.parse() {
                    Ok(allowed) => {
                        allowed_ips.insert(allowed);
                    }
                    Err(error) => {
                        let message = format!("expected prefixes, found {}: {error}", shown(part));
                        self.fault(value.line, "AllowedIPs", message);
                    }
                }
            }
        }
        let mut endpoint = None;
        if let Some(value) = section.one("Endpoint") {
            match value.text.parse() {
                Ok(parsed) => endpoint = Some(parsed),
                Err(error) => {
                    let found = shown(value.text);
                    let message =
                        format!("expected address:port or name:port, found {found}: {error}");
                    self.fault(value.line, "Endpoint", message);
                }
            }
        }
        let peer = Peer {
            preshared_key,
            endpoint,
            allowed_ips,
            keepalive: keepalive.flatten(),
        };
        Some((key?, peer))
    }
}

#[cfg(test)]
#[path = "quick_file_tests.rs"]
mod tests;
