//! The leak events that the daemon receives, and their rate.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sixxs_common::address::Address;
use sixxs_common::stat::Stat;
use sixxs_common::{
    layout::{EVENTS_PER_SECOND, LeakEvent},
    treatment::Treatment,
};
use sixxs_core::enforce::Role;
use sixxs_tests::kernel::program_harness::{Direction, LOOPBACK, Programs};
use sixxs_tests::probe::packets::{ETHERNET_BYTES, UDP, udp};

use crate::golden::{OUTSIDE, address, from_to, host, out};

/// A leak's frame, from one of many ports.
fn leak_to(port: u16) -> Vec<u8> {
    out("2001:db8:a::2", UDP, &udp(port, 64))
}

#[test]
fn one_flow_gives_one_event_a_second() -> Result<()> {
    let mut programs = Programs::load()?;
    programs.kernel.write_maps(&host("net0", Role::Uplink)?.0)?;
    let start = Instant::now();
    let frame = leak_to(4000);
    programs.run(Direction::Egress, &frame, 1000)?;
    let first = programs.events()?;
    let [event] = first.as_slice() else {
        anyhow::bail!("{} events, not one", first.len());
    };
    let flow = event.flow;
    ensure!(
        flow.local == Address::from_octets(address("2001:db8:a::2").octets())
            && flow.remote == Address::from_octets(address(OUTSIDE).octets())
            && (flow.local_port, flow.remote_port) == (53, 4000)
            && flow.protocol == u32::from(UDP),
        "{flow:?}"
    );
    let record = event.record;
    ensure!(
        record.packets == 1
            && record.bytes == (frame.len() - ETHERNET_BYTES) as u64
            && record.treatment == Treatment::Redirected.raw()
            && Some(record.tunnel) == programs.kernel.slot(&"plain".parse()?)
            && record.ifindex == LOOPBACK.0
            && record.from_ifindex == 0,
        "{record:?}"
    );
    let mut packets = 1000;
    let more = loop {
        programs.run(Direction::Egress, &frame, 1)?;
        packets += 1;
        let events = programs.events()?;
        if let [event] = events.as_slice() {
            break *event;
        }
        ensure!(events.is_empty(), "{} events at a time", events.len());
        ensure!(
            start.elapsed() < Duration::from_secs(10),
            "no second event in ten seconds"
        );
    };
    // The clock of the programs has ticks of 10 ms at most.
    ensure!(start.elapsed() > Duration::from_millis(980), "too early");
    ensure!(more.record.packets == packets, "{more:?}, not {packets}");
    let known = programs.kernel.flow(&flow);
    ensure!(known == Some(more.record), "{known:?}");
    ensure!(programs.counter("plain", Stat::LeakRedirected)? == packets);
    ensure!(programs.counter("plain", Stat::EventsLost)? == 0);
    Ok(())
}

#[test]
fn a_flood_of_flows_gives_few_events_and_counts_the_rest() -> Result<()> {
    const FLOWS: u16 = 10_000;
    let mut programs = Programs::load()?;
    programs.kernel.write_maps(&host("net0", Role::Uplink)?.0)?;
    let start = Instant::now();
    let mut events: Vec<LeakEvent> = Vec::new();
    for port in 0..FLOWS {
        programs.run(Direction::Egress, &leak_to(port), 1)?;
        events.extend(programs.events()?);
    }
    // At the end of the last second a new one may begin.
    let seconds = start.elapsed().as_secs() + 2;
    let sent = events.len() as u64;
    ensure!(
        (EVENTS_PER_SECOND..=EVENTS_PER_SECOND * seconds).contains(&sent),
        "{sent} events in less than {seconds} seconds"
    );
    let lost = programs.counter("plain", Stat::EventsLost)?;
    ensure!(sent + lost == u64::from(FLOWS), "{sent} sent, {lost} lost");
    ensure!(programs.counter("plain", Stat::LeakRedirected)? == u64::from(FLOWS));
    // Another tunnel has its own limit.
    programs.run(Direction::Egress, &from_to("2001:db8:b::2", OUTSIDE), 1)?;
    ensure!(programs.events()?.len() == 1);
    Ok(())
}
