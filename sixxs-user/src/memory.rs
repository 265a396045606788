//! Memory that the allocator keeps although nothing is in it.

/// Gives it back to the kernel. glibc does so by itself only with what lies at the end of its heap
/// (malloc_trim(3)); other libraries do as they like.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, and may be called at any time by any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
