//! The heartbeat on the broker's side (draft-massar-v6ops-heartbeat-01): one line of text with which a client
//! reports the present IPv4 address of its end of a 6in4 tunnel.

use std::net::{Ipv4Addr, Ipv6Addr};

use md5::{Digest as _, Md5};

use super::hex;

/// The UDP port of a PoP.
pub const PORT: u16 = 3740;
/// A heartbeat is shorter than this.
pub const LONGEST_BYTES: usize = 256;
/// Largest tolerated clock difference, in seconds.
pub const CLOCK_SKEW_SECONDS: u64 = 120;

/// A well-formed heartbeat; its signature is not checked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat<'a> {
    /// The client's address in the tunnel, which identifies it.
    pub tunnel: Ipv6Addr,
    /// The address that the client claims; `None`: the word `sender`.
    pub sender: Option<Ipv4Addr>,
    /// Time of sending.
    pub unix_seconds: u64,
    signed: &'a str,
    signature: &'a str,
}

impl<'a> Heartbeat<'a> {
    /// Reads `HEARTBEAT TUNNEL <inner IPv6> sender|<IPv4> <unix time> <md5>`.
    pub fn read(datagram: &'a [u8]) -> Option<Self> {
        if datagram.len() >= LONGEST_BYTES {
            return None;
        }
        let text = std::str::from_utf8(datagram).ok()?;
        let (before, signature) = text.rsplit_once(' ')?;
        let signed = &text[..=before.len()];
        let words: [&str; 5] = before.split(' ').collect::<Vec<_>>().try_into().ok()?;
        let ["HEARTBEAT", "TUNNEL", tunnel, sender, time] = words else {
            return None;
        };
        let hexadecimal = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if signature.len() != 32 || !signature.bytes().all(hexadecimal) {
            return None;
        }
        Some(Self {
            tunnel: tunnel.parse().ok()?,
            sender: match sender {
                "sender" => None,
                literal => Some(literal.parse().ok()?),
            },
            unix_seconds: time.parse().ok()?,
            signed,
            signature,
        })
    }

    /// Whether it was sent within the allowed difference of `now`.
    pub fn is_recent(&self, now_unix_seconds: u64) -> bool {
        self.unix_seconds.abs_diff(now_unix_seconds) <= CLOCK_SKEW_SECONDS
    }

    /// Whether its author knows the password.
    pub fn is_signed(&self, password: &str) -> bool {
        signature(self.signed, password) == self.signature
    }

    /// Whether the claimed address, if there is one, is the packet's source.
    pub fn is_from(&self, source: Ipv4Addr) -> bool {
        self.sender.is_none_or(|sender| sender == source)
    }
}

/// A heartbeat as a client writes it. `sender`: the word, or a literal address.
pub fn write(tunnel: Ipv6Addr, sender: &str, unix_seconds: u64, password: &str) -> String {
    let signed = format!("HEARTBEAT TUNNEL {tunnel} {sender} {unix_seconds} ");
    let signature = signature(&signed, password);
    signed + &signature
}

fn signature(signed: &str, password: &str) -> String {
    let mut hash = Md5::new();
    hash.update(signed);
    hash.update(password);
    hex(&hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TUNNEL: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
    const TIME: u64 = 1_063_665_852;

    #[test]
    fn the_draft_s_example() {
        let heartbeat = write(TUNNEL, "10.100.13.42", TIME, "hartslag");
        assert_eq!(
            heartbeat,
            "HEARTBEAT TUNNEL 2001:db8::2 10.100.13.42 1063665852 da46fdc28f568bb62d29661f73758095"
        );
        let read = Heartbeat::read(heartbeat.as_bytes()).unwrap();
        assert_eq!((read.tunnel, read.unix_seconds), (TUNNEL, TIME));
        assert!(read.is_signed("hartslag") && !read.is_signed("other"));
        assert!(read.is_from(Ipv4Addr::new(10, 100, 13, 42)));
        assert!(!read.is_from(Ipv4Addr::new(10, 100, 13, 43)));
        assert!(read.is_recent(TIME + 120) && read.is_recent(TIME - 120));
        assert!(!read.is_recent(TIME + 121) && !read.is_recent(TIME - 121));
    }

    #[test]
    fn the_word_sender_leaves_the_source_open() {
        let heartbeat = write(TUNNEL, "sender", TIME, "hartslag");
        let read = Heartbeat::read(heartbeat.as_bytes()).unwrap();
        assert!(read.sender.is_none() && read.is_from(Ipv4Addr::LOCALHOST));
    }

    #[test]
    fn what_is_not_a_heartbeat() {
        let good = write(TUNNEL, "sender", TIME, "hartslag");
        let heartbeats = [
            String::new(),
            format!("{good}\n"),
            format!(" {good}"),
            good.replace("TUNNEL ", "TUNNEL  "),
            good.replace("sender", "somewhere"),
            good.replace("2001:db8::2", "192.0.2.2"),
            good.to_uppercase(),
            good[..good.len() - 1].to_owned(),
            format!("{good} {}", "x".repeat(200)),
        ];
        for heartbeat in heartbeats {
            assert_eq!(Heartbeat::read(heartbeat.as_bytes()), None, "{heartbeat}");
        }
        assert_eq!(Heartbeat::read(&[0xff; 60]), None);
    }
}
