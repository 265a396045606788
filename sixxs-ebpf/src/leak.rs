//! Leaks: packets with a tunnel's source that are about to leave by another interface.

use aya_ebpf::{EbpfContext as _, bindings::__sk_buff, programs::TcContext};
use aya_log_ebpf::debug;
use sixxs_common::{
    flow,
    flow_record::AddedPacket,
    layout::{Interface, Tunnel},
    packet::{self, ICMPV6, Ipv6, NEIGHBOUR_DISCOVERY, Packet as _, Transport},
    stat::Stat,
    treatment::{self, Decision, Fit, Leak, Treatment},
};

use crate::{
    frame::{self, Frame, Refused},
    leak_event::{self, ReportedFlow},
    maps, recursion, redirect, too_big,
};

/// Treats a leak of the tunnel in `slot`, whose IPv6 header is at `offset`. `None`: the packet is neighbour
/// discovery on the uplink's own link, and no leak.
#[inline(always)]
pub(crate) fn treat(frame: &Frame, offset: u32, slot: u32) -> Option<Treatment> {
    Treatment::try_from(sixxs_leak(frame.context().as_ptr().cast(), offset, slot)).ok()
}

/// The value of [`sixxs_leak`] for `None`. No [`Treatment`] has this number.
const NO_LEAK: u32 = u32::MAX;

/// Treats a leak as the tunnel's entry requires, counts it for the tunnel and reports it.
///
/// A global function: the kernel verifies it once, and not once for every path that leads here, and its
/// stack does not add to that of the common path. Its arguments are the context and numbers, so it looks the
/// rest up again.
#[cold]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sixxs_leak(skb: *mut __sk_buff, offset: u32, slot: u32) -> u32 {
    let frame = &Frame::new(TcContext::new(skb));
    let Some((interface, _)) = maps::interface(frame.ifindex()) else {
        return Treatment::Dropped.raw(); // unreachable: the caller has found it
    };
    match treated(frame, interface, offset, slot) {
        Some(treatment) => treatment.raw(),
        None => NO_LEAK,
    }
}

#[inline(always)]
fn treated(frame: &Frame, interface: &Interface, offset: u32, slot: u32) -> Option<Treatment> {
    let Some(ref ipv6) = packet::ipv6_again(frame, offset) else {
        return Some(Treatment::Dropped); // unreachable: a packet without a header is no leak
    };
    let (Some(tunnel), Some(counters)) = (maps::tunnel(slot), maps::slot(slot)) else {
        return Some(Treatment::Dropped); // unreachable: user space writes no slot out of range
    };
    let Some(event) = maps::event_buffer() else {
        return Some(Treatment::Dropped); // unreachable: the map has one entry
    };
    let upper = packet::transport(frame, ipv6);
    // The address may belong to the uplink too.
    if upper
        .as_ref()
        .is_some_and(|upper| is_discovery(frame, upper))
    {
        return None;
    }
    let now_ns = frame::now_ns();
    event.flow = flow::outgoing(frame, ipv6, upper.as_ref());
    let reported = ReportedFlow::find(event, now_ns);
    let bound_ifindex = frame.bound_ifindex();
    if reported.is_none() {
        leak_event::fill_record(event, frame, interface, slot, now_ns);
    }
    let bound_here = bound_ifindex == interface.ifindex;
    let bytes = frame.bytes_behind(interface.link_bytes);
    let leak = FrameLeak {
        frame,
        ipv6,
        upper: upper.as_ref(),
        slot,
    };
    let treatment = treat_by(tunnel, &leak, interface, bound_here);
    debug!(
        frame.context(),
        "leak from slot {}: treatment {}",
        slot,
        treatment.raw()
    );
    counters.add(treatment.stat(), 1);
    if treatment == Treatment::NoTunnel {
        counters.add(Stat::LeakNoTunnel, 1);
    }
    if let Some(reported) = reported {
        reported.count(&AddedPacket {
            bytes: bytes.into(),
            ifindex: interface.ifindex,
            bound_ifindex,
            treatment,
            recursive_until: 0,
        });
        if bound_here && let Some(state) = maps::state(slot) {
            state.bound_ns = now_ns;
        }
    } else {
        leak_event::report(event, treatment, counters);
    }
    Some(treatment)
}

