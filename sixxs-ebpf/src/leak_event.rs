//! Leak events: the record of a packet, counted per flow and reported to user space.

use sixxs_common::{
    flow,
    flow_record::AddedPacket,
    layout::{EVENTS_PER_SECOND, FLOW_REPORT_NS, FlowRecord, Interface, LeakEvent},
    packet::{Ipv6, Transport},
    stat::Stat,
    treatment::Treatment,
};

use crate::{
    frame::{self, Frame},
    maps::{self, Slot},
};

/// The record of a flow that was reported less than [`FLOW_REPORT_NS`] ago: its packets are only counted. To find the
/// sender of a packet takes the kernel as long as everything else about a leak.
pub(crate) struct ReportedFlow {
    record: *mut FlowRecord,
}

impl ReportedFlow {
    /// The flow of `event`; `None`: it is unknown, or its next report is due.
    #[inline(always)]
    pub(crate) fn find(event: &LeakEvent, now_ns: u64) -> Option<Self> {
        let record = maps::flow(&event.flow)?;
        // SAFETY: a map value, checked for null, which stays valid until the program returns. Other processors may
        // write it at the same time; the field is one aligned word.
        let reported_ns = unsafe { (*record).reported_ns };
        (now_ns.wrapping_sub(reported_ns) < FLOW_REPORT_NS).then_some(Self { record })
    }

    /// Adds a packet.
    #[inline(always)]
    pub(crate) fn count(&self, packet: &AddedPacket) {
        // SAFETY: as in `find`. Another processor may write the record at the same time: then it may miss a packet. The
        // tunnel's counters are per CPU and miss none.
        unsafe { &mut *self.record }.add(packet);
    }
}

/// Fills an event with the flow and the sender of a packet.
#[inline(always)]
pub(crate) fn fill(
    event: &mut LeakEvent,
    frame: &Frame,
    interface: &Interface,
    ipv6: &Ipv6,
    upper: Option<&Transport>,
    slot: u32,
) {
    event.flow = flow::outgoing(frame, ipv6, upper);
    fill_record(event, frame, interface, slot, frame::now_ns());
}

/// Fills the record of an event with the sender of a packet.
#[inline(always)]
pub(crate) fn fill_record(
    event: &mut LeakEvent,
    frame: &Frame,
    interface: &Interface,
    slot: u32,
    now_ns: u64,
) {
    let sender = frame.sender();
    event.record = FlowRecord {
        packets: 1,
        bytes: frame.bytes_behind(interface.link_bytes).into(),
        reported_ns: now_ns,
        cgroup: sender.cgroup,
        tunnel: slot,
        ifindex: interface.ifindex,
        from_ifindex: frame.ingress_ifindex(),
        bound_ifindex: frame.bound_ifindex(),
        uid: sender.uid,
        treatment: Treatment::NoTunnel.raw(),
        mark: frame.mark(),
        recursive_until: 0,
    };
}

/// Adds the packet to the record of its flow, and reports it to user space: a new flow at once, a known flow
/// once per [`FLOW_REPORT_NS`] at most, and all flows of a tunnel within its budget.
#[inline(always)]
pub(crate) fn report(event: &mut LeakEvent, treatment: Treatment, counters: Slot) {
    event.record.treatment = treatment.raw();
    let now = event.record.reported_ns;
    let state = maps::state(event.record.tunnel);
    if let Some(record) = maps::flow(&event.flow) {
        // SAFETY: a map value, checked for null. Another processor may write it at the same time: then the
        // flow's record may miss a packet. The tunnel's counters are per CPU and miss none.
        let record = unsafe { &mut *record };
        record.add(&AddedPacket {
            bytes: event.record.bytes,
            ifindex: event.record.ifindex,
            bound_ifindex: event.record.bound_ifindex,
            treatment,
            recursive_until: event.record.recursive_until,
        });
        if now.wrapping_sub(record.reported_ns) < FLOW_REPORT_NS {
            return;
        }
        record.reported_ns = now;
        event.record = *record;
    } else if !maps::store_flow(&event.flow, &event.record) {
        counters.add(Stat::EventsLost, 1);
    }
    let mut admitted = false;
    if let Some(state) = state {
        if event.record.bound_ifindex == event.record.ifindex {
            state.bound_ns = now;
        }
        admitted = state.events.take(EVENTS_PER_SECOND, now);
    }
    if !(admitted && maps::emit(event)) {
        counters.add(Stat::EventsLost, 1);
    }
}
