//! Floods of forged packets: how many one processor drops, and what remains of a tunnel's throughput meanwhile.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use indicatif::ProgressIterator as _;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use sixxs_common::answer::ANSWERS_PER_SECOND;
use sixxs_core::config::OnLeak;
use sixxs_core::enforce::screening::{Encapsulation, OuterEnds};
use sixxs_core::enforce::{Home, Role};
use sixxs_tests::broker::Kind;
use sixxs_tests::kernel::bpf::{self, FrameSource};
use sixxs_tests::kernel::program_harness::{Direction, Host, LOOPBACK, Programs};
use sixxs_tests::lab::netns::Namespace;
use sixxs_tests::lab::topology::{HOST4, OUTSIDE, UPLINK};
use sixxs_tests::lab::{Lab, Spec, Tunnel, offload};
use sixxs_tests::probe::frame;
use sixxs_tests::probe::packets::{ECHO_REQUEST, ICMPV6, UDP, checksum, icmpv6, ipv6};
use sixxs_tests::program::{Daemon, Hook, Program, status};
use sixxs_user::bpf::test_run;

use crate::timing::median;
use crate::tunnel::{Lengths, Route};
use crate::{machine, progress};

/// `enum xdp_action`.
const XDP_TX: i32 = 3;

/// How long answers are measured.
const ANSWER_SECONDS: u64 = 10;

/// Frames in a batch.
const FRAMES: u32 = 200_000;

/// Frames in a system call of the flood.
const CALL: u32 = 32_768;

/// A host that is no broker.
const STRANGER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 66);

/// The port of brokers.
const PORT: u16 = 5072;
/// The protocol of 6in4.
const SIX_IN_FOUR: u8 = 41;

/// The EtherType of IPv4.
const IPV4: [u8; 2] = [0x08, 0x00];

/// What drops the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// A UDP socket whose buffer is full, on a host without the programs.
    Socket,
    /// The program at TC.
    Tc,
    /// The program at XDP.
    Xdp,
    /// An XDP program that drops every frame, on a host without the programs: the most that XDP can do here.
    Floor,
}

impl By {
    const ALL: [Self; 4] = [Self::Socket, Self::Tc, Self::Xdp, Self::Floor];

    const fn name(self) -> &'static str {
        match self {
            Self::Socket => "UDP socket, without the programs",
            Self::Tc => "TC",
            Self::Xdp => "XDP, native",
            Self::Floor => "XDP, native, every frame unread",
        }
    }
}

/// A forged packet, for one of the tunnels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attack {
    /// Protocol 41 from a stranger.
    SixInFour,
    /// An AYIYA datagram from the broker's address, of another time.
    Time,
    /// The same of the present time, with a wrong signature. Only the daemon can know.
    Signature,
}

impl Attack {
    const fn name(self) -> &'static str {
        match self {
            Self::SixInFour => "protocol 41 from a stranger",
            Self::Time => "AYIYA with a wrong time, from the broker's address",
            Self::Signature => "AYIYA with a wrong signature, from the broker's address",
        }
    }
}

/// A lab, and what drops the packets in it.
struct Side {
    by: By,
    lab: Lab,
    _daemon: Option<Daemon>,
    /// Holds the port without a daemon.
    socket: Option<UdpSocket>,
    _dropper: Option<OwnedFd>,
}

impl Side {
    fn new(by: By, mtu: u32) -> Result<Self> {
        let lab = Lab::new(Spec {
            mtu,
            ..Spec::native([Kind::SixInFour, Kind::Ayiya])
        })?;
        let xdp = match by {
            By::Xdp => "xdp = \"native\"",
            By::Socket | By::Tc | By::Floor => "xdp = \"off\"",
        };
        lab.write_config(&lab.config(xdp))?;
        // So the host's end handles frames alike, with an XDP program and without it.
        offload::merge(lab.host(), UPLINK)?;
        let (mut daemon, mut socket, mut dropper) = (None, None, None);
        if matches!(by, By::Socket | By::Floor) {
            if by == By::Floor {
                dropper = Some(bpf::attach_dropping_xdp(lab.host(), UPLINK)?);
            }
            let at = SocketAddrV4::new(HOST4, 0);
            socket = Some(
                lab.host()
                    .run(|| UdpSocket::bind(at).context("open a socket"))?,
            );
        } else {
            let program = Program::new(&lab, Hook::Auto)?;
            daemon = Some(program.start()?);
            program.status_until("both tunnels are up", status::Status::works)?;
        }
        Ok(Self {
            by,
            lab,
            _daemon: daemon,
            socket,
            _dropper: dropper,
        })
    }

