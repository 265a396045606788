//! The addresses of peers: from the settings, or by name. Decides when a name is looked up, and when an address
//! is set. Times are since boot.
//!
//! The kernel learns where a peer moves to. An address that the kernel has is changed only if
//!
//! * the settings name another endpoint than before, or
//! * the latest handshake is too old, and either keepalives have shown that the peer does not answer there, or
//!   its name has another address than before.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    time::Duration,
};

use super::{
    device::Device,
    handshakes::Handshakes,
    key::PublicKey,
    settings::{PeerEndpoint, Settings},
};
use crate::remote::Remote;

/// Time between lookups of the name of a peer that does not answer.
const RETRY: Duration = Duration::from_secs(30);

/// The same for a peer without keepalives, which perhaps nobody talks to.
const RETRY_IDLE: Duration = Duration::from_secs(120);

/// Time after the first lookup that failed; it doubles up to [`RETRY`].
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// A name to look up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// The peer.
    pub peer: PublicKey,
    /// Its name.
    pub name: String,
}

/// The endpoints of the peers of an interface.
#[derive(Debug, Default)]
pub struct Endpoints {
    peers: BTreeMap<PublicKey, Entry>,
    /// Whether there were settings before.
    has_settings: bool,
}

/// The endpoint of a peer.
#[derive(Debug)]
struct Entry {
    wanted: PeerEndpoint,
    keepalive: Option<NonZeroU16>,
    /// The address to use, once it is known.
    address: Option<SocketAddr>,
    news: News,
    /// When its name may be looked up next.
    next_lookup: Duration,
    is_looked_up: bool,
    failures: u32,
    error: Option<String>,
}

/// What makes an address worth setting while the kernel has another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    Nothing,
    /// The name has another address.
    Moved,
    /// The settings have changed.
    Configured,
}

impl Endpoints {
    /// Takes new settings. What they do not change stays known.
    pub fn configure(&mut self, settings: &Settings) {
        let mut before = std::mem::take(&mut self.peers);
        for (key, peer) in &settings.peers {
            let Some(wanted) = &peer.endpoint else {
                continue;
            };
            let known = before.remove(key).filter(|entry| entry.wanted == *wanted);
            let entry = known.unwrap_or_else(|| Entry {
                wanted: wanted.clone(),
                keepalive: peer.keepalive,
                address: match wanted.host {
                    Remote::Address(address) => Some(SocketAddr::new(address, wanted.port.get())),
                    Remote::Name(_) => None,
                },
                news: match self.has_settings {
                    true => News::Configured,
                    // The kernel may have an address from an earlier run, where the peer is.
                    false => News::Nothing,
                },
                next_lookup: Duration::ZERO,
                is_looked_up: false,
                failures: 0,
                error: None,
            });
            let keepalive = peer.keepalive;
            self.peers.insert(*key, Entry { keepalive, ..entry });
        }
        self.has_settings = true;
    }

    /// The names to look up now. Each is given once, until [`Endpoints::found`] has its result.
    pub fn take_lookups(&mut self, now: Duration, handshakes: &Handshakes) -> Vec<Lookup> {
        let mut lookups = Vec::new();
        for (key, entry) in &mut self.peers {
            let Remote::Name(name) = &entry.wanted.host else {
                continue;
            };
            let is_unknown = entry.address.is_none() && entry.news == News::Configured;
            let is_needed = is_unknown || !handshakes.is_fresh(now, key);
            if is_needed && !entry.is_looked_up && now >= entry.next_lookup {
                entry.is_looked_up = true;
                lookups.push(Lookup {
                    peer: *key,
                    name: name.clone(),
                });
            }
        }
        lookups
    }

