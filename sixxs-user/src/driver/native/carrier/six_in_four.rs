//! 6in4 between a TUN device and a raw socket, for kernels without `sit`; with heartbeats, if the broker
//! wants them.

use std::{
    io,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

use sixxs_core::{
    broker::{
        ayiya::wire::DropReason,
        link::Interruption,
        path_mtu::{self, Budget},
    },
    config::{SixInFour, Tunnel},
    tunnel::{CarrierKind, DriverState, OuterPath, OuterReport},
    types::Mtu,
};
use tracing::debug;

use super::{Carried, Carrier, LinkEnds, MAX_BATCHES, heartbeats};
use crate::{
    driver::{
        StatusSender,
        native::{
            Context, broker_path::BrokerPath, heartbeat_sender::HeartbeatSender,
            io_thread::Buffers, resolve::is_socket_error, session_store::SavedSession,
        },
    },
    netlink::Netlink,
    wire::{Device, Inbox, Protocol41},
};

/// The state of a broker that refuses the packets of this host, in words.
const REFUSED: &str =
    "the broker refuses the packets of this host; does it know this host's IPv4 address?";

/// The outer path is looked up again after this time, as soon as the carrier is polled: the kernel forgets the MTU of
/// a path after some minutes.
const PATH_LOOKUP: Duration = Duration::from_secs(10);

/// The broker accepts packets again if it has refused none for this long: routers send an ICMP error for at most
/// one packet a second. Its own packets need not pass here.
const REFUSAL: Duration = Duration::from_secs(3);

/// The result of moving the packets of one turn.
#[derive(Clone, Copy, Debug, Default)]
struct Turn {
    /// The device is gone.
    is_over: bool,
    /// The broker sent something.
    was_answered: bool,
    /// The broker has no tunnel for the address of this host (ICMP protocol unreachable).
    was_refused: bool,
    /// The socket reported an error, which may be that the path takes only smaller packets.
    had_error: bool,
}

impl Turn {
    /// Takes an error of the socket. Most are about packets in transit, which are only lost.
    fn take(&mut self, error: io::Error) -> io::Result<()> {
        if is_socket_error(&error) {
            return Err(error);
        }
        self.had_error = true;
        if error.raw_os_error() == Some(libc::ENOPROTOOPT) {
            self.was_refused = true;
        }
        Ok(())
    }

    /// The broker sent a packet: an earlier refusal is over.
    fn answered(&mut self) {
        self.was_answered = true;
        self.was_refused = false;
    }
}

/// Answers packets that are too long for the path to the broker.
struct TooBig {
    /// The source of the answers: the far end, where it is known.
    router: Ipv6Addr,
    budget: Budget,
    since: Instant,
}

impl TooBig {
    fn new(router: Ipv6Addr) -> Self {
        Self {
            router,
            budget: Budget::new(Duration::ZERO),
            since: Instant::now(),
        }
    }

    /// Answers packets longer than `most` bytes; of consecutive packets between the same two hosts only the
    /// first.
    fn answer<'a>(
        &mut self,
        packets: impl Iterator<Item = &'a [u8]>,
        most: u32,
        inbox: &mut Inbox,
        device: &Device,
    ) -> io::Result<()> {
        let mut before = None;
        for packet in packets {
            let ends = packet.get(8..40);
            if before == ends || !self.budget.take(self.since.elapsed()) {
                continue;
            }
            before = ends;
            if let Some(answer) = path_mtu::answer(packet, self.router, most)
                && inbox.add(device, &answer)
            {
                inbox.write(device)?;
            }
        }
        inbox.write(device)
    }
}

/// Carries 6in4.
pub(in crate::driver::native) struct SixInFourCarrier<'a> {
    device: &'a Device,
    outer: &'a SixInFour,
    ends: LinkEnds,
    addresses: Vec<Ipv6Addr>,
    mtu: Mtu,
    router: Ipv6Addr,
}

/// A raw socket, and the heartbeats.
pub(in crate::driver::native) struct Open {
    socket: Protocol41,
    heartbeats: Option<HeartbeatSender>,
    /// When the broker last refused a packet, if it has accepted none since.
    refused: Option<Instant>,
    too_big: TooBig,
    /// When the outer path was last looked up; `None`: it may have changed.
    path_known: Option<Instant>,
}

