//! Packets for a device; packets of one flow are coalesced.

use std::io;

use super::{Tun, coalesce::CoalescedPacket};

/// Maximum number of writes that wait, each with one packet or several coalesced ones.
const MAX_WRITES: usize = 64;

/// Packets for one device.
pub struct Inbox {
    /// In the order of arrival. Memory that is never written to costs nothing.
    packets: Vec<CoalescedPacket>,
    used: usize,
}

impl Default for Inbox {
    fn default() -> Self {
        Self {
            packets: (0..MAX_WRITES)
                .map(|_| CoalescedPacket::default())
                .collect(),
            used: 0,
        }
    }
}

impl Inbox {
    /// Adds a packet for `device`; true if the inbox is full and has to be written.
    pub fn add(&mut self, device: &impl Tun, packet: &[u8]) -> bool {
        // Usually it belongs to the last flow.
        let mut waiting = self.packets[..self.used].iter_mut().rev();
        if let Some(same) = waiting.find(|coalesced| coalesced.has_same_flow(packet))
            && same.append(packet, device.has_uso())
        {
            return false;
        }
        if let Some(coalesced) = self.packets.get_mut(self.used) {
            coalesced.start_with(packet);
            self.used += 1;
        }
        self.used == self.packets.len()
    }

    /// Like [`Inbox::add`], for a packet from a raw socket: the kernel may have left its checksum incomplete,
    /// and may have coalesced it from packets of at most `mtu` bytes.
    pub fn add_raw(&mut self, device: &impl Tun, packet: &[u8], mtu: usize) -> bool {
        let Some(coalesced) = self.packets.get_mut(self.used) else {
            return true;
        };
        if !coalesced.start_with_partial_checksum(packet, mtu) {
            return self.add(device, packet);
        }
        self.used += 1;
        self.used == self.packets.len()
    }

