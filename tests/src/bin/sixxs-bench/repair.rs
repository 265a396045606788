//! How long a removed object is missing, and what happens to packets meanwhile.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use indicatif::ProgressIterator as _;
use sixxs_tests::kernel::bpf;
use sixxs_tests::kernel::route_events::Events;
use sixxs_tests::lab::netns::Namespace;
use sixxs_tests::lab::topology::{Flavour, OUTSIDE, TUNNELS, UPLINK};
use sixxs_tests::lab::{Lab, Spec};
use sixxs_tests::probe::leak::{self, Cause};
use sixxs_tests::program::status;
use sixxs_tests::program::{Hook, Program};

use crate::machine;
use crate::progress;

/// Pauses between a repair and the next deletion, alternating: software that fights the daemon, and a single
/// intervention.
const PAUSES: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(150)];
/// Interval of the sender's packets.
const INTERVAL: Duration = Duration::from_micros(200);
/// Limit for a repair.
const LIMIT: Duration = Duration::from_secs(10);
/// Poll interval until a program is attached again.
const LOOK: Duration = Duration::from_micros(100);

/// Target for the 99th percentile.
const MOST: Duration = Duration::from_millis(5);

/// An object to remove, and how packets are sent meanwhile.
struct Subject {
    name: &'static str,
    what: What,
    cause: Cause<'static>,
    /// Whether it has a target.
    is_judged: bool,
}

#[derive(Clone, Copy)]
enum What {
    Rule,
    Route,
    Program,
}

const SUBJECTS: [Subject; 4] = [
    Subject {
        name: "rule",
        what: What::Rule,
        cause: Cause::Rules,
        is_judged: true,
    },
    Subject {
        name: "route",
        what: What::Route,
        cause: Cause::Rules,
        is_judged: true,
    },
    Subject {
        name: "program",
        what: What::Program,
        cause: Cause::Rules,
        is_judged: true,
    },
    Subject {
        name: "program, sender bound to the uplink",
        what: What::Program,
        cause: Cause::Device(UPLINK),
        is_judged: false,
    },
];

/// The results for one subject.
struct Repairs {
    gone: Vec<Duration>,
    sent: u64,
    /// Packets for which send returned an error.
    refused: u64,
    redirected: u64,
    filtered: u64,
}

/// Measures everything, with this number of deletions per subject, and returns the report.
pub(crate) fn measure(times: usize) -> Result<String> {
    let lab = Lab::new(Spec::new(Flavour::Tun))?;
    lab.write_config(&lab.config(""))?;
    let program = Program::new(&lab, Hook::Auto)?;
    let daemon = program.start()?;
    program.status_until("everything is well", status::Status::works)?;
    let mut rows = Vec::new();
    let (began, before) = (Instant::now(), daemon.processor_time()?);
    for subject in &SUBJECTS {
        let repairs = repairs(&lab, &program, subject, times);
        let repairs = repairs.with_context(|| format!("{}: {}", subject.name, daemon.log()))?;
        // This takes minutes: print each row at once.
        eprint!("{}", row(subject, &repairs)?);
        rows.push(repairs);
    }
    let used = daemon.processor_time()?.saturating_sub(before);
    let share = used.as_secs_f64() / began.elapsed().as_secs_f64();
    daemon.stop()?;
    write_up(&rows, times, share)
}

fn repairs(lab: &Lab, program: &Program, subject: &Subject, times: usize) -> Result<Repairs> {
    let [tunnel, _] = &TUNNELS;
    let redirected = || Ok::<_, anyhow::Error>(program.status()?.tunnel(tunnel.interface).leaks);
    let (leaks, filtered) = (redirected()?, lab.dropped_by_isp()?);
    let socket = leak::udp_socket(lab.host(), tunnel.address, subject.cause)?;
    let (sent, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    let stop = AtomicBool::new(false);
    let gone = thread::scope(|scope| {
        let sender = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                match leak::send(&socket, OUTSIDE, 1, 100) {
                    Ok(()) => sent.fetch_add(1, Ordering::Relaxed),
                    Err(_) => refused.fetch_add(1, Ordering::Relaxed),
                };
                thread::sleep(INTERVAL);
            }
        });
        let gone = all(lab.host(), subject.what, times);
        stop.store(true, Ordering::Relaxed);
        ensure!(sender.join().is_ok(), "the sender panicked");
        gone
    })?;
    Ok(Repairs {
        gone,
        sent: sent.into_inner(),
        refused: refused.into_inner(),
        redirected: redirected()?.redirected - leaks.redirected,
        filtered: lab.dropped_by_isp()? - filtered,
    })
}

