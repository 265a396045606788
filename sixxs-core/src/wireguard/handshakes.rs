//! The age of the latest handshakes, and when it shows that a peer does not answer.
//!
//! The kernel gives times of the wall clock, which may jump. So ages are counted from the moment when a new time
//! was first observed, by a clock that never jumps: the time since boot.

use std::{collections::BTreeMap, fmt, net::SocketAddr, num::NonZeroU16, time::Duration};

use super::{device::Device, key::PublicKey};

/// After this age the keys of a handshake are not used any more (`REJECT_AFTER_TIME` of the protocol).
pub const REJECT_AFTER: Duration = Duration::from_secs(180);

/// A handshake takes up to this long: attempts are 5 s apart, and the interface is read every 10 s.
const MARGIN: Duration = Duration::from_secs(20);

/// The handshakes of an interface. Times are since boot.
#[derive(Clone, Debug, Default)]
pub struct Handshakes {
    seen: BTreeMap<PublicKey, Seen>,
    last_look: Option<Duration>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// The kernel's time of the latest handshake.
    value: Option<Duration>,
    /// When it was.
    at: Option<Duration>,
    /// Since when the peer has an endpoint.
    reachable_since: Option<Duration>,
}

impl Handshakes {
    /// Takes what the kernel has at `now`, which is `unix_now` by the wall clock.
    pub fn observe(&mut self, now: Duration, unix_now: Duration, device: &Device) {
        self.seen.retain(|key, _| device.peers.contains_key(key));
        let since_look = self.last_look.map(|last| now.saturating_sub(last));
        for (key, peer) in &device.peers {
            let seen = self.seen.entry(*key).or_default();
            seen.reachable_since = match peer.endpoint {
                Some(_) => seen.reachable_since.or(Some(now)),
                None => None,
            };
            if seen.value == peer.latest_handshake {
                continue;
            }
            seen.value = peer.latest_handshake;
            seen.at = peer.latest_handshake.map(|handshake| {
                let by_wall = unix_now.saturating_sub(handshake);
                // A handshake that is new since the last look is not older than that.
                now.saturating_sub(since_look.map_or(by_wall, |since| since.min(by_wall)))
            });
        }
        self.last_look = Some(now);
    }

    /// The age of the latest handshake with a peer; `None`: there was none.
    #[must_use]
    pub fn age(&self, now: Duration, key: &PublicKey) -> Option<Duration> {
        let at = self.seen.get(key)?.at?;
        Some(now.saturating_sub(at))
    }

    /// Whether the keys of the latest handshake with a peer are still in use.
    #[must_use]
    pub fn is_fresh(&self, now: Duration, key: &PublicKey) -> bool {
        self.age(now, key).is_some_and(|age| age <= REJECT_AFTER)
    }

    /// What users see of the interface that was observed last.
    #[must_use]
    pub fn view(&self, device: &Device) -> View {
        let peers = device.peers.iter().map(|(key, peer)| {
            let seen = self.seen.get(key).copied().unwrap_or_default();
            let view = PeerView {
                endpoint: peer.endpoint,
                keepalive: peer.keepalive,
                latest_handshake: seen.at,
                reachable_since: seen.reachable_since,
            };
            (*key, view)
        });
        View {
            public_key: device.public_key,
            listen_port: device.listen_port,
            peers: peers.collect(),
        }
    }
}

/// What users see of an interface. Contains no secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// The public key of this end.
    pub public_key: Option<PublicKey>,
    /// Its UDP port; 0 while it has none.
    pub listen_port: u16,
    /// Its peers.
    pub peers: BTreeMap<PublicKey, PeerView>,
}

/// What users see of a peer. Times are since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerView {
    /// Where it is reached.
    pub endpoint: Option<SocketAddr>,
    /// The seconds between keepalives.
    pub keepalive: Option<NonZeroU16>,
    /// The time of the latest handshake.
    pub latest_handshake: Option<Duration>,
    /// Since when it has an endpoint.
    pub reachable_since: Option<Duration>,
}

impl PeerView {
    /// The age of the latest handshake; `None`: there was none.
    #[must_use]
    pub fn age(&self, now: Duration) -> Option<Duration> {
        self.latest_handshake.map(|at| now.saturating_sub(at))
    }

    /// Whether a handshake would have happened by now, if the peer answered. Certain only with an endpoint and a
    /// keepalive: otherwise this end has perhaps sent nothing.
    fn is_overdue(&self, now: Duration) -> bool {
        let (Some(keepalive), Some(since)) = (self.keepalive, self.reachable_since) else {
            return false;
        };
        let pause = Duration::from_secs(keepalive.get().into()).saturating_add(MARGIN);
        let is_reachable_long = now.saturating_sub(since) > pause;
        let is_old = self
            .age(now)
            .is_none_or(|age| age > REJECT_AFTER.saturating_add(pause));
        is_reachable_long && is_old
    }
}

impl View {
    /// The latest handshake with any peer.
    #[must_use]
    pub fn latest(&self) -> Option<&PeerView> {
        let peers = self.peers.values();
        peers.max_by_key(|peer| (peer.latest_handshake, peer.endpoint.is_some()))
    }

    /// A peer that does not answer, if no other peer does.
    #[must_use]
    pub fn unanswered(&self, now: Duration) -> Option<Unanswered> {
        let is_fresh = |peer: &PeerView| peer.age(now).is_some_and(|age| age <= REJECT_AFTER);
        if self.peers.values().any(is_fresh) {
            return None;
        }
        let mut overdue = self.peers.iter().filter(|(_, peer)| peer.is_overdue(now));
        overdue.next().map(|(key, peer)| Unanswered {
            peer: *key,
            endpoint: peer.endpoint,
            age: peer.age(now),
        })
    }
}

