//! Requests by generic netlink. The kernel answers while it takes a request, so that nothing waits.

use std::io;

use anyhow::{Context as _, bail};
use netlink_packet_generic::{
    GenlMessage,
    ctrl::{GenlCtrl, GenlCtrlCmd, nlas::GenlCtrlAttrs},
};
use rtnetlink::{
    packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage, NetlinkPayload},
    sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC},
};
use zeroize::Zeroizing;

use super::refusal::{Refusal, request_error_messages};

/// The maximum number of reads for an answer. An interface of WireGuard may have thousands of peers.
const MAX_READS: usize = 4096;

/// Length of the header of netlink, in bytes.
const HEADER_BYTES: usize = 16;

/// Length of the header of generic netlink, in bytes.
const GENERIC_HEADER_BYTES: usize = 4;

/// A socket for requests to one family.
pub(super) struct GenericSocket {
    socket: Socket,
    name: &'static str,
    /// The family's number, once it is known. It changes if the module is loaded again.
    family: Option<u16>,
}

impl GenericSocket {
    /// Opens a socket in the network namespace of this thread.
    pub(super) fn open(name: &'static str) -> anyhow::Result<Self> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_GENERIC)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            socket.set_non_blocking(true)?;
            request_error_messages(&socket)?;
            Ok(socket)
        };
        Ok(Self {
            socket: open().context("open a generic netlink socket")?,
            name,
            family: None,
        })
    }

    /// Whether the kernel has the family. It loads a module for it, if there is one.
    pub(super) fn has_family(&self) -> bool {
        self.find_family().is_ok()
    }

    /// Sends a request with these `flags`, the number and the version of the command, and encoded attributes. Passes the
    /// attributes of each message of the answer to `read`. Requests and answers are wiped from memory: they may contain
    /// keys.
    pub(super) fn request(
        &mut self,
        flags: u16,
        command: [u8; 2],
        attributes: &[u8],
        mut read: impl FnMut(&[u8]),
    ) -> anyhow::Result<()> {
        let asked = self.ask(flags, command, attributes, &mut read);
        if asked.is_err() {
            self.family = None;
        }
        asked
    }

    fn ask(
        &mut self,
        flags: u16,
        [command, version]: [u8; 2],
        attributes: &[u8],
        read: &mut impl FnMut(&[u8]),
    ) -> anyhow::Result<()> {
        let family = match self.family {
            Some(family) => family,
            None => self.find_family()?,
        };
        self.family = Some(family);
        let length = HEADER_BYTES + GENERIC_HEADER_BYTES + attributes.len();
        let mut request = Zeroizing::new(Vec::with_capacity(length));
        request.extend(u32::try_from(length)?.to_ne_bytes());
        request.extend(family.to_ne_bytes());
        request.extend((NLM_F_REQUEST | flags).to_ne_bytes());
        request.extend([0; 8]);
        request.extend([command, version, 0, 0]);
        request.extend(attributes);
        self.send(&request)?;
        for _ in 0..MAX_READS {
            let bytes = match self.receive() {
                Ok(bytes) => bytes,
                // An answer to a request without NLM_F_DUMP has no end.
                Err(error) if flags & NLM_F_DUMP == 0 && is_empty(&error) => return Ok(()),
                Err(error) => return Err(error),
            };
            let mut rest = bytes.as_slice();
            while let Some((message, more)) = next_message(rest) {
                rest = more;
                if message.flags() & NLM_F_DUMP_INTR != 0 {
                    bail!("the interface changed while it was read");
                }
                match message.message_type() {
                    // NLMSG_ERROR: the module may be loaded again, with another number of its family.
                    2 => match Refusal::from_payload(message.payload()) {
                        Some(refusal) => bail!(refusal),
                        None => return Ok(()),
                    },
                    // NLMSG_DONE.
                    3 => return Ok(()),
                    _ => read(
                        message
                            .payload()
                            .get(GENERIC_HEADER_BYTES..)
                            .unwrap_or_default(),
                    ),
                }
            }
        }
        bail!("the answer does not end")
    }

    fn find_family(&self) -> anyhow::Result<u16> {
        let mut message = GenlMessage::from_payload(GenlCtrl {
            cmd: GenlCtrlCmd::GetFamily,
            nlas: vec![GenlCtrlAttrs::FamilyName(self.name.to_owned())],
        });
        message.finalize();
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.send(&bytes)?;
        let answer = self.receive()?;
        let answer = NetlinkMessage::<GenlMessage<GenlCtrl>>::deserialize(&answer);
        let name = self.name;
        match answer.context("parse an answer")?.payload {
            NetlinkPayload::InnerMessage(message) => {
                let mut attributes = message.payload.nlas.into_iter();
                let family = attributes.find_map(|attribute| match attribute {
                    GenlCtrlAttrs::FamilyId(family) => Some(family),
                    _ => None,
                });
                family.with_context(|| format!("the kernel did not give the number of {name}"))
            }
            NetlinkPayload::Error(error) => bail!(error.to_io()),
            _ => bail!("the kernel did not give the number of {name}"),
        }
    }

    /// Sends a request, after what an earlier one has left is read.
    fn send(&self, request: &[u8]) -> anyhow::Result<()> {
        while self.receive().is_ok() {}
        self.socket.send(request, 0).context("send a request")?;
        Ok(())
    }

    fn receive(&self) -> anyhow::Result<Zeroizing<Vec<u8>>> {
        let (bytes, _) = self.socket.recv_from_full().context("read an answer")?;
        Ok(Zeroizing::new(bytes))
    }
}

fn is_empty(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

/// The dump is not of one moment (`linux/netlink.h`).
const NLM_F_DUMP_INTR: u16 = 0x10;

/// The first message in these bytes, and the bytes behind it. `None`: there is no whole message.
fn next_message(bytes: &[u8]) -> Option<(NetlinkBuffer<&[u8]>, &[u8])> {
    let message = NetlinkBuffer::new_checked(bytes).ok()?;
    let length = usize::try_from(message.length()).ok()?;
    if length < HEADER_BYTES {
        return None;
    }
    let message = NetlinkBuffer::new_checked(bytes.get(..length)?).ok()?;
    let rest = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((message, rest))
}

/// An attribute of this kind, padded to four bytes.
pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(4);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(&value[..usize::from(length) - 4]);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_follow_each_other() {
        let message = |length: u32, total: usize| {
            let mut bytes = length.to_ne_bytes().to_vec();
            bytes.resize(total, 0);
            bytes
        };
        // 18 bytes are padded to 20.
        let two = [message(18, 20), message(16, 16)].concat();
        let (first, rest) = next_message(&two).unwrap();
        assert_eq!((first.length(), rest.len()), (18, 16));
        let (second, rest) = next_message(rest).unwrap();
        assert_eq!((second.length(), rest.len()), (16, 0));
        assert!(next_message(rest).is_none());
        for (length, total) in [(0, 16), (15, 16), (17, 16), (16, 15), (u32::MAX, 16)] {
            assert!(
                next_message(&message(length, total)).is_none(),
                "{length} {total}"
            );
        }
    }
}
