//! The heartbeat of 6in4 tunnels with a changing IPv4 address (draft-massar-v6ops-heartbeat-01).
//!
//! One UDP datagram, never answered. Only after it does the broker send protocol 41 to the address
//! that it came from.

use std::net::Ipv6Addr;

use md5::{Digest as _, Md5};

use super::hex;
use crate::secret::Secret;

/// The broker's UDP port.
pub const PORT: u16 = 3740;

/// Beats at a start.
pub const BURST: u8 = 2;

/// The datagram for a tunnel whose address at our end is `address`. `sender` in it stands for the
/// address that the packet comes from, which behind a NAT nobody here knows.
#[must_use]
pub fn beat(address: Ipv6Addr, unix_seconds: u64, password: &Secret) -> String {
    signed(&format!("{address} sender"), unix_seconds, password)
}

fn signed(who: &str, unix_seconds: u64, password: &Secret) -> String {
    let text = format!("HEARTBEAT TUNNEL {who} {unix_seconds} ");
    // The digest is over the text and the password behind it.
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
        let text = beat(longest, u64::MAX, &Secret::from("x".repeat(200)));
        assert!(text.len() < 256, "{}", text.len());
        assert!(
            text.starts_with("HEARTBEAT TUNNEL 2001:db8:1111:2222:3333:4444:5555:6666 sender ")
        );
    }
}
