//! The kernel programs: the entry points, and the action for each verdict.
//!
//! * `sixxs_egress` is attached to every uplink and every tunnel. It classifies each packet that
//!   leaves (`sixxs_common::decide`), counts it, and handles leaks. It sends packets of the tunnels that the programs
//!   carry to their brokers.
//! * `sixxs_underlay` is attached to the ingress of uplinks and of other interfaces that lead to brokers, or
//!   `sixxs_underlay0` where they have no link layer. It counts the outer packets of tunnels, and delivers those of tunnels
//!   that the programs carry.
//! * `sixxs_ingress` is attached to every tunnel. It counts the packets that arrive, and hands
//!   answers for sockets that are bound to an uplink to that uplink.
//!
//! * `sixxs_xdp` is attached to uplinks where that is possible. It drops forged outer packets, and answers pings.
//! * `sixxs_inject` is attached nowhere. User space runs it to put the packet of an inside test into a tunnel's ingress, or
//!   that of an outside test into a link's egress.
//! * `sixxs_listen` is attached to the ingress of an uplink without `sixxs_underlay`, only while an outside test runs.
//! * `sixxs_hold` is attached to all control groups during a live test. It drops the packet of the test where `sixxs_egress`
//!   would not.
//!
//! All but `sixxs_xdp`, `sixxs_inject` and `sixxs_hold` return only `NEXT`, `SHOT` and `REDIRECT`, whose numbers have the same meaning for TCX and
//! for a clsact filter. They never return `OK`, which would end the chain before the programs of
//! other software.
#![no_std]
#![no_main]

mod answer;
mod carry;
mod echo_pairing;
mod frame;
mod inside_test;
mod leak;
mod leak_event;
mod maps;
mod outer;
mod outside_test;
mod recursion;
mod redirect;
mod screening;
mod steer;
mod too_big;
mod xdp;
mod xdp_frame;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{TC_ACT_REDIRECT, TC_ACT_SHOT, TC_ACT_UNSPEC},
    macros::{cgroup_skb, classifier},
    programs::{SkBuffContext, TcContext},
};
use sixxs_common::{
    address::Address,
    decide::{Exit, Tables as _, Verdict, decide},
    layout::{Interface, Role},
    packet::{self, ETHERNET_HEADER_BYTES, Echo, EchoMessage, Ipv6},
    stat::Stat,
    treatment::Treatment,
};

use crate::{frame::Frame, inside_test::Leaving, maps::Slot};

/// Continue with the next program; `TCX_NEXT` under TCX.
const NEXT: i32 = TC_ACT_UNSPEC;
/// Drop; `TCX_DROP` under TCX.
const SHOT: i32 = TC_ACT_SHOT;
/// The value that the redirect helpers return on success.
const REDIRECT: i32 = TC_ACT_REDIRECT;

/// Egress of uplinks and tunnels.
#[classifier]
fn sixxs_egress(context: TcContext) -> i32 {
    let frame = &Frame::new(context);
    // Without an entry, user space is about to attach or to remove this program.
    let Some((interface, slot)) = maps::interface(frame.ifindex()) else {
        return NEXT;
    };
    if inside_test::is_testing()
        && let Some(action) = request_left(frame, interface)
    {
        return action;
    }
    if is_foreign(frame, interface) {
        slot.add(Stat::VerdictNotOurs, 1);
        slot.add(
            Stat::OutBytes,
            frame.bytes_behind(ETHERNET_HEADER_BYTES).into(),
        );
        return NEXT;
    }
    // Not an uplink: only outer packets matter.
    if interface.role == Role::Underlay.raw() {
        outer::left(frame, interface.link_bytes);
        return NEXT;
    }
    let exit = Exit::of(interface);
    let ipv6 = packet::ipv6(frame, interface.link_bytes);
    let tables = maps::KernelTables {
        slot,
        generation: interface.generation,
        ifindex: interface.ifindex,
    };
    let verdict = decide(ipv6.as_ref().map_err(|fault| *fault), exit, &tables);
    if let Ok(ipv6) = &ipv6
        && let Some(action) = reply_left(frame, interface, ipv6, verdict)
    {
        return action;
    }
    let (stat, action) = act(frame, interface, verdict, ipv6.as_ref().ok());
    slot.add(stat, 1);
    if action == NEXT {
        slot.add(
            Stat::OutBytes,
            frame.bytes_behind(interface.link_bytes).into(),
        );
        // A stray is not counted as the tunnel's message: the far end drops it.
        if let (Verdict::Own, Ok(ipv6)) = (verdict, &ipv6)
            && let Some(message) = packet::echo(frame, ipv6)
        {
            count_echo(message.kind, slot, &OUT);
            if let (Echo::Reply, Some(number)) = (message.kind, message.number) {
                echo_pairing::reply_left(ipv6, number);
            }
        }
        if interface.is_carried != 0 && ipv6.is_ok() {
            return carry::out(frame, interface.slot);
        }
    }
    action
}

