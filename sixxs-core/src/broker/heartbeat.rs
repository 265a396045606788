//! The heartbeat of 6in4 tunnels with a changing IPv4 address (draft-massar-v6ops-heartbeat-01).
//!
//! It is one UDP datagram without an answer. The broker sends protocol 41 to the source address of
//! the datagram, and only after receiving it.

use std::net::Ipv6Addr;

use md5::{Digest as _, Md5};

use super::hex;
use crate::secret::Secret;

/// The broker's UDP port.
pub const PORT: u16 = 3740;

/// Number of heartbeats at a start.
pub const BURST: u8 = 2;

/// The datagram for a tunnel with the local inner address `address`. Its word `sender` means the
/// datagram's source address, which a client behind NAT does not know.
#[must_use]
pub fn datagram(address: Ipv6Addr, unix_seconds: u64, password: &Secret) -> String {
    signed(&format!("{address} sender"), unix_seconds, password)
}

fn signed(who: &str, unix_seconds: u64, password: &Secret) -> String {
    let text = format!("HEARTBEAT TUNNEL {who} {unix_seconds} ");
    // The digest covers the text followed by the password.
    let digest = Md5::new()
        .chain_update(&text)
        .chain_update(password.expose())
        .finalize();
    text + &hex(&digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drafts_vector() {
        let text = signed(
            "2001:db8::2 10.100.13.42",
            1_063_665_852,
            &Secret::from("hartslag"),
        );
        assert_eq!(
            text,
            "HEARTBEAT TUNNEL 2001:db8::2 10.100.13.42 1063665852 da46fdc28f568bb62d29661f73758095"
        );
    }

    #[test]
    fn it_fits_the_brokers_buffer() {
        let longest = "2001:db8:1111:2222:3333:4444:5555:6666".parse().unwrap();
        let text = datagram(longest, u64::MAX, &Secret::from("x".repeat(200)));
        assert!(text.len() < 256, "{}", text.len());
        assert!(
            text.starts_with("HEARTBEAT TUNNEL 2001:db8:1111:2222:3333:4444:5555:6666 sender ")
        );
    }
}
