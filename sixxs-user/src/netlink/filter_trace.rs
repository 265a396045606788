//! The rules of nftables that drop packets, by nftables' tracing.
//!
//! A table of our own marks the packets to trace. It belongs to a socket (`NFT_TABLE_F_OWNER`, Linux 5.12), so that the kernel
//! removes it with the socket, also when the process is killed. Its chains come first at their hooks, and drop nothing.

use std::{collections::BTreeSet, io, net::Ipv6Addr};

use anyhow::{Context as _, bail};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

/// Limit of events that are read.
const MAX_EVENTS: usize = 10_000;

/// Size of the buffer for a message.
const MESSAGE_BYTES: usize = 8192;

/// The multicast group (`NFNLGRP_NFTRACE`, linux/netfilter/nfnetlink.h).
const NFTRACE: u32 = 9;

/// The name of the table.
const TABLE: &[u8] = b"sixxs_trace\0";

/// Hooks of the family `ip6` where packets enter, with the names of our chains.
const CHAINS: [(u32, &[u8]); 2] = [(0, b"prerouting\0"), (3, b"output\0")];

/// The priority of the chains: before all that nft has names for.
const PRIORITY: i32 = -1000;

/// What dropped a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterDrop {
    /// The family of the table, as nft names it.
    pub family: &'static str,
    /// The table.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// The rule's handle; `None`: the policy of the chain.
    pub handle: Option<u64>,
}

/// A running trace. It ends when it is dropped.
pub struct FilterTrace {
    events: Socket,
    /// Owns the table.
    _owner: Socket,
}

impl FilterTrace {
    /// Traces the packets of a protocol between two addresses, in both directions. Its number is that in the IPv6 header.
    pub fn start(pair: [Ipv6Addr; 2], protocol: u8) -> anyhow::Result<Self> {
        let events = subscribe().context("subscribe to the traces of nftables")?;
        let owner = mark(pair, protocol).context("trace packets by a table of nftables")?;
        Ok(Self {
            events,
            _owner: owner,
        })
    }

    /// What dropped packets since the start, without repetitions. Packets that others trace are not among them: the
    /// events of a packet that this trace marks begin in its table.
    pub fn drops(&self) -> anyhow::Result<Vec<FilterDrop>> {
        let (mut ours, mut drops) = (BTreeSet::new(), Vec::new());
        for _ in 0..MAX_EVENTS {
            let mut message = Vec::with_capacity(MESSAGE_BYTES);
            match self.events.recv(&mut message, 0) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context("read the traces of nftables"),
            }
            let Some(event) = Event::read(&message) else {
                continue;
            };
            if event.is_in(TABLE) {
                ours.extend(event.packet());
            }
            let is_ours = event.packet().is_some_and(|packet| ours.contains(&packet));
            if let Some(drop) = event.dropped().filter(|_| is_ours)
                && !drops.contains(&drop)
            {
                drops.push(drop);
            }
        }
        Ok(drops)
    }
}

fn subscribe() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    socket.add_membership(NFTRACE)?;
    socket.set_non_blocking(true)?;
    Ok(socket)
}

/// Makes the table. Returns the socket that it belongs to.
fn mark(pair: [Ipv6Addr; 2], protocol: u8) -> anyhow::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    let batch = batch(pair, protocol);
    socket.send(&batch.bytes, 0)?;
    for _ in 0..batch.acknowledged {
        let mut message = Vec::with_capacity(MESSAGE_BYTES);
        socket.recv(&mut message, 0)?;
        match acknowledged(&message) {
            Some(0) => {}
            Some(error) => return Err(io::Error::from_raw_os_error(-error).into()),
            None => bail!("the kernel answers with an unknown message"),
        }
    }
    Ok(socket)
}

