//! The calling program's own memory.
#![allow(unsafe_code)]

/// Makes the allocator share `arenas` heaps among all threads. By default each thread gets its own, and a program with
/// a few short-lived threads holds many megabytes it does not use. Best called before the first thread starts.
pub fn limit_heaps(arenas: i32) {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two plain numbers and is safe to call at any time before heavy use.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, arenas);
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = arenas;
}
