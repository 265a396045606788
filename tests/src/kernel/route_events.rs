//! Owns a subscription to the kernel's events about the program's rules and routes, with the time of
//! receipt.
//!
//! Tasks: one thread per [`Events`], which ends when that is dropped.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::libc;
use nix::sys::socket::{NetlinkAddr, bind};
use socket2::{Domain, Protocol, Socket, Type};

use crate::lab::netns::Namespace;
use crate::socket_option;

/// The routing protocol number that marks the program's rules and routes.
pub const PROTOCOL: u8 = 116;

/// Interval at which the thread checks whether to end.
const LOOK: Duration = Duration::from_millis(50);
/// Buffer for notifications that come while the thread waits for a CPU: ten thousand routes at once.
const ROOM_BYTES: usize = 16 << 20;

/// From linux/rtnetlink.h.
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const RTNLGRP_IPV6_ROUTE: libc::c_int = 11;
const RTNLGRP_IPV6_RULE: libc::c_int = 19;
const AF_INET6: u8 = 10;
/// From linux/fib_rules.h.
const FRA_PROTOCOL: u16 = 21;

/// Identifies a rule or route: its netlink message without the fields that differ between creation and
/// deletion.
pub type Key = Vec<u8>;

/// A creation or a deletion.
#[derive(Clone, Debug)]
pub struct Event {
    /// When it was received.
    pub at: Instant,
    /// Whether it is a creation.
    pub created: bool,
    /// Whether it is about a rule, and not a route.
    pub is_rule: bool,
    /// The rule or route.
    pub key: Key,
}

/// Times between the deletion of a rule or route and its next creation.
#[derive(Clone, Debug, Default)]
pub struct Gaps {
    /// Each gap that ended.
    pub closed: Vec<Duration>,
    /// Gaps that have not ended.
    pub open: usize,
}

impl Gaps {
    /// The longest gap.
    pub fn longest(&self) -> Duration {
        self.closed.iter().max().copied().unwrap_or_default()
    }
}

/// A subscription.
#[derive(Debug)]
pub struct Events {
    stop: Arc<AtomicBool>,
    events: Receiver<Event>,
    trouble: Arc<Mutex<Option<io::Error>>>,
    thread: Option<JoinHandle<()>>,
}