    fn tunnel(&self, attack: Attack) -> &Tunnel {
        let [plain, sealed] = self.lab.tunnels();
        match attack {
            Attack::SixInFour => plain,
            Attack::Time | Attack::Signature => sealed,
        }
    }

    /// The port of this host to which the broker sends.
    fn port(&self) -> Result<u16> {
        if let Some(socket) = &self.socket {
            return Ok(socket.local_addr()?.port());
        }
        let [_, sealed] = self.lab.tunnels();
        let session = sealed.broker()?.session(sealed.plan.address)?;
        Ok(session
            .endpoint
            .context("the client has not sent yet")?
            .port())
    }

    /// The frames of an attack, on the provider's side of the uplink. `arrive`: they arrive; else they are dropped where
    /// they are made.
    fn source(&self, attack: Attack, arrive: bool) -> Result<FrameSource> {
        let tunnel = self.tunnel(attack);
        let broker = tunnel.plan.remote4;
        let inner = frame::udp(OUTSIDE, tunnel.plan.address, &[0; 64])?;
        let packet = match attack {
            Attack::SixInFour => ipv4(STRANGER, HOST4, SIX_IN_FOUR, &inner),
            Attack::Time | Attack::Signature => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
                let ago = if attack == Attack::Time { 3600 } else { 0 };
                let datagram = ayiya(tunnel, u32::try_from(now - ago)?, &inner);
                let ports = (PORT, self.port()?);
                ipv4(broker, HOST4, UDP, &udp(ports, &datagram))
            }
        };
        let mut bytes = mac(&self.lab)?.to_vec();
        bytes.extend([2, 0, 0, 0, 0, 1]);
        bytes.extend(IPV4);
        bytes.extend(packet);
        let index = self
            .lab
            .isp()
            .run(|| nix::net::if_::if_nametoindex("host").context("find the interface"))?;
        FrameSource::new(&bytes, arrive.then_some(index))
    }

    /// Sends a batch; returns the frames per second of one processor.
    fn rate(&self, source: &FrameSource) -> Result<f64> {
        self.lab.isp().run(|| {
            stay_on(0)?;
            let start = Instant::now();
            source.send(FRAMES)?;
            Ok(f64::from(FRAMES) / start.elapsed().as_secs_f64())
        })
    }

    /// The number of packets that the programs have dropped.
    fn refused(&self) -> Result<u64> {
        if matches!(self.by, By::Socket | By::Floor) {
            return Ok(0);
        }
        let status = Program::new(&self.lab, Hook::Auto)?.status()?;
        let tunnels = status.tunnels.iter();
        Ok(tunnels.flat_map(|tunnel| tunnel.refused.values()).sum())
    }
}

/// Keeps this thread on one processor.
fn stay_on(processor: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(processor)?;
    sched_setaffinity(Pid::from_raw(0), &set).context("stay on a processor")
}

/// The address of the host's end of the uplink.
fn mac(lab: &Lab) -> Result<[u8; 6]> {
    let shown = lab.host().sh(&format!("ip -json link show dev {UPLINK}"))?;
    let shown: serde_json::Value = serde_json::from_str(&shown).context("read what ip says")?;
    let text = shown[0]["address"].as_str().context("no address")?;
    let bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16));
    let bytes: Vec<u8> = bytes.collect::<Result<_, _>>()?;
    <[u8; 6]>::try_from(bytes).map_err(|_| anyhow::anyhow!("no address: {text}"))
}

/// A datagram with the broker's identity, and without a valid signature.
fn ayiya(tunnel: &Tunnel, time: u32, inner: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x41, 0x52, 0x11, SIX_IN_FOUR];
    bytes.extend(time.to_be_bytes());
    bytes.extend(tunnel.plan.peer.octets());
    bytes.extend([7; 20]);
    bytes.extend(inner);
    bytes
}

fn udp((from, to): (u16, u16), payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).expect("a short datagram");
    let mut bytes = [from, to, length, 0].map(u16::to_be_bytes).concat();
    bytes.extend(payload);
    bytes
}

