//! Carries 6in4: adds the outer header to packets of a tunnel, and removes it from packets of its broker.

use aya_ebpf::{EbpfContext as _, bindings::__sk_buff, programs::TcContext};
use sixxs_common::{
    packet::{self, IPV6_HEADER_BYTES, Ipv6, Packet as _, Transport},
    six_in_four::{self, Accepted, Outer, PathFit, Refusal},
    stat::Stat,
};

use crate::{
    NEXT, REDIRECT, SHOT,
    frame::{Frame, Refused},
    maps, redirect, too_big,
};

/// Sends an IPv6 packet, at the start of the frame, to the broker of the tunnel in `slot`. A packet that it does not
/// take continues to the daemon.
#[inline(always)]
pub(crate) fn out(frame: &Frame, slot: u32) -> i32 {
    sixxs_encap(frame.context().as_ptr().cast(), slot)
}

/// A global function, so that the kernel verifies it once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sixxs_encap(skb: *mut __sk_buff, slot: u32) -> i32 {
    let frame = &Frame::new(TcContext::new(skb));
    let (Some(path), Some(counters)) = (maps::outer_path(slot), maps::slot(slot)) else {
        return NEXT; // the tunnel has another carrier now
    };
    let bytes = frame.bytes_behind(0_u32);
    let batch_bytes = frame.gso_bytes();
    let fit = path.fit(bytes, batch_bytes != 0, || {
        Some(sixxs_segment(skb, batch_bytes)).filter(|bytes| *bytes != 0)
    });
    if let PathFit::TooBig(mtu) = fit {
        let answered = sixxs_too_big(skb, slot, mtu);
        let stat = if answered == REDIRECT {
            Stat::CarriedOutTooBig
        } else {
            Stat::CarriedOutDropped
        };
        counters.add(stat, 1);
        return answered;
    }
    let Some(start) = frame.load(0).filter(|_| fit == PathFit::Fits) else {
        counters.add(Stat::CarriedOutLeft, 1);
        return NEXT;
    };
    let class = six_in_four::traffic_class(start);
    if frame.make_room_for_ipv4().is_err() {
        counters.add(Stat::CarriedOutLeft, 1);
        return NEXT;
    }
    frame.clear_mark();
    let sent = frame
        .store(0, &six_in_four::header(path, bytes, class))
        .and_then(|()| frame.add_ethernet())
        .and_then(|()| redirect::by_route(path.ifindex));
    match sent {
        Ok(()) => {
            counters.add(Stat::CarriedOut, 1);
            REDIRECT
        }
        Err(Refused) => {
            counters.add(Stat::CarriedOutDropped, 1);
            SHOT
        }
    }
}

/// What follows the header directly. To find the upper layer behind extension headers would take the verifier long: batches
/// have none, and an error is never too big.
#[inline(always)]
fn upper(ipv6: &Ipv6) -> Transport {
    Transport {
        protocol: ipv6.next_header,
        offset: ipv6.offset + IPV6_HEADER_BYTES,
        present: true,
    }
}

/// The length of the longest segment of a batch with `batch_bytes` of payload each; 0 if it is unknown. A global function,
/// since few batches need it.
#[cold]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sixxs_segment(skb: *mut __sk_buff, batch_bytes: u32) -> u32 {
    let frame = &Frame::new(TcContext::new(skb));
    let found = packet::ipv6_again(frame, 0)
        .and_then(|ipv6| packet::segment_bytes(frame, &ipv6, &upper(&ipv6), batch_bytes));
    found.unwrap_or(0)
}

/// Answers a packet that does not fit the path to the broker of the tunnel in `slot`. The answer appears to arrive by the
/// tunnel.
#[cold]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sixxs_too_big(skb: *mut __sk_buff, slot: u32, mtu: u32) -> i32 {
    let frame = &Frame::new(TcContext::new(skb));
    let (Some(ipv6), Some(tunnel)) = (packet::ipv6_again(frame, 0), maps::tunnel(slot)) else {
        return SHOT; // unreachable: the caller has found both
    };
    if !too_big::may_be_answered(frame, Some(&upper(&ipv6))) {
        return SHOT;
    }
    let answered = too_big::replace(frame, 0, tunnel.router, ipv6.source, mtu)
        .and_then(|()| redirect::to_ingress(tunnel.ifindex));
    match answered {
        Ok(()) => REDIRECT,
        Err(Refused) => SHOT,
    }
}

/// Delivers an IPv4 packet, if it is one of a tunnel's broker for the tunnel.
#[inline(always)]
pub(crate) fn arrived(frame: &Frame, link_bytes: u32) -> i32 {
    let Some((interface, _)) = maps::interface(frame.ifindex()) else {
        return NEXT;
    };
    let Some(outer) = six_in_four::outer(frame, link_bytes) else {
        return NEXT;
    };
    let Some(slot) = maps::outer_slot(&outer.ends) else {
        return NEXT;
    };
    let Some(counters) = maps::slot(slot) else {
        return NEXT; // unreachable: user space writes no slot out of range
    };
    let tables = maps::KernelTables {
        slot: counters,
        generation: interface.generation,
        ifindex: interface.ifindex,
    };
    match six_in_four::accept(frame, &outer, slot, &tables) {
        Ok(accepted) => match deliver(frame, &outer, &accepted, slot) {
            Ok(()) => {
                counters.add(Stat::CarriedIn, 1);
                REDIRECT
            }
            Err(Refused) => NEXT,
        },
        Err(refusal) => {
            let (stat, action) = match refusal {
                Refusal::Fragment => (Stat::CarriedInFragments, NEXT),
                Refusal::Malformed => (Stat::CarriedInMalformed, NEXT),
                Refusal::OwnSource => (Stat::CarriedInOwnSource, NEXT),
                Refusal::OtherDestination => (Stat::CarriedInOther, NEXT),
                Refusal::Congestion => (Stat::CarriedInCongested, SHOT),
            };
            counters.add(stat, 1);
            action
        }
    }
}

/// Removes the outer header, and delivers the inner packet as if it had arrived by the tunnel's interface.
#[inline(always)]
fn deliver(frame: &Frame, outer: &Outer, accepted: &Accepted, slot: u32) -> Result<(), Refused> {
    let tunnel = maps::tunnel(slot).ok_or(Refused)?;
    if tunnel.ifindex == 0 {
        return Err(Refused);
    }
    if accepted.is_remarked {
        frame.rewrite(outer.inner_offset, &accepted.start)?;
    }
    frame.remove_ipv4(outer.header_bytes)?;
    redirect::to_ingress(tunnel.ifindex)
}
