//! Cost of very many tunnel addresses: per packet, and for the daemon that maintains their routes.

mod site;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use indicatif::ProgressIterator as _;
use nix::sys::signal::Signal;
use sixxs_tests::kernel::route_events::Events;
use sixxs_tests::program::Daemon;
use sixxs_tests::wait;

use self::site::Site;
use crate::machine;
use crate::progress;
use crate::timing::{self, median};

/// Numbers of tunnel addresses.
const ADDRESSES: [u32; 5] = [1, 10, 100, 1_000, 10_000];
/// Packets sent between two readings of the clock.
const BATCH: u32 = 2_000;
/// Limit for the daemon to install ten thousand routes.
const LIMIT: Duration = Duration::from_secs(60);

/// Targets with the most addresses; the cost of a packet is relative to one address.
const MOST_COST: f64 = 1.4;
const MOST_RESIDENT_KIB: u64 = 60 * 1024;

/// Cost of a packet, in nanoseconds, one value per batch.
#[derive(Default)]
struct Costs {
    ours: Vec<f64>,
    plain: Vec<f64>,
}

/// Effort to set up everything.
struct Work {
    addresses: u32,
    /// Number of routes and rules.
    things: usize,
    /// From the start of the daemon until it is ready.
    ready: Duration,
    /// From SIGCONT until the last deleted object is restored.
    repaired: Duration,
    /// Time of `ip -6 -batch` for the same routes and rules.
    batch: Duration,
    resident_kib: u64,
}

/// Measures everything and returns the report; `quick`: with few packets.
pub(crate) fn measure(quick: bool) -> Result<String> {
    let (rounds, repeats) = if quick { (5, 1) } else { (60, 5) };
    let mut work = Vec::new();
    for addresses in [1_000, 10_000] {
        let mut all = Vec::new();
        for _ in 0..repeats {
            all.push(put_in_place(addresses)?);
        }
        work.push(all);
    }
    let costs = in_turn(rounds)?;
    write_up(&costs, &work, rounds)
}

/// Sends from all hosts in turn, so that a temporary slowdown of the machine affects all of them.
fn in_turn(rounds: u32) -> Result<Vec<Costs>> {
    let mut ours = Vec::new();
    let mut plain = Vec::new();
    for addresses in ADDRESSES {
        let site = Site::new(addresses)?;
        let daemon = site.program()?.start()?;
        ours.push((site, daemon));
        let site = Site::new(addresses)?;
        site.add_plain_rules()?;
        plain.push(site);
    }
    for site in ours.iter().map(|(site, _)| site).chain(&plain) {
        ensure!(site.leads_to_the_tunnel()?, "packets leave by the uplink");
        // Fills the queue: from now on the device drops every packet.
        site.send(BATCH)?;
    }
    let mut costs: Vec<_> = ADDRESSES.iter().map(|_| Costs::default()).collect();
    for _ in (0..rounds).progress_with(progress::bar("very many addresses", rounds.into())) {
        for (((ours, _), plain), costs) in ours.iter().zip(&plain).zip(&mut costs) {
            costs.ours.push(cost(ours)?);
            costs.plain.push(cost(plain)?);
        }
    }
    for (_, daemon) in ours {
        daemon.stop()?;
    }
    Ok(costs)
}

/// Cost of one packet, in nanoseconds of this thread's processor time.
fn cost(site: &Site) -> Result<f64> {
    let start = timing::now()?;
    site.send(BATCH)?;
    let spent = timing::now()?.saturating_sub(start);
    Ok(spent.as_secs_f64() * 1e9 / f64::from(BATCH))
}

fn put_in_place(addresses: u32) -> Result<Work> {
    let by_hand = Site::new(addresses)?;
    let batch = by_hand.batch()?;
    let by_hand_took = by_hand.ip_batch(&batch)?;
    drop(by_hand);

    let site = Site::new(addresses)?;
    let program = site.program()?;
    let daemon = program.start()?;
    let ready = daemon.ready_after().context("it is ready")?;
    ensure!(site.leads_to_the_tunnel()?, "packets leave by the uplink");
    let things = batch.lines().count();
    let repaired = repair(&site, &daemon, things)?;
    wait::until(
        "the daemon has told everything",
        LIMIT,
        || program.status(),
        |status| {
            status
                .tunnels
                .iter()
                .all(sixxs_tests::program::status::Tunnel::is_whole)
                && status.corrections == things as u64
        },
    )?;
    let work = Work {
        addresses,
        things,
        ready,
        repaired,
        batch: by_hand_took,
        resident_kib: daemon.resident_kib()?,
    };
    daemon.stop()?;
    Ok(work)
}