    /// Takes the result of a lookup: addresses in the resolver's order of preference, or why there are none. A
    /// result for an endpoint that the settings have replaced meanwhile is ignored.
    pub fn found(
        &mut self,
        lookup: &Lookup,
        result: Result<Vec<IpAddr>, String>,
        now: Duration,
        handshakes: &Handshakes,
    ) {
        let Some(entry) = self.peers.get_mut(&lookup.peer) else {
            return;
        };
        if entry.wanted.host != Remote::Name(lookup.name.clone()) {
            return;
        }
        entry.is_looked_up = false;
        match result {
            Ok(addresses) if !addresses.is_empty() => {
                let is_silent =
                    !handshakes.is_fresh(now, &lookup.peer) && entry.keepalive.is_some();
                entry.choose(&addresses, is_silent);
                (entry.failures, entry.error) = (0, None);
                let pause = if entry.keepalive.is_some() {
                    RETRY
                } else {
                    RETRY_IDLE
                };
                entry.next_lookup = now.saturating_add(pause);
            }
            no_address => {
                let pause = FIRST_RETRY
                    .saturating_mul(1 << entry.failures.min(5))
                    .min(RETRY);
                entry.next_lookup = now.saturating_add(pause);
                entry.failures = entry.failures.saturating_add(1);
                let reason = no_address.err();
                let reason = reason.unwrap_or_else(|| format!("{} has no address", lookup.name));
                entry.error = Some(reason);
            }
        }
    }

    /// The addresses to set on this interface.
    #[must_use]
    pub fn to_set(
        &self,
        now: Duration,
        handshakes: &Handshakes,
        device: &Device,
    ) -> BTreeMap<PublicKey, SocketAddr> {
        let set = self.peers.iter().filter_map(|(key, entry)| {
            let address = entry.address?;
            let present = device.peers.get(key).and_then(|peer| peer.endpoint);
            let is_silent = !handshakes.is_fresh(now, key);
            let is_set = match (present, entry.news) {
                (Some(present), _) if present == address => false,
                (None, _) | (Some(_), News::Configured) => true,
                (Some(_), News::Moved) => is_silent,
                (Some(_), News::Nothing) => is_silent && entry.keepalive.is_some(),
            };
            is_set.then_some((*key, address))
        });
        set.collect()
    }

    /// Notes the addresses that the kernel has: where a peer moves after that, it stays.
    pub fn note_present(&mut self, device: &Device) {
        for (key, entry) in &mut self.peers {
            let present = device.peers.get(key).and_then(|peer| peer.endpoint);
            if entry.address.is_some() && entry.address == present {
                entry.news = News::Nothing;
            }
        }
    }

    /// Why a peer cannot be reached: the error of the lookup of a name, while the kernel has no address for it.
    #[must_use]
    pub fn missing(&self, device: &Device) -> Option<&str> {
        let mut peers = self.peers.iter().filter(|(key, _)| {
            let peer = device.peers.get(key);
            peer.is_none_or(|peer| peer.endpoint.is_none())
        });
        peers.find_map(|(_, entry)| entry.error.as_deref())
    }

    /// When the next lookup may be due; `None`: not by time alone.
    #[must_use]
    pub fn next_lookup(&self) -> Option<Duration> {
        let waiting = self.peers.values().filter(|entry| !entry.is_looked_up);
        let failed = waiting.filter(|entry| entry.failures > 0);
        failed.map(|entry| entry.next_lookup).min()
    }
}

