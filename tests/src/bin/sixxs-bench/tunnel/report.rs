//! Formats the section of docs/benchmarks.md.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use sixxs_tests::broker::Kind;

use super::many::Many;
use super::rows::{Hashing, Row};
use super::traffic::{Carried, Lengths};
use crate::machine;

/// TCP over AYIYA with the old client: bits per second, and share of a processor.
const OLD_RATE: f64 = 350e6;
const OLD_SHARE: f64 = 0.45;
/// Targets: this multiple of the rate, and of the processor time per byte.
const FASTER: f64 = 5.0;
const CHEAPER: f64 = 0.25;
/// Targets with two hundred tunnels.
const MOST_RESIDENT_KIB: u64 = 60 * 1024;
const MOST_IDLE: f64 = 0.01;

/// From this share on, a processor counts as busy.
const BUSY: f64 = 0.9;

/// The table rows of one path.
pub(super) fn row(row: &Row) -> String {
    let kind = row.kind.map_or("no tunnel", Kind::name);
    let lines = [
        ("TCP up", &row.up.tcp),
        ("TCP down", &row.down.tcp),
        ("UDP up", &row.up.udp),
        ("UDP down", &row.down.udp),
    ];
    let lines = lines.map(|(traffic, carried)| {
        let Carried { times, lost, .. } = carried;
        let mut line = format!(
            "| {kind} | {} | {traffic} | {:.0} |",
            row.mtu,
            carried.bits_per_second() / 1e6
        );
        for time in [times.client, times.broker] {
            line += &match row.kind {
                Some(_) => format!(
                    " {:.2} | {:.0}% |",
                    carried.per_gigabyte(time),
                    carried.share(time) * 100.0
                ),
                None => " – | – |".to_owned(),
            };
        }
        let lost = if *lost > 0.0 {
            format!(", {:.1}% lost", lost * 100.0)
        } else {
            String::new()
        };
        format!(
            "{line} {:.0}% | {}{lost} |\n",
            idle(carried) * 100.0,
            limit(carried)
        )
    });
    lines.concat()
}

/// Idle share of the whole machine.
fn idle(carried: &Carried) -> f64 {
    carried.share(carried.times.idle) / machine::processors() as f64
}

fn limit(carried: &Carried) -> &'static str {
    let Carried { times, .. } = carried;
    let (client, broker) = (carried.share(times.client), carried.share(times.broker));
    match () {
        () if client >= BUSY && client >= broker => "the client",
        () if broker >= BUSY => "the broker",
        () if idle(carried) < 1.0 - BUSY => "the machine",
        () => "the path",
    }
}

pub(super) fn write_up(
    rows: &[Row],
    hashing: &[Hashing],
    many: &Many,
    lengths: Lengths,
) -> Result<String> {
    let mut text = format!(
        "## `tunnel`: what native tunnels carry\n\n\
         {}, {} processors; {}. TCP and UDP for {:.1} s each.\n\n\
         The lab's host and its outside, the broker and the program share this machine. There is one TCP\n\
         connection. UDP datagrams are as large as the tunnel takes, and are sent at the highest rate that loses\n\
         no more than 1% of them.\n\n\
         * *up* is from the host to the outside.\n\
         * *client* is the daemon (all its threads, in user mode and in the kernel), *broker* the lab's.\n\
         * *s/GB* is seconds of processor time per 10⁹ bytes of payload, *%* the share of one processor.\n\
         * *limit* is the process that had no processor time left.\n\
         * *the machine* as the limit: no time was left, but neither process used up a processor alone.\n\
         * *the path* as the limit: all had some time left and waited for each other, or a queue overflowed.\n\n\
         The lab's links are veth: the sender of a packet carries it through all routers up to the next socket, so\n\
         *s/GB* includes a part of the lab's own network. Without a tunnel, this path carries pieces of 64 KiB\n\
         that nobody splits or copies, like a network card with offloads. Other work on the machine changes these\n\
         numbers by some tens of percent from run to run; each table comes from one run.\n\n\
         | path | MTU | traffic | Mbit/s | client s/GB | % | broker s/GB | % | idle | limit |\n\
         |---|---:|---|---:|---:|---:|---:|---:|---:|---|\n",
        machine::name()?,
        machine::processors(),
        machine::date(),
        lengths.measured.as_secs_f64(),
    );
    for path in rows {
        text += &row(path);
    }
    ping_table(&mut text, rows)?;
    hashing_lines(&mut text, rows, hashing)?;
    judge(&mut text, rows)?;
    text += &self::many(many);
    Ok(text)
}

