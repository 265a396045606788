//! Times of single runs, on a machine with other load.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::time::{ClockId, clock_gettime};
use sixxs_user::bpf::test_run;

/// Runs in a batch: few enough that most batches are not interrupted, and enough that the system call around
/// them, some microseconds, does not matter.
const BATCH: u32 = 20_000;

/// Times of one run, in nanoseconds, one value per batch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times(Vec<f64>);

impl Times {
    /// Measures one more batch and checks the verdict.
    pub(crate) fn measure(
        &mut self,
        program: BorrowedFd<'_>,
        frame: &[u8],
        verdict: i32,
    ) -> Result<()> {
        // The thread's processor time increases only while the thread runs. The kernel's own measurement has
        // only nanosecond resolution.
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

    /// The median over all batches.
    pub(crate) fn median(&self) -> f64 {
        median(self.0.clone())
    }

    /// The median of the differences to the other batches: each batch is compared with the one just before
    /// it.
    pub(crate) fn median_above(&self, others: &Self) -> f64 {
        median(self.0.iter().zip(&others.0).map(|(a, b)| a - b).collect())
    }
}

/// The median of the values.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Processor time of this thread.
pub(crate) fn now() -> Result<Duration> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("read the clock")?;
    Ok(time.into())
}
