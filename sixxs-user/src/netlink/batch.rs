//! Sends many changes in few system calls.
//!
//! The kernel processes all messages of a datagram in order, within the system call that sends it. It answers
//! each message that fails and each with `NLM_F_ACK` (`netlink_rcv_skb`). So only the last message has that
//! flag: after its answer, all messages without an answer have succeeded.

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
    refusal::{Refusal, request_error_messages},
    to_kernel,
};

/// Messages per datagram. Every answer may be an error, and all answers must fit into the socket buffer:
/// about 1 KiB each, of 208 KiB by default.
pub(super) const BATCH_SIZE: usize = 64;

/// Size of an answer: header, error code, and header of the request.
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
            request_error_messages(socket.socket_mut())?;
            Ok(socket)
        };
        Ok(Self {
            socket: open().context("open a netlink socket")?,
            next: 1,
            buffer: Vec::with_capacity(ANSWER_BYTES),
        })
    }

    /// Applies at most [`BATCH_SIZE`] changes in order; returns the result of each.
    pub(super) async fn carry_out(
        &mut self,
        changes: Vec<(RouteNetlinkMessage, u16)>,
    ) -> Vec<Result<(), RequestError>> {
        let count = changes.len();
        if count == 0 {
            return Vec::new();
        }
        match self.send_batch(changes).await {
            Ok(mut errors) => (0..count)
                .map(|at| errors.remove(&at).map_or(Ok(()), Err))
                .collect(),
            // The results are unknown; the daemon reads the kernel back anyway.
            Err(error) => {
                let lost = || Err(RequestError::Broken(error.to_string()));
                (0..count).map(|_| lost()).collect()
            }
        }
    }

    /// The errors, by position.
    async fn send_batch(
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
            // Messages are aligned to four bytes.
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
            // Other sequence numbers belong to an abandoned datagram.
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

    /// The next answer: the sequence number of its request, and the error.
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
