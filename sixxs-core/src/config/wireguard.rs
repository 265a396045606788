//! Reads the keys of a tunnel of kind `wireguard`: the file of `wg-quick`, or keys of our own.

use std::{collections::BTreeMap, num::NonZeroU16};

use super::{
    account::Includes,
    section::{Field, List, Located, Section},
};
use crate::{
    diagnostics::{Diagnostics, Location, Note},
    secret::Secret,
    types::{InterfaceAddress, Mtu},
    wireguard::{
        AllowedIp, Peer, PeerEndpoint, PublicKey, SecretKey, Settings,
        quick_file::{self, QuickFile},
        settings::conflict,
    },
};

/// A tunnel by WireGuard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireGuard {
    /// The interface and its peers.
    pub settings: Settings,
    /// The file of `wg-quick`, if there is one.
    pub(super) file: Option<QuickFileEntries>,
    /// Whether the configuration itself contains a key.
    pub(super) has_keys: bool,
}

/// What the file of `wg-quick` contains beside the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct QuickFileEntries {
    path: String,
    /// The IPv6 addresses of the interface.
    pub(super) addresses: Vec<InterfaceAddress>,
    /// Its MTU.
    pub(super) mtu: Option<Mtu>,
    notes: Vec<Note>,
}

impl WireGuard {
    /// Notes about entries in the file that have no effect on a tunnel with these addresses.
    pub(super) fn notes(&self, addresses: &[InterfaceAddress]) -> Vec<String> {
        let Some(file) = &self.file else {
            return Vec::new();
        };
        let mut notes: Vec<_> = file.notes.iter().map(ToString::to_string).collect();
        if !file.addresses.is_empty() && file.addresses != addresses {
            notes.push(
                "Address has no effect: the tunnel has `address` in the configuration".to_owned(),
            );
        }
        notes
            .iter()
            .map(|note| format!("{}: {note}", file.path))
            .collect()
    }
}

/// The keys that only this kind has.
pub(super) const KEYS: &[&str] = &[
    "config",
    "private_key",
    "private_key_file",
    "listen_port",
    "fwmark",
    "peers",
];

const PEER_KEYS: &[&str] = &[
    "public_key",
    "preshared_key",
    "endpoint",
    "allowed_ips",
    "keepalive",
];

/// The fields, before they are checked.
pub(super) struct Fields {
    config: Field<String>,
    private_key: Field<Secret>,
    private_key_file: Field<String>,
    listen_port: Field<u32>,
    fwmark: Field<u32>,
    peers: Vec<PeerFields>,
    /// Of the peers.
    diagnostics: Diagnostics,
}

struct PeerFields {
    location: Location,
    public_key: Field<Secret>,
    preshared_key: Field<Secret>,
    endpoint: Field<PeerEndpoint>,
    allowed_ips: List<AllowedIp>,
    keepalive: Field<u32>,
}

impl Fields {
    pub(super) fn take(section: &mut Section<'_>) -> Self {
        let mut diagnostics = Diagnostics::default();
        let peers = section.sections("peers").into_iter();
        Self {
            config: section.parsed("config", "the path of a file for wg-quick"),
            private_key: section.secret("private_key"),
            private_key_file: section.parsed("private_key_file", "the path of a file with a key"),
            listen_port: section.integer("listen_port", 1..=65535),
            fwmark: section.integer("fwmark", 0..=u32::MAX),
            peers: peers
                .map(|peer| diagnostics.absorb(PeerFields::take(peer)))
                .collect(),
            diagnostics,
        }
    }

    /// The locations of all fields, to report those of another kind.
    pub(super) fn locations(&self) -> impl Iterator<Item = &Location> {
        let own = [
            self.config.location(),
            self.private_key.location(),
            self.private_key_file.location(),
            self.listen_port.location(),
            self.fwmark.location(),
        ];
        let first_peer = self.peers.first().map(|peer| &peer.location);
        own.into_iter().flatten().chain(first_peer)
    }

    /// Where the file is named.
    pub(super) fn file_location(&self) -> Option<Location> {
        self.config.location().cloned()
    }

    /// Checks the fields. `line` is the line of `kind`.
    pub(super) fn check(
        mut self,
        line: usize,
        includes: Includes<'_>,
        diagnostics: &mut Diagnostics,
    ) -> Option<WireGuard> {
        diagnostics.extend(std::mem::take(&mut self.diagnostics));
        match &self.config {
            Field::Set(config) => {
                self.refuse_beside_file(diagnostics);
                read_file(config, includes, diagnostics)
            }
            Field::Absent(_) => self.own(line, includes, diagnostics),
            Field::Invalid => None,
        }
    }

    fn refuse_beside_file(&self, diagnostics: &mut Diagnostics) {
        for location in self.locations().skip(1) {
            diagnostics.add(location, "remove this key: with config, the file has it");
        }
    }

