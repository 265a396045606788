//! The flow that a packet belongs to, from the perspective of this host.

use bytemuck::{Pod, Zeroable};

use crate::{
    address::Address,
    packet::{self, ECHO_REPLY, ECHO_REQUEST, ICMPV6, Ipv6, Packet, TCP, Transport, UDP},
};

/// SCTP's protocol number; its ports have the same offsets as TCP's.
const SCTP: u8 = 132;
/// UDP-Lite's protocol number.
const UDPLITE: u8 = 136;
/// DCCP's protocol number.
const DCCP: u8 = 33;

/// One flow: addresses, protocol and ports. Echo messages have their identifier as both ports.
/// Without ports, both are 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Flow {
    /// The local address, which belongs to a tunnel.
    pub local: Address,
    /// The remote address.
    pub remote: Address,
    /// The local port, in native byte order.
    pub local_port: u16,
    /// The remote port, in native byte order.
    pub remote_port: u16,
    /// IPv6 protocol number of the upper layer; 0 if the packet does not show it.
    pub protocol: u32,
}

const _: () = assert!(size_of::<Flow>() == 40);

/// The flow of a packet that leaves; `upper` is the result of [`packet::transport`].
#[inline(always)]
pub fn outgoing<P: Packet + ?Sized>(packet: &P, ipv6: &Ipv6, upper: Option<&Transport>) -> Flow {
    let ends = ends(packet, upper);
    Flow {
        local: ipv6.source,
        remote: ipv6.destination,
        local_port: ends.source,
        remote_port: ends.destination,
        protocol: ends.protocol,
    }
}

/// The flow of a packet that arrives; for an ICMPv6 error (RFC 4443 §2.1: types below 128) the flow
/// of the quoted packet.
#[inline(always)]
pub fn incoming<P: Packet + ?Sized>(packet: &P, ipv6: &Ipv6) -> Flow {
    let mut header = *ipv6;
    let mut about_ours = false;
    if ipv6.next_header == ICMPV6 {
        let message = ipv6.offset + packet::IPV6_HEADER_BYTES;
        if let Some([kind, _]) = packet.peek(message)
            && kind < 128
            && let Some(quoted) = packet::ipv6_at(packet, message + 8)
        {
            header = quoted;
            about_ours = true;
        }
    }
    let upper = packet::transport(packet, &header);
    let flow = outgoing(packet, &header, upper.as_ref());
    if about_ours { flow } else { flow.reversed() }
}

impl Flow {
    /// The same flow from the perspective of the remote host.
    #[inline(always)]
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self {
            local: self.remote,
            remote: self.local,
            local_port: self.remote_port,
            remote_port: self.local_port,
            protocol: self.protocol,
        }
    }
}

struct Ends {
    protocol: u32,
    source: u16,
    destination: u16,
}