fn ipv4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).expect("a short packet");
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    let sum = checksum(&packet).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
    packet.extend(payload);
    packet
}

/// Measures everything, and returns the report.
pub(crate) fn measure(rounds: u32) -> Result<String> {
    let mut text = format!(
        "## `flood`: forged packets\n\n{}; {}.\n\n",
        machine::name()?,
        machine::date()
    );
    // In a thread of its own, which moves to another namespace and stays on one processor.
    let answers = thread::spawn(answers).join();
    let answers = answers.map_err(|_panic| anyhow::anyhow!("measuring answers panicked"))??;
    text += &rates(rounds)?;
    text += &answers;
    text += &throughput(rounds.div_ceil(5))?;
    Ok(text)
}

/// Frames per second that one processor drops.
fn rates(rounds: u32) -> Result<String> {
    let sides = [
        Side::new(By::Socket, 1280)?,
        Side::new(By::Tc, 1280)?,
        Side::new(By::Xdp, 1280)?,
        Side::new(By::Floor, 1280)?,
    ];
    let mut rows = String::new();
    for attack in [Attack::SixInFour, Attack::Time] {
        let mut sources = Vec::new();
        for side in &sides {
            sources.push(side.source(attack, true)?);
        }
        let mut all: [Vec<f64>; 4] = Default::default();
        let before = [sides[1].refused()?, sides[2].refused()?];
        for _ in (0..rounds).progress_with(progress::bar(attack.name(), rounds.into())) {
            for ((side, source), rates) in sides.iter().zip(&sources).zip(&mut all) {
                rates.push(side.rate(source)?);
            }
        }
        let sent = u64::from(rounds) * u64::from(FRAMES);
        for (side, before) in sides[1..3].iter().zip(before) {
            let refused = side.refused()? - before;
            ensure!(refused == sent, "{:?}: {refused} of {sent}", side.by);
        }
        let rates = all.map(median);
        let [socket, tc, _, floor] = rates;
        for (by, rate) in By::ALL.into_iter().zip(rates) {
            // Protocol 41 of a stranger reaches no socket there.
            let name = match (by, attack) {
                (By::Socket, Attack::SixInFour) => "no socket, without the programs",
                _ => by.name(),
            };
            writeln!(
                rows,
                "| {} | {name} | {:.2} | {:.1} | {:.1} | {:.0} |",
                attack.name(),
                rate / 1e6,
                rate / socket,
                rate / tc,
                1e9 / rate - 1e9 / floor
            )?;
        }
    }
    Ok(format!(
        "The kernel makes the frames (`BPF_F_TEST_XDP_LIVE_FRAMES`) on the provider's side of the uplink, a veth pair, in\n\
         batches of 200,000. One processor makes and handles them, so its rate includes the cost of making them. {rounds}\n\
         batches of each in turn; medians. The socket's buffer is full, and nobody reads it. *ns* is the time for each\n\
         packet, less that of a program that drops every frame: so it does not include making and carrying the frames.\n\n\
         | packets | dropped by | 10^6/s | times the first | times TC | ns |\n\
         |---|---|---:|---:|---:|---:|\n\
         {rows}\n\
         Targets: XDP at least 10 times the socket, and 5 times TC.\n"
    ))
}