/// The error number in an acknowledgement; 0: none.
fn acknowledged(message: &[u8]) -> Option<i32> {
    /// `NLMSG_ERROR`.
    const ERROR: u16 = 2;
    let kind = message.get(4..6)?.try_into().ok()?;
    let number = message.get(16..20)?.try_into().ok()?;
    (u16::from_ne_bytes(kind) == ERROR).then(|| i32::from_ne_bytes(number))
}

/// Messages of nfnetlink (linux/netfilter/nfnetlink.h).
mod message {
    pub(super) const BATCH_BEGIN: u16 = 0x10;
    pub(super) const BATCH_END: u16 = 0x11;
    /// The subsystem `NFNL_SUBSYS_NFTABLES`.
    pub(super) const NFTABLES: u16 = 10;
    pub(super) const NEW_TABLE: u16 = NFTABLES << 8;
    pub(super) const NEW_CHAIN: u16 = NFTABLES << 8 | 3;
    pub(super) const NEW_RULE: u16 = NFTABLES << 8 | 6;
    pub(super) const TRACE: u16 = NFTABLES << 8 | 17;
}

/// `NFPROTO_IPV6`.
const IPV6: u8 = 10;

/// Length of the headers `nlmsghdr` and `nfgenmsg`.
const HEADER_BYTES: usize = 20;

/// Messages that the kernel carries out together.
struct Batch {
    bytes: Vec<u8>,
    /// Number of messages that the kernel acknowledges.
    acknowledged: u32,
}

impl Batch {
    /// Adds the begin or the end.
    fn frame(&mut self, kind: u16) {
        self.add(kind, 0, [0, 0], message::NFTABLES, &[]);
    }

    /// Adds a message that makes something.
    fn make(&mut self, kind: u16, attributes: &[u8]) {
        /// `NLM_F_ACK`, `NLM_F_CREATE` and `NLM_F_APPEND`.
        const FLAGS: u16 = 0x4 | 0x400 | 0x800;
        self.add(kind, FLAGS, [IPV6, 0], 0, attributes);
        self.acknowledged += 1;
    }

    fn add(&mut self, kind: u16, flags: u16, family: [u8; 2], resource: u16, attributes: &[u8]) {
        /// `NLM_F_REQUEST`.
        const REQUEST: u16 = 1;
        let length = u32::try_from(HEADER_BYTES + attributes.len()).unwrap_or(u32::MAX);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((flags | REQUEST).to_ne_bytes());
        // Sequence number and port ID.
        self.bytes.extend([0; 8]);
        self.bytes.extend(family);
        self.bytes.extend(resource.to_be_bytes());
        self.bytes.extend(attributes);
    }
}

/// An attribute, padded to four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// An attribute with attributes in it.
fn nested(kind: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
    /// `NLA_F_NESTED`.
    const NESTED: u16 = 0x8000;
    attribute(kind | NESTED, &attributes.concat())
}

fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

/// A table that marks the packets of a protocol between these addresses. linux/netfilter/nf_tables.h has the numbers.
fn batch([one, other]: [Ipv6Addr; 2], protocol: u8) -> Batch {
    /// `NFT_TABLE_F_OWNER`.
    const OWNER: u32 = 2;
    let mut batch = Batch {
        bytes: Vec::new(),
        acknowledged: 0,
    };
    batch.frame(message::BATCH_BEGIN);
    let table = [attribute(1, TABLE), number(2, OWNER)].concat();
    batch.make(message::NEW_TABLE, &table);
    for (hook, name) in CHAINS {
        let place = [number(1, hook), number(2, PRIORITY.cast_unsigned())];
        let chain = [
            attribute(1, TABLE),
            attribute(3, name),
            nested(4, &place),
            attribute(7, b"filter\0"),
        ];
        batch.make(message::NEW_CHAIN, &chain.concat());
    }
    for (_, chain) in CHAINS {
        for ends in [[one, other], [other, one]] {
            batch.make(message::NEW_RULE, &rule(chain, ends, protocol));
        }
    }
    batch.frame(message::BATCH_END);
    batch
}