#[inline(always)]
fn ends<P: Packet + ?Sized>(packet: &P, upper: Option<&Transport>) -> Ends {
    let Some(transport) = upper else {
        return Ends {
            protocol: 0,
            source: 0,
            destination: 0,
        };
    };
    let (source, destination) = if !transport.present {
        (0, 0)
    } else {
        match transport.protocol {
            TCP | UDP | DCCP | SCTP | UDPLITE => {
                packet.word(transport.offset).map_or((0, 0), |ports| {
                    let [a, b, c, d] = ports.to_ne_bytes();
                    (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
                })
            }
            ICMPV6 => match packet.peek(transport.offset) {
                // The identifier serves as both ports, since it is the same in both directions.
                Some([ECHO_REQUEST | ECHO_REPLY, _, _, _, high, low]) => {
                    let identifier = u16::from_be_bytes([high, low]);
                    (identifier, identifier)
                }
                _ => (0, 0),
            },
            _ => (0, 0),
        }
    };
    Ends {
        protocol: u32::from(transport.protocol),
        source,
        destination,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::tests::{DESTINATION, SOURCE, packet};

    fn swap(mut bytes: Vec<u8>) -> Vec<u8> {
        bytes[8..24].copy_from_slice(&DESTINATION);
        bytes[24..40].copy_from_slice(&SOURCE);
        bytes
    }

    fn header(bytes: &[u8]) -> Ipv6 {
        packet::ipv6(bytes, 0).unwrap()
    }

    fn outgoing(bytes: &[u8]) -> Flow {
        let header = header(bytes);
        super::outgoing(bytes, &header, packet::transport(bytes, &header).as_ref())
    }

    #[test]
    fn both_directions_of_a_conversation_are_one_flow() {
        for (name, protocol, out, back) in [
            ("TCP", TCP, vec![0, 80, 1, 0, 0], vec![1, 0, 0, 80, 0]),
            (
                "echo",
                ICMPV6,
                vec![ECHO_REQUEST, 0, 0, 0, 7, 7, 0, 1],
                vec![ECHO_REPLY, 0, 0, 0, 7, 7, 0, 1],
            ),
            ("something else", 253, vec![1], vec![2]),
        ] {
            let out = packet(protocol, &out);
            let back = swap(packet(protocol, &back));
            let flow = outgoing(&out);
            assert_eq!(flow, incoming(back.as_slice(), &header(&back)), "{name}");
            assert_eq!(flow.protocol, u32::from(protocol), "{name}");
        }
    }

    #[test]
    fn an_error_belongs_to_the_flow_it_is_about() {
        let out = packet(TCP, &[0, 80, 1, 0, 0, 0, 0, 0]);
        let mut message = vec![2, 0, 0, 0, 0, 0, 5, 0];
        message.extend(&out);
        // The error comes from a router on the path, not from the remote host.
        let mut error = swap(packet(ICMPV6, &message));
        error[8] = 0x3f;
        assert_eq!(incoming(error.as_slice(), &header(&error)), outgoing(&out));
    }

    #[test]
    fn truncated_ends_are_zero() {
        let bytes = packet(UDP, &[1, 2]);
        let flow = outgoing(&bytes);
        assert_eq!((flow.local_port, flow.remote_port), (0, 0));
    }

    #[test]
    fn each_protocol_with_ports_shows_them() {
        for (name, protocol, expected) in [
            ("TCP", TCP, (80, 443)),
            ("UDP", UDP, (80, 443)),
            ("SCTP", SCTP, (80, 443)),
            ("DCCP", DCCP, (80, 443)),
            ("UDP-Lite", UDPLITE, (80, 443)),
            ("something else", 253, (0, 0)),
            ("ICMPv6 without an identifier", ICMPV6, (0, 0)),
        ] {
            let flow = outgoing(&packet(protocol, &[0, 80, 1, 187, 0, 0, 0, 0]));
            assert_eq!((flow.local_port, flow.remote_port), expected, "{name}");
            assert_eq!(flow.protocol, u32::from(protocol), "{name}");
        }
    }

    /// Later fragments have no ports: their payload must not be taken for some.
    #[test]
    fn what_a_packet_does_not_show_is_zero() {
        let later = packet(packet::FRAGMENT, &[UDP, 0, 0, 8, 0, 0, 0, 7, 1, 2, 3, 4]);
        let flow = outgoing(&later);
        let shown = (flow.local_port, flow.remote_port, flow.protocol);
        assert_eq!(shown, (0, 0, u32::from(UDP)));
        let no_end = packet(packet::FRAGMENT, &[UDP]);
        let flow = outgoing(&no_end);
        let shown = (flow.local_port, flow.remote_port, flow.protocol);
        assert_eq!(shown, (0, 0, 0));
    }

    /// An error may be at any place of a frame, and quotes the packet after its own eight bytes.
    #[test]
    fn only_errors_are_about_other_packets() {
        let out = packet(TCP, &[0, 80, 1, 0, 0, 0, 0, 0]);
        let link = [0; 14];
        for (kind, is_error) in [(1, true), (127, true), (128, false), (200, false)] {
            let message = [&[kind, 0, 0, 0, 0, 0, 5, 0], &out[..]].concat();
            let frame = [&link, &swap(packet(ICMPV6, &message))[..]].concat();
            let header = packet::ipv6_again(&frame[..], 14).unwrap();
            let flow = incoming(&frame[..], &header);
            assert_eq!(flow == outgoing(&out), is_error, "{kind}");
        }
    }
}
