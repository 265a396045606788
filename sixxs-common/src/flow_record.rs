//! Adds packets to the record of a leaking flow.

use crate::{layout::FlowRecord, treatment::Treatment};

impl FlowRecord {
    /// Adds a packet of the same flow. What it has in common with earlier packets stays: its sender, its mark and the
    /// time of the report. `recursive_until` 0 leaves that time as it is.
    #[inline(always)]
    pub const fn add(&mut self, packet: &AddedPacket) {
        self.packets = self.packets.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add(packet.bytes);
        self.treatment = packet.treatment.raw();
        self.ifindex = packet.ifindex;
        self.bound_ifindex = packet.bound_ifindex;
        if !matches!(packet.treatment, Treatment::Recursion) {
            self.recursive_until = 0;
        } else if packet.recursive_until != 0 {
            self.recursive_until = packet.recursive_until;
        }
    }
}

/// A packet of a flow that has a record.
#[derive(Clone, Copy, Debug)]
pub struct AddedPacket {
    /// As in [`FlowRecord`], like all others.
    pub bytes: u64,
    /// The interface that it was about to leave by.
    pub ifindex: u32,
    /// The interface that its socket is bound to.
    pub bound_ifindex: u32,
    /// The treatment of this packet.
    pub treatment: Treatment,
    /// Until when the flow is treated as outer packets; 0: no change.
    pub recursive_until: u32,
}