/// Deletes everything while the daemon is stopped, lets it continue, and measures the time until the last
/// object is restored.
fn repair(site: &Site, daemon: &Daemon, things: usize) -> Result<Duration> {
    daemon.signal(Signal::SIGSTOP)?;
    site.host.sh("ip -6 route flush table 200")?;
    site.host.sh("ip -6 rule del priority 16383")?;
    let events = Events::listen(&site.host)?;
    let begun = Instant::now();
    daemon.signal(Signal::SIGCONT)?;
    let mut last = begun;
    for _ in 0..things {
        let event = events.next(LIMIT)?.context("everything comes back")?;
        ensure!(event.created, "something went");
        last = event.at;
    }
    Ok(last - begun)
}

fn write_up(costs: &[Costs], work: &[Vec<Work>], rounds: u32) -> Result<String> {
    Ok(costs_table(costs, rounds)? + &work_table(work)?)
}

/// The cost per packet.
fn costs_table(costs: &[Costs], rounds: u32) -> Result<String> {
    let (machine, processors, date) = (machine::name()?, machine::processors(), machine::date());
    let mut text = format!(
        "## `scale`: very many tunnel addresses\n\n\
         {machine}, {processors} processors; {date}.\n\n\
         *ours* is `rule_mode = \"subtrees\"` with the daemon running and its programs attached. *plain* is a rule\n\
         `from ADDRESS lookup TABLE` for each address, made by `ip -6 rule` on a host without the program. A\n\
         packet is a UDP send of 64 bytes from one of 16 addresses, spread evenly over all. The socket is not\n\
         connected, so the kernel routes each packet. Packets end in a TUN device with a full queue. *ns* is the\n\
         median of {rounds} batches of {BATCH} packets each, in processor time of the sender; all hosts in the table take\n\
         turns. *times one address* is the median of the ratios to the batch of the same round.\n\n\
         | addresses | ours, ns | times one address | plain, ns | times one address |\n\
         |---:|---:|---:|---:|---:|\n"
    );
    let first = costs.first().context("costs")?;
    let mut most = 0.0;
    for (addresses, costs) in ADDRESSES.iter().zip(costs) {
        let ours = ratio(&costs.ours, &first.ours);
        writeln!(
            text,
            "| {addresses} | {:.0} | {ours:.2} | {:.0} | {:.2} |",
            median(costs.ours.clone()),
            median(costs.plain.clone()),
            ratio(&costs.plain, &first.plain),
        )?;
        most = ours;
    }
    writeln!(
        text,
        "\nTarget: at most {MOST_COST} times with the most addresses: {}.\n",
        verdict(most <= MOST_COST)
    )?;
    Ok(text)
}

/// The time and memory of the set-up.
fn work_table(work: &[Vec<Work>]) -> Result<String> {
    let mut text = format!(
        "The second table has the time until everything is in place. *ready* is the time from the daemon's start\n\
         until it reports that it is ready, including programs and their maps. *repaired*: all rules and routes\n\
         were deleted while the daemon was stopped (SIGSTOP), and this is the time from SIGCONT until the last one\n\
         is restored. *ip* is `ip -6 -batch` with the lines of `sixxs plan`.\n\
         Medians of {}.\n\n\
         | addresses | rules and routes | ready | repaired | ip | resident |\n\
         |---:|---:|---:|---:|---:|---:|\n",
        work.first().map_or(0, Vec::len)
    );
    let mut resident = 0;
    for all in work {
        let one = all.first().context("work")?;
        let seconds = |get: fn(&Work) -> Duration| {
            median(all.iter().map(|work| get(work).as_secs_f64()).collect()) * 1e3
        };
        resident = all.iter().map(|work| work.resident_kib).max().unwrap_or(0);
        writeln!(
            text,
            "| {} | {} | {:.0} ms | {:.0} ms | {:.0} ms | {:.1} MiB |",
            one.addresses,
            one.things,
            seconds(|work| work.ready),
            seconds(|work| work.repaired),
            seconds(|work| work.batch),
            resident as f64 / 1024.0
        )?;
    }
    writeln!(
        text,
        "\nTarget: at most {} MiB resident with the most addresses: {}.",
        MOST_RESIDENT_KIB / 1024,
        verdict(resident <= MOST_RESIDENT_KIB)
    )?;
    Ok(text)
}

fn ratio(costs: &[f64], ones: &[f64]) -> f64 {
    median(
        costs
            .iter()
            .zip(ones)
            .map(|(cost, one)| cost / one)
            .collect(),
    )
}

fn verdict(reached: bool) -> &'static str {
    if reached { "reached" } else { "**missed**" }
}
