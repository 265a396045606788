//! The frame that the XDP program handles: the only file that touches packet memory before the kernel makes an
//! `sk_buff` of it.

use aya_ebpf::programs::XdpContext;
use sixxs_common::packet::{MAX_HEADER_OFFSET, Packet};

use crate::frame::{Refused, words};

/// The frame that an XDP program handles. It has one part: the program does not ask for frames of several.
pub(crate) struct XdpFrame {
    context: XdpContext,
}

impl Packet for XdpFrame {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let start = self.at::<N>(offset)?;
        // SAFETY: `[u8; N]` has alignment 1, and `at` has found it in the frame.
        Some(unsafe { *(start as *const [u8; N]) })
    }

    #[inline(always)]
    fn words<const N: usize>(&self, offset: u32) -> Option<([u8; 2], [u64; N])> {
        const { assert!(N == 5) } // the length that is read below
        let start = self.at::<42>(offset.checked_sub(2)?)?;
        // SAFETY: `[u8; 2]` has alignment 1 and lies in the frame.
        let before = unsafe { *(start as *const [u8; 2]) };
        Some((before, words(start + 2)))
    }
}

impl XdpFrame {
    #[inline(always)]
    pub(crate) fn new(context: XdpContext) -> Self {
        Self { context }
    }

    /// The address of `N` bytes at `offset`.
    #[inline(always)]
    fn at<const N: usize>(&self, offset: u32) -> Option<usize> {
        // The compiler turns `start + 1 <= end` into `start < end`, from which the verifier learns no
        // bound.
        const { assert!(N >= 2) }
        // The verifier needs a bound.
        if offset > MAX_HEADER_OFFSET {
            return None;
        }
        let start = self.context.data() + offset as usize;
        (start + N <= self.context.data_end()).then_some(start)
    }

    /// Index of the interface that the frame has arrived at.
    #[inline(always)]
    pub(crate) fn ifindex(&self) -> u32 {
        // SAFETY: the context is a valid `xdp_md` while the program runs.
        unsafe { (*self.context.ctx).ingress_ifindex }
    }

    /// Length of the frame without its first `bytes`.
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a frame of one part fits in a page or two"
    )]
    pub(crate) fn bytes_behind(&self, bytes: u32) -> u32 {
        let length = self.context.data_end() - self.context.data();
        (length as u32).saturating_sub(bytes)
    }

    /// Overwrites bytes at `offset`.
    #[inline(always)]
    pub(crate) fn store<const N: usize>(&self, offset: u32, bytes: [u8; N]) -> Result<(), Refused> {
        let start = self.at::<N>(offset).ok_or(Refused)?;
        // SAFETY: `[u8; N]` has alignment 1, `at` has found it in the frame, and the frame is the program's to write.
        unsafe { *(start as *mut [u8; N]) = bytes };
        Ok(())
    }
}
