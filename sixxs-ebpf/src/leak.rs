//! A packet with a tunnel's source that is about to leave by the wrong interface.

use aya_ebpf::{EbpfContext as _, bindings::__sk_buff, programs::TcContext};
use aya_log_ebpf::debug;
use sixxs_common::{
    flow,
    layout::{
        FLOW_REPORT_NS, FlowRecord, Interface, LeakEvent, ON_LEAK_DROP, ON_LEAK_OBSERVE,
        TREATMENT_DROPPED, TREATMENT_NO_TUNNEL, TREATMENT_OBSERVED, TREATMENT_RECURSION,
        TREATMENT_REDIRECTED, TREATMENT_TOO_BIG, Tunnel,
    },
    packet::{self, ICMPV6, Ipv6, NEIGHBOUR_DISCOVERY, Packet as _, Transport},
    stat::Stat,
    too_big,
};

use crate::{
    frame::{self, Fit, Frame, Refused},
    maps::{self, Slot},
    recursion,
};

/// What became of it.
pub(crate) enum Treated {
    /// It is on its way into the tunnel.
    Redirected,
    /// It was turned into a Packet Too Big that is on its way to the sender.
    Answered,
    /// It is too big, and no answer is allowed or possible: drop it.
    TooBig,
    /// Drop it.
    Dropped,
    /// Let it pass.
    Observed,
    /// It is of the wire that it is on: let it pass.
    Near,
    /// The tunnel would carry its own outer packets: drop it.
    Recursion,
}

/// Treats a leak of the tunnel in `slot`, whose IPv6 header is at `offset`.
#[inline(always)]
pub(crate) fn treat(frame: &Frame, offset: u32, slot: u32) -> Treated {
    match sixxs_leak(frame.context().as_ptr().cast(), offset, slot) {
        REDIRECTED => Treated::Redirected,
        ANSWERED => Treated::Answered,
        TOO_BIG => Treated::TooBig,
        OBSERVED => Treated::Observed,
        RECURSION => Treated::Recursion,
        NEAR => Treated::Near,
        _ => Treated::Dropped,
    }
}

const DROPPED: u32 = 0;
const REDIRECTED: u32 = 1;
const ANSWERED: u32 = 2;
const TOO_BIG: u32 = 3;
const OBSERVED: u32 = 4;
const RECURSION: u32 = 5;
const NEAR: u32 = 6;

/// Treats a leak as the tunnel's entry says, counts it for the tunnel and reports it.
///
/// A global function to the kernel: the verifier looks at it once by itself, instead of once for
/// every way that leads here, and its stack does not weigh on the common path. Such a function gets
/// the context and numbers only, and so looks the rest up again.
#[cold]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sixxs_leak(skb: *mut __sk_buff, offset: u32, slot: u32) -> u32 {
    let frame = &Frame::new(TcContext::new(skb));
    let Some((interface, _)) = maps::interface(frame.ifindex()) else {
        return DROPPED; // never: it was there a moment ago
    };
    match treated(frame, interface, offset, slot) {
        Treated::Redirected => REDIRECTED,
        Treated::Answered => ANSWERED,
        Treated::TooBig => TOO_BIG,
        Treated::Dropped => DROPPED,
        Treated::Observed => OBSERVED,
        Treated::Recursion => RECURSION,
        Treated::Near => NEAR,
    }
}

