//! Packets per second through a veth pair, with and without the programs.

use std::fmt::Write as _;
use std::net::{Ipv6Addr, SocketAddrV6, UdpSocket};
use std::time::Instant;

use anyhow::{Context as _, Result};
use indicatif::ProgressIterator as _;
use sixxs_tests::broker::Kind;
use sixxs_tests::lab::netns::Namespace;
use sixxs_tests::lab::topology::HOST;
use sixxs_tests::lab::{Lab, Spec};
use sixxs_tests::program::{Daemon, Hook, Program, status};

use crate::progress;
use crate::timing::median;

/// Packets in a batch.
const PACKETS: u32 = 20_000;

/// Their payload, in bytes.
const PAYLOAD: usize = 64;

/// The provider's address on the uplink's link.
const PROVIDER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0xfe);

/// A port whose socket is never read, so that its packets are dropped at the end of their path.
const PORT: u16 = 4242;

/// One direction of the uplink's link.
struct Path {
    sender: UdpSocket,
    _receiver: UdpSocket,
}

impl Path {
    fn open(
        (from, source): (&Namespace, Ipv6Addr),
        (to, destination): (&Namespace, Ipv6Addr),
    ) -> Result<Self> {
        let bind = |address, port| {
            UdpSocket::bind(SocketAddrV6::new(address, port, 0, 0)).context("open a UDP socket")
        };
        let receiver = to.run(|| bind(destination, PORT))?;
        let sender = from.run(|| bind(source, 0))?;
        sender.connect(SocketAddrV6::new(destination, PORT, 0, 0))?;
        Ok(Self {
            sender,
            _receiver: receiver,
        })
    }

    /// Sends a batch; returns the packets per second. The kernel carries each packet to its end before the next one.
    fn rate(&self) -> Result<f64> {
        let payload = [0; PAYLOAD];
        let start = Instant::now();
        for _ in 0..PACKETS {
            self.sender.send(&payload).context("send")?;
        }
        Ok(f64::from(PACKETS) / start.elapsed().as_secs_f64())
    }
}

/// A lab, with both directions of its uplink.
struct Side {
    paths: [Path; 2],
    _daemon: Option<Daemon>,
    _lab: Lab,
}

impl Side {
    fn new(with_programs: bool) -> Result<Self> {
        let lab = Lab::new(Spec::native([Kind::SixInFour, Kind::SixInFour]))?;
        lab.write_config(&lab.config(""))?;
        let program = Program::new(&lab, Hook::Auto)?;
        let daemon = if with_programs {
            let daemon = program.start()?;
            program.status_until("both tunnels are up", status::Status::works)?;
            Some(daemon)
        } else {
            None
        };
        let (host, provider) = ((lab.host(), HOST), (lab.isp(), PROVIDER));
        Ok(Self {
            paths: [Path::open(host, provider)?, Path::open(provider, host)?],
            _daemon: daemon,
            _lab: lab,
        })
    }
}

/// Measures batches with and without the programs in turn, and returns the report.
pub(crate) fn measure(pairs: u32) -> Result<String> {
    let sides = [Side::new(false)?, Side::new(true)?];
    let mut rates: [[Vec<f64>; 2]; 2] = Default::default();
    for _ in (0..pairs).progress_with(progress::bar("pairs", pairs.into())) {
        for (side, rates) in sides.iter().zip(&mut rates) {
            for (path, rates) in side.paths.iter().zip(rates) {
                rates.push(path.rate()?);
            }
        }
    }
    let [without, with] = rates;
    let mut rows = String::new();
    for (name, (without, with)) in ["out", "in"].into_iter().zip(without.into_iter().zip(with)) {
        let ratios = with
            .iter()
            .zip(&without)
            .map(|(with, without)| with / without);
        writeln!(
            rows,
            "| {name} | {:.0} | {:.0} | {:.2} |",
            median(without.clone()) / 1e3,
            median(with.clone()) / 1e3,
            median(ratios.collect())
        )?;
    }
    Ok(format!(
        "\n### Packets per second through a veth pair\n\n\
         Batches of 20,000 UDP packets with 64 bytes of payload, between this host and its provider, with the programs\n\
         attached and without them in turn, {pairs} pairs. The host has two 6in4 tunnels, and the packets belong to\n\
         neither. *ratio* is the median over the pairs.\n\n\
         | direction | without, 1000/s | with, 1000/s | ratio |\n\
         |---|---:|---:|---:|\n\
         {rows}"
    ))
}