/// Decides on the treatment of a leak, and does what it takes. `bound_here`: its socket is bound to this interface.
#[inline(always)]
fn treat_by(
    tunnel: &Tunnel,
    leak: &FrameLeak<'_>,
    interface: &Interface,
    bound_here: bool,
) -> Treatment {
    let Decision { treatment, mtu } = treatment::treat(tunnel, leak);
    match treatment {
        Treatment::TooBig => match answer(leak, interface, tunnel, mtu, bound_here) {
            Ok(()) => Treatment::TooBig,
            Err(Refused) => Treatment::TooBigDropped,
        },
        Treatment::Redirected => match into_tunnel(leak.frame, interface, leak.ipv6, tunnel) {
            Ok(()) => Treatment::Redirected,
            Err(Refused) => Treatment::NoTunnel,
        },
        other => other,
    }
}

/// A frame that leaks.
struct FrameLeak<'a> {
    frame: &'a Frame,
    ipv6: &'a Ipv6,
    upper: Option<&'a Transport>,
    slot: u32,
}

impl FrameLeak<'_> {
    /// The length of the frame, not that in the header: the kernel checks it, and the answer quotes it.
    #[inline(always)]
    fn bytes(&self) -> u32 {
        self.frame.bytes_behind(self.ipv6.offset)
    }
}

impl Leak for FrameLeak<'_> {
    #[inline(always)]
    fn longest_bytes(&self) -> u32 {
        let gso_bytes = self.frame.gso_bytes();
        match self.upper {
            Some(upper) if gso_bytes != 0 => {
                packet::segment_bytes(self.frame, self.ipv6, upper, gso_bytes)
                    .unwrap_or(self.bytes())
            }
            _ => self.bytes(),
        }
    }

    #[inline(always)]
    fn fit(&self, ifindex: u32) -> Fit {
        self.frame.fit(ifindex, self.bytes())
    }

    #[inline(always)]
    fn is_recursion(&self) -> bool {
        recursion::is_recursive_flow(self.frame, self.ipv6, self.slot)
    }
}

/// Redirects the frame into the tunnel.
#[inline(always)]
fn into_tunnel(
    frame: &Frame,
    interface: &Interface,
    ipv6: &Ipv6,
    tunnel: &Tunnel,
) -> Result<(), Refused> {
    remove_tags(frame, interface, ipv6)?;
    if tunnel.link_bytes == 0 {
        return redirect::to_egress(tunnel.ifindex);
    }
    if interface.link_bytes == 0 {
        frame.add_ethernet()?;
    }
    redirect::to_neighbour(tunnel.ifindex, &tunnel.next_hop)
}

/// Removes VLAN tags: they belong to the uplink's link.
#[inline(always)]
fn remove_tags(frame: &Frame, interface: &Interface, ipv6: &Ipv6) -> Result<(), Refused> {
    let inline = (ipv6.offset - u32::from(interface.link_bytes)) / 4;
    frame.remove_tags(inline + u32::from(frame.has_offloaded_tag()))
}

/// Turns the frame into a Packet Too Big and delivers it to the sender. It appears to arrive by the tunnel,
/// where a reverse-path filter expects it; for a socket that is bound to this uplink, by the uplink.
#[inline(always)]
fn answer(
    leak: &FrameLeak<'_>,
    interface: &Interface,
    tunnel: &Tunnel,
    mtu: u32,
    bound_here: bool,
) -> Result<(), Refused> {
    let FrameLeak {
        frame, ipv6, upper, ..
    } = *leak;
    if !too_big::may_be_answered(frame, upper) {
        return Err(Refused);
    }
    remove_tags(frame, interface, ipv6)?;
    let link = u32::from(interface.link_bytes);
    too_big::replace(frame, link, tunnel.router, ipv6.source, mtu)?;
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

/// Delivers a frame with `from_link` bytes of link layer as if it had arrived by another interface, with the
/// link layer of that interface.
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
    redirect::to_ingress(ifindex)
}