/// The action for the reply of an inside test, or the packet of a live test; `None`: it is none.
#[inline(always)]
fn reply_left(frame: &Frame, interface: &Interface, ipv6: &Ipv6, verdict: Verdict) -> Option<i32> {
    // Read again: if the first value were kept, the kernel would verify the decision for each value.
    if !inside_test::is_testing() {
        return None;
    }
    match inside_test::left(frame, ipv6.offset, verdict) {
        Leaving::Real => None,
        Leaving::Caught => Some(SHOT),
        Leaving::LetGo if interface.is_carried != 0 => Some(carry::out(frame, interface.slot)),
        Leaving::LetGo => Some(NEXT),
    }
}

/// The action for the request of an outside test; `None`: it is none.
#[inline(always)]
fn request_left(frame: &Frame, interface: &Interface) -> Option<i32> {
    match outside_test::left(frame)? {
        NEXT if interface.is_carried != 0 => Some(carry::out(frame, interface.slot)),
        action => Some(action),
    }
}

/// Whether the filter of the sources shows that a packet at an uplink belongs to no tunnel.
#[inline(always)]
fn is_foreign(frame: &Frame, interface: &Interface) -> bool {
    interface.uses_filter != 0
        && frame.ends().is_some_and(|(first, destination)| {
            !maps::may_be_source(first, interface.generation)
                && (interface.counts_outer_ipv6 == 0 || !maps::may_be_endpoint(destination))
        })
}

/// Does what a verdict requires. Returns its counter and the action.
#[inline(always)]
fn act(frame: &Frame, interface: &Interface, verdict: Verdict, ipv6: Option<&Ipv6>) -> (Stat, i32) {
    match (verdict, ipv6) {
        (Verdict::OtherProtocol, _) => {
            if interface.counts_outer != 0 {
                outer::left(frame, interface.link_bytes);
            }
            (Stat::VerdictOther, NEXT)
        }
        (Verdict::NotOurs, Some(ipv6)) => {
            if interface.counts_outer_ipv6 != 0 {
                outer::left_ipv6(frame, ipv6);
            }
            (Stat::VerdictNotOurs, NEXT)
        }
        (Verdict::Exempt, Some(ipv6)) => {
            echo_pairing::reply_misrouted(frame, ipv6);
            (Stat::VerdictExempt, NEXT)
        }
        (Verdict::Own, Some(ipv6)) if recursion::detect(frame, ipv6, interface.slot) => {
            (Stat::VerdictRecursion, SHOT)
        }
        (Verdict::Own, _) => (Stat::VerdictOwn, NEXT),
        (Verdict::Stray, _) => (Stat::VerdictStray, NEXT),
        // There is no pending request for such a reply: `echo_pairing::request_arrived` ignores requests from there.
        (Verdict::Loop, _) => (Stat::VerdictLoop, SHOT),
        (Verdict::Leak(tunnel), Some(ipv6)) => leaked(frame, ipv6, tunnel),
        // Without a header a packet is neither exempt nor a leak: the decision never returns these
        // verdicts then.
        (Verdict::Unparsed, _) | (Verdict::NotOurs | Verdict::Exempt | Verdict::Leak(_), None) => {
            (Stat::VerdictUnparsed, NEXT)
        }
    }
}