fn all(host: &Namespace, what: What, times: usize) -> Result<Vec<Duration>> {
    let [tunnel, _] = &TUNNELS;
    let events = Events::listen(host)?;
    let mut gone = Vec::new();
    let bar = progress::bar("repairs", times as u64);
    for pause in PAUSES.into_iter().cycle().take(times).progress_with(bar) {
        let took = match what {
            What::Rule => {
                let address = tunnel.address;
                host.sh(&format!("ip -6 rule del from {address} priority 16383"))?;
                until_back(&events)?
            }
            What::Route => {
                let interface = tunnel.interface;
                host.sh(&format!(
                    "ip -6 route del default dev {interface} table 200"
                ))?;
                until_back(&events)?
            }
            What::Program => until_attached(host)?,
        };
        gone.push(took);
        thread::sleep(pause);
    }
    Ok(gone)
}

/// Time from the kernel's deletion event of an object of the daemon to its creation event.
fn until_back(events: &Events) -> Result<Duration> {
    let mut went = None;
    loop {
        let event = events.next(LIMIT)?.context("it comes back")?;
        match went {
            None if !event.created => went = Some(event.at),
            Some(at) if event.created => return Ok(event.at - at),
            _ => {}
        }
    }
}

/// Detaches the uplink's program; returns the time until one is attached again.
fn until_attached(host: &Namespace) -> Result<Duration> {
    const PROGRAM: &str = "sixxs_egress";
    let links = || bpf::tcx_named(host, UPLINK, false, PROGRAM);
    let link = links()?.first().copied().context("there is a program")?;
    ensure!(bpf::detach(link.link)?, "there is a link");
    let detached = Instant::now();
    while links()?.is_empty() {
        ensure!(detached.elapsed() < LIMIT, "it does not come back");
        thread::sleep(LOOK);
    }
    Ok(detached.elapsed())
}

/// The quantile: this many of a thousand values are not above it.
fn quantile(times: &[Duration], per_mille: usize) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    let last = times.len().saturating_sub(1);
    let at = last * per_mille / 1000;
    times.get(at).copied().unwrap_or_default()
}

fn row(subject: &Subject, repairs: &Repairs) -> Result<String> {
    let millis = |per_mille| quantile(&repairs.gone, per_mille).as_secs_f64() * 1e3;
    let in_time = quantile(&repairs.gone, 990) <= MOST;
    let verdict = match (subject.is_judged, in_time, repairs.filtered) {
        (false, ..) => "–",
        (true, true, 0) => "both",
        (true, false, 0) => "the packets, **not the time**",
        (true, true, _) => "the time, **not the packets**",
        (true, false, _) => "**neither**",
    };
    let mut row = String::new();
    writeln!(
        row,
        "| {} | {:.1} | {:.1} | {:.1} | {} | {} | {} | {} | {verdict} |",
        subject.name,
        millis(500),
        millis(990),
        millis(1000),
        repairs.sent + repairs.refused,
        repairs.redirected,
        repairs.refused,
        repairs.filtered,
    )?;
    Ok(row)
}

fn write_up(rows: &[Repairs], times: usize, share: f64) -> Result<String> {
    let (machine, processors, date) = (machine::name()?, machine::processors(), machine::date());
    let mut text = format!(
        "## `repair`: time until a removed object is restored\n\n\
         {machine}, {processors} processors; {date}. {times} times each.\n\n\
         For a rule or route, the benchmark deletes it with `ip`, and measures the time from the kernel's deletion\n\
         event to its creation event. For the uplink's program, it detaches the program, and measures the time\n\
         until it is attached again. Pauses of {} and {} ms between deletions alternate. All the time, a sender\n\
         sends a packet from the tunnel's address every {} µs, by the rules. Packets that leak because of the\n\
         deletion are *redirected*, or *refused* with an error where the table has no route out. *filtered* are\n\
         packets that the provider received and dropped. In the last line the sender bypasses the rules, and leaks\n\
         all the time.\n\n\
         | removed | p50, ms | p99, ms | max, ms | packets | redirected | refused | filtered | reached |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|---|\n",
        PAUSES[0].as_millis(),
        PAUSES[1].as_millis(),
        INTERVAL.as_micros(),
    );
    for (subject, repairs) in SUBJECTS.iter().zip(rows) {
        text += &row(subject, repairs)?;
    }
    writeln!(
        text,
        "\nTarget: p99 at most {} ms, and nothing filtered. The daemon used {:.1}% of a processor during the benchmark.",
        MOST.as_millis(),
        share * 100.0
    )?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_those_measured() {
        let times: Vec<_> = (0..=100).rev().map(Duration::from_millis).collect();
        for (per_mille, expected) in [(500, 50), (990, 99), (1000, 100)] {
            assert_eq!(quantile(&times, per_mille), Duration::from_millis(expected));
        }
        assert_eq!(quantile(&[], 500), Duration::ZERO);
    }
}
