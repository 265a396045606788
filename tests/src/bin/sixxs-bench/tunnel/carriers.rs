//! 6in4 by each carrier, with the same program and the same carrier at the broker's end.
//!
//! The lab's own broker is a process, and would be the limit.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use sixxs_tests::kernel;
use sixxs_tests::lab::far_end::{FarEnd, near_end};
use sixxs_tests::lab::topology::{Flavour, HOST, UPLINK};
use sixxs_tests::lab::{Lab, Spec};
use sixxs_tests::program::{Hook, Program};

use super::traffic::{Carried, Lengths, Route};
use crate::machine;

/// MTU of the tunnel.
const MTU: u32 = 1480;
/// Payload of small UDP datagrams.
const SMALL_BYTES: usize = 64;

/// The results for one carrier.
pub(super) struct CarrierRow {
    /// `None`: without a tunnel.
    carrier: Option<&'static str>,
    up: Carried,
    down: Carried,
    small: Carried,
    ping: Duration,
}

/// Measures the path without a tunnel, and each carrier of this kernel.
pub(super) fn measure(lengths: Lengths) -> Result<Vec<CarrierRow>> {
    let lab = Lab::new(Spec::new(Flavour::Tun))?;
    let mut rows = vec![row(&lab, None, lengths)?];
    drop(lab);
    let mut carriers = vec!["tun"];
    if kernel::has_sit() {
        carriers.push("sit");
    }
    if kernel::has_decapsulation()? {
        carriers.push("ebpf");
    }
    for carrier in carriers {
        rows.push(carried_by(carrier, lengths).with_context(|| carrier.to_owned())?);
    }
    Ok(rows)
}

fn carried_by(carrier: &'static str, lengths: Lengths) -> Result<CarrierRow> {
    let lab = Lab::new(Spec {
        mtu: MTU,
        ..Spec::new(Flavour::Tun)
    })?;
    let [tunnel, _] = lab.tunnels();
    let plan = tunnel.plan;
    lab.write_config(&format!(
        "uplinks = [\"{UPLINK}\"]\n{}",
        near_end(plan, MTU, carrier)
    ))?;
    let program = Program::new(&lab, Hook::Auto)?;
    let far = FarEnd::start(&lab, tunnel, MTU, carrier)?;
    let daemon = program.start()?;
    for program in [&program, far.program()] {
        program.wait_until_carried_by(carrier)?;
    }
    let measured = row(&lab, Some((carrier, plan.address)), lengths);
    let measured = measured.with_context(|| daemon.log())?;
    daemon.stop()?;
    Ok(measured)
}

fn row(
    lab: &Lab,
    tunnel: Option<(&'static str, std::net::Ipv6Addr)>,
    lengths: Lengths,
) -> Result<CarrierRow> {
    let address = tunnel.map_or(HOST, |(_, address)| address);
    let [up, down] = Route::both(lab, address);
    let [tunnel_plan, _] = lab.tunnels().each_ref().map(|tunnel| tunnel.plan);
    // The broker: to the outside, the path without a tunnel is shorter.
    let broker = match tunnel {
        Some(_) => tunnel_plan.peer,
        None => tunnel_plan.remote6,
    };
    Ok(CarrierRow {
        carrier: tunnel.map(|(carrier, _)| carrier),
        ping: super::ping(lab.host(), (address, broker), lengths)?,
        up: up.tcp(lengths, None).context("TCP up")?,
        down: down.tcp(lengths, None).context("TCP down")?,
        small: up.udp(SMALL_BYTES, lengths, None).context("UDP up")?,
    })
}

/// Busy seconds of the whole machine per 10⁹ bytes.
fn busy(carried: &Carried) -> f64 {
    let whole = carried.time.as_secs_f64() * machine::processors() as f64;
    let busy = (whole - carried.times.idle.as_secs_f64()).max(0.0);
    busy / (carried.bytes as f64 / 1e9)
}

/// The section of the report.
pub(super) fn write_up(rows: &[CarrierRow]) -> Result<String> {
    let without = rows.first().context("a path without a tunnel")?;
    let mut text = format!(
        "\n### 6in4 by carrier\n\n\
         Here the same program with the same carrier is at the broker's end, at MTU {MTU}. *of none* is the rate\n\
         relative to the path without a tunnel, in this run. *s/GB* is the processor time of the whole machine per\n\
         10⁹ bytes of payload, less that without a tunnel, halved: the share of this end. *small* are UDP datagrams\n\
         of {SMALL_BYTES} bytes. The ping is to the broker; the added time includes both ends.\n\n\
         | carrier | TCP up, Mbit/s | of none | s/GB | TCP down, Mbit/s | of none | s/GB | small, 1000/s | ping | added |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n"
    );
    for row in rows {
        write!(text, "| {} |", row.carrier.unwrap_or("no tunnel"))?;
        for (carried, none) in [(&row.up, &without.up), (&row.down, &without.down)] {
            let rate = carried.bits_per_second();
            let cost = (busy(carried) - busy(none)) / 2.0;
            write!(
                text,
                " {:.0} | {:.2} | {cost:.2} |",
                rate / 1e6,
                rate / none.bits_per_second()
            )?;
        }
        let small = row.small.bits_per_second() / 8.0 / SMALL_BYTES as f64;
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        writeln!(
            text,
            " {:.0} | {:.0} µs | {:+.0} µs |",
            small / 1e3,
            micros(row.ping),
            micros(row.ping) - micros(without.ping)
        )?;
    }
    Ok(text)
}
