//! Redirects of a frame to another interface, or to another direction of its own.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_INGRESS, bpf_redir_neigh},
    helpers::{bpf_clone_redirect, bpf_redirect, bpf_redirect_neigh},
};
use sixxs_common::layout::NextHop;

use crate::frame::Refused;

/// Sends the frame out of an interface without link layer; the kernel removes the frame's own.
#[inline(always)]
pub(crate) fn to_egress(ifindex: u32) -> Result<(), Refused> {
    redirected(
        // SAFETY: takes numbers.
        unsafe { bpf_redirect(ifindex, 0) },
    )
}

/// Delivers the frame as if it had arrived by an interface.
#[inline(always)]
pub(crate) fn to_ingress(ifindex: u32) -> Result<(), Refused> {
    redirected(
        // SAFETY: takes numbers.
        unsafe { bpf_redirect(ifindex, u64::from(BPF_F_INGRESS)) },
    )
}

/// Delivers a copy of the frame as if it had arrived by an interface, before this returns. 0: the kernel has taken it.
#[inline(always)]
pub(crate) fn copy_to_ingress(skb: *mut __sk_buff, ifindex: u32) -> i64 {
    // SAFETY: takes the context and numbers.
    unsafe { bpf_clone_redirect(skb, ifindex, u64::from(BPF_F_INGRESS)) }
}

/// Sends a copy of the frame out of an interface. 0: the kernel has taken it.
#[inline(always)]
pub(crate) fn copy_to_egress(skb: *mut __sk_buff, ifindex: u32) -> i64 {
    // SAFETY: takes the context and numbers.
    unsafe { bpf_clone_redirect(skb, ifindex, 0) }
}

/// Sends the frame to a neighbour, out of an interface with a link layer. Kernel 5.10.
#[inline(always)]
pub(crate) fn to_neighbour(ifindex: u32, next_hop: &NextHop) -> Result<(), Refused> {
    redirected(
        // SAFETY: `NextHop` has the layout of `bpf_redir_neigh` (sizes are compared below), and the helper
        // only reads it.
        unsafe {
            bpf_redirect_neigh(
                ifindex,
                core::ptr::from_ref(next_hop).cast_mut().cast(),
                NEXT_HOP_BYTES,
                0,
            )
        },
    )
}

/// Sends an IPv4 packet out of an interface, by the next hop of its route. The frame begins with room for an Ethernet
/// header. Kernel 5.10.
#[inline(always)]
pub(crate) fn by_route(ifindex: u32) -> Result<(), Refused> {
    redirected(
        // SAFETY: takes numbers; without parameters the helper looks the route up.
        unsafe { bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) },
    )
}

/// Size of the helper's parameter, in bytes.
const NEXT_HOP_BYTES: i32 = 20;

const _: () = assert!(size_of::<NextHop>() == size_of::<bpf_redir_neigh>());
const _: () = assert!(size_of::<NextHop>() == NEXT_HOP_BYTES as usize);

#[inline(always)]
fn redirected(result: i64) -> Result<(), Refused> {
    if result == i64::from(crate::REDIRECT) {
        Ok(())
    } else {
        Err(Refused)
    }
}
