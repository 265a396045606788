//! Signals that the rule set of nftables has changed. The caller reads it again.
//!
//! iptables with the nft backend changes the same rule set; the legacy backend sends no events.

use std::io;

use anyhow::Context as _;
use rtnetlink::sys::{
    AsyncSocket as _, AsyncSocketExt as _, Socket, SocketAddr, TokioSocket,
    protocols::NETLINK_NETFILTER,
};

/// The multicast group (`NFNLGRP_NFTABLES`, linux/netfilter/nfnetlink.h).
const NFTABLES: u32 = 7;

/// A subscription to changes of nftables.
pub struct FilterWatcher(TokioSocket);

impl FilterWatcher {
    /// Subscribes.
    pub fn subscribe() -> anyhow::Result<Self> {
        let open = || -> io::Result<TokioSocket> {
            let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
            let inner: &mut Socket = socket.socket_mut();
            inner.bind(&SocketAddr::new(0, 0))?;
            inner.add_membership(NFTABLES)?;
            Ok(socket)
        };
        let socket = open().context("subscribe to changes of nftables")?;
        Ok(Self(socket))
    }

    /// Waits for an event. It is cancel safe: unread events stay in the socket.
    pub async fn changed(&self) -> io::Result<()> {
        // The content does not matter.
        let mut head = [0; 16];
        match self.0.recv_from(&mut head.as_mut_slice()).await {
            Ok(_) => Ok(()),
            // There were more than fit.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
