//! Returns the allocator's free memory to the kernel.

/// Returns free memory to the kernel. By itself, glibc does so only for memory at the end of its heap
/// (malloc_trim(3)); other libraries have their own strategies.
pub(crate) fn return_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, and any thread may call it at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}
