//! The ring buffers of the programs: leak events, and the debug log.

use std::os::fd::AsRawFd;

use aya::maps::{MapData, RingBuf};
use tokio::io::{Interest, unix::AsyncFd};

/// Debug log of the programs, through `log`.
pub type Debugging = aya_log::EbpfLogger<&'static dyn log::Log>;

/// Leak events of the programs.
pub type LeakRing = RingBuf<MapData>;

/// Readers of the ring buffers; the caller waits on them.
pub struct Rings {
    /// Leak events.
    pub events: LeakRing,
    /// Debugging output; `None` if it is off, and then it costs nothing.
    pub debugging: Option<Debugging>,
}

/// Lets a task wait until a ring buffer has data.
pub fn wait_on<T: RingReader>(ring: T) -> std::io::Result<AsyncFd<T>> {
    // SAFETY: all `RingReader` types own their descriptor, always return the same one, and close it only
    // on drop; the `AsyncFd` deregisters it before it drops them.
    let registered = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
    Ok(registered?)
}

/// One of the readers in [`Rings`].
pub trait RingReader: AsRawFd + sealed::Sealed {}

mod sealed {
    pub trait Sealed {}
    impl Sealed for aya::maps::RingBuf<aya::maps::MapData> {}
    impl Sealed for super::Debugging {}
}

impl RingReader for RingBuf<MapData> {}
impl RingReader for Debugging {}
