//! Times of single runs, on a machine that has other things to do.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::time::{ClockId, clock_gettime};
use sixxs_user::bpf::test_run;

/// Runs in a batch: short enough that most batches are not disturbed, long enough that the system
/// call around it, some microseconds, does not count.
const BATCH: u32 = 20_000;

/// The times of one run, in nanoseconds, a batch each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times(Vec<f64>);

impl Times {
    /// Measures one batch more and checks the verdict.
    pub(crate) fn measure(
        &mut self,
        program: BorrowedFd<'_>,
        frame: &[u8],
        verdict: i32,
    ) -> Result<()> {
        // The thread's own time goes on only while it runs; the kernel's measurement is in whole
        // nanoseconds.
        let start = now()?;
        let run = test_run::run(program, frame, BATCH).context("run a program")?;
        let spent = now()?.saturating_sub(start);
        ensure!(
            run.verdict == verdict,
            "verdict {}, not {verdict}",
            run.verdict
        );
        self.0.push(spent.as_secs_f64() * 1e9 / f64::from(BATCH));
        Ok(())
    }

    /// The time that half of the batches stay below.
    pub(crate) fn median(&self) -> f64 {
        median(self.0.clone())
    }

    /// How much longer than the others' batches these took, each compared with the one measured
    /// just before it; half of the differences are below.
    pub(crate) fn median_above(&self, others: &Self) -> f64 {
        median(self.0.iter().zip(&others.0).map(|(a, b)| a - b).collect())
    }
}

/// The one that half of them are below.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Processor time of this thread.
pub(crate) fn now() -> Result<Duration> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("read the clock")?;
    Ok(time.into())
}