/// The verdict and the return value for a leak of the tunnel in this slot.
#[inline(always)]
fn leaked(frame: &Frame, ipv6: &Ipv6, tunnel: u32) -> (Stat, i32) {
    match leak::treat(frame, ipv6.offset, tunnel) {
        None => (Stat::VerdictExempt, NEXT),
        Some(Treatment::Redirected) => (Stat::VerdictRedirected, REDIRECT),
        Some(Treatment::TooBig) => (Stat::VerdictTooBig, REDIRECT),
        Some(Treatment::TooBigDropped) => (Stat::VerdictTooBig, SHOT),
        Some(Treatment::Dropped | Treatment::NoTunnel) => {
            echo_pairing::reply_misrouted(frame, ipv6);
            (Stat::VerdictDropped, SHOT)
        }
        Some(Treatment::Recursion) => (Stat::VerdictRecursion, SHOT),
        Some(Treatment::Observed) => {
            echo_pairing::reply_misrouted(frame, ipv6);
            (Stat::VerdictObserved, NEXT)
        }
    }
}

/// Ingress of uplinks and of other interfaces that lead to brokers, with Ethernet headers.
#[classifier]
fn sixxs_underlay(context: TcContext) -> i32 {
    arrives(&Frame::new(context), ETHERNET_HEADER_BYTES)
}

/// The same without a link layer.
#[classifier]
fn sixxs_underlay0(context: TcContext) -> i32 {
    arrives(&Frame::new(context), 0)
}

/// Drops a forged outer packet; counts another one, and delivers it if the programs carry its tunnel.
#[inline(always)]
fn arrives(frame: &Frame, link_bytes: u32) -> i32 {
    // A tagged frame belongs to a VLAN's interface, where this program receives it without the tag.
    if !frame.is_for_this_host() || frame.has_offloaded_tag() {
        return NEXT;
    }
    if inside_test::is_testing() && frame.is_ipv6() && outside_test::arrived(frame, link_bytes) {
        return SHOT;
    }
    let screened = screening::arrived(frame, link_bytes);
    if screened != NEXT {
        return screened;
    }
    if outer::arrived(frame, link_bytes) && frame.is_ipv4() {
        carry::arrived(frame, link_bytes)
    } else {
        NEXT
    }
}

/// Ingress of tunnels.
#[classifier]
fn sixxs_ingress(context: TcContext) -> i32 {
    let frame = Frame::new(context);
    let Some((interface, slot)) = maps::interface(frame.ifindex()) else {
        return NEXT;
    };
    let ipv6 = packet::ipv6(&frame, interface.link_bytes);
    // Packets of tests are not counted.
    if inside_test::is_testing()
        && let Ok(ipv6) = &ipv6
    {
        if outside_test::arrived(&frame, ipv6.offset) {
            return SHOT;
        }
        if inside_test::arrived(&frame, ipv6.offset) {
            return match interface.answers_echo {
                0 => NEXT,
                _ => answer::answer(&frame),
            };
        }
    }
    slot.add(Stat::InPackets, 1);
    slot.add(
        Stat::InBytes,
        frame.bytes_behind(interface.link_bytes).into(),
    );
    match ipv6 {
        Ok(ipv6) => {
            if ipv6.source == interface.own && interface.own != Address::UNSPECIFIED {
                slot.add(Stat::InOwnSource, 1);
                return SHOT;
            }
            if let Some(message) = packet::echo(&frame, &ipv6) {
                let action = echo_arrived(&frame, interface, slot, &ipv6, message);
                if action != NEXT {
                    return action;
                }
            }
            if steer::to_uplink(&frame, interface, &ipv6) {
                slot.add(Stat::InSteered, 1);
                return REDIRECT;
            }
        }
        Err(packet::NoIpv6::Malformed) => slot.add(Stat::InUnparsed, 1),
        Err(packet::NoIpv6::OtherProtocol) => {}
    }
    NEXT
}

/// Puts a copy of the frame into the ingress or the egress of the interface whose index user space has written into the context.
/// Returns 0 if the kernel has taken it.
#[classifier]
fn sixxs_inject(context: TcContext) -> i32 {
    inside_test::inject(&context)
}

