//! Turns a packet that is too big into the Packet Too Big that answers it.

use sixxs_common::{
    address::Address,
    packet::{ICMPV6, Packet as _, Transport},
    too_big::{HEADER_BYTES, QUOTED_BYTES, headers},
};

use crate::frame::{Frame, Refused};

/// Whether a packet may be answered by an error.
///
/// RFC 4443 §2.4: no error about an error (e.1). An error is too short for fragments (c), so a later fragment may be
/// answered, and so may a multicast packet (e.3).
#[inline(always)]
pub(crate) fn may_be_answered(frame: &Frame, upper: Option<&Transport>) -> bool {
    !upper.is_some_and(|upper| upper.present && is_error(frame, upper))
}

#[inline(always)]
fn is_error(frame: &Frame, upper: &Transport) -> bool {
    // RFC 4443 §2.1: error messages have types below 128.
    upper.protocol == ICMPV6 && frame.peek(upper.offset).is_none_or(|[kind, _]| kind < 128)
}

/// Replaces the packet behind `link` bytes of link layer, without VLAN tags, by an answer of `router` to `sender`.
#[inline(always)]
pub(crate) fn replace(
    frame: &Frame,
    link: u32,
    router: Address,
    sender: Address,
    mtu: u32,
) -> Result<(), Refused> {
    frame.cut(link + QUOTED_BYTES)?;
    frame.pull(link + QUOTED_BYTES)?;
    const REST: usize = QUOTED_BYTES as usize - 2 * 512;
    let sum = frame.sum::<512>(link, 0)?;
    let sum = frame.sum::<512>(link + 512, sum)?;
    let sum = frame.sum::<REST>(link + 1024, sum)?;
    frame.make_room(HEADER_BYTES)?;
    let headers = headers(router, sender, mtu, u64::from(sum));
    frame.store(link, &headers)
}
