//! Lets the shared records into aya's maps.

/// A shared record, as bytes.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Raw<T>(pub(super) T);

// SAFETY: aya asks that any bytes of the size are a value and that there is no padding: just what
// `bytemuck::Pod` promises, checked by its derive; the wrapper is transparent.
unsafe impl<T: bytemuck::Pod> aya::Pod for Raw<T> {}
