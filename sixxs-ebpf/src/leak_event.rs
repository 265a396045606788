//! Leak events: the record of a packet, counted per flow and reported to user space.

use sixxs_common::{
    flow,
    layout::{FLOW_REPORT_NS, FlowRecord, Interface, LeakEvent},
    packet::{Ipv6, Transport},
    stat::Stat,
    treatment::Treatment,
};

use crate::{
    frame::{self, Frame},
    maps::{self, Slot},
};

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
    let sender = frame.sender();
    event.flow = flow::outgoing(frame, ipv6, upper);
    event.record = FlowRecord {
        packets: 1,
        bytes: frame.bytes_behind(interface.link_bytes).into(),
        reported_ns: frame::now_ns(),
        cgroup: sender.cgroup,
        tunnel: slot,
        ifindex: interface.ifindex,
        from_ifindex: frame.ingress_ifindex(),
        bound_ifindex: sender.bound_ifindex,
        uid: sender.uid,
        treatment: Treatment::NoTunnel.raw(),
        mark: frame.mark(),
        recursive_until: 0,
    };
}

/// Adds the packet to the record of its flow, and reports it to user space: a new flow at once, a known flow
/// once per [`FLOW_REPORT_NS`] at most, and all flows of a tunnel within its budget.
#[inline(always)]
pub(crate) fn report(event: &mut LeakEvent, counters: Slot) {
    let now = event.record.reported_ns;
    let state = maps::state(event.record.tunnel);
    if let Some(record) = maps::flow(&event.flow) {
        // SAFETY: a map value, checked for null. Another processor may write it at the same time: then the
        // flow's record may miss a packet. The tunnel's counters are per CPU and miss none.
        let record = unsafe { &mut *record };
        record.packets = record.packets.wrapping_add(1);
        record.bytes = record.bytes.wrapping_add(event.record.bytes);
        record.treatment = event.record.treatment;
        record.ifindex = event.record.ifindex;
        record.bound_ifindex = event.record.bound_ifindex;
        if event.record.treatment != Treatment::Recursion.raw() {
            record.recursive_until = 0;
        } else if event.record.recursive_until != 0 {
            record.recursive_until = event.record.recursive_until;
        }
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
        admitted = state.admit(now);
    }
    if !(admitted && maps::emit(event)) {
        counters.add(Stat::EventsLost, 1);
    }
}
