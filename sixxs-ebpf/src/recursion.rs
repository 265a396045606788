//! Drops outer packets of a tunnel that are about to enter that same tunnel, by a redirect or by a route.

use aya_ebpf::{EbpfContext as _, bindings::__sk_buff, programs::TcContext};
use sixxs_common::{
    endpoint::{self, Direction, Version},
    packet::{self, IPV6_HEADER_BYTES, Ipv6, Packet as _, UDP},
    recursion::{FlowVerdict, Growth, is_nested, key, may_carry},
    stat::Stat,
    treatment::Treatment,
};

use crate::{
    frame::{self, Frame},
    leak_event, maps,
};

/// Whether the packet, which is about to leave by the tunnel in `slot`, is one of that tunnel's own outer
/// packets. If so, it is counted for the tunnel and reported. Batches are ignored: no tunnel carries
/// them on as batches.
#[inline(always)]
pub(crate) fn detect(frame: &Frame, ipv6: &Ipv6, slot: u32) -> bool {
    may_carry(ipv6.next_header)
        && frame.gso_bytes() == 0
        && sixxs_recursion(frame.context().as_ptr().cast(), ipv6.offset, slot) != 0
}

/// Whether the packet is about to enter the tunnel in `slot` and its flow is already known as outer packets.
#[inline(always)]
pub(crate) fn is_recursive_flow(frame: &Frame, ipv6: &Ipv6, slot: u32) -> bool {
    if !may_carry(ipv6.next_header) {
        return false;
    }
    let key = key_of(frame, ipv6);
    let Some(growth) = maps::growth(slot, key) else {
        return false; // unreachable: the index is within the table
    };
    known_verdict(growth, key, ipv6, slot, frame::now_ns) == Some(FlowVerdict::Recursion)
}

#[inline(always)]
fn known_verdict(
    growth: &mut Growth,
    key: u64,
    ipv6: &Ipv6,
    slot: u32,
    now_ns: impl Fn() -> u64,
) -> Option<FlowVerdict> {
    let others = || maps::sum_over_processors(slot, Stat::VerdictOwn);
    growth.known_verdict(key, bytes(ipv6), now_ns, others)
}

#[inline(always)]
fn bytes(ipv6: &Ipv6) -> u32 {
    IPV6_HEADER_BYTES + u32::from(ipv6.payload_bytes)
}

#[inline(always)]
fn key_of(frame: &Frame, ipv6: &Ipv6) -> u64 {
    let ports = match ipv6.next_header {
        UDP => frame.word(ipv6.offset + IPV6_HEADER_BYTES).unwrap_or(0),
        _ => 0,
    };
    key(ipv6.source, ipv6.destination, ipv6.next_header, ports)
}

/// [`detect`], as 1 or 0. A global function: the kernel verifies it separately, and only once.
#[cold]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sixxs_recursion(skb: *mut __sk_buff, offset: u32, slot: u32) -> u32 {
    let frame = &Frame::new(TcContext::new(skb));
    let Some(ref ipv6) = packet::ipv6_again(frame, offset) else {
        return 0; // unreachable: the caller has already found the header
    };
    let key = key_of(frame, ipv6);
    let Some(growth) = maps::growth(slot, key) else {
        return 0; // unreachable: the index is within the table
    };
    let now_ns = frame::now_ns();
    match known_verdict(growth, key, ipv6, slot, || now_ns) {
        Some(FlowVerdict::Passes) => return 0,
        Some(FlowVerdict::Recursion) => {}
        None => {
            let is_proved = is_to_far_end(frame, ipv6, slot) || is_nested(frame, ipv6);
            if !is_proved && !growth.record_growth(key, bytes(ipv6), now_ns) {
                return 0;
            }
            let others = maps::sum_over_processors(slot, Stat::VerdictOwn);
            growth.mark_recursive(key, is_proved, now_ns, others);
        }
    }
    found(frame, ipv6, slot, growth.until_ns)
}

/// Whether the packet goes to the known far end of the tunnel in `slot`, as the tunnel's outer packets do.
#[inline(always)]
fn is_to_far_end(frame: &Frame, ipv6: &Ipv6, slot: u32) -> bool {
    let may_be = maps::endpoint_filter().is_some_and(|filter| filter.may_have(ipv6.destination));
    if !may_be {
        return false;
    }
    let Some(found) = endpoint::of(frame, ipv6.offset, Version::V6, Direction::Out) else {
        return false;
    };
    // The other key is for an address without a port, where other programs may be, too.
    let [exact, any_local_port, _] = found.keys();
    [exact, any_local_port]
        .iter()
        .any(|key| maps::endpoint_slot(key) == Some(slot))
}

/// Counts and reports a recursive packet.
#[expect(
    clippy::cast_possible_truncation,
    reason = "seconds since the start fit for 136 years"
)]
#[inline(always)]
fn found(frame: &Frame, ipv6: &Ipv6, slot: u32, until_ns: u64) -> u32 {
    let (Some((interface, _)), Some(counters)) =
        (maps::interface(frame.ifindex()), maps::slot(slot))
    else {
        return 0; // unreachable: both belong to an interface
    };
    let Some(event) = maps::event_buffer() else {
        return 0; // unreachable: the map has one entry
    };
    let upper = packet::transport(frame, ipv6);
    leak_event::fill(event, frame, interface, ipv6, upper.as_ref(), slot);
    event.record.recursive_until = (until_ns / 1_000_000_000) as u32;
    counters.add(Stat::Recursions, 1);
    leak_event::report(event, Treatment::Recursion, counters);
    1
}
