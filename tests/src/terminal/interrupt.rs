//! Owns ctrl-C for people's commands: the signals that would end the process are waited for, so
//! that whatever it built is taken down by its own hand.

use std::os::fd::AsFd as _;
use std::time::Instant;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// The signals, blocked and readable.
#[derive(Debug)]
pub struct Interrupt(SignalFd);

impl Interrupt {
    /// Blocks SIGINT, SIGTERM and SIGHUP for this thread and those it starts from now on.
    pub fn block() -> Result<Self> {
        let mut signals = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            signals.add(signal);
        }
        signals.thread_block().context("block signals")?;
        let flags = SfdFlags::SFD_CLOEXEC;
        Ok(Self(
            SignalFd::with_flags(&signals, flags).context("listen for signals")?,
        ))
    }

    /// Waits for one of them, until a time or for ever. True: it came.
    pub fn wait(&mut self, until: Option<Instant>) -> Result<bool> {
        loop {
            let timeout = match until {
                None => PollTimeout::NONE,
                Some(at) => {
                    let left = at.saturating_duration_since(Instant::now());
                    PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
                }
            };
            match poll(
                &mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)],
                timeout,
            ) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => {
                    self.0.read_signal().context("read a signal")?;
                    return Ok(true);
                }
                Err(e) => return Err(e).context("wait for signals"),
            }
            if until.is_some_and(|at| Instant::now() >= at) {
                return Ok(false);
            }
        }
    }
}
