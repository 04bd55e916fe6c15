//! Memory of the allocator.

/// Limits the allocator to one arena. Objects are parsed by one thread and kept by another: with an arena
/// for each, memory that is freed in one is not reused by the other. To be called before the first thread
/// starts.
pub(crate) fn use_one_arena() {
    // SAFETY: mallopt takes no pointers; the agent calls it before it starts threads.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Returns unused memory to the system, such as that of type information, lists and plans.
pub fn trim() {
    // SAFETY: malloc_trim takes no pointers and may be called at any time.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