impl<'a> SixInFourCarrier<'a> {
    /// `None`: the tunnel lacks an address.
    pub(in crate::driver::native) fn new(
        device: &'a Device,
        tunnel: &Tunnel,
        outer: &'a SixInFour,
    ) -> Option<Self> {
        let addresses: Vec<_> = tunnel.addresses.iter().map(|a| a.address).collect();
        let address = *addresses.first()?;
        Some(Self {
            device,
            outer,
            ends: LinkEnds::of_six_in_four(outer, address),
            addresses,
            mtu: tunnel.mtu.unwrap_or(Mtu::MINIMUM),
            router: tunnel.peer.unwrap_or(address),
        })
    }

    /// Reports the path of outer packets, for the programs that carry them.
    async fn report_path(&self, context: &Context, open: &mut Open, path: BrokerPath) {
        open.path_known = Some(Instant::now());
        let found = match outer_path(&open.socket, path).await {
            Ok(Some(path)) => OuterReport::Path(path),
            Ok(None) => OuterReport::NoPath,
            Err(error) => {
                debug!("{}: look the outer path up: {error:#}", context.name);
                OuterReport::NoPath
            }
        };
        context.status.set_outer(found);
    }

    /// The broker has forgotten the address of this host: announces it at once, if a connect is allowed now.
    async fn announce(&self, context: &Context, sender: &mut HeartbeatSender, path: BrokerPath) {
        let elapsed = context.clock.now().elapsed;
        if !sender.may_announce(elapsed) {
            return;
        }
        match context.take_slot(&self.ends.broker, path.remote).await {
            Ok(Ok(_slot)) => sender.announce(elapsed),
            Ok(Err(_)) | Err(_) => sender.refuse(elapsed),
        }
    }
}

impl Carrier for SixInFourCarrier<'_> {
    const KIND: CarrierKind = CarrierKind::Tun;

    type Open = Open;

    fn ends(&self) -> &LinkEnds {
        &self.ends
    }

    fn explain_open(error: &io::Error) -> String {
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => {
                format!("open a raw socket: {error}; run as root or grant CAP_NET_RAW")
            }
            _ => error.to_string(),
        }
    }

    fn open(
        &mut self,
        context: &Context,
        path: BrokerPath,
        resumed: Option<&SavedSession>,
    ) -> io::Result<Open> {
        let (IpAddr::V4(local), IpAddr::V4(remote)) = (path.source, path.remote) else {
            return Err(io::Error::other("the broker has no IPv4 address"));
        };
        let socket = context.fd_store.socket(
            &context.name,
            |held| Protocol41::adopt(held, local, remote),
            || Protocol41::open(local, remote),
        )?;
        let ours = (self.outer, self.ends.address);
        let heartbeats = heartbeats(context, ours, path, resumed)?;
        Ok(Open {
            socket,
            heartbeats,
            refused: None,
            too_big: TooBig::new(self.router),
            path_known: None,
        })
    }

    async fn poll(
        &mut self,
        context: &Context,
        open: &mut Open,
        path: BrokerPath,
    ) -> io::Result<Result<Duration, Interruption>> {
        if is_older(open.path_known, PATH_LOOKUP) {
            self.report_path(context, open, path).await;
        }
        if is_older(open.refused, REFUSAL) {
            open.refused = None;
        }
        let pause = match &mut open.heartbeats {
            Some(sender) => {
                if open.refused.is_some() {
                    self.announce(context, sender, path).await;
                }
                sender.send_due(&context.sessions, &context.name)?
            }
            None => Duration::MAX,
        };
        context.status.set(match open.refused.is_some() {
            true => DriverState::Working(Some(REFUSED.to_owned())),
            false => DriverState::Done,
        });
        let until_known = match open.refused {
            Some(_) => REFUSAL,
            None => Duration::MAX,
        };
        Ok(Ok(pause.min(until_known)))
    }

    async fn carry(&mut self, context: &Context, open: &mut Open) -> io::Result<Carried> {
        let turn = tokio::select! {
            ready = self.device.readable() => {
                ready?;
                send_packets(&mut context.buffers.borrow_mut(), self.device, open)?
            }
            ready = open.socket.readable() => {
                ready?;
                self.receive_packets(&mut context.buffers.borrow_mut(), open, &context.status)?
            }
        };
        if turn.is_over {
            return Ok(Carried::InterfaceLost);
        }
        if turn.was_refused {
            open.refused = Some(Instant::now());
        } else if turn.was_answered {
            open.refused = None;
        }
        if turn.had_error {
            open.path_known = None;
        }
        Ok(Carried::Some)
    }

    fn route_changed(&mut self, context: &Context, open: &mut Open) {
        // Without a route now, there will be another change.
        if let Err(error) = open.socket.refresh() {
            debug!("{}: look the route up again: {error}", context.name);
        }
        open.path_known = None;
    }

    fn closed(&mut self, context: &Context) {
        context.status.set_outer(OuterReport::NoPath);
    }
}

