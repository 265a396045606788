//! Steers answers to sockets that are bound to an uplink.
//!
//! A socket that is bound to net0 (`SO_BINDTODEVICE`) and has a tunnel's source sends through net0,
//! from where its packets are redirected into the tunnel. The answers arrive by the tunnel, but the
//! kernel delivers to a bound socket only packets that arrive by its own interface. So answers to
//! leaked flows of bound sockets are redirected to that interface.

use sixxs_common::{
    flow,
    layout::{Interface, Role, STEER_NS},
    packet::Ipv6,
};

use crate::{
    frame::{self, Frame},
    leak, maps,
};

/// Redirects the frame to the uplink that its socket is bound to; false for all other frames. If no
/// bound socket has leaked from this tunnel lately, this check is the only cost.
#[inline(always)]
pub(crate) fn to_uplink(frame: &Frame, interface: &Interface, ipv6: &Ipv6) -> bool {
    let Some(state) = maps::state(interface.slot) else {
        return false;
    };
    if state.bound_ns == 0 {
        return false;
    }
    let now = frame::now_ns();
    if !state.may_need_steering(now) {
        return false;
    }
    let Some(record) = maps::flow(&flow::incoming(frame, ipv6)) else {
        return false;
    };
    // SAFETY: a map value, checked for null, which stays valid until the program returns. Other
    // processors may write it at the same time; each field is one aligned word.
    let (ifindex, bound_ifindex, reported_ns) = unsafe {
        let record = &*record;
        (record.ifindex, record.bound_ifindex, record.reported_ns)
    };
    // An old record may belong to a closed socket, whose port another socket uses now.
    let is_recent = now.wrapping_sub(reported_ns) < STEER_NS;
    if ifindex != bound_ifindex || !is_recent || ipv6.offset != u32::from(interface.link_bytes) {
        return false;
    }
    let Some((uplink, _)) = maps::interface(ifindex) else {
        return false;
    };
    uplink.role == Role::Uplink.raw()
        && leak::deliver(
            frame,
            interface.link_bytes,
            uplink.ifindex,
            uplink.link_bytes,
            uplink.mac,
        )
        .is_ok()
}
