//! Packets on their way into a device: put together where they belong to one flow.

use std::io;

use tun_rs::{GROTable, VIRTIO_NET_HDR_LEN};

use super::Device;

/// Packets before they are written.
const MOST: usize = 64;

/// Room of a buffer, into which others may be put. Memory that is never written to costs nothing.
const BUFFER_BYTES: usize = VIRTIO_NET_HDR_LEN + 65_535;

/// Packets for one device.
pub struct Inbox {
    buffers: Vec<Vec<u8>>,
    used: usize,
    table: GROTable,
}

impl Default for Inbox {
    fn default() -> Self {
        Self {
            buffers: (0..MOST)
                .map(|_| Vec::with_capacity(BUFFER_BYTES))
                .collect(),
            used: 0,
            table: GROTable::new(),
        }
    }
}

impl Inbox {
    /// Adds a packet; true: it is now full and has to be written.
    pub fn add(&mut self, packet: &[u8]) -> bool {
        if let Some(buffer) = self.buffers.get_mut(self.used) {
            buffer.clear();
            buffer.resize(VIRTIO_NET_HDR_LEN, 0);
            buffer.extend_from_slice(packet);
            self.used += 1;
        }
        self.used == self.buffers.len()
    }

    /// Writes everything. An error says that the device is gone; packets that it does not take are
    /// lost, as they would be on any wire.
    pub fn write(&mut self, device: &Device) -> io::Result<()> {
        let buffers = &mut self.buffers[..self.used];
        self.used = 0;
        match device
            .tun()
            .send_multiple(&mut self.table, buffers, VIRTIO_NET_HDR_LEN)
        {
            Err(error) if error.raw_os_error() == Some(libc::EBADFD) => Err(error),
            // A device that is down says EIO.
            Ok(_) | Err(_) => Ok(()),
        }
    }
}
