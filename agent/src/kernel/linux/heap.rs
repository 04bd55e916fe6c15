//! Memory of the allocator.

/// Makes all threads take memory from one arena: objects are parsed by one thread and kept by another, and
/// memory that one frees could not be used by the other. To be called before threads are
/// started.
pub(crate) fn use_one_arena() {
    // SAFETY: mallopt takes no pointers; the agent calls it before it starts threads.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Returns memory that is not used any more to the system: type information of the programs, lists, plans.
pub fn trim() {
    // SAFETY: malloc_trim takes no pointers and may be called at any time.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
