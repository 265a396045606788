//! What the scenes with a network manager beside us have in common: the program at work, pings that
//! go on, and what becomes of its rules and routes meanwhile.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use sixxs_tests::kernel::route_events::{self, Events};
use sixxs_tests::probe::PingStream;
use sixxs_tests::program::Daemon;
use sixxs_tests::wait;

use crate::setting::Setting;

const LIMIT: Duration = Duration::from_secs(10);
const PING_INTERVAL: Duration = Duration::from_millis(2);
/// Answered after each act before it counts as over.
const PINGS: u64 = 50;

/// A host with the program at work.
pub(crate) struct Scene<'a> {
    setting: &'a Setting,
    daemon: Daemon,
    whole: [Vec<String>; 2],
    events: Events,
    pings: Vec<PingStream>,
    corrections: u64,
    /// How long something of ours was gone, all in all.
    gaps: Duration,
    began: Instant,
    used_before: Duration,
}

impl<'a> Scene<'a> {
    pub(crate) fn begin(setting: &'a Setting) -> Result<Self> {
        let daemon = setting.start()?;
        setting.is_up()?;
        setting.addresses_are_taken()?;
        let outside = setting.lab.outside();
        let ping = |address| PingStream::start(outside, address, PING_INTERVAL);
        let tunnels = setting.lab.tunnels().iter();
        let pings = tunnels.map(|tunnel| ping(tunnel.plan.address));
        Ok(Self {
            whole: in_place(setting)?,
            events: Events::listen(setting.host())?,
            pings: pings.collect::<Result<_>>()?,
            corrections: setting.program.status()?.corrections,
            gaps: Duration::ZERO,
            began: Instant::now(),
            used_before: daemon.processor_time()?,
            daemon,
            setting,
        })
    }

    /// Does something, waits until everything is in place again, and returns how many corrections
    /// it took.
    pub(crate) fn after(&mut self, what: &str, act: impl FnOnce() -> Result<()>) -> Result<u64> {
        act().with_context(|| what.to_owned())?;
        let now = || in_place(self.setting);
        wait::until(what, LIMIT, now, |now| *now == self.whole)?;
        for pings in &self.pings {
            let enough = pings.state().pings.answered + PINGS;
            let answered = || Ok(pings.state().pings.answered);
            wait::until("pings are answered", LIMIT, answered, |n| *n >= enough)?;
        }
        let program = &self.setting.program;
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

    /// Ends everything; `most_lost` pings may have been lost of each tunnel. Where that is not 0, so may those
    /// that came while something of ours was gone: on a busy machine that is longer than usual.
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
        self.setting.nothing_went_astray()?;
        assert_eq!(self.daemon.stop()?, 0);
        Ok(())
    }
}

/// Rules and routes of ours. Among rules of one priority the order is that of their making.
fn in_place(setting: &Setting) -> Result<[Vec<String>; 2]> {
    let sorted = |lines: &str| {
        let mut lines: Vec<_> = lines.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    Ok([
        sorted(&setting.own_rules()?),
        sorted(&setting.own_routes()?),
    ])
}
