//! Many changes by few calls.
//!
//! The kernel carries out all messages of a datagram in their order, within the call that sends it,
//! and answers each that failed and each that asks for an answer (`netlink_rcv_skb`). So only the
//! last of a datagram asks: when that is answered, whatever was not answered before has succeeded.

use std::{collections::BTreeMap, io};

use anyhow::Context as _;
use rtnetlink::{
    packet_core::{NLM_F_ACK, NetlinkMessage, NetlinkPayload},
    packet_route::RouteNetlinkMessage,
    sys::{AsyncSocket as _, AsyncSocketExt as _, TokioSocket},
};
use tokio::time::timeout;

use super::{
    RequestError, TIMEOUT,
    refusal::{Refusal, ask_for_words},
    to_kernel,
};

/// Messages in a datagram. Every answer may be an error, and all of them have to find room in the
/// socket: about 1 KiB each, of 208 KiB by default.
pub(super) const TOGETHER: usize = 64;

/// An answer: the header, a code, and the header of what it is about.
const ANSWER_BYTES: usize = 4096;

/// A socket for changes.
pub(super) struct Batch {
    socket: TokioSocket,
    next: u32,
    buffer: Vec<u8>,
}

impl Batch {
    pub(super) fn open() -> anyhow::Result<Self> {
        let open = || -> io::Result<TokioSocket> {
            let mut socket = to_kernel()?;
            ask_for_words(socket.socket_mut())?;
            Ok(socket)
        };
        Ok(Self {
            socket: open().context("open a netlink socket")?,
            next: 1,
            buffer: Vec::with_capacity(ANSWER_BYTES),
        })
    }

    /// Carries at most [`TOGETHER`] changes out, in their order; says of each what came of it.
    pub(super) async fn carry_out(
        &mut self,
        changes: Vec<(RouteNetlinkMessage, u16)>,
    ) -> Vec<Result<(), RequestError>> {
        let count = changes.len();
        if count == 0 {
            return Vec::new();
        }
        match self.together(changes).await {
            Ok(mut errors) => (0..count)
                .map(|at| errors.remove(&at).map_or(Ok(()), Err))
                .collect(),
            // What became of them nobody knows: the kernel is read back anyway.
            Err(error) => {
                let lost = || Err(RequestError::Broken(error.to_string()));
                (0..count).map(|_| lost()).collect()
            }
        }
    }

    /// The errors, by place.
    async fn together(
        &mut self,
        changes: Vec<(RouteNetlinkMessage, u16)>,
    ) -> Result<BTreeMap<usize, RequestError>, RequestError> {
        let first = self.next;
        let last = changes.len() - 1;
        let mut datagram = Vec::new();
        for (at, (message, flags)) in changes.into_iter().enumerate() {
            let mut message = NetlinkMessage::from(message);
            message.header.sequence_number = self.next;
            message.header.flags = if at == last { flags | NLM_F_ACK } else { flags };
            message.finalize();
            let start = datagram.len();
            // Each begins at a multiple of four bytes.
            datagram.resize(start + message.buffer_len().next_multiple_of(4), 0);
            message.serialize(&mut datagram[start..]);
            self.next = self.next.wrapping_add(1);
        }
        let sent = timeout(TIMEOUT, self.socket.send(&datagram)).await;
        sent.map_err(|_| RequestError::TimedOut)?
            .map_err(|error| RequestError::Broken(error.to_string()))?;
        let mut errors = BTreeMap::new();
        loop {
            let (number, answer) = self.answer().await?;
            let at = number.wrapping_sub(first) as usize;
            // Others are of a datagram that was given up.
            if at > last {
                continue;
            }
            if let Some(error) = answer {
                errors.insert(at, RequestError::Kernel(error));
            }
            if at == last {
                return Ok(errors);
            }
        }
    }

    /// The number of a message, and its error.
    async fn answer(&mut self) -> Result<(u32, Option<Refusal>), RequestError> {
        let broken = |error: &dyn std::fmt::Display| RequestError::Broken(error.to_string());
        loop {
            self.buffer.clear();
            let received = timeout(TIMEOUT, self.socket.recv(&mut self.buffer)).await;
            received
                .map_err(|_| RequestError::TimedOut)?
                .map_err(|error| broken(&error))?;
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&self.buffer)
                .map_err(|error| broken(&error))?;
            let number = message.header.sequence_number;
            if let NetlinkPayload::Error(error) = message.payload {
                return Ok((number, error.code.map(|_| Refusal::new(&error))));
            }
        }
    }
}