/// The round trip of each path.
fn ping_table(text: &mut String, rows: &[Row]) -> Result<()> {
    *text += "\n| path | MTU | ping, median | added delay |\n|---|---:|---:|---:|\n";
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let without = rows.first().context("a path without a tunnel")?.ping;
    for path in rows {
        writeln!(
            text,
            "| {} | {} | {:.0} µs | {:+.0} µs |",
            path.kind.map_or("no tunnel", Kind::name),
            path.mtu,
            micros(path.ping),
            micros(path.ping) - micros(without)
        )?;
    }
    *text += "\n";
    Ok(())
}

/// The cost of SHA-1, and its share of the client's cost.
fn hashing_lines(text: &mut String, rows: &[Row], hashing: &[Hashing]) -> Result<()> {
    for Hashing {
        datagram_bytes,
        seconds_per_gigabyte,
    } in hashing
    {
        writeln!(
            text,
            "SHA-1 alone, over datagrams of {datagram_bytes} bytes, takes {seconds_per_gigabyte:.2} s/GB of payload."
        )?;
    }
    let ayiya = rows.iter().filter(|row| row.kind == Some(Kind::Ayiya));
    for (row, hashing) in ayiya.zip(hashing) {
        let costs =
            [&row.up.tcp, &row.down.tcp].map(|carried| carried.per_gigabyte(carried.times.client));
        let shares = costs.map(|cost| 100.0 * hashing.seconds_per_gigabyte / cost);
        writeln!(
            text,
            "This is {:.0}% of the client's cost for TCP up at MTU {}, and {:.0}% for TCP down.",
            shares[0], row.mtu, shares[1]
        )?;
    }
    Ok(())
}

/// Compares with the old client, in each direction.
fn judge(text: &mut String, rows: &[Row]) -> Result<()> {
    let old_cost = OLD_SHARE / (OLD_RATE / 8.0 / 1e9);
    let (rate, cost) = (OLD_RATE * FASTER, old_cost * CHEAPER);
    writeln!(
        text,
        "\nThe old client carried about {:.0} Mbit/s of TCP over AYIYA with {:.0}% of a processor: {old_cost:.1} s/GB.\n\
         Target: {:.0} Mbit/s unless the broker is the limit, at no more than {cost:.2} s/GB.\n\n\
         | AYIYA, TCP | Mbit/s | relative to old | s/GB | relative to old | reached |\n|---|---:|---:|---:|---:|---|",
        OLD_RATE / 1e6,
        OLD_SHARE * 100.0,
        rate / 1e6,
    )?;
    for row in rows.iter().filter(|row| row.kind == Some(Kind::Ayiya)) {
        for (direction, carried) in [("up", &row.up.tcp), ("down", &row.down.tcp)] {
            let (got, took) = (
                carried.bits_per_second(),
                carried.per_gigabyte(carried.times.client),
            );
            let verdict = match (got >= rate, took <= cost) {
                (true, true) => "both",
                (true, false) => "the rate, **not the cost**",
                (false, true) => "the cost, **not the rate**",
                (false, false) => "**neither**",
            };
            writeln!(
                text,
                "| {direction}, MTU {} | {:.0} | {:.1} × | {took:.2} | {:.2} × | {verdict} |",
                row.mtu,
                got / 1e6,
                got / OLD_RATE,
                took / old_cost
            )?;
        }
    }
    Ok(())
}

fn many(many: &Many) -> String {
    let verdict = |reached: bool| if reached { "reached" } else { "**missed**" };
    let Many {
        tunnels,
        until_all_answer,
        starting,
        resident_kib,
        idle,
        idle_for,
        until_stopped,
    } = many;
    format!(
        "\n{tunnels} AYIYA tunnels in one daemon: all answer {:.1} s after its start, which uses {:.1} s of processor time.\n\
         The daemon has {:.1} MiB resident (target: at most {} MiB, {}). It uses {:.2}% of a processor over {} s\n\
         without traffic (target: below {:.0}%, {}). It ends {:.1} s after SIGTERM.\n",
        until_all_answer.as_secs_f64(),
        starting.as_secs_f64(),
        *resident_kib as f64 / 1024.0,
        MOST_RESIDENT_KIB / 1024,
        verdict(*resident_kib <= MOST_RESIDENT_KIB),
        idle * 100.0,
        idle_for.as_secs(),
        MOST_IDLE * 100.0,
        verdict(*idle < MOST_IDLE),
        until_stopped.as_secs_f64(),
    )
}