#[inline(always)]
fn treated(frame: &Frame, interface: &Interface, offset: u32, slot: u32) -> Treated {
    let Some(ref ipv6) = packet::ipv6_again(frame, offset) else {
        return Treated::Dropped; // never: a packet without a header is no leak
    };
    let (Some(tunnel), Some(counters)) = (maps::tunnel(slot), maps::slot(slot)) else {
        return Treated::Dropped; // a slot out of range: user space never writes one
    };
    let Some(event) = maps::scratch() else {
        return Treated::Dropped; // never: the map has one entry
    };
    // What the packet is goes on record before the packet is changed.
    let upper = packet::transport(frame, ipv6);
    // Asks and answers of an address that the uplink has as well.
    if upper
        .as_ref()
        .is_some_and(|upper| is_discovery(frame, upper))
    {
        return Treated::Near;
    }
    write_down(event, frame, interface, ipv6, upper.as_ref(), slot);
    let bound_here = event.record.bound_ifindex == interface.ifindex;
    let (treatment, treated) = match fate(frame, ipv6, upper.as_ref(), tunnel) {
        Fate::Observe => (TREATMENT_OBSERVED, Treated::Observed),
        Fate::Drop => (TREATMENT_DROPPED, Treated::Dropped),
        Fate::NoTunnel => (TREATMENT_NO_TUNNEL, Treated::Dropped),
        Fate::TooBig(mtu) => {
            match answer(
                frame,
                interface,
                ipv6,
                upper.as_ref(),
                tunnel,
                mtu,
                bound_here,
            ) {
                Ok(()) => (TREATMENT_TOO_BIG, Treated::Answered),
                Err(Refused) => (TREATMENT_TOO_BIG, Treated::TooBig),
            }
        }
        Fate::Redirect if recursion::is_known(frame, ipv6, slot) => {
            (TREATMENT_RECURSION, Treated::Recursion)
        }
        Fate::Redirect => match redirect(frame, interface, ipv6, tunnel) {
            Ok(()) => (TREATMENT_REDIRECTED, Treated::Redirected),
            Err(Refused) => (TREATMENT_NO_TUNNEL, Treated::Dropped),
        },
    };
    debug!(
        frame.context(),
        "leak from slot {}: treatment {}", slot, treatment
    );
    counters.add(
        match treatment {
            TREATMENT_REDIRECTED => Stat::LeakRedirected,
            TREATMENT_OBSERVED => Stat::LeakObserved,
            TREATMENT_TOO_BIG => Stat::LeakTooBig,
            TREATMENT_RECURSION => Stat::Recursions,
            _ => Stat::LeakDropped,
        },
        1,
    );
    if treatment == TREATMENT_NO_TUNNEL {
        counters.add(Stat::LeakNoTunnel, 1);
    }
    event.record.treatment = treatment;
    report(event, counters);
    treated
}

/// Puts on record what a packet is, and who sent it.
#[inline(always)]
pub(crate) fn write_down(
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
        treatment: TREATMENT_NO_TUNNEL,
        mark: frame.mark(),
        recursive_until: 0,
    };
}

enum Fate {
    Redirect,
    Drop,
    Observe,
    NoTunnel,
    TooBig(u32),
}

#[inline(always)]
fn fate(frame: &Frame, ipv6: &Ipv6, upper: Option<&Transport>, tunnel: &Tunnel) -> Fate {
    match tunnel.on_leak {
        ON_LEAK_DROP => return Fate::Drop,
        ON_LEAK_OBSERVE => return Fate::Observe,
        _ => {}
    }
    if tunnel.ifindex == 0 {
        return Fate::NoTunnel;
    }
    // Not what the header says: interfaces go by what is there, and so does the answer's quotation.
    let bytes = frame.bytes_behind(ipv6.offset);
    let gso_bytes = frame.gso_bytes();
    let longest = match upper {
        Some(upper) if gso_bytes != 0 => {
            packet::segment_bytes(frame, ipv6, upper, gso_bytes).unwrap_or(bytes)
        }
        _ => bytes,
    };
    match frame.fit(tunnel.ifindex, bytes) {
        Fit::NoInterface => Fate::NoTunnel,
        // What fits every IPv6 link is never too big.
        _ if longest <= too_big::MINIMUM_MTU => Fate::Redirect,
        Fit::TooBig(mtu) => Fate::TooBig(mtu.min(tunnel.mtu).max(too_big::MINIMUM_MTU)),
        Fit::Fits if longest > tunnel.mtu => Fate::TooBig(tunnel.mtu.max(too_big::MINIMUM_MTU)),
        Fit::Fits => Fate::Redirect,
    }
}

/// Puts the frame into the tunnel.
#[inline(always)]
fn redirect(
    frame: &Frame,
    interface: &Interface,
    ipv6: &Ipv6,
    tunnel: &Tunnel,
) -> Result<(), Refused> {
    remove_tags(frame, interface, ipv6)?;
    if tunnel.link_bytes == 0 {
        return frame::redirect_out(tunnel.ifindex);
    }
    if interface.link_bytes == 0 {
        frame.add_ethernet()?;
    }
    frame::redirect_to_neighbour(tunnel.ifindex, &tunnel.next_hop)
}

/// Tags are for the uplink's wire, not for the tunnel.
#[inline(always)]
fn remove_tags(frame: &Frame, interface: &Interface, ipv6: &Ipv6) -> Result<(), Refused> {
    let inline = (ipv6.offset - u32::from(interface.link_bytes)) / 4;
    frame.remove_tags(inline + u32::from(frame.has_offloaded_tag()))
}