impl Entry {
    /// Keeps the present address if the name still has it. If the peer is silent there, takes the next one.
    fn choose(&mut self, addresses: &[IpAddr], is_silent: bool) {
        let present = self.address.map(|address| address.ip());
        let at = addresses
            .iter()
            .position(|address| Some(*address) == present);
        let next = match at {
            Some(at) if is_silent => (at + 1) % addresses.len(),
            Some(at) => at,
            None => 0,
        };
        let chosen = SocketAddr::new(addresses[next], self.wanted.port.get());
        if self.address.is_some_and(|before| before != chosen) && self.news == News::Nothing {
            self.news = News::Moved;
        }
        self.address = Some(chosen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wireguard::{DevicePeer, Peer, SecretKey};

    const KEY: PublicKey = PublicKey::new([1; 32]);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn settings(endpoint: &str, keepalive: u16) -> Settings {
        let peer = Peer {
            endpoint: Some(endpoint.parse().unwrap()),
            keepalive: NonZeroU16::new(keepalive),
            ..Peer::default()
        };
        Settings {
            private_key: SecretKey::new(&[9; 32]).unwrap(),
            listen_port: None,
            fwmark: 0,
            peers: [(KEY, peer)].into(),
        }
    }

    /// The peer at this address, with its latest handshake at this time.
    fn device(endpoint: Option<&str>, handshake: Option<u64>) -> Device {
        let peer = DevicePeer {
            endpoint: endpoint.map(|text| text.parse().unwrap()),
            latest_handshake: handshake.map(seconds),
            ..DevicePeer::default()
        };
        Device {
            peers: [(KEY, peer)].into(),
            ..Device::default()
        }
    }

    /// The handshakes of a device that was read once, at 1000 s.
    fn handshakes(device: &Device) -> Handshakes {
        let mut handshakes = Handshakes::default();
        handshakes.observe(seconds(1000), seconds(1000), device);
        handshakes
    }

    fn addresses(texts: &[&str]) -> Result<Vec<IpAddr>, String> {
        Ok(texts.iter().map(|text| text.parse().unwrap()).collect())
    }

    fn set(endpoints: &Endpoints, now: u64, device: &Device) -> Option<String> {
        let set = endpoints.to_set(seconds(now), &handshakes(device), device);
        set.get(&KEY).map(ToString::to_string)
    }

    #[test]
    fn an_address_of_the_settings_is_set_without_a_lookup() {
        let mut endpoints = Endpoints::default();
        endpoints.configure(&settings("198.51.100.2:1", 25));
        let none = device(None, None);
        assert_eq!(
            endpoints.take_lookups(seconds(1000), &handshakes(&none)),
            []
        );
        assert_eq!(
            set(&endpoints, 1000, &none).as_deref(),
            Some("198.51.100.2:1")
        );
        let there = device(Some("198.51.100.2:1"), None);
        assert_eq!(set(&endpoints, 1000, &there), None);
        // The peer has moved, and answers from there.
        let moved = device(Some("203.0.113.9:7"), Some(990));
        assert_eq!(set(&endpoints, 1000, &moved), None);
        assert_eq!(set(&endpoints, 1170, &moved), None);
        assert!(
            set(&endpoints, 1171, &moved).is_some(),
            "it does not answer there"
        );
        // Without keepalives nobody knows whether it would answer.
        let mut idle = Endpoints::default();
        idle.configure(&settings("198.51.100.2:1", 0));
        assert_eq!(set(&idle, 9000, &moved), None);
    }

    #[test]
    fn an_endpoint_that_a_reload_changes_is_set_at_once() {
        let mut endpoints = Endpoints::default();
        endpoints.configure(&settings("198.51.100.2:1", 25));
        endpoints.configure(&settings("198.51.100.3:1", 25));
        let fresh = device(Some("198.51.100.2:1"), Some(999));
        assert_eq!(
            set(&endpoints, 1000, &fresh).as_deref(),
            Some("198.51.100.3:1")
        );
        endpoints.note_present(&fresh);
        assert!(
            set(&endpoints, 1000, &fresh).is_some(),
            "the kernel has another one"
        );
        endpoints.note_present(&device(Some("198.51.100.3:1"), None));
        // It moves after that.
        assert_eq!(set(&endpoints, 1000, &fresh), None);
        endpoints.configure(&settings("198.51.100.3:1", 20));
        assert_eq!(
            set(&endpoints, 1000, &fresh),
            None,
            "the endpoint is the same"
        );
        // To a name, which is looked up although the handshake is fresh.
        endpoints.configure(&settings("vpn.example.net:1", 20));
        let lookups = endpoints.take_lookups(seconds(1000), &handshakes(&fresh));
        assert_eq!(lookups.len(), 1);
        endpoints.found(
            &lookups[0],
            addresses(&["198.51.100.4"]),
            seconds(1001),
            &handshakes(&fresh),
        );
        assert_eq!(
            set(&endpoints, 1001, &fresh).as_deref(),
            Some("198.51.100.4:1")
        );
    }

    #[test]
    fn a_name_is_looked_up_at_first_and_when_the_handshake_is_old() {
        let mut endpoints = Endpoints::default();
        endpoints.configure(&settings("vpn.example.net:1", 25));
        let none = device(None, None);
        let first = endpoints.take_lookups(seconds(1000), &handshakes(&none));
        assert_eq!(first[0].name, "vpn.example.net");
        assert_eq!(
            endpoints.take_lookups(seconds(1000), &handshakes(&none)),
            []
        );
        endpoints.found(
            &first[0],
            addresses(&["198.51.100.2"]),
            seconds(1000),
            &handshakes(&none),
        );
        assert_eq!(
            set(&endpoints, 1000, &none).as_deref(),
            Some("198.51.100.2:1")
        );
        let fresh = device(Some("198.51.100.2:1"), Some(1000));
        assert_eq!(
            endpoints.take_lookups(seconds(1180), &handshakes(&fresh)),
            []
        );
        let again = endpoints.take_lookups(seconds(1181), &handshakes(&fresh));
        assert_eq!(again.len(), 1);
        endpoints.found(
            &again[0],
            addresses(&["198.51.100.7"]),
            seconds(1181),
            &handshakes(&fresh),
        );
        assert_eq!(
            set(&endpoints, 1181, &fresh).as_deref(),
            Some("198.51.100.7:1")
        );
        assert_eq!(
            endpoints.take_lookups(seconds(1210), &handshakes(&fresh)),
            []
        );
        assert_eq!(
            endpoints
                .take_lookups(seconds(1211), &handshakes(&fresh))
                .len(),
            1
        );
    }

    #[test]
    fn a_restart_looks_nothing_up_while_the_peer_answers() {
        let mut endpoints = Endpoints::default();
        endpoints.configure(&settings("vpn.example.net:1", 25));
        let fresh = device(Some("203.0.113.9:7"), Some(900));
        assert_eq!(
            endpoints.take_lookups(seconds(1000), &handshakes(&fresh)),
            []
        );
        assert_eq!(set(&endpoints, 1000, &fresh), None);
        assert_eq!(endpoints.missing(&fresh), None);
    }

    #[test]
    fn a_silent_peer_is_looked_for_at_all_its_addresses() {
        let both = || addresses(&["2001:db8::2", "198.51.100.2"]);
        for (keepalive, expected) in [
            (25, ["[2001:db8::2]:1", "198.51.100.2:1", "[2001:db8::2]:1"]),
            (0, ["[2001:db8::2]:1"; 3]),
        ] {
            let mut endpoints = Endpoints::default();
            endpoints.configure(&settings("vpn.example.net:1", keepalive));
            let silent = device(None, None);
            let mut now = 1000;
            for expected in expected {
                let lookup = endpoints
                    .take_lookups(seconds(now), &handshakes(&silent))
                    .remove(0);
                endpoints.found(&lookup, both(), seconds(now), &handshakes(&silent));
                assert_eq!(set(&endpoints, now, &silent).as_deref(), Some(expected));
                now += 120;
            }
        }
    }

    #[test]
    fn an_idle_peer_follows_its_name_but_not_the_settings() {
        let mut endpoints = Endpoints::default();
        endpoints.configure(&settings("vpn.example.net:1", 0));
        let idle = device(Some("203.0.113.9:7"), None);
        let lookup = endpoints
            .take_lookups(seconds(1000), &handshakes(&idle))
            .remove(0);
        endpoints.found(
            &lookup,
            addresses(&["198.51.100.2"]),
            seconds(1000),
            &handshakes(&idle),
        );
        assert_eq!(set(&endpoints, 1000, &idle), None, "it was there before");
        let lookup = endpoints
            .take_lookups(seconds(1120), &handshakes(&idle))
            .remove(0);
        endpoints.found(
            &lookup,
            addresses(&["198.51.100.3"]),
            seconds(1120),
            &handshakes(&idle),
        );
        assert_eq!(
            set(&endpoints, 1120, &idle).as_deref(),
            Some("198.51.100.3:1")
        );
    }

    #[test]
    fn lookups_that_fail_are_repeated_at_growing_intervals() {
        let mut endpoints = Endpoints::default();
        endpoints.configure(&settings("vpn.example.net:1", 25));
        let none = device(None, None);
        let mut now = seconds(1000);
        let mut pauses = Vec::new();
        for _ in 0..7 {
            let lookup = endpoints.take_lookups(now, &handshakes(&none)).remove(0);
            endpoints.found(
                &lookup,
                Err("no answer".to_owned()),
                now,
                &handshakes(&none),
            );
            let next = endpoints.next_lookup().unwrap();
            pauses.push((next - now).as_secs());
            now = next;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(endpoints.missing(&none), Some("no answer"));
        let lookup = endpoints.take_lookups(now, &handshakes(&none)).remove(0);
        endpoints.found(&lookup, Ok(Vec::new()), now, &handshakes(&none));
        assert_eq!(
            endpoints.missing(&none),
            Some("vpn.example.net has no address")
        );
        // The name has changed meanwhile.
        let lookup = Lookup {
            peer: KEY,
            name: "other.example.net".to_owned(),
        };
        endpoints.found(&lookup, addresses(&["192.0.2.1"]), now, &handshakes(&none));
        assert_eq!(set(&endpoints, 1000, &none), None);
    }
}
