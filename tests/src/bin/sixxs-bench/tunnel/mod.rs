//! Throughput and cost of the native tunnels, relative to the same path without a tunnel.

mod carriers;
mod cpu;
mod many;
mod report;
mod rows;
mod traffic;

use std::hint::black_box;
use std::net::Ipv6Addr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use sha1::{Digest as _, Sha1};
use sixxs_tests::broker::{Kind, ayiya};
use sixxs_tests::lab::netns::Namespace;
use sixxs_tests::lab::topology::{HOST, OUTSIDE};
use sixxs_tests::lab::{Lab, Spec};
use sixxs_tests::program::{Daemon, Hook, Program};

use self::rows::{Hashing, Pair, Row};
pub(crate) use self::traffic::{Lengths, Route};
use crate::timing;

/// Measures only the carriers of 6in4.
pub(crate) const CARRIERS: &str = "carriers";

/// MTU of the path without a tunnel.
const NATIVE_MTU: u32 = 1500;
/// IPv6 and UDP headers.
const HEADERS_BYTES: u32 = 48;
/// IPv4, UDP and AYIYA headers.
const AYIYA_BYTES: u32 = 72;

/// The measured tunnels and their MTUs, in this order.
const TUNNELS: [(Kind, u32); 6] = [
    (Kind::Ayiya, 1280),
    (Kind::Ayiya, 1500 - AYIYA_BYTES),
    (Kind::SixInFour, 1280),
    (Kind::SixInFour, 1480),
    (Kind::Heartbeat, 1280),
    (Kind::Heartbeat, 1480),
];

/// Measures everything, or only tunnels of one kind, and returns the report. `quick`: takes seconds instead
/// of minutes.
pub(crate) fn measure(quick: bool, only: Option<&str>) -> Result<String> {
    let lengths = if quick {
        Lengths {
            warm_up: Duration::from_millis(300),
            measured: Duration::from_millis(700),
            trial: Duration::from_millis(200),
        }
    } else {
        Lengths {
            warm_up: Duration::from_secs(1),
            measured: Duration::from_secs(5),
            trial: Duration::from_millis(800),
        }
    };
    if only == Some(CARRIERS) {
        return carriers::write_up(&carriers::measure(lengths)?);
    }
    let hash = |mtu: u32| hash(mtu as usize, lengths.measured);
    let hashing = [hash(1280)?, hash(1500 - AYIYA_BYTES)?];
    let mut rows = Vec::new();
    let wanted = |(kind, _): &(Kind, u32)| only.is_none_or(|only| only == kind.name());
    for (kind, mtu) in TUNNELS.into_iter().filter(wanted) {
        let lab = Lab::new(Spec {
            mtu,
            ..Spec::native([kind, Kind::Ayiya])
        })?;
        if rows.is_empty() {
            rows.push(row(&lab, None, NATIVE_MTU, HOST, lengths, None)?);
        }
        lab.write_config(&lab.config(""))?;
        let program = Program::new(&lab, Hook::Auto)?;
        let daemon = program.start()?;
        program.status_until("both tunnels are whole", |status| {
            status.tunnels.iter().all(|tunnel| tunnel.is_whole())
        })?;
        let [tunnel, _] = lab.tunnels();
        let address = tunnel.plan.address;
        let row = row(&lab, Some(kind), mtu, address, lengths, Some(&daemon));
        rows.push(row.with_context(|| format!("{} {mtu}: {}", kind.name(), daemon.log()))?);
        daemon.stop()?;
    }
    let idle = Duration::from_secs(if quick { 20 } else { 65 });
    let many = many::measure(idle)?;
    let mut text = report::write_up(&rows, &hashing, &many, lengths)?;
    text += &carriers::write_up(&carriers::measure(lengths)?)?;
    Ok(text)
}

fn row(
    lab: &Lab,
    kind: Option<Kind>,
    mtu: u32,
    address: Ipv6Addr,
    lengths: Lengths,
    daemon: Option<&Daemon>,
) -> Result<Row> {
    let [up, down] = Route::both(lab, address);
    let ping = ping(lab.host(), (address, OUTSIDE), lengths)?;
    let payload = (mtu - HEADERS_BYTES) as usize;
    let pair = |route: &Route<'_>| -> Result<Pair> {
        Ok(Pair {
            tcp: route.tcp(lengths, daemon)?,
            udp: route.udp(payload, lengths, daemon)?,
        })
    };
    let row = Row {
        kind,
        mtu,
        up: pair(&up).context("up")?,
        down: pair(&down).context("down")?,
        ping,
    };
    // This takes minutes: print each row at once.
    eprint!("{}", report::row(&row));
    Ok(row)
}

/// Median round trip between two addresses.
fn ping(host: &Namespace, (from, to): (Ipv6Addr, Ipv6Addr), lengths: Lengths) -> Result<Duration> {
    let count = lengths.measured.as_millis() / 10;
    let printed = host.sh(&format!("ping -6 -n -i 0.01 -c {count} -I {from} {to}"))?;
    let times = printed.lines().filter_map(|line| {
        let (_, time) = line.split_once("time=")?;
        time.split_whitespace().next()?.parse::<f64>().ok()
    });
    let mut times: Vec<f64> = times.collect();
    times.sort_by(f64::total_cmp);
    let median = times.get(times.len() / 2).context("no ping was answered")?;
    Ok(Duration::from_secs_f64(median / 1e3))
}

fn hash(mtu: usize, time: Duration) -> Result<Hashing> {
    let datagram = vec![0x5a; mtu + ayiya::HEADER_BYTES];
    // This thread's time: other processes may use the processors too.
    let start = timing::now()?;
    let spent = || Ok::<_, anyhow::Error>(timing::now()?.saturating_sub(start));
    let mut count = 0_u64;
    while spent()? < time {
        for _ in 0..1000 {
            black_box(Sha1::digest(black_box(&datagram)));
        }
        count += 1000;
    }
    // Per byte of TCP payload, as in all other results.
    let payload = (mtu - 72) as f64 * count as f64;
    Ok(Hashing {
        datagram_bytes: datagram.len(),
        seconds_per_gigabyte: spent()?.as_secs_f64() / (payload / 1e9),
    })
}