/// What an answer in XDP costs, more than an empty XDP program.
fn answers() -> Result<String> {
    let own = Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 2);
    let broker = Ipv4Addr::new(198, 51, 100, 1);
    let mut host = Host::new("net0", Role::Uplink)?
        .tunnel("sixxs0", Some(LOOPBACK), OnLeak::Redirect, own)?
        .source(&own.to_string(), "sixxs0", Home::Nowhere)?;
    let ends = OuterEnds {
        local: HOST4,
        broker,
        by: Encapsulation::SixInFour,
    };
    host.0.screening.ends.insert("sixxs0".parse()?, ends);
    host.0.answers_echo = true;
    let mut programs = Programs::load()?;
    programs.kernel.write_maps(&host.0)?;
    let empty = bpf::load_empty_xdp()?;
    let request = ipv6(OUTSIDE, own, ICMPV6, &icmpv6(ECHO_REQUEST, 56));
    let mut bytes = [0; 12].to_vec();
    bytes.extend(IPV4);
    bytes.extend(ipv4(broker, HOST4, SIX_IN_FOUR, &request));
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in (0..ANSWER_SECONDS).progress_with(progress::bar("answers", ANSWER_SECONDS)) {
        // A request becomes its reply, so each run needs a new one; and the programs answer a limited number per second.
        thread::sleep(Duration::from_millis(1100));
        for _ in 0..ANSWERS_PER_SECOND * 9 / 10 {
            let run = test_run::run(empty.as_fd(), &bytes, 1)?;
            without.push(run.duration.as_nanos() as f64);
            let run = programs.run(Direction::Xdp, &bytes, 1)?;
            ensure!(
                run.verdict == XDP_TX,
                "verdict {} after {} answers",
                run.verdict,
                with.len()
            );
            with.push(run.duration.as_nanos() as f64);
        }
    }
    let above = with
        .iter()
        .zip(&without)
        .map(|(with, without)| with - without);
    Ok(format!(
        "\nAn echo request in 6in4 that the XDP program answers costs {:.0} ns more than an empty XDP program, which takes\n\
         {:.0} ns with the clock around it (median of {} single runs, `BPF_PROG_TEST_RUN`; target: 10 ns more).\n",
        median(above.collect()),
        median(without.clone()),
        without.len()
    ))
}

/// The throughput of one TCP connection through the AYIYA tunnel, while frames arrive.
fn throughput(pairs: u32) -> Result<String> {
    let lengths = Lengths {
        warm_up: Duration::from_millis(500),
        measured: Duration::from_secs(2),
        trial: Duration::ZERO,
    };
    let mut rows = String::new();
    for by in [By::Tc, By::Xdp] {
        let side = Side::new(by, 1428)?;
        let [_, sealed] = side.lab.tunnels();
        let [up, down] = Route::both(&side.lab, sealed.plan.address);
        for attack in [Attack::Time, Attack::Signature] {
            for (direction, route) in [("up", &up), ("down", &down)] {
                let mut measured: [Vec<f64>; 2] = Default::default();
                let mut arrived = Vec::new();
                for _ in 0..pairs {
                    for (arrive, rates) in [false, true].into_iter().zip(&mut measured) {
                        let source = side.source(attack, arrive)?;
                        let (rate, frames) = flooded(side.lab.isp(), &source, || {
                            Ok(route.tcp(lengths, None)?.bits_per_second())
                        })?;
                        rates.push(rate);
                        if arrive {
                            arrived.push(frames);
                        }
                    }
                }
                let ratios = measured[1]
                    .iter()
                    .zip(&measured[0])
                    .map(|(with, without)| with / without);
                writeln!(
                    rows,
                    "| {} | {} | {direction} | {:.0} | {:.2} | {:.2} | {:.2} |",
                    attack.name(),
                    by.name(),
                    median(arrived) / 1e3,
                    median(measured[0].clone()) / 1e9,
                    median(measured[1].clone()) / 1e9,
                    median(ratios.collect())
                )?;
            }
        }
    }
    Ok(format!(
        "\n### A tunnel in a flood\n\n\
         One TCP connection through the AYIYA tunnel, while another thread makes frames as fast as it can, {pairs} pairs:\n\
         first they are dropped where they are made, then they arrive. Lab, broker, program and flood share {} processors.\n\n\
         | packets | dropped by | direction | flood, 1000/s | without, Gbit/s | with, Gbit/s | ratio |\n\
         |---|---|---|---:|---:|---:|---:|\n\
         {rows}\n\
         Target: a ratio of 0.8.\n",
        machine::processors()
    ))
}

/// Does `work` while frames are made. Returns its result, and the number of frames per second.
fn flooded<T>(
    isp: &Namespace,
    source: &FrameSource,
    work: impl FnOnce() -> Result<T>,
) -> Result<(T, f64)> {
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let flood = scope.spawn(|| {
            isp.run(|| {
                let start = Instant::now();
                while !stop.load(Ordering::Relaxed) {
                    source.send(CALL)?;
                    sent.fetch_add(CALL.into(), Ordering::Relaxed);
                }
                Ok(start.elapsed())
            })
        });
        let done = work();
        stop.store(true, Ordering::Relaxed);
        let time = flood
            .join()
            .map_err(|_panic| anyhow::anyhow!("the flood panicked"))??;
        let rate = sent.load(Ordering::Relaxed) as f64 / time.as_secs_f64();
        Ok((done?, rate))
    })
}