/// A peer does not answer. `Display` is a clause about a tunnel that was named before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unanswered {
    /// The peer.
    pub peer: PublicKey,
    /// Where it is looked for.
    pub endpoint: Option<SocketAddr>,
    /// The age of the latest handshake; `None`: there was none.
    pub age: Option<Duration>,
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "its peer {}", self.peer)?;
        if let Some(endpoint) = self.endpoint {
            write!(f, " at {endpoint}")?;
        }
        match self.age {
            Some(age) => write!(
                f,
                " does not answer: the latest handshake was {} s ago",
                age.as_secs()
            )?,
            None => write!(f, " has never answered")?,
        }
        write!(
            f,
            "; look at its endpoint, the keys of both ends, and firewalls"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wireguard::DevicePeer;

    const BOOT_UNIX: u64 = 1_800_000_000;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn key(byte: u8) -> PublicKey {
        PublicKey::new([byte; 32])
    }

    /// A peer that keeps alive every 25 s, with a handshake at this wall clock time since boot.
    fn peer(handshake: Option<u64>) -> DevicePeer {
        DevicePeer {
            endpoint: Some("198.51.100.2:51820".parse().unwrap()),
            keepalive: NonZeroU16::new(25),
            latest_handshake: handshake.map(|at| seconds(BOOT_UNIX + at)),
            ..DevicePeer::default()
        }
    }

    fn device(peers: &[DevicePeer]) -> Device {
        Device {
            peers: (1..).map(key).zip(peers.iter().cloned()).collect(),
            ..Device::default()
        }
    }

    #[test]
    fn the_first_age_is_the_wall_clocks_and_a_jump_changes_none() {
        let mut handshakes = Handshakes::default();
        let unix = |at| seconds(BOOT_UNIX + at);
        handshakes.observe(seconds(1000), unix(1000), &device(&[peer(Some(900))]));
        assert_eq!(handshakes.age(seconds(1010), &key(1)), Some(seconds(110)));
        assert!(handshakes.is_fresh(seconds(1080), &key(1)));
        assert!(!handshakes.is_fresh(seconds(1081), &key(1)));
        // The wall clock jumps by a day, and the handshake stays the same.
        handshakes.observe(seconds(1010), unix(90_000), &device(&[peer(Some(900))]));
        assert_eq!(handshakes.age(seconds(1010), &key(1)), Some(seconds(110)));
        // A new one, and a clock that jumped between it and the look.
        handshakes.observe(seconds(1020), unix(200_000), &device(&[peer(Some(90_000))]));
        assert_eq!(handshakes.age(seconds(1020), &key(1)), Some(seconds(10)));
        handshakes.observe(seconds(1030), unix(10), &device(&[peer(Some(200_000))]));
        assert_eq!(handshakes.age(seconds(1030), &key(1)), Some(seconds(0)));
        // The peer was made again, and then removed.
        handshakes.observe(seconds(1040), unix(20), &device(&[peer(None)]));
        assert_eq!(handshakes.age(seconds(1040), &key(1)), None);
        handshakes.observe(seconds(1050), unix(30), &device(&[]));
        assert!(!handshakes.is_fresh(seconds(1050), &key(1)));
    }

    fn unanswered(peers: &[DevicePeer], now: u64) -> Option<Unanswered> {
        let mut handshakes = Handshakes::default();
        let device = device(peers);
        handshakes.observe(seconds(1000), seconds(BOOT_UNIX + 1000), &device);
        handshakes.view(&device).unanswered(seconds(now))
    }

    #[test]
    fn silence_is_certain_only_with_an_endpoint_a_keepalive_and_time() {
        // 180 s, a keepalive and the margin after the handshake.
        assert_eq!(unanswered(&[peer(Some(1000))], 1225), None);
        let found = unanswered(&[peer(Some(1000))], 1226).unwrap();
        assert_eq!(found.age, Some(seconds(226)));
        assert!(
            found
                .to_string()
                .contains("the latest handshake was 226 s ago"),
            "{found}"
        );
        // Never: a keepalive and the margin after the endpoint was known.
        assert_eq!(unanswered(&[peer(None)], 1045), None);
        let found = unanswered(&[peer(None)], 1046).unwrap();
        assert!(found.to_string().contains("has never answered"), "{found}");
        // An old handshake when the daemon starts: this end has its time again.
        assert_eq!(unanswered(&[peer(Some(10))], 1045), None);
        assert!(unanswered(&[peer(Some(10))], 1046).is_some());
        let quiet = DevicePeer {
            keepalive: None,
            ..peer(None)
        };
        assert_eq!(unanswered(&[quiet], 9000), None);
        let listening = DevicePeer {
            endpoint: None,
            ..peer(None)
        };
        assert_eq!(unanswered(&[listening], 9000), None);
        // Another peer answers.
        assert_eq!(unanswered(&[peer(None), peer(Some(1000))], 1100), None);
        assert!(unanswered(&[peer(None), peer(Some(1000))], 1181).is_some());
        assert_eq!(unanswered(&[], 9000), None);
    }

    #[test]
    fn the_view_has_the_latest_handshake() {
        let mut handshakes = Handshakes::default();
        let device = device(&[peer(Some(500)), peer(Some(900)), peer(None)]);
        handshakes.observe(seconds(1000), seconds(BOOT_UNIX + 1000), &device);
        let view = handshakes.view(&device);
        assert_eq!(
            view.latest().unwrap().age(seconds(1000)),
            Some(seconds(100))
        );
        assert_eq!(View::default().latest(), None);
    }
}
