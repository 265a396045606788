//! Datagrams that a broker or an attacker may send to a client: valid ones, and every kind of invalid one.
//! They are made one at a time, so ten thousand need no memory.

use std::net::Ipv6Addr;

use super::ayiya::{self, Key};
use super::random::Random;
use super::session::Setup;

/// The longest UDP payload that IPv4 carries.
const LONGEST_PAYLOAD: usize = 65_507;

/// The fault of an AYIYA datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attack {
    /// Valid but for the signature, which is made with another key.
    Forged,
    /// Valid, but one bit is flipped.
    Altered,
    /// Signed, 121 s old or older.
    Stale,
    /// Signed, 121 s or more in the future.
    Early,
    /// Signed, with the client's own identity.
    Reflected,
    /// Signed, with the identity of another PoP.
    Stranger,
    /// A valid datagram that is cut off at some point; 0 bytes are possible.
    Truncated,
    /// Signed, and larger than any MTU: the packet and zeroes, up to 64 KiB.
    Oversized,
    /// Signed, with a header that the protocol does not define.
    Header,
    /// Signed, with a payload that is no IPv6 packet: another version, truncated, or empty.
    Payload,
    /// Random bytes.
    Garbage,
}

impl Attack {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Forged,
        Self::Altered,
        Self::Stale,
        Self::Early,
        Self::Reflected,
        Self::Stranger,
        Self::Truncated,
        Self::Oversized,
        Self::Header,
        Self::Payload,
        Self::Garbage,
    ];
}

/// Makes datagrams for the client of one tunnel.
#[derive(Clone, Debug)]
pub struct Forger {
    setup: Setup,
    key: Key,
    unix_seconds: u64,
    random: Random,
}

impl Forger {
    /// A forger that writes this time into its datagrams.
    pub fn new(setup: Setup, unix_seconds: u64, seed: u64) -> Self {
        Self {
            key: Key::of(&setup.password),
            setup,
            unix_seconds,
            random: Random::new(seed),
        }
    }

    /// A valid AYIYA datagram with this packet.
    pub fn right(&self, packet: &[u8]) -> Vec<u8> {
        self.seal(self.setup.peer, self.unix_seconds, packet)
    }

    /// `count` invalid AYIYA datagrams with this packet.
    pub fn wrong(
        &self,
        attack: Attack,
        packet: &[u8],
        count: usize,
    ) -> impl Iterator<Item = Vec<u8>> + use<> {
        let (mut forger, packet) = (self.clone(), packet.to_vec());
        (0..count).map(move |_| forger.one(attack, &packet))
    }

    /// `count` invalid IPv6 packets, as payload of protocol 41: truncated, of another version, or random.
    pub fn wrong_packets(
        &self,
        packet: &[u8],
        count: usize,
    ) -> impl Iterator<Item = Vec<u8>> + use<> {
        let (mut random, packet) = (self.random.clone(), packet.to_vec());
        (0..count).map(move |_| not_a_packet(&mut random, &packet))
    }

    fn seal(&self, identity: Ipv6Addr, unix_seconds: u64, packet: &[u8]) -> Vec<u8> {
        let forward = (ayiya::FORWARD, ayiya::IPV6);
        ayiya::seal(&self.key, identity, unix_seconds, forward, packet)
    }

