//! A host with the program and a network manager: each action of the manager is followed by a repair,
//! pings continue, and the gaps of rules and routes are measured.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use sixxs_tests::kernel::route_events::{self, Events};
use sixxs_tests::probe::PingStream;
use sixxs_tests::program::Daemon;
use sixxs_tests::wait;

use crate::fixture::Fixture;

const LIMIT: Duration = Duration::from_secs(10);
const PING_INTERVAL: Duration = Duration::from_millis(2);
/// Replies after each action that end its measurement.
const PINGS: u64 = 50;

/// A host with the running program.
pub(crate) struct Scenario<'a> {
    fixture: &'a Fixture,
    daemon: Daemon,
    initial: [Vec<String>; 2],
    events: Events,
    pings: Vec<PingStream>,
    corrections: u64,
    /// Sum of the longest gaps.
    gaps: Duration,
    began: Instant,
    used_before: Duration,
}

impl<'a> Scenario<'a> {
    pub(crate) fn begin(fixture: &'a Fixture) -> Result<Self> {
        let daemon = fixture.start()?;
        fixture.wait_until_up()?;
        fixture.wait_for_addresses()?;
        let outside = fixture.lab.outside();
        let ping = |address| PingStream::start(outside, address, PING_INTERVAL);
        let tunnels = fixture.lab.tunnels().iter();
        let pings = tunnels.map(|tunnel| ping(tunnel.plan.address));
        Ok(Self {
            initial: in_place(fixture)?,
            events: Events::listen(fixture.host())?,
            pings: pings.collect::<Result<_>>()?,
            corrections: fixture.program.status()?.corrections,
            gaps: Duration::ZERO,
            began: Instant::now(),
            used_before: daemon.processor_time()?,
            daemon,
            fixture,
        })
    }

    /// Does an action, waits until everything is repaired, and returns the number of corrections.
    pub(crate) fn after(&mut self, what: &str, action: impl FnOnce() -> Result<()>) -> Result<u64> {
        action().with_context(|| what.to_owned())?;
        let now = || in_place(self.fixture);
        wait::until(what, LIMIT, now, |now| *now == self.initial)?;
        for pings in &self.pings {
            let enough = pings.state().pings.answered + PINGS;
            let answered = || Ok(pings.state().pings.answered);
            wait::until("pings are answered", LIMIT, answered, |n| *n >= enough)?;
        }
        let program = &self.fixture.program;
        let status = program.status_until("everything is well", |status| status.healthy)?;
        let corrections = status.corrections - self.corrections;
        self.corrections = status.corrections;
        let gaps = route_events::gaps(&self.events.all()?);
        println!(
            "{what}: {corrections} corrections, {} gaps of at most {:?}",
            gaps.closed.len(),
            gaps.longest()
        );
        self.gaps += gaps.longest();
        ensure!(gaps.open == 0, "{what}: {} are still gone", gaps.open);
        Ok(corrections)
    }

    /// Ends the scenario. Each tunnel may have lost `most_lost` pings and, unless that is 0, those sent in a
    /// gap, which is longer on a busy machine.
    pub(crate) fn end(self, most_lost: u64) -> Result<()> {
        let in_gaps = self.gaps.as_nanos() / PING_INTERVAL.as_nanos();
        let most_lost = match most_lost {
            0 => 0,
            usual => usual + u64::try_from(in_gaps)?,
        };
        for pings in self.pings {
            let pings = pings.stop()?;
            println!("{pings:?}");
            let lost = pings.sent - pings.answered;
            ensure!(pings.sent > PINGS && lost <= most_lost, "{pings:?}");
        }
        let used = self.daemon.processor_time()?;
        let used = used.saturating_sub(self.used_before);
        let share = used.as_secs_f64() / self.began.elapsed().as_secs_f64();
        println!("{used:?} of processor time, {:.0}%", share * 100.0);
        ensure!(share < 0.3, "{share} of a processor");
        self.fixture.ensure_nothing_lost()?;
        assert_eq!(self.daemon.stop()?, 0);
        Ok(())
    }
}

/// Our rules and routes, sorted: rules of one priority are listed in the order of their creation.
fn in_place(fixture: &Fixture) -> Result<[Vec<String>; 2]> {
    let sorted = |lines: &str| {
        let mut lines: Vec<_> = lines.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    Ok([
        sorted(&fixture.own_rules()?),
        sorted(&fixture.own_routes()?),
    ])
}