    fn own(
        self,
        line: usize,
        includes: Includes<'_>,
        diagnostics: &mut Diagnostics,
    ) -> Option<WireGuard> {
        let preshared = self
            .peers
            .iter()
            .any(|peer| peer.preshared_key.as_set().is_some());
        let has_keys = preshared || self.private_key.as_set().is_some();
        let private_key = match (self.private_key, self.private_key_file) {
            (Field::Set(_), Field::Set(file)) => {
                let message = "expected only one of private_key and private_key_file";
                diagnostics.add(&file.location, message);
                None
            }
            (key, Field::Absent(_)) => {
                let expected =
                    "config, the path of a file for wg-quick; or private_key, this end's key";
                let key = key.asked_for_at(line).required(expected, diagnostics);
                key.and_then(|key| parse_key(&key.location, key.value.expose(), diagnostics))
            }
            (_, Field::Set(file)) => read_key(&file, includes, diagnostics),
            (_, Field::Invalid) => None,
        };
        let mut peers = BTreeMap::new();
        for fields in self.peers {
            let location = fields.location.clone();
            let Some((key, peer)) = fields.check(diagnostics) else {
                continue;
            };
            match conflict(&peers, &key, &peer) {
                Some(conflict) => diagnostics.add(&location, conflict.to_string()),
                None => {
                    peers.insert(key, peer);
                }
            }
        }
        let settings = Settings {
            private_key: private_key?.clamped(),
            listen_port: self.listen_port.value().and_then(to_u16),
            fwmark: self.fwmark.value().unwrap_or(0),
            peers,
        };
        Some(WireGuard {
            settings,
            file: None,
            has_keys,
        })
    }
}

impl PeerFields {
    fn take(mut section: Section<'_>) -> (Self, Diagnostics) {
        let fields = Self {
            location: section.head().location("public_key"),
            public_key: section.secret("public_key"),
            preshared_key: section.secret("preshared_key"),
            endpoint: section.parsed(
                "endpoint",
                "address:port or name:port, such as \"[2001:db8::2]:51820\"",
            ),
            allowed_ips: section.one_or_many("allowed_ips", "prefixes, such as \"::/0\""),
            keepalive: section.integer("keepalive", 0..=65535),
        };
        (fields, section.finish(PEER_KEYS))
    }

    fn check(self, diagnostics: &mut Diagnostics) -> Option<(PublicKey, Peer)> {
        let public_key = self
            .public_key
            .required("the peer's public key", diagnostics);
        let public_key =
            public_key.and_then(|key| parse_key(&key.location, key.value.expose(), diagnostics));
        let preshared_key = match &self.preshared_key {
            Field::Set(key) => Some(parse_key(&key.location, key.value.expose(), diagnostics)?),
            Field::Absent(_) | Field::Invalid => None,
        };
        let peer = Peer {
            preshared_key,
            endpoint: self.endpoint.value(),
            allowed_ips: self
                .allowed_ips
                .values()
                .unwrap_or_default()
                .into_iter()
                .collect(),
            keepalive: self.keepalive.value().and_then(to_u16),
        };
        Some((public_key?, peer))
    }
}

fn to_u16(number: u32) -> Option<NonZeroU16> {
    u16::try_from(number).ok().and_then(NonZeroU16::new)
}

/// A key. No message shows it.
fn parse_key<T: std::str::FromStr<Err: std::fmt::Display>>(
    location: &Location,
    text: &str,
    diagnostics: &mut Diagnostics,
) -> Option<T> {
    match text.trim().parse() {
        Ok(key) => Some(key),
        Err(error) => {
            diagnostics.add(location, format!("expected a WireGuard key: {error}"));
            None
        }
    }
}

fn read_key(
    file: &Located<String>,
    includes: Includes<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<SecretKey> {
    match (includes.read)(&includes.path(&file.value)) {
        Ok(bytes) => {
            let text = str::from_utf8(&bytes).unwrap_or_default();
            parse_key(&file.location, text, diagnostics)
        }
        Err(error) => {
            diagnostics.add(&file.location, error.to_string());
            None
        }
    }
}

fn read_file(
    config: &Located<String>,
    includes: Includes<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<WireGuard> {
    let path = includes.path(&config.value);
    let bytes = match (includes.read)(&path) {
        Ok(bytes) => bytes,
        Err(error) => {
            diagnostics.add(&config.location, error.to_string());
            return None;
        }
    };
    match quick_file::parse(&path, &bytes) {
        Ok(QuickFile {
            settings,
            addresses,
            mtu,
            notes,
        }) => Some(WireGuard {
            settings,
            file: Some(QuickFileEntries {
                path,
                addresses,
                mtu,
                notes,
            }),
            has_keys: false,
        }),
        Err(invalid) => {
            for one in &invalid.diagnostics {
                diagnostics.add(&config.location, format!("{path}: {one}"));
            }
            None
        }
    }
}
