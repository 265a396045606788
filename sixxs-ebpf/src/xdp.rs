//! The XDP program: drops forged outer packets, and answers echo requests in 6in4, before the kernel makes an `sk_buff`
//! of the frame.

use aya_ebpf::{
    bindings::{xdp_action, xdp_md},
    macros::xdp,
    programs::XdpContext,
};
use sixxs_common::{
    answer::{ANSWERS_PER_SECOND, HOP_LIMIT, may_answer, reply_sum},
    decide::Tables as _,
    endpoint::Direction,
    layout::Interface,
    packet::{
        ECHO_REPLY, ECHO_REQUEST, ETHERNET_HEADER_BYTES, ICMPV6, IPV6_HEADER_BYTES, Ipv6,
        Packet as _,
    },
    screening::Screened,
    six_in_four::{self, HEADER_BYTES, OuterPath},
    stat::Stat,
};

use crate::{
    frame::{self, Refused},
    inside_test,
    maps::{self, Slot},
    screening::{self, Hook},
    xdp_frame::XdpFrame,
};

const PASS: u32 = xdp_action::XDP_PASS;
const DROP: u32 = xdp_action::XDP_DROP;
const TX: u32 = xdp_action::XDP_TX;

/// The EtherType of IPv4, without tags.
const IPV4: [u8; 2] = [0x08, 0x00];
/// Offset of the inner packet.
const INNER: u32 = ETHERNET_HEADER_BYTES + HEADER_BYTES;
/// Offset of the ICMPv6 message.
const MESSAGE: u32 = INNER + IPV6_HEADER_BYTES;

/// Uplinks with Ethernet headers.
#[xdp]
fn sixxs_xdp(context: XdpContext) -> u32 {
    handle(context)
}

/// The same for an uplink whose XDP programs libxdp's dispatcher runs: it replaces a function of the dispatcher.
// SAFETY: nothing else in this object has this name; by the section, the loader knows the kind of program.
#[unsafe(no_mangle)]
#[unsafe(link_section = "freplace")]
extern "C" fn sixxs_xdp_shared(context: *mut xdp_md) -> u32 {
    handle(XdpContext::new(context))
}

#[inline(always)]
fn handle(context: XdpContext) -> u32 {
    let frame = &XdpFrame::new(XdpContext::new(context.ctx));
    if frame.load(ETHERNET_HEADER_BYTES - 2) == Some(IPV4)
        && screening::may_be_outer(frame, ETHERNET_HEADER_BYTES)
    {
        sixxs_screen_xdp(context.ctx)
    } else {
        PASS
    }
}

/// A global function: the kernel verifies it separately, and only once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sixxs_screen_xdp(context: *mut xdp_md) -> u32 {
    let frame = &XdpFrame::new(XdpContext::new(context));
    let Some((interface, uplink)) = maps::interface(frame.ifindex()) else {
        return PASS;
    };
    // A promiscuous interface takes frames of other hosts, too.
    if frame.load(0) != Some(interface.mac) {
        return PASS;
    }
    let packet = (
        ETHERNET_HEADER_BYTES,
        frame.bytes_behind(ETHERNET_HEADER_BYTES),
    );
    match screening::judge(frame, packet, interface, uplink, Hook::Xdp) {
        Screened::Forged { .. } => DROP,
        Screened::SixInFour { slot, inner } => answer(frame, interface, uplink, slot, &inner),
        Screened::Pass | Screened::Stranger { .. } => PASS,
    }
}