impl Events {
    /// Subscribes in a namespace.
    pub fn listen(namespace: &Namespace) -> Result<Self> {
        let socket = namespace.run(open)?;
        let stop = Arc::new(AtomicBool::new(false));
        let trouble: Arc<Mutex<Option<io::Error>>> = Arc::default();
        let (stopped, failed) = (Arc::clone(&stop), Arc::clone(&trouble));
        let (sender, events) = channel();
        let listen = move || {
            let mut buffer = vec![0; 1 << 16];
            while !stopped.load(Ordering::Relaxed) {
                let length = match (&socket).read(&mut buffer) {
                    Ok(length) => length,
                    Err(e) if is_time_out(&e) => continue,
                    Err(e) => {
                        *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(e);
                        return;
                    }
                };
                let at = Instant::now();
                let event = read(buffer.get(..length).unwrap_or_default(), at);
                // The receiver may be dropped already.
                if event.is_some_and(|event| sender.send(event).is_err()) {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("events".to_owned());
        Ok(Self {
            stop,
            events,
            trouble,
            thread: Some(thread.spawn(listen).context("listen to events")?),
        })
    }

    /// The next event; `None` at the limit.
    pub fn next(&self, limit: Duration) -> Result<Option<Event>> {
        match self.events.recv_timeout(limit) {
            Ok(event) => Ok(Some(event)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
                bail!("the listener to events ended: {trouble:?}")
            }
        }
    }

    /// All events since the last call.
    pub fn all(&self) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        while let Some(event) = self.next(Duration::ZERO)? {
            events.push(event);
        }
        Ok(events)
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if self.thread.take().is_some_and(|t| t.join().is_err()) {
            eprintln!("a listener to events panicked");
        }
    }
}

/// The gaps of all rules and routes.
pub fn gaps(events: &[Event]) -> Gaps {
    let mut gone: BTreeMap<(bool, &Key), Instant> = BTreeMap::new();
    let mut gaps = Gaps::default();
    for event in events {
        let key = (event.is_rule, &event.key);
        if !event.created {
            gone.entry(key).or_insert(event.at);
        } else if let Some(since) = gone.remove(&key) {
            gaps.closed.push(event.at.saturating_duration_since(since));
        }
    }
    gaps.open = gone.len();
    gaps
}

fn is_time_out(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

fn open() -> Result<Socket> {
    let route = Protocol::from(libc::NETLINK_ROUTE);
    let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(route))
        .context("open a netlink socket")?;
    // Without a port ID of its own the socket would receive nothing.
    let anybody = NetlinkAddr::new(0, 0);
    bind(socket.as_raw_fd(), &anybody).context("bind a netlink socket")?;
    for group in [RTNLGRP_IPV6_ROUTE, RTNLGRP_IPV6_RULE] {
        let name = libc::NETLINK_ADD_MEMBERSHIP;
        socket_option::set(&socket, libc::SOL_NETLINK, name, group)?;
    }
    let room = libc::c_int::try_from(ROOM_BYTES).context("a size fits")?;
    socket_option::set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, room)?;
    socket
        .set_read_timeout(Some(LOOK))
        .context("set a time limit")?;
    Ok(socket)
}

/// Reads a message about a rule or route of the program. Each notification is a datagram: a `nlmsghdr` of 16
/// bytes (type at 4), then a `rtmsg` or `fib_rule_hdr` of 12.
fn read(message: &[u8], at: Instant) -> Option<Event> {
    const HEADER: usize = 16;
    const BODY: usize = HEADER + 12;
    let kind = u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?);
    let (created, is_rule) = match kind {
        RTM_NEWROUTE => (true, false),
        RTM_DELROUTE => (false, false),
        RTM_NEWRULE => (true, true),
        RTM_DELRULE => (false, true),
        _ => return None,
    };
    let protocol = if is_rule {
        attribute(message.get(BODY..)?, FRA_PROTOCOL).and_then(|value| value.first())
    } else {
        message.get(HEADER + 5)
    };
    if protocol != Some(&PROTOCOL) || message.get(HEADER) != Some(&AF_INET6) {
        return None;
    }
    let mut key = message.get(HEADER..BODY)?.to_vec();
    if !is_rule {
        // The flags of a route have the state of the interface, and cache data.
        key.truncate(8);
    }
    for (name, value) in attributes(message.get(BODY..)?) {
        if is_rule || ROUTE_IDENTITY.contains(&name) {
            key.extend(name.to_ne_bytes());
            key.extend(value);
        }
    }
    Some(Event {
        at,
        created,
        is_rule,
        key,
    })
}

/// The attributes that identify a route: destination, source, interface, priority, gateway, table.
const ROUTE_IDENTITY: [u16; 6] = [1, 2, 4, 6, 5, 15];

fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(name, value)| (name == wanted).then_some(value))
}

/// Attributes: length and type of two bytes each, then the value, padded to a multiple of four bytes.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [a, b, c, d] = bytes.get(..4)?.try_into().ok()?;
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([c, d]), value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_from_going_to_coming() {
        let start = Instant::now();
        let event = |ms: u64, created, key: u8| Event {
            at: start + Duration::from_millis(ms),
            created,
            is_rule: true,
            key: vec![key],
        };
        let gaps = gaps(&[
            event(0, true, 1),
            event(1, false, 1),
            event(2, false, 2),
            event(4, true, 1),
            event(5, false, 3),
            event(9, true, 2),
        ]);
        assert_eq!(gaps.closed, [3, 7].map(Duration::from_millis));
        assert_eq!((gaps.open, gaps.longest()), (1, Duration::from_millis(7)));
    }
}
