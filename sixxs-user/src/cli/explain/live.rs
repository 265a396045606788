//! Sends the packet that is explained, for `--live`. The programs keep it from the wire.

use std::{
    io,
    net::SocketAddrV6,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use nix::unistd::{Uid, fchown};
use sixxs_core::{
    explain::{
        Packet,
        live::{Fate, Live},
    },
    inside_test::{
        drops::{self, Trace},
        request::{Number, echo_request},
    },
    link::Links,
    types::IfIndex,
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::{
    control::{
        api::{LiveEvent, LiveRequest},
        client,
    },
    host::{drop_trace::DropTrace, ping},
};

/// How long the trace is read for a packet that is dropped later than the kernel's send call ends.
const TRACE_LIMIT: Duration = Duration::from_millis(50);

/// A packet to send.
pub(super) struct Sent<'a> {
    pub(super) packet: &'a Packet,
    /// Index of the interface that the socket is bound to, or that a link-local destination is at.
    pub(super) scope: Option<IfIndex>,
    /// Its length in bytes, headers included, if the user gave one.
    pub(super) bytes: Option<u32>,
}

/// What is known after the packet was sent.
#[derive(Default)]
struct Attempt {
    /// The error of the kernel.
    refused: Option<io::Error>,
    trace: Option<Trace>,
    untraced: Option<String>,
    recorded: Option<LiveEvent>,
}

/// Sends the packet, and finds out what becomes of it.
pub(super) async fn live(socket: &Path, sent: &Sent<'_>, links: &Links) -> anyhow::Result<Live> {
    let asked = LiveRequest {
        source: sent.packet.source,
        destination: sent.packet.destination,
    };
    let opened = match open(sent) {
        Ok(opened) => opened,
        Err(Unsent::Refused(error)) => return Ok(refused(&error)),
        Err(Unsent::Failed(error)) => return Err(error),
    };
    let mut attempt = Attempt::default();
    // Before the daemon expects the packet: it does so for a limited time.
    let mut trace = DropTrace::start(None);
    let each = |line: &str| {
        match serde_json::from_str(line).context("read the daemon's answer")? {
            LiveEvent::Expected {
                identifier,
                sequence,
            } => {
                let number = Number {
                    identifier,
                    sequence,
                };
                send(&opened, number, sent, &mut trace, &mut attempt);
            }
            recorded @ LiveEvent::Recorded { .. } => attempt.recorded = Some(recorded),
        }
        Ok(())
    };
    client::ask_for_lines(socket, "/v1/explain/live", &asked, each).await?;
    outcome(attempt, links)
}

fn refused(error: &io::Error) -> Live {
    Live {
        interface: None,
        fate: Fate::Refused(error.to_string()),
        untraced: None,
    }
}

fn outcome(attempt: Attempt, links: &Links) -> anyhow::Result<Live> {
    let Some(LiveEvent::Recorded { interface, way }) = attempt.recorded else {
        return Err(anyhow!("the daemon did not say what became of the packet"));
    };
    let name = |index: u32| {
        let link = links.by_index(IfIndex(index));
        link.map_or_else(
            || format!("interface {index}"),
            |link| link.name.to_string(),
        )
    };
    let drop = attempt
        .trace
        .and_then(|trace| trace.drops.into_iter().next());
    let fate = match (way, drop, attempt.refused) {
        (Some(way), ..) => Fate::Seen(way.0),
        (None, Some(drop), _) => Fate::Lost(Some(drop)),
        (None, None, Some(error)) if !is_a_drop(&error) => Fate::Refused(error.to_string()),
        (None, None, _) => Fate::Lost(None),
    };
    Ok(Live {
        interface: interface.map(name),
        fate,
        untraced: attempt.untraced,
    })
}

/// Whether an error of the send call stands for a dropped packet, and for no decision of the routing.
fn is_a_drop(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOBUFS))
}

/// Sends the packet, and reads what the kernel dropped.
fn send(
    socket: &Socket,
    number: Number,
    sent: &Sent<'_>,
    trace: &mut anyhow::Result<DropTrace>,
    attempt: &mut Attempt,
) {
    let bytes = sent.bytes.unwrap_or_default();
    let message = echo_request(number, bytes);
    attempt.refused = socket.send(&message).err();
    let started = trace.as_mut().map_err(|error| anyhow!("{error:#}"));
    let traced = started.and_then(|trace| {
        let since = Instant::now();
        let mut text = trace.text()?;
        while text.is_empty() && since.elapsed() < TRACE_LIMIT {
            thread::sleep(Duration::from_millis(1));
            text = trace.text()?;
        }
        Ok(drops::parse(&text))
    });
    match traced {
        Ok(trace) => attempt.trace = Some(trace),
        Err(error) => attempt.untraced = Some(format!("{error:#}")),
    }
}

/// Why there is no packet.
enum Unsent {
    /// The kernel has no way for it.
    Refused(io::Error),
    /// It cannot be tried.
    Failed(anyhow::Error),
}

/// A raw socket with the properties of the packet.
fn open(sent: &Sent<'_>) -> Result<Socket, Unsent> {
    let packet = sent.packet;
    let failed =
        |error: io::Error, what: String| Unsent::Failed(anyhow::Error::new(error).context(what));
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))
        .map_err(|error| failed(error, "open a raw socket; run as root".to_owned()))?;
    if let Some(uid) = packet.uid {
        fchown(&socket, Some(Uid::from_raw(uid)), None)
            .map_err(|error| failed(error.into(), format!("give the socket to user {uid}")))?;
    }
    if let Some(mark) = packet.mark.filter(|mark| *mark != 0) {
        socket
            .set_mark(mark)
            .map_err(|error| failed(error, format!("set the mark {mark}")))?;
    }
    if let Some(oif) = &packet.oif {
        socket
            .bind_device(Some(oif.as_bytes()))
            .map_err(|error| failed(error, format!("bind to {oif}")))?;
    }
    ping::forbid_fragments(&socket, libc::IPV6_PMTUDISC_DO).map_err(Unsent::Failed)?;
    let scope = sent.scope.map_or(0, |index| index.0);
    let address = |ip, scope| SockAddr::from(SocketAddrV6::new(ip, 0, 0, scope));
    let source = packet.source;
    socket.bind(&address(source, 0)).map_err(|error| {
        failed(
            error,
            format!("send from {source}: a live packet needs a source that this host has"),
        )
    })?;
    socket
        .connect(&address(packet.destination, scope))
        .map_err(Unsent::Refused)?;
    Ok(socket)
}