/// Whether a time is not known, or longer ago than `age`.
fn is_older(time: Option<Instant>, age: Duration) -> bool {
    time.is_none_or(|time| time.elapsed() >= age)
}

/// The outer path as the kernel routes it; `None`: there is no route now.
async fn outer_path(socket: &Protocol41, path: BrokerPath) -> anyhow::Result<Option<OuterPath>> {
    let (IpAddr::V4(local), IpAddr::V4(remote)) = (path.source, path.remote) else {
        return Ok(None);
    };
    let index = Netlink::open()?.egress_interface4(local, remote).await?;
    let mtu = socket.path_mtu()?;
    Ok(index.map(|index| OuterPath {
        index,
        local,
        remote,
        largest_inner: path_mtu::unfragmented(mtu),
    }))
}

/// Moves packets of this host to the broker.
fn send_packets(buffers: &mut Buffers, device: &Device, open: &mut Open) -> io::Result<Turn> {
    let Open {
        socket, too_big, ..
    } = open;
    let Buffers { plain, inbox, .. } = buffers;
    let mut turn = Turn::default();
    let mut batches = 0;
    loop {
        let Ok(more) = plain.fill((batches < MAX_BATCHES).then_some(device)) else {
            turn.is_over = true;
            return Ok(turn);
        };
        let (batch, stride) = plain.batch();
        let most = if path_mtu::fits_always(stride) {
            u32::MAX
        } else {
            // Without a route nothing is sent, either.
            socket.path_mtu().map_or(u32::MAX, path_mtu::fits)
        };
        let (longer, batch) = path_mtu::split(batch, stride, most);
        if !longer.is_empty() {
            let packets = longer.chunks(stride.max(1));
            if too_big.answer(packets, most, inbox, device).is_err() {
                turn.is_over = true;
                return Ok(turn);
            }
        }
        if let Err(error) = socket.send(batch, stride) {
            turn.take(error)?;
        }
        if !more {
            return Ok(turn);
        }
        batches += 1;
    }
}

impl SixInFourCarrier<'_> {
    /// Moves packets of the broker to this host. The kernel passes only those from the broker's address.
    fn receive_packets(
        &self,
        buffers: &mut Buffers,
        open: &Open,
        status: &StatusSender,
    ) -> io::Result<Turn> {
        let Buffers {
            inbox, messages, ..
        } = buffers;
        let device = self.device;
        let mut turn = Turn::default();
        let mtu = usize::try_from(self.mtu.0).unwrap_or(usize::MAX);
        for _ in 0..MAX_BATCHES {
            match open.socket.receive(messages) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    turn.take(error)?;
                    continue;
                }
            }
            for packet in Protocol41::packets(messages) {
                match source(packet) {
                    None => status.count_refused(DropReason::Payload),
                    Some(source) if self.addresses.contains(&source) => {
                        status.count_refused(DropReason::OwnSource);
                    }
                    Some(_) => {
                        turn.answered();
                        if inbox.add_raw(device, packet, mtu) && inbox.write(device).is_err() {
                            turn.is_over = true;
                            return Ok(turn);
                        }
                    }
                }
            }
            // While the packets are in the processor's cache.
            if inbox.write(device).is_err() {
                turn.is_over = true;
                return Ok(turn);
            }
        }
        Ok(turn)
    }
}

/// The source of an IPv6 packet.
fn source(packet: &[u8]) -> Option<Ipv6Addr> {
    let octets = packet.get(8..24)?.first_chunk::<16>()?;
    Some(Ipv6Addr::from(*octets))
}