/// Turns the frame into a Packet Too Big and delivers it to the sender: as if it had come in by
/// the tunnel, where a reverse-path filter expects it; or, to a socket that is bound to this
/// uplink and so hears nothing else, by the uplink.
#[inline(always)]
fn answer(
    frame: &Frame,
    interface: &Interface,
    ipv6: &Ipv6,
    upper: Option<&Transport>,
    tunnel: &Tunnel,
    mtu: u32,
    bound_here: bool,
) -> Result<(), Refused> {
    // RFC 4443 §2.4 (e.1): no error about an error; which is never long enough to be cut into
    // fragments (c), so a later one may be answered. A packet to a group may be as well (e.3).
    if upper.is_some_and(|upper| upper.present && is_error(frame, upper)) {
        return Err(Refused);
    }
    let link = u32::from(interface.link_bytes);
    remove_tags(frame, interface, ipv6)?;
    frame.cut(link + too_big::QUOTED_BYTES)?;
    frame.pull(link + too_big::QUOTED_BYTES)?;
    const REST: usize = too_big::QUOTED_BYTES as usize - 2 * 512;
    let sum = frame.sum::<512>(link, 0)?;
    let sum = frame.sum::<512>(link + 512, sum)?;
    let sum = frame.sum::<REST>(link + 1024, sum)?;
    frame.make_room(too_big::HEADER_BYTES)?;
    let headers = too_big::headers(tunnel.router, ipv6.source, mtu, u64::from(sum));
    frame.store(link, &headers)?;

    let (ifindex, link_bytes, mac) = if bound_here {
        (interface.ifindex, interface.link_bytes, interface.mac)
    } else {
        (tunnel.ifindex, tunnel.link_bytes, tunnel.mac)
    };
    deliver(frame, interface.link_bytes, ifindex, link_bytes, mac)
}

#[inline(always)]
fn is_discovery(frame: &Frame, upper: &Transport) -> bool {
    let message = |[kind, _]: [u8; 2]| NEIGHBOUR_DISCOVERY.contains(&kind);
    upper.protocol == ICMPV6 && frame.peek(upper.offset).is_some_and(message)
}

#[inline(always)]
fn is_error(frame: &Frame, upper: &Transport) -> bool {
    // RFC 4443 §2.1: error messages have types below 128.
    upper.protocol == ICMPV6 && frame.peek(upper.offset).is_none_or(|[kind, _]| kind < 128)
}

/// Delivers a frame that has `from_link` bytes of link layer as if it had come in by another
/// interface, with that one's link layer.
#[inline(always)]
pub(crate) fn deliver(
    frame: &Frame,
    from_link: u8,
    ifindex: u32,
    link_bytes: u8,
    mac: [u8; 6],
) -> Result<(), Refused> {
    if link_bytes != 0 {
        if from_link == 0 {
            frame.add_ethernet()?;
        }
        let mut header = [0; 14];
        header[..6].copy_from_slice(&mac);
        header[12] = 0x86;
        header[13] = 0xdd;
        frame.store(0, &header)?;
    }
    frame::redirect_in(ifindex)
}

/// Counts the packet to its flow, and tells user space: of a new flow at once, of a known one at
/// most once in [`FLOW_REPORT_NS`], of all of a tunnel's together within its budget.
#[inline(always)]
pub(crate) fn report(event: &mut LeakEvent, counters: Slot) {
    let now = event.record.reported_ns;
    let state = maps::state(event.record.tunnel);
    if let Some(record) = maps::flow(&event.flow) {
        // SAFETY: a map value, checked for null. Other processors may write it too: then a packet
        // may go uncounted in the flow's line, never in the tunnel's counters.
        let record = unsafe { &mut *record };
        record.packets = record.packets.wrapping_add(1);
        record.bytes = record.bytes.wrapping_add(event.record.bytes);
        record.treatment = event.record.treatment;
        record.ifindex = event.record.ifindex;
        record.bound_ifindex = event.record.bound_ifindex;
        if event.record.treatment != TREATMENT_RECURSION {
            record.recursive_until = 0;
        } else if event.record.recursive_until != 0 {
            record.recursive_until = event.record.recursive_until;
        }
        if now.wrapping_sub(record.reported_ns) < FLOW_REPORT_NS {
            return;
        }
        record.reported_ns = now;
        event.record = *record;
    } else if !maps::remember(&event.flow, &event.record) {
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