/// Turns an echo request to the own address of the tunnel in `slot` into its reply, and sends it back by the uplink.
/// Passes a frame unchanged if the host is to answer.
#[inline(always)]
fn answer(frame: &XdpFrame, interface: &Interface, uplink: Slot, slot: u32, inner: &Ipv6) -> u32 {
    if interface.answers_by_xdp == 0 || inner.next_header != ICMPV6 {
        return PASS;
    }
    let tables = maps::KernelTables {
        slot: uplink,
        generation: interface.generation,
        ifindex: interface.ifindex,
    };
    let (Some(to), Some(tunnel), Some(counters)) = (
        tables.source(inner.destination),
        maps::tunnel(slot),
        maps::slot(slot),
    ) else {
        return PASS;
    };
    let is_own = to.is_address() && to.slot() == slot && tunnel.ifindex != 0;
    let Some([_, outer_class, t0, t1]) = frame.load(ETHERNET_HEADER_BYTES) else {
        return PASS;
    };
    let (Some(start), Some([kind, code, s0, s1])) = (frame.load(INNER), frame.load(MESSAGE)) else {
        return PASS;
    };
    let class = six_in_four::traffic_class(start);
    let bytes = u32::from(u16::from_be_bytes([t0, t1])).saturating_sub(HEADER_BYTES);
    // A congestion mark needs more than a reply.
    let is_plain = six_in_four::has_same_ecn(outer_class, class)
        && bytes == frame.bytes_behind(INNER)
        && [kind, code] == [ECHO_REQUEST, 0];
    if !is_own || !is_plain || !may_answer(inner, INNER, bytes, tunnel.mtu) {
        return PASS;
    }
    // This host sent it.
    if inside_test::is_testing() && maps::outside_test(frame, inner).is_some() {
        return PASS;
    }
    let now_ns = frame::now_ns();
    let Some(budget) = maps::answer_budget(slot) else {
        return PASS; // unreachable: the slot is within the map
    };
    if !budget.take(ANSWERS_PER_SECOND, now_ns) {
        return PASS;
    }
    match turn_round(frame, inner, bytes, class, [s0, s1]) {
        Ok(()) => {
            count(counters, slot, bytes, now_ns);
            TX
        }
        // It is no request any more, and no reply yet.
        Err(Refused) => DROP,
    }
}

/// Exchanges the ends of both headers, and changes the type of the message.
#[inline(always)]
fn turn_round(
    frame: &XdpFrame,
    inner: &Ipv6,
    bytes: u32,
    class: u8,
    sum: [u8; 2],
) -> Result<(), Refused> {
    let ends: [u8; 12] = frame.load(0).ok_or(Refused)?;
    let [a, b, c, d, e, f, g, h, i, j, k, l] = ends;
    frame.store(0, [g, h, i, j, k, l, a, b, c, d, e, f])?;
    let outer: [u8; 8] = frame
        .load(ETHERNET_HEADER_BYTES + HEADER_BYTES - 8)
        .ok_or(Refused)?;
    let [r0, r1, r2, r3, local @ ..] = outer;
    let path = OuterPath {
        ifindex: 0,
        local,
        remote: [r0, r1, r2, r3],
        largest_inner: 0,
        takes_batches: 0,
    };
    frame.store(
        ETHERNET_HEADER_BYTES,
        six_in_four::header(&path, bytes, class),
    )?;
    // The addresses change places, so that the checksum over the pseudo header stays (RFC 8200 §8.1).
    frame.store(INNER + 6, [ICMPV6, HOP_LIMIT])?;
    frame.store(INNER + 8, inner.destination.octets())?;
    frame.store(INNER + 24, inner.source.octets())?;
    let [s0, s1] = reply_sum(sum);
    frame.store(MESSAGE, [ECHO_REPLY, 0, s0, s1])
}

/// Counts an answered request as the programs at the tunnel's interface would.
#[inline(always)]
fn count(counters: Slot, slot: u32, bytes: u32, now_ns: u64) {
    for stat in [
        Stat::InPackets,
        Stat::InRequests,
        Stat::VerdictOwn,
        Stat::OutReplies,
        Stat::EchoByPrograms,
    ] {
        counters.add(stat, 1);
    }
    counters.add(Stat::InBytes, bytes.into());
    counters.add(Stat::OutBytes, bytes.into());
    counters.update_time(Stat::LastRequestIn, now_ns);
    counters.update_time(Stat::LastReplyOut, now_ns);
    if let Some(outer) = maps::outer_counters(slot) {
        let bytes = u64::from(bytes + HEADER_BYTES);
        outer.count(Direction::In, bytes, now_ns);
        outer.count(Direction::Out, bytes, now_ns);
    }
}