/// `NFT_REG_1`, for 16 bytes.
const REGISTER: u32 = 1;

/// A rule that marks the packets of a protocol from one address to another.
fn rule(chain: &[u8], [source, destination]: [Ipv6Addr; 2], protocol: u8) -> Vec<u8> {
    /// `NFT_META_NFTRACE`.
    const TRACE_BIT: u32 = 12;
    /// Offsets in the IPv6 header (RFC 8200 §3).
    const NEXT_HEADER: u32 = 6;
    const SOURCE: u32 = 8;
    const DESTINATION: u32 = 24;
    let compare = [
        has(NEXT_HEADER, &[protocol]),
        has(SOURCE, &source.octets()),
        has(DESTINATION, &destination.octets()),
    ];
    let set = [
        expression(
            b"immediate\0",
            &[number(1, REGISTER), nested(2, &[attribute(1, &[1])])],
        ),
        expression(b"meta\0", &[number(2, TRACE_BIT), number(3, REGISTER)]),
    ];
    [
        attribute(1, TABLE),
        attribute(2, chain),
        nested(4, &[compare.concat(), set.to_vec()].concat()),
    ]
    .concat()
}

/// Loads what is at an offset in the IPv6 header, and compares it with up to 16 bytes.
fn has(at: u32, value: &[u8]) -> [Vec<u8>; 2] {
    /// `NFT_PAYLOAD_NETWORK_HEADER`.
    const NETWORK_HEADER: u32 = 1;
    /// `NFT_CMP_EQ`.
    const EQUAL: u32 = 0;
    let load = [
        number(1, REGISTER),
        number(2, NETWORK_HEADER),
        number(3, at),
        number(4, u32::try_from(value.len()).unwrap_or(u32::MAX)),
    ];
    let compare = [
        number(1, REGISTER),
        number(2, EQUAL),
        nested(3, &[attribute(1, value)]),
    ];
    [
        expression(b"payload\0", &load),
        expression(b"cmp\0", &compare),
    ]
}

fn expression(name: &[u8], data: &[Vec<u8>]) -> Vec<u8> {
    nested(1, &[attribute(1, name), nested(2, data)])
}

/// A trace event.
struct Event<'a> {
    /// The number of the table's family.
    family: u8,
    attributes: &'a [u8],
}

impl<'a> Event<'a> {
    fn read(message: &'a [u8]) -> Option<Self> {
        let kind = u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?);
        (kind == message::TRACE).then_some(Self {
            family: *message.get(16)?,
            attributes: message.get(HEADER_BYTES..)?,
        })
    }

    fn value(&self, kind: u16) -> Option<&'a [u8]> {
        find(self.attributes, kind)
    }

    fn word(&self, kind: u16) -> Option<u32> {
        be32(self.value(kind)?)
    }

    /// The number of the packet.
    fn packet(&self) -> Option<u32> {
        const ID: u16 = 6;
        self.word(ID)
    }

    fn is_in(&self, table: &[u8]) -> bool {
        self.family == IPV6 && self.value(TABLE_NAME) == Some(table)
    }

    /// What drops the packet, if it is dropped there.
    fn dropped(&self) -> Option<FilterDrop> {
        const CHAIN: u16 = 2;
        const HANDLE: u16 = 3;
        const KIND: u16 = 4;
        const VERDICT: u16 = 5;
        const POLICY: u16 = 16;
        /// Kinds of events.
        const BY_POLICY: u32 = 1;
        const BY_RULE: u32 = 3;
        /// `NF_DROP`.
        const DROP: u32 = 0;
        let handle = match self.word(KIND)? {
            BY_RULE => {
                let code = be32(find(self.value(VERDICT)?, 1)?)?;
                let handle = u64::from_be_bytes(self.value(HANDLE)?.try_into().ok()?);
                (code == DROP).then_some(Some(handle))
            }
            BY_POLICY => (self.word(POLICY)? == DROP).then_some(None),
            _ => None,
        }?;
        let text = |kind| {
            let bytes = self.value(kind)?;
            let end = bytes.iter().position(|byte| *byte == 0);
            Some(String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned())
        };
        Some(FilterDrop {
            family: family(self.family),
            table: text(TABLE_NAME)?,
            chain: text(CHAIN)?,
            handle,
        })
    }
}

