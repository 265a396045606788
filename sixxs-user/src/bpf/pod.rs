//! Makes the shared records usable in aya's maps.

/// A shared record, as bytes.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Raw<T>(pub(super) T);

// SAFETY: aya requires that any bytes of the right size are a valid value and that there is no padding.
// `bytemuck::Pod` guarantees both, and its derive checks it; the wrapper is transparent.
unsafe impl<T: bytemuck::Pod> aya::Pod for Raw<T> {}
