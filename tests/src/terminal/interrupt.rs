//! Handles ctrl-C for interactive commands: the process waits for the signals that would end it, so that it
//! can remove everything that it made.

use std::os::fd::AsFd as _;
use std::time::Instant;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// The signals, blocked and readable from a descriptor.
#[derive(Debug)]
pub struct Interrupt(SignalFd);

impl Interrupt {
    /// Blocks SIGINT, SIGTERM and SIGHUP for this thread and all threads that it starts later.
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

    /// Waits for a signal, until a time or without a limit. True: a signal came.
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