/// The attribute of a trace event with the name of the table.
const TABLE_NAME: u16 = 1;

/// The name of a family of nftables (`NFPROTO_…`).
const fn family(number: u8) -> &'static str {
    match number {
        1 => "inet",
        2 => "ip",
        5 => "netdev",
        7 => "bridge",
        IPV6 => "ip6",
        _ => "?",
    }
}

fn be32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

/// The value of an attribute.
fn find(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    /// Without the flags.
    const KIND: u16 = 0x3fff;
    while let [l0, l1, k0, k1, rest @ ..] = attributes {
        let length = usize::from(u16::from_ne_bytes([*l0, *l1])).checked_sub(4)?;
        let value = rest.get(..length)?;
        if u16::from_ne_bytes([*k0, *k1]) & KIND == kind {
            return Some(value);
        }
        attributes = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dropped(message: &[u8]) -> Option<FilterDrop> {
        Event::read(message)?.dropped()
    }

    fn event(family: u8, attributes: &[Vec<u8>]) -> Vec<u8> {
        let mut batch = Batch {
            bytes: Vec::new(),
            acknowledged: 0,
        };
        batch.add(message::TRACE, 0, [family, 0], 0, &attributes.concat());
        batch.bytes
    }

    #[test]
    fn drops_by_rules_and_policies_are_read() {
        let place = || [attribute(1, b"filter\0"), attribute(2, b"input\0")].concat();
        let handle = attribute(3, &7_u64.to_be_bytes());
        let verdict = |code: u32| nested(5, &[number(1, code)]);
        let drop = |handle| FilterDrop {
            family: "inet",
            table: "filter".to_owned(),
            chain: "input".to_owned(),
            handle,
        };
        let by_rule = |code| event(1, &[place(), handle.clone(), number(4, 3), verdict(code)]);
        assert_eq!(dropped(&by_rule(0)), Some(drop(Some(7))));
        assert_eq!(dropped(&by_rule(1)), None);
        let by_policy = |policy| event(1, &[place(), number(4, 1), number(16, policy)]);
        assert_eq!(dropped(&by_policy(0)), Some(drop(None)));
        assert_eq!(dropped(&by_policy(1)), None);
        assert_eq!(dropped(&event(1, &[place(), number(4, 2)])), None);
    }

    #[test]
    fn nonsense_is_no_drop() {
        let whole = event(1, &[attribute(1, b"filter\0"), number(4, 1), number(16, 0)]);
        for length in 0..whole.len() {
            assert_eq!(dropped(&whole[..length]), None);
        }
        assert_eq!(find(&[3, 0, 1, 0, 0, 0], 1), None);
        assert_eq!(find(&[200, 0, 1, 0, 0, 0], 1), None);
        assert_eq!(acknowledged(&[0; 19]), None);
    }

    #[test]
    fn attributes_are_padded() {
        assert_eq!(attribute(7, b"abc"), [7, 0, 7, 0, b'a', b'b', b'c', 0]);
        assert_eq!(number(1, 2), [8, 0, 1, 0, 0, 0, 0, 2]);
        let pair = ["2001:db8::1", "2001:db8::2"].map(|text| text.parse().unwrap());
        let batch = batch(pair, 58);
        // The table, two chains, and a rule for each direction in each chain.
        assert_eq!(batch.acknowledged, 1 + 2 + 4);
        assert_eq!(batch.bytes.len() % 4, 0);
    }
}