    /// Writes everything. An error means that the device is gone. Packets that the device does not accept are
    /// dropped.
    pub fn write(&mut self, device: &impl Tun) -> io::Result<()> {
        let packets = &mut self.packets[..self.used];
        self.used = 0;
        for coalesced in packets {
            match device.write(coalesced.finish()) {
                Err(error) if error.raw_os_error() == Some(libc::EBADFD) => return Err(error),
                // For instance EIO: the device is down.
                Ok(_) | Err(_) => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tun_rs::{VIRTIO_NET_HDR_LEN, VirtioNetHdr, checksum, gso_split};

    use super::*;

    /// A device that records the packets.
    #[derive(Default)]
    struct FakeDevice {
        written: RefCell<Vec<Vec<u8>>>,
        has_uso: bool,
    }

    impl Tun for FakeDevice {
        fn read(&self, _: &mut [u8]) -> io::Result<Option<usize>> {
            Ok(None)
        }

        fn write(&self, packet: &[u8]) -> io::Result<usize> {
            self.written.borrow_mut().push(packet.to_vec());
            Ok(packet.len())
        }

        fn has_uso(&self) -> bool {
            self.has_uso
        }
    }

    fn summed(transport: u8, port: u8, mut message: Vec<u8>, checksum_at: usize) -> Vec<u8> {
        let length = u16::try_from(message.len()).unwrap();
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, transport, 64];
        packet[4..6].copy_from_slice(&length.to_be_bytes());
        packet.extend([0x20; 16]);
        packet.extend([0x30; 16]);
        message[1] = port;
        let pseudo = u64::from(checksum(
            &packet[8..40],
            u64::from(length) + u64::from(transport),
        ));
        let sum = !checksum(&message, pseudo);
        message[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());
        packet.extend(message);
        packet
    }

    fn tcp(port: u8, sequence: u32, flags: u8, bytes: usize) -> Vec<u8> {
        let mut message = vec![0; 20];
        message[4..8].copy_from_slice(&sequence.to_be_bytes());
        message[12] = 5 << 4;
        message[13] = flags;
        message.extend(sequence.to_le_bytes().into_iter().cycle().take(bytes));
        summed(6, port, message, 16)
    }

    fn udp(port: u8, bytes: usize) -> Vec<u8> {
        let mut message = vec![0; 8];
        message[5] = 8 + u8::try_from(bytes).unwrap();
        message.extend((0..=u8::MAX).cycle().take(bytes));
        summed(17, port, message, 6)
    }

    /// The packets after the kernel segmented the written ones, and the number of writes.
    fn pass(packets: &[Vec<u8>], has_uso: bool) -> (Vec<Vec<u8>>, usize) {
        let device = FakeDevice {
            has_uso,
            ..FakeDevice::default()
        };
        let mut inbox = Inbox::default();
        for packet in packets {
            if inbox.add(&device, packet) {
                inbox.write(&device).unwrap();
            }
        }
        inbox.write(&device).unwrap();
        let written = device.written.take();
        let count = written.len();
        let cut = written.into_iter().flat_map(|mut written| {
            let (header, packet) = written.split_at_mut(VIRTIO_NET_HDR_LEN);
            let header = VirtioNetHdr::decode(header).unwrap();
            if header.gso_type == 0 {
                return vec![packet.to_vec()];
            }
            let mut buffers = vec![vec![0; 2000]; 100];
            let mut sizes = vec![0; 100];
            let count = gso_split(packet, header, &mut buffers, &mut sizes, 0, true).unwrap();
            let sized = buffers.into_iter().zip(&sizes).take(count);
            sized
                .map(|(buffer, size)| buffer[..*size].to_vec())
                .collect()
        });
        (cut.collect(), count)
    }

    const ACK: u8 = 0x10;
    const PUSH: u8 = 0x08;
    const FIN: u8 = 0x01;

    #[test]
    fn packets_of_a_flow_are_coalesced() {
        let sequence = u32::MAX - 3000;
        let mut packets: Vec<_> = (0..9)
            .map(|n| tcp(1, sequence.wrapping_add(n * 1000), ACK, 1000))
            .collect();
        packets.push(tcp(1, sequence.wrapping_add(9000), ACK | PUSH, 300));
        assert_eq!(pass(&packets, true), (packets, 1));
        let packets = vec![udp(1, 100), udp(1, 100), udp(1, 30)];
        assert_eq!(pass(&packets, true), (packets.clone(), 1));
        // A kernel without UDP segmentation.
        assert_eq!(pass(&packets, false), (packets, 3));
    }

    /// Packets from a raw socket that the kernel coalesced, or whose checksum it left incomplete.
    #[test]
    fn partial_checksums_stay_partial() {
        let open = |mut packet: Vec<u8>, at: usize| {
            let length = u16::from_be_bytes([packet[4], packet[5]]);
            let rest = u64::from(length) + u64::from(packet[6]);
            let sum = checksum(&packet[8..40], rest);
            packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
            packet
        };
        let write = |packet: &[u8]| {
            let device = FakeDevice::default();
            let mut inbox = Inbox::default();
            inbox.add_raw(&device, packet, 1060);
            inbox.write(&device).unwrap();
            let mut written = device.written.take().remove(0);
            let packet = written.split_off(VIRTIO_NET_HDR_LEN);
            (VirtioNetHdr::decode(&written).unwrap(), packet)
        };
        // Three coalesced segments: after segmentation they are as before.
        let whole = tcp(1, 7, ACK, 3000);
        let (header, mut packet) = write(&open(whole.clone(), 56));
        assert_eq!((header.gso_size, header.hdr_len), (1000, 60));
        let mut buffers = vec![vec![0; 2000]; 10];
        let mut sizes = vec![0; 10];
        let count = gso_split(&mut packet, header, &mut buffers, &mut sizes, 0, true).unwrap();
        assert_eq!((count, &sizes[..3]), (3, &[1060; 3][..]));
        assert_eq!(buffers[2][60..1060], whole[2060..3060]);
        // Packets with an incomplete checksum, not coalesced.
        for (packet, at) in [(tcp(1, 7, ACK, 500), 56), (udp(1, 100), 46)] {
            let (header, _) = write(&open(packet, at));
            assert_eq!((header.flags, header.gso_type), (1, 0));
            assert_eq!(usize::from(header.csum_start + header.csum_offset), at);
        }
        // Packets with a complete checksum, and one that is neither TCP nor UDP.
        for packet in [tcp(1, 7, ACK, 500), udp(1, 100), vec![0x60; 44]] {
            let (header, written) = write(&packet);
            assert_eq!((header.flags, written), (0, packet));
        }
    }

    #[test]
    fn packets_that_do_not_match_are_written_alone_and_in_order() {
        let start = tcp(1, 0, ACK, 1000);
        let mut damaged = tcp(1, 1000, ACK, 1000);
        damaged[70] ^= 1;
        let mut other_class = tcp(1, 1000, ACK, 1000);
        other_class[1] ^= 0x20;
        let mut other_window = tcp(1, 1000, ACK, 1000);
        other_window[55] ^= 1;
        for next in [
            damaged.clone(),
            other_class,
            other_window,
            tcp(1, 2000, ACK, 1000),
            tcp(1, 0, ACK, 1000),
            tcp(1, 1000, ACK, 1001),
            tcp(1, 1000, ACK | FIN, 1000),
            tcp(1, 1000, ACK, 0),
            tcp(2, 1000, ACK, 1000),
            udp(1, 100),
            vec![0x60; 30],
            vec![0x45; 90],
        ] {
            let packets = vec![start.clone(), next];
            assert_eq!(pass(&packets, true), (packets, 2));
        }
        // After a damaged packet, and after one with the flag PSH.
        for first in [damaged, tcp(1, 1000, ACK | PUSH, 1000)] {
            let packets = vec![first, tcp(1, 2000, ACK, 1000)];
            assert_eq!(pass(&packets, true), (packets, 2));
        }
        // After a shorter packet.
        let packets = vec![
            start.clone(),
            tcp(1, 1000, ACK, 999),
            tcp(1, 1999, ACK, 999),
        ];
        assert_eq!(pass(&packets, true), (packets, 2));
        // A packet of the flow that cannot be coalesced ends the coalescing of those before it.
        let packets = vec![start, tcp(1, 1000, ACK, 0), tcp(1, 1000, ACK, 1000)];
        assert_eq!(pass(&packets, true), (packets, 3));
    }

    #[test]
    fn interleaved_flows_are_coalesced_up_to_the_limits() {
        let packets: Vec<_> = (0..40)
            .flat_map(|n| [tcp(1, n * 1000, ACK, 1000), tcp(2, n * 1000, ACK, 1000)])
            .collect();
        let (came, writes) = pass(&packets, true);
        assert_eq!((came.len(), writes), (packets.len(), 2));
        let of = |port| move |packet: &&Vec<u8>| packet[41] == port;
        for port in [1, 2] {
            assert!(
                came.iter()
                    .filter(of(port))
                    .eq(packets.iter().filter(of(port)))
            );
        }
        // Not more than the length field of IPv6 allows.
        let packets: Vec<_> = (0..70).map(|n| tcp(1, n * 1000, ACK, 1000)).collect();
        assert_eq!(pass(&packets, true), (packets, 2));
        let packets: Vec<_> = (0..200).map(|n| tcp(n, 0, ACK, 10)).collect();
        assert_eq!(pass(&packets, true), (packets, 200));
    }
}