/// Egress of all control groups, while there is a live test.
#[cgroup_skb(egress)]
fn sixxs_hold(context: SkBuffContext) -> i32 {
    /// Return values of such a program.
    const DROP: i32 = 0;
    const PASS: i32 = 1;
    let frame = &Frame::new(TcContext::new(context.as_ptr().cast()));
    if inside_test::is_held(frame) {
        DROP
    } else {
        PASS
    }
}

/// Ingress of an uplink without another program there, for the time of an outside test.
#[classifier]
fn sixxs_listen(context: TcContext) -> i32 {
    let frame = Frame::new(context);
    let Some((interface, _)) = maps::interface(frame.ifindex()) else {
        return NEXT;
    };
    match packet::ipv6(&frame, interface.link_bytes) {
        // A tagged frame belongs to a VLAN's interface.
        Ok(ipv6)
            if frame.is_for_this_host()
                && !frame.has_offloaded_tag()
                && ipv6.offset == u32::from(interface.link_bytes)
                && outside_test::arrived(&frame, ipv6.offset) =>
        {
            SHOT
        }
        _ => NEXT,
    }
}

/// The counters for echo messages of one direction.
struct EchoStats {
    requests: Stat,
    replies: Stat,
    last_request: Stat,
    last_reply: Stat,
}

const IN: EchoStats = EchoStats {
    requests: Stat::InRequests,
    replies: Stat::InReplies,
    last_request: Stat::LastRequestIn,
    last_reply: Stat::LastReplyIn,
};

const OUT: EchoStats = EchoStats {
    requests: Stat::OutRequests,
    replies: Stat::OutReplies,
    last_request: Stat::LastRequestOut,
    last_reply: Stat::LastReplyOut,
};

/// The time at which an echo message was counted.
struct Counted {
    /// The clock's last tick, in nanoseconds.
    tick_ns: u64,
    /// Whether it is the first one of its kind since that tick, at this interface and on this
    /// processor.
    is_first: bool,
}

/// Handles an echo message that arrived. It is counted only if it is addressed to the tunnel's own
/// addresses or prefixes. Returns the action: `NEXT`, unless the programs answer.
///
/// Requests from a tunnel's addresses or prefixes are neither answered nor paired. Their replies leave by no tunnel, and
/// such a source is forged if the request comes from outside.
#[inline(always)]
fn echo_arrived(
    frame: &Frame,
    interface: &Interface,
    slot: Slot,
    ipv6: &Ipv6,
    message: EchoMessage,
) -> i32 {
    let tables = maps::KernelTables {
        slot,
        generation: interface.generation,
        ifindex: interface.ifindex,
    };
    let Some(to) = tables.source(ipv6.destination) else {
        return NEXT;
    };
    if to.slot() != interface.slot {
        return NEXT;
    }
    let counted = count_echo(message.kind, slot, &IN);
    if let (Echo::Request, Some(number), true) = (message.kind, message.number, to.is_address())
        && !tables.comes_here(ipv6.source)
    {
        if interface.answers_echo != 0 {
            let action = answer::answer(frame);
            if action == REDIRECT {
                slot.add(Stat::EchoByPrograms, 1);
            }
            if action != NEXT {
                return action;
            }
        }
        echo_pairing::request_arrived(interface, ipv6, number, &counted);
    }
    NEXT
}

#[inline(always)]
fn count_echo(kind: Echo, slot: Slot, stats: &EchoStats) -> Counted {
    let (count, last) = match kind {
        Echo::Request => (stats.requests, stats.last_request),
        Echo::Reply => (stats.replies, stats.last_reply),
    };
    slot.add(count, 1);
    let tick_ns = frame::now_ns();
    Counted {
        tick_ns,
        is_first: slot.update_time(last, tick_ns),
    }
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: never reached: the verifier refuses a program in which a panic is reachable.
    unsafe { core::hint::unreachable_unchecked() }
}

/// The kernel allows some helpers only for programs under the GPL.
// SAFETY: nothing else in this object is called `LICENSE` or is in the section `license`.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
