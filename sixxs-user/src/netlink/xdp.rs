//! Replaces the XDP program of an interface where it is attached without a link, as libxdp does.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use anyhow::{Context as _, bail};
use rtnetlink::{
    packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        link::{LinkAttribute, LinkMessage, LinkXdp},
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};
use sixxs_core::{link::XdpMode, types::IfIndex};

use super::refusal::{Refusal, request_error_messages};

/// `XDP_FLAGS_REPLACE` (kernel 5.7): refused if another program than the expected one is attached.
const REPLACE: u32 = 1 << 4;

/// Replaces the program `expected` in one step; `None` detaches it.
pub fn replace_xdp(
    index: IfIndex,
    mode: XdpMode,
    expected: BorrowedFd<'_>,
    program: Option<BorrowedFd<'_>>,
) -> anyhow::Result<()> {
    // `XDP_FLAGS_DRV_MODE` and `XDP_FLAGS_SKB_MODE`.
    let mode = match mode {
        XdpMode::Native => 1 << 2,
        XdpMode::Generic => 1 << 1,
    };
    let mut message = LinkMessage::default();
    message.header.index = index.0;
    message.attributes = vec![LinkAttribute::Xdp(vec![
        LinkXdp::Fd(program.map_or(-1, |program| program.as_raw_fd())),
        LinkXdp::Flags(REPLACE | mode),
        LinkXdp::ExpectedFd(expected.as_raw_fd().cast_unsigned()),
    ])];
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::SetLink(message));
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);

    let mut socket = Socket::new(NETLINK_ROUTE).context("open a netlink socket")?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    request_error_messages(&socket)?;
    socket.send(&bytes, 0).context("send a request")?;
    // The kernel answers while it takes the request.
    socket.set_non_blocking(true)?;
    let (answer, _) = socket.recv_from_full().context("read an answer")?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer);
    match answer.context("parse an answer")?.payload {
        NetlinkPayload::Error(error) if error.code.is_some() => {
            Err(Refusal::new(&error)).context("replace the XDP program")
        }
        NetlinkPayload::Error(_) => Ok(()),
        _ => bail!("the kernel did not acknowledge the request"),
    }
}
