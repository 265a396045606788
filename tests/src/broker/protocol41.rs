//! IPv6 in IPv4 on the broker's side (RFC 4213): the payload of an IPv4 packet of protocol 41, and the
//! addresses of IPv6 packets.

use std::net::{Ipv4Addr, Ipv6Addr};

const IPV6_HEADER_BYTES: usize = 40;

/// The outer source and the inner packet of an IPv4 packet, as a raw socket returns it.
pub fn unwrap(packet: &[u8]) -> Option<(Ipv4Addr, &[u8])> {
    let first = *packet.first()?;
    if first >> 4 != 4 {
        return None;
    }
    let source: [u8; 4] = *packet.get(12..)?.first_chunk()?;
    Some((source.into(), packet.get(usize::from(first & 0x0f) * 4..)?))
}

/// Source and destination of an IPv6 packet whose length matches its header.
pub fn addresses(packet: &[u8]) -> Option<(Ipv6Addr, Ipv6Addr)> {
    let header: &[u8; IPV6_HEADER_BYTES] = packet.first_chunk()?;
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    if header[0] >> 4 != 6 || packet.len() != IPV6_HEADER_BYTES + length {
        return None;
    }
    let source: [u8; 16] = *header[8..].first_chunk()?;
    let destination: [u8; 16] = *header[24..].first_chunk()?;
    Some((source.into(), destination.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::ping;

    #[test]
    fn looks_inside() {
        let (from, to) = (
            "2001:db8::2".parse().unwrap(),
            "2001:db8::1".parse().unwrap(),
        );
        let inner = ping::request(from, to, 1);
        let mut packet = vec![0x45; 20];
        packet[12..16].copy_from_slice(&[192, 0, 2, 10]);
        packet.extend(&inner);
        let (source, found) = unwrap(&packet).unwrap();
        assert_eq!((source, found), (Ipv4Addr::new(192, 0, 2, 10), &inner[..]));
        assert_eq!(addresses(found), Some((from, to)));
        for length in 0..inner.len() {
            assert_eq!(addresses(&inner[..length]), None);
        }
        for length in 0..20 {
            assert_eq!(unwrap(&packet[..length]), None);
        }
        packet[0] = 0x65;
        assert_eq!(unwrap(&packet), None);
    }
}