    fn one(&mut self, attack: Attack, packet: &[u8]) -> Vec<u8> {
        let now = self.unix_seconds;
        let beyond = ayiya::CLOCK_SKEW_SECONDS + 1 + self.random.number() % 100_000;
        let Setup { address, peer, .. } = self.setup;
        match attack {
            Attack::Forged => {
                let key = Key::of(&self.random.number().to_string());
                ayiya::seal(&key, peer, now, (ayiya::FORWARD, ayiya::IPV6), packet)
            }
            Attack::Altered => {
                let mut datagram = self.right(packet);
                let bit = self.random.below(datagram.len() * 8);
                datagram[bit / 8] ^= 1 << (bit % 8);
                datagram
            }
            Attack::Stale => self.seal(peer, now - beyond, packet),
            // The client's clock advances meanwhile, and even the first datagrams must stay too early.
            Attack::Early => self.seal(peer, now + beyond + 60, packet),
            Attack::Reflected => self.seal(address, now, packet),
            Attack::Stranger => {
                let other = peer.to_bits() ^ (1 << (3 + self.random.below(120)));
                self.seal(Ipv6Addr::from_bits(other), now, packet)
            }
            Attack::Truncated => {
                let mut datagram = self.right(packet);
                datagram.truncate(self.random.below(datagram.len()));
                datagram
            }
            Attack::Oversized => {
                let most = LONGEST_PAYLOAD - ayiya::HEADER_BYTES;
                let length = ayiya::LONGEST_BYTES + self.random.below(most - ayiya::LONGEST_BYTES);
                let mut payload = packet.to_vec();
                payload.resize(length, 0);
                self.seal(peer, now, &payload)
            }
            Attack::Header => {
                let mut datagram = self.right(packet);
                let right = datagram[..4].to_vec();
                while datagram[..4] == right || is_acceptable(&datagram) {
                    datagram[self.random.below(4)] = self.random.number().to_le_bytes()[0];
                }
                self.key.sign(&mut datagram);
                datagram
            }
            Attack::Payload => {
                let payload = not_a_packet(&mut self.random, packet);
                self.seal(peer, now, &payload)
            }
            Attack::Garbage => {
                let length = self.random.below(1500);
                self.random.bytes(length)
            }
        }
    }
}

/// Whether the protocol defines this header.
fn is_acceptable(datagram: &[u8]) -> bool {
    ayiya::header(datagram).is_some()
}

fn not_a_packet(random: &mut Random, packet: &[u8]) -> Vec<u8> {
    let mut payload = packet.to_vec();
    match random.below(3) {
        0 => payload.truncate(random.below(packet.len())),
        1 => {
            // Any version but 6.
            let version = [0, 1, 2, 3, 4, 5, 7, 8, 9, 15][random.below(10)];
            payload[0] = version << 4 | payload[0] & 0x0f;
        }
        _ => {
            payload = random.bytes(packet.len());
            payload[0] &= 0x5f;
        }
    }
    payload
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::{Kind, ping, protocol41};

    const NOW: u64 = 1_600_000_000;

    #[test]
    fn wrong_ones_are_wrong() {
        let setup = Setup {
            kind: Kind::Ayiya,
            address: "2001:db8::2".parse().unwrap(),
            peer: "2001:db8::1".parse().unwrap(),
            prefixes: Vec::new(),
            password: "secret".to_owned(),
            registered: None,
        };
        let key = Key::of(&setup.password);
        let packet = ping::request(setup.peer, setup.address, 1);
        let peer = setup.peer;
        let is_right = |datagram: &[u8]| {
            ayiya::header(datagram).is_some_and(|header| {
                let payload = &datagram[ayiya::HEADER_BYTES..];
                header.identity == peer
                    && header.is_recent(NOW)
                    && key.signed(datagram)
                    && (header.operation, header.next_header) == (ayiya::FORWARD, ayiya::IPV6)
                    && protocol41::addresses(payload).is_some()
            })
        };
        let forger = Forger::new(setup, NOW, 1);
        assert!(is_right(&forger.right(&packet)));
        for attack in Attack::ALL {
            let count = forger
                .wrong(attack, &packet, 500)
                .inspect(|datagram| assert!(!is_right(datagram), "{attack:?}: {datagram:x?}"))
                .count();
            assert_eq!(count, 500);
        }
        for wrong in forger.wrong_packets(&packet, 500) {
            assert_eq!(protocol41::addresses(&wrong), None, "{wrong:x?}");
        }
    }
}
