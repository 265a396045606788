//! Answers for sockets that are bound to an uplink.
//!
//! A socket bound to net0 (`SO_BINDTODEVICE`) with a tunnel's source sends by net0, from where its
//! packets are redirected into the tunnel; the answers come in by the tunnel, and the kernel gives
//! a bound socket only what came in by its own interface. So answers to flows that leaked from a
//! bound socket are handed to that interface.

use sixxs_common::{
    flow,
    layout::{Interface, ROLE_UPLINK},
    packet::Ipv6,
};

use crate::{
    frame::{self, Frame},
    leak, maps,
};

/// Hands the frame to the uplink that its socket is bound to; false for all other frames. Where no
/// bound socket has leaked from this tunnel lately, that is all it costs.
#[inline(always)]
pub(crate) fn to_uplink(frame: &Frame, interface: &Interface, ipv6: &Ipv6) -> bool {
    let Some(state) = maps::state(interface.slot) else {
        return false;
    };
    if state.bound_ns == 0 || !state.steers(frame::now_ns()) {
        return false;
    }
    let Some(record) = maps::flow(&flow::incoming(frame, ipv6)) else {
        return false;
    };
    // SAFETY: a map value, checked for null; the fields are aligned words.
    let (ifindex, bound_ifindex) = unsafe { ((*record).ifindex, (*record).bound_ifindex) };
    if ifindex != bound_ifindex || ipv6.offset != u32::from(interface.link_bytes) {
        return false;
    }
    let Some((uplink, _)) = maps::interface(ifindex) else {
        return false;
    };
    uplink.role == ROLE_UPLINK
        && leak::deliver(
            frame,
            interface.link_bytes,
            uplink.ifindex,
            uplink.link_bytes,
            uplink.mac,
        )
        .is_ok()
}
