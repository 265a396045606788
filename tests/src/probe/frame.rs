//! Sends handmade frames, for packets that the kernel's sockets cannot send everywhere: VLAN tags on a kernel
//! without VLAN devices.

use std::io;
use std::net::Ipv6Addr;
use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result, ensure};
use nix::libc;
use socket2::{Domain, Protocol, Socket, Type};

use crate::lab::netns::Namespace;
use crate::probe::service::DISCARD_PORT;

const UDP: u8 = 17;
const UDP_HEADER_BYTES: u16 = 8;
/// A MAC address that no host has: no host is meant to accept the frame by it.
const NOWHERE: [u8; 6] = [2, 0, 0, 0, 0, 5];

/// Sends UDP datagrams out of `interface` to the discard port of `to`, in Ethernet frames with these VLAN
/// tags, the outer one first.
pub fn send_tagged(
    at: &Namespace,
    interface: &str,
    tags: &[u16],
    (from, to): (Ipv6Addr, Ipv6Addr),
    count: u64,
) -> Result<()> {
    let frame = frame(tags, &udp(from, to, b"a datagram in a tagged frame")?);
    at.run(|| {
        let index = nix::net::if_::if_nametoindex(interface)
            .with_context(|| format!("find interface {interface}"))?;
        let socket = Socket::new(Domain::PACKET, Type::RAW, None::<Protocol>)
            .context("open a packet socket")?;
        // SAFETY: sockaddr_ll is plain data, for which all zeroes is a valid value.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET)?;
        address.sll_ifindex = i32::try_from(index)?;
        let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>())?;
        for _ in 0..count {
            // SAFETY: the descriptor is open; the pointers and lengths describe `frame` and `address`.
            let sent = unsafe {
                libc::sendto(
                    socket.as_raw_fd(),
                    frame.as_ptr().cast(),
                    frame.len(),
                    0,
                    (&raw const address).cast(),
                    length,
                )
            };
            ensure!(sent >= 0, "send a frame: {}", io::Error::last_os_error());
        }
        Ok(())
    })
}

fn frame(tags: &[u16], packet: &[u8]) -> Vec<u8> {
    let mut frame = [NOWHERE, NOWHERE].concat();
    for tag in tags {
        frame.extend(0x8100_u16.to_be_bytes()); // IEEE 802.1Q
        frame.extend(tag.to_be_bytes());
    }
    frame.extend(0x86dd_u16.to_be_bytes()); // IPv6
    frame.extend(packet);
    frame
}

/// An IPv6 packet with a UDP datagram to the discard port (RFC 8200 §3, RFC 768), with its checksum.
pub fn udp(from: Ipv6Addr, to: Ipv6Addr, payload: &[u8]) -> Result<Vec<u8>> {
    let length = UDP_HEADER_BYTES + u16::try_from(payload.len()).context("a short payload")?;
    let mut datagram = Vec::new();
    for field in [DISCARD_PORT, DISCARD_PORT, length, 0] {
        datagram.extend(field.to_be_bytes());
    }
    datagram.extend(payload);
    // RFC 8200 §8.1: the checksum includes addresses, length and next header.
    let mut summed = [from.octets(), to.octets()].concat();
    summed.extend(u32::from(length).to_be_bytes());
    summed.extend(u32::from(UDP).to_be_bytes());
    summed.extend(&datagram);
    datagram[6..8].copy_from_slice(&checksum(&summed).to_be_bytes());

    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([UDP, 64]);
    packet.extend([from.octets(), to.octets()].concat());
    packet.extend(datagram);
    Ok(packet)
}

/// RFC 1071; never 0, which means that there is no checksum.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        let low = pair.get(1).copied().unwrap_or_default();
        sum += u32::from(u16::from_be_bytes([pair[0], low]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    match u16::try_from(sum) {
        Ok(sum) if sum != 0xffff => !sum,
        _ => 0xffff,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_as_others_make_it() {
        let packet = udp(
            "2001:db8::1".parse().unwrap(),
            "2001:db8::2".parse().unwrap(),
            b"odd",
        );
        let packet = packet.unwrap();
        assert_eq!(packet.len(), 40 + 8 + 3);
        // The words of a correct datagram, with its checksum, sum to 0xffff, which is 0 inverted.
        let mut summed = packet[8..].to_vec();
        summed.extend([0, 0, 0, 11, 0, 0, 0, UDP]);
        // The payload has an odd length: pad it, so that the next fields are at an even offset.
        summed.insert(32 + 11, 0);
        assert_eq!(!checksum(&summed), 0);
        assert_eq!(frame(&[5], &packet)[12..18], [0x81, 0, 0, 5, 0x86, 0xdd]);
    }
}
