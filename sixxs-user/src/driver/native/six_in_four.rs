//! IPv6 in IPv4 between a TUN device and a raw socket, for kernels without `sit`; and the heartbeat
//! that tells the broker where we are.

use std::{
    io,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

use sixxs_core::{
    broker::{
        ayiya::wire::Fault,
        path_mtu::{self, Budget},
    },
    config::{Remote, SixInFour, Tunnel},
    tunnel::Driver as State,
    types::Mtu,
};
use tokio::time::sleep;
use tracing::debug;

use super::{
    AGAIN, End, LONGEST_SLEEP, Pause, TUN, TURN, Work,
    beating::Beating,
    engine::Buffers,
    outside::{is_of_the_socket, source_for},
    way::Way,
};
use crate::{
    driver::Report,
    wire::{Device, Inbox, Protocol41},
};

/// What became of the packets of one turn.
#[derive(Clone, Copy, Debug, Default)]
struct Turn {
    /// The device is gone.
    is_over: bool,
    /// The broker sent something.
    was_heard: bool,
    /// It finds no tunnel for our address (ICMP protocol unreachable).
    was_refused: bool,
}

impl Turn {
    /// What a socket tells is mostly about packets on their way, which are lost, and no more.
    fn met(&mut self, error: io::Error) -> io::Result<()> {
        if is_of_the_socket(&error) {
            return Err(error);
        }
        if error.raw_os_error() == Some(libc::ENOPROTOOPT) {
            self.was_refused = true;
        }
        Ok(())
    }

    /// The broker sent a packet: what was refused before that is over.
    fn heard(&mut self) {
        self.was_heard = true;
        self.was_refused = false;
    }
}

/// Our end of a tunnel.
struct OurEnd {
    addresses: Vec<Ipv6Addr>,
    mtu: Mtu,
    /// Who sends Packet Too Big: the far end, where it is known.
    router: Ipv6Addr,
}

/// Answers to packets that the path to the broker does not take.
struct Narrow {
    router: Ipv6Addr,
    budget: Budget,
    since: Instant,
}

impl Narrow {
    fn new(router: Ipv6Addr) -> Self {
        Self {
            router,
            budget: Budget::new(Duration::ZERO),
            since: Instant::now(),
        }
    }

    /// Answers packets longer than `most` bytes, of each two ends in a row only the first.
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

impl Work {
    /// Carries packets until the device is lost.
    pub(super) async fn six_in_four(
        &mut self,
        device: &Device,
        tunnel: &Tunnel,
        outer: &SixInFour,
    ) -> End {
        let addresses: Vec<_> = tunnel.addresses.iter().map(|a| a.address).collect();
        let Some(address) = addresses.first().copied() else {
            self.report
                .say(State::Failed("its addresses are not known".to_owned()));
            return std::future::pending().await;
        };
        let ours = OurEnd {
            addresses,
            mtu: tunnel.mtu.unwrap_or(Mtu::MINIMUM),
            router: tunnel.peer.unwrap_or(address),
        };
        let remote = Remote::Address(outer.remote4.into());
        let mut kept = self.kept(&remote, outer.local4, address);
        loop {
            // Without a heartbeat nobody is told anything: that takes no slot.
            let counts = outer.heartbeat.is_some();
            let before = kept.take();
            let way = match &before {
                Some(kept) => kept.way,
                None => self.find_way(&remote, outer.local4, None, counts).await,
            };
            let (socket, mut beating) = match self.open(way, outer, address) {
                Ok(opened) => opened,
                Err(error) => {
                    self.report.say(State::Retrying(explain(&error)));
                    sleep(AGAIN).await;
                    continue;
                }
            };
            self.report.endpoint(way.remote, TUN);
            if let (Some(beating), Some(before)) = (&mut beating, &before) {
                beating.go_on(before);
            }
            match self
                .carry_plain(device, &socket, way, outer, beating, &ours)
                .await
            {
                Ok(Pause::WayLost) => {}
                Ok(Pause::DeviceLost) => return End::DeviceLost,
                Ok(Pause::Stale) => return End::Stale,
                Err(error) => {
                    debug!("{}: {error}", self.name);
                    self.report.say(State::Working(Some(explain(&error))));
                    sleep(AGAIN).await;
                }
            }
        }
    }

    fn open<'a>(
        &self,
        way: Way,
        outer: &'a SixInFour,
        address: Ipv6Addr,
    ) -> io::Result<(Protocol41, Option<Beating<'a>>)> {
        let (IpAddr::V4(local), IpAddr::V4(remote)) = (way.source, way.remote) else {
            return Err(io::Error::other("the broker has no IPv4 address"));
        };
        let socket = self.fd_store.socket(
            &self.name,
            |held| Protocol41::adopt(held, local, remote),
            || Protocol41::open(local, remote),
        )?;
        let heartbeat = outer.heartbeat.as_ref();
        let beating =
            heartbeat.map(|heartbeat| Beating::open(heartbeat, address, way, self.clock.clone()));
        let beating = beating.transpose()?;
        Ok((socket, beating))
    }

    async fn carry_plain(
        &mut self,
        device: &Device,
        socket: &Protocol41,
        way: Way,
        outer: &SixInFour,
        mut beating: Option<Beating<'_>>,
        ours: &OurEnd,
    ) -> io::Result<Pause> {
        let mut seen = self.seen.clone();
        let lost = Self::lost(&mut seen, device.index());
        tokio::pin!(lost);
        let mut is_refused = false;
        let mut narrow = Narrow::new(ours.router);
        loop {
            let pause = match &mut beating {
                Some(beating) => {
                    if is_refused {
                        self.tell_again(beating, way).await;
                    }
                    beating.beat(&self.ways, &self.name)?
                }
                None => LONGEST_SLEEP,
            };
            self.report.say(if is_refused {
                State::Working(Some(REFUSED.to_owned()))
            } else {
                State::Done
            });
            let turn = tokio::select! {
                () = &mut lost => return Ok(Pause::DeviceLost),
                ready = device.readable() => {
                    ready?;
                    up(&mut self.buffers.borrow_mut(), device, socket, &mut narrow)?
                }
                ready = socket.readable() => {
                    ready?;
                    down(&mut self.buffers.borrow_mut(), device, socket, ours, &self.report)?
                }
                () = sleep(pause) => Turn::default(),
                changed = self.outside.changed() => {
                    if changed.is_ok()
                        && source_for(way.remote, outer.local4).ok() != Some(way.source)
                    {
                        return Ok(Pause::WayLost);
                    }
                    // Without a route now there will be another change.
                    if let Err(error) = socket.refresh() {
                        debug!("{}: ask for the route anew: {error}", self.name);
                    }
                    Turn::default()
                }
            };
            if turn.is_over {
                return Ok(Pause::DeviceLost);
            }
            is_refused = turn.was_refused || (is_refused && !turn.was_heard);
        }
    }

    /// The broker has forgotten where we are: it is told at once, if a connect is allowed now.
    async fn tell_again(&self, beating: &mut Beating<'_>, way: Way) {
        let elapsed = self.clock.now().elapsed;
        if beating.may_tell_again(elapsed)
            && matches!(
                self.take_slot(&Remote::Address(way.remote), way.remote)
                    .await,
                Ok(Ok(_))
            )
        {
            beating.begin_again(elapsed);
        }
    }
}

/// Packets of this host to the broker.
fn up(
    buffers: &mut Buffers,
    device: &Device,
    socket: &Protocol41,
    narrow: &mut Narrow,
) -> io::Result<Turn> {
    let Buffers { plain, inbox, .. } = buffers;
    let mut turn = Turn::default();
    let mut batches = 0;
    loop {
        let Ok(more) = plain.fill((batches < TURN).then_some(device)) else {
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
        let (too_big, batch) = path_mtu::split(batch, stride, most);
        if !too_big.is_empty() {
            let packets = too_big.chunks(stride.max(1));
            if narrow.answer(packets, most, inbox, device).is_err() {
                turn.is_over = true;
                return Ok(turn);
            }
        }
        if let Err(error) = socket.send(batch, stride) {
            turn.met(error)?;
        }
        if !more {
            return Ok(turn);
        }
        batches += 1;
    }
}

/// Packets of the broker to this host. The kernel gives us only those that came from the broker's
/// address.
fn down(
    buffers: &mut Buffers,
    device: &Device,
    socket: &Protocol41,
    ours: &OurEnd,
    report: &Report,
) -> io::Result<Turn> {
    let Buffers {
        inbox, messages, ..
    } = buffers;
    let mut turn = Turn::default();
    let mtu = usize::try_from(ours.mtu.0).unwrap_or(usize::MAX);
    for _ in 0..TURN {
        match socket.receive(messages) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => {
                turn.met(error)?;
                continue;
            }
        }
        for packet in Protocol41::packets(messages) {
            match source(packet) {
                None => report.refused(Fault::Payload),
                Some(source) if ours.addresses.contains(&source) => {
                    report.refused(Fault::OwnSource)
                }
                Some(_) => {
                    turn.heard();
                    if inbox.add_raw(device, packet, mtu) && inbox.write(device).is_err() {
                        turn.is_over = true;
                        return Ok(turn);
                    }
                }
            }
        }
        // While it is in the processor's cache.
        if inbox.write(device).is_err() {
            turn.is_over = true;
            return Ok(turn);
        }
    }
    Ok(turn)
}

/// The source of an IPv6 packet.
fn source(packet: &[u8]) -> Option<Ipv6Addr> {
    let octets = packet.get(8..24)?.first_chunk::<16>()?;
    Some(Ipv6Addr::from(*octets))
}

/// What a broker's refusal means.
const REFUSED: &str = "the broker refuses our packets; does it know our IPv4 address?";

/// What is wrong, in the words of somebody who wants a tunnel.
fn explain(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            format!("open a raw socket: {error}; run as root or grant CAP_NET_RAW")
        }
        _ => error.to_string(),
    }
}
